"""JD605: cut off, or far too loose."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.retries.timeout_misfit import TimeoutMisfit
from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.model import Death, ExceptionInfo, Execution, Finding, Span
from tests.builders import MS, make_execution, make_group, make_history, quantiles
from tests.diagnosis.asking import only

JOB_TIMEOUT = ExceptionInfo("rq.timeouts.JobTimeoutException", callsite="app/tasks.py:12", digest="timeout")


def ran(number: int, run_ms: float, **fields: object) -> list[Execution]:
    return [make_execution(run_ms=run_ms, at_ms=1_000 * n, **{"timeout_s": 10.0, **fields}) for n in range(number)]


def cut(number: int, timeout_s: float = 10.0, **fields: object) -> list[Execution]:
    defaults = {"outcome": "timeout", "timeout_s": timeout_s, "exception": JOB_TIMEOUT}
    return ran(number, timeout_s * 1_000, **{**defaults, **fields})


def ask(executions: list[Execution], **fields: object) -> list[Finding]:
    runs = quantiles([each.run_ns / MS for each in executions])
    return list(TimeoutMisfit().check(make_history(executions, **{"run_ms": runs, **fields})))


def test_fires_on_executions_that_were_cut_off() -> None:
    finding = only(ask([*cut(3), *ran(9, 8_000)]))
    assert finding.severity == "warning"
    assert finding.title == "3 of 12 executions were cut off by the timeout of 10.0 s"
    assert finding.callsite == "app/tasks.py:12"
    assert finding.cost_ms == pytest.approx(2_500)
    assert "Give the job the time it needs, or split it" in finding.recommendation.text
    assert "job_timeout=30" in finding.recommendation.snippet
    assert "9 of 9 that finished took over half of it" in finding.evidence[0].text
    assert finding.evidence[1].kind == "execution"


def test_what_hangs_is_not_given_more_time() -> None:
    finding = only(ask([*cut(3), *ran(9, 300)]))
    assert finding.recommendation.text.startswith("Find what hangs at app/tasks.py:12 and give that call a timeout")
    assert "those that finished took 300 ms at most" in finding.evidence[0].text


def test_most_of_them_cut_is_critical() -> None:
    assert only(ask([*cut(5), *ran(5, 8_000)])).severity == "critical"
    assert only(ask(cut(4))).evidence[0].text.endswith("none finished")


def test_a_horse_that_the_worker_had_to_kill_counts() -> None:
    killed = cut(2, outcome="killed", exception=None, death=Death(signal=9, cause="timeout"))
    assert "were cut off" in only(ask([*killed, *ran(5, 8_000)])).title
    in_flight = cut(
        2, outcome="killed", exception=None, death=Death(signal=9, cause="timeout"),
        groups=[make_group("http", callsite="app/api.py:7")], in_flight=Span(0, 0, 0),
    )  # fmt: skip
    assert only(ask([*in_flight, *ran(5, 8_000)])).callsite == "app/api.py:7"


def test_just_below_its_limits_it_is_silent() -> None:
    assert ask([*cut(1), *ran(5, 8_000)]) == []
    assert ask([*cut(2), *ran(98, 8_000)])
    assert ask([*cut(2), *ran(99, 8_000)]) == []


def test_counts_come_from_all_executions_not_only_from_those_kept() -> None:
    executions = [*cut(2), *ran(8, 8_000)]
    finding = only(ask(executions, outcomes={"finished": 160, "timeout": 40}, executions_total=200))
    assert finding.title.startswith("40 of 200 executions")


def test_a_loose_timeout_is_a_hint() -> None:
    finding = only(ask(ran(20, 500, timeout_s=3_600)))
    assert finding.severity == "info"
    assert finding.title == "The timeout of 1.0 h is 7,200 times the longest run, 500 ms"
    assert finding.saving_ms.high == 0


@pytest.mark.parametrize(
    ("timeout_s", "run_ms", "number", "fires"),
    [
        (600, 12_000, 20, True),
        (599, 1_000, 20, False),
        (600, 12_001, 20, False),
        (600, 12_000, 19, False),
        # A quarter of the executions, 16 times the factor; below five of them nothing is said.
        (600, 750, 5, True),
        (600, 751, 5, False),
        (36_000, 1, 4, False),
    ],
)
def test_just_below_each_limit_of_a_loose_one(timeout_s: float, run_ms: float, number: int, fires: bool) -> None:
    assert bool(ask(ran(number, run_ms, timeout_s=timeout_s))) is fires


@pytest.mark.parametrize(
    "executions",
    [ran(30, 2_000, timeout_s=180.0), ran(30, 9_500), ran(30, 100, timeout_s=None), ran(30, 100, timeout_s=-1.0)],
    ids=["the default", "close, but done", "none known", "no timeout"],
)
def test_look_alikes(executions: list[Execution]) -> None:
    assert ask(executions) == []


def test_it_is_the_finding_of_a_job_that_is_cut_off() -> None:
    diagnosis = diagnose(make_history([*cut(3), *ran(9, 8_000, ledger={"other_wait": 8_000})]))
    assert "JD605" in [f.code for f in diagnosis.findings if f.part_of is None and f.severity != "info"]
