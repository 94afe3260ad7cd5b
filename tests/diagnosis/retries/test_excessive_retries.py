"""JD601: success after success, but each after several attempts."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.checklist.retries.excessive_retries import ExcessiveRetries
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Finding, TraceRow
from tests.builders import MS, make_execution, make_history
from tests.diagnosis.asking import only
from tests.diagnosis.traffic import MAIL, attempts, diagnosed, history_of, policy

PAUSES = (30.0,)


def ask(rows: list[TraceRow], **overrides: float) -> list[Finding]:
    return list(ExcessiveRetries(overrides).check(history_of(MAIL, rows)))


def jobs(
    number: int, *outcomes: str, name: str = "a", pauses: tuple[float, ...] = PAUSES, **fields: Any
) -> list[TraceRow]:
    return [r for n in range(number) for r in attempts(f"{name}-{n}", outcomes, at=100.0 * n, pauses=pauses, **fields)]


AFTER_ONE = ("retried", "finished")
AT_ONCE = ("finished",)


def test_fires_when_most_need_a_second_attempt() -> None:
    finding = only(ask(jobs(8, *AFTER_ONE)))
    assert finding.severity == "warning"
    assert finding.title == "2.0 attempts for each success: 8 of 8 failures are HTTPError (status 503)"
    assert finding.callsite == "app/tasks.py:12"
    # Half of the executions failed, 50 ms each.
    assert finding.cost_ms == pytest.approx(25)
    assert (finding.saving_ms.low, finding.saving_ms.mid, finding.saving_ms.high) == pytest.approx((15, 23.75, 27.5))
    # The high end: nobody succeeded at once, so that a tenth of the later successes may be making up for the failures.
    assert finding.evidence[0].data["attempts"] == {"2": 8}
    assert finding.evidence[0].data["later_ms"] == pytest.approx(30_050)
    assert "8 of 8 jobs meet it before they succeed, 30.1 s later" in finding.recommendation.text


@pytest.mark.parametrize(("number", "fires"), [(4, False), (5, True)])
def test_below_five_jobs_it_is_silent(number: int, fires: bool) -> None:
    assert bool(ask(jobs(number, *AFTER_ONE))) is fires


@pytest.mark.parametrize(("healthy", "fires"), [(8, True), (9, False)])
def test_below_one_and_a_half_attempts_it_is_silent(healthy: int, fires: bool) -> None:
    assert bool(ask([*jobs(8, *AFTER_ONE), *jobs(healthy, *AT_ONCE, name="b")])) is fires


@pytest.mark.parametrize(("healthy", "fires"), [(8, True), (9, False)])
def test_below_a_third_of_the_jobs_it_is_silent(healthy: int, fires: bool) -> None:
    stubborn = jobs(4, *(("retried",) * 9), "finished")
    assert bool(ask([*stubborn, *jobs(healthy, *AT_ONCE, name="b")])) is fires


def test_below_a_third_of_the_executions_a_short_job_has_a_hint() -> None:
    rows = [*jobs(8, *AFTER_ONE, run=0.005), *jobs(8, *AT_ONCE, name="b", run=0.005)]
    assert only(ask(rows)).severity == "warning"
    assert only(ask(rows, warning_retry_share=0.4)).severity == "info"


@pytest.mark.parametrize(
    "rows",
    [
        jobs(30, *AT_ONCE),
        [*jobs(2, *AFTER_ONE), *jobs(20, *AT_ONCE, name="b")],
        jobs(10, "retried", "retried", "failed"),
    ],
    ids=["healthy", "now and then", "never succeeds"],
)
def test_look_alikes(rows: list[TraceRow]) -> None:
    assert ask(rows) == []


def test_attempts_from_before_the_window_are_not_counted() -> None:
    rows = [row for row in jobs(8, "retried", "retried", "finished") if row.attempt == 3]
    assert ask(rows) == []


def test_without_a_trace_it_says_so() -> None:
    history = make_history([make_execution(attempt=2) for _ in range(6)], trace=[])
    with pytest.raises(NotChecked, match="rows of the trace are gone"):
        list(ExcessiveRetries().check(history))
    assert list(ExcessiveRetries().check(make_history([make_execution()], trace=[]))) == []


def test_it_is_the_main_finding_of_a_job_that_waits_between_attempts() -> None:
    diagnosis = diagnosed(MAIL, jobs(8, *AFTER_ONE), execution=policy(30))
    assert [f.code for f in diagnosis.findings if f.part_of is None and f.severity != "info"] == ["JD601"]
    assert diagnosis.verdict.where == "inside"


def test_a_storm_owns_it() -> None:
    rows = jobs(8, "retried", "retried", "finished", pauses=(0.0,))
    codes = {finding.code: finding.part_of for finding in diagnosed(MAIL, rows, execution=policy(0)).findings}
    assert codes["JD602"] is None
    assert codes["JD601"] == "JD602"


def test_a_success_that_makes_up_for_a_failure_takes_longer() -> None:
    """At once 50 ms; after a failure 60: ten of them belong to the failure."""
    rows = jobs(8, *AFTER_ONE)
    later = [replace(row, reaped_at_ns=row.reaped_at_ns + 10 * MS) if row.attempt == 2 else row for row in rows]
    finding = only(ask([*later, *jobs(4, *AT_ONCE, name="b")]))
    assert finding.saving_ms.high == pytest.approx((8 * 50 + 8 * 10) / 20)
