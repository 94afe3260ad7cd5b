"""JD606: a job that keeps failing is found; one bad job, or a bad day, is not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.checklist.retries.always_failing import AlwaysFailing
from jobdoctor.diagnosis.engine import group
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Finding, Recommendation, Saving, TraceRow
from tests.builders import make_execution, make_history
from tests.diagnosis.asking import only
from tests.diagnosis.traffic import MAIL, attempts, diagnosed, history_of


def ask(rows: list[TraceRow], **fields: object) -> list[Finding]:
    return list(AlwaysFailing().check(history_of(MAIL, rows, **fields)))


def ended(number: int, outcome: str = "failed", *, at: float = 0.0, **fields: str) -> list[TraceRow]:
    details = {"error": "builtins.KeyError", "digest": "bounces"} | fields
    return [r for n in range(number) for r in attempts(f"{outcome}-{at}-{n}", (outcome,), at=at + n, **details)]


def test_fires_when_every_execution_failed() -> None:
    finding = only(ask(ended(8)))
    assert finding.severity == "critical"
    assert finding.title == "All 8 executions failed, with KeyError"
    assert finding.callsite == "app/tasks.py:12"
    assert finding.cost_ms == pytest.approx(50)
    assert "app/tasks.py:12" in finding.recommendation.text
    assert finding.evidence[0].data["errors"] == {"builtins.KeyError": 8}
    assert finding.evidence[1].kind == "execution"


def test_the_main_one_of_several_errors_is_named() -> None:
    finding = only(ask([*ended(6), *ended(2, at=50.0, error="builtins.OSError", digest="disk")]))
    assert finding.title == "All 8 executions failed, mostly with KeyError"


def test_arguments_that_cannot_be_unpickled_are_said_as_such() -> None:
    finding = only(ask(ended(8, error="rq.exceptions.DeserializationError")))
    assert finding.title.endswith("with arguments that cannot be unpickled where the worker runs")
    assert finding.recommendation.text.startswith("Install what the arguments are made of where the worker runs, or ")
    assert finding.callsite == ""


def test_four_failures_are_below_the_limit_five_are_not() -> None:
    assert ask(ended(4)) == []
    only(ask(ended(5)))


def test_nine_of_ten_fire_and_eight_of_ten_do_not() -> None:
    assert only(ask([*ended(9), *ended(1, "finished", at=50)])).severity == "warning"
    assert ask([*ended(8), *ended(2, "finished", at=50)]) == []


def test_one_bad_argument_retried_many_times_is_not_the_job() -> None:
    bad = ("retried", "retried", "retried", "failed")
    rows = [r for n in range(2) for r in attempts(f"bad-{n}", bad, at=n)]
    assert ask(rows) == []
    third = attempts("bad-2", bad, at=9)
    assert "9 retries" in only(ask([*rows, *third])).evidence[0].text


def test_a_cron_job_that_keeps_its_id_counts_each_run() -> None:
    rows = [r for n in range(6) for r in attempts("nightly", ("failed",), at=3_600 * n)]
    only(ask(rows))


def test_timeouts_and_kills_are_failures_and_stops_are_not() -> None:
    assert "timeout" in only(ask(ended(5, "timeout", error="", digest=""))).title
    assert ask(ended(8, "stopped")) == []


@pytest.mark.parametrize(
    "rows",
    [
        [*ended(1), *ended(20, "finished", at=50)],
        [*ended(5), *ended(20, "finished", at=50)],
        ended(20, "finished"),
        [r for n in range(20) for r in attempts(f"ok-{n}", ("retried", "finished"), at=n)],
    ],
    ids=["one failure", "a bad hour", "healthy", "the second attempt succeeds"],
)
def test_look_alikes(rows: list[TraceRow]) -> None:
    assert ask(rows) == []


def test_without_a_trace_it_says_so() -> None:
    history = make_history([make_execution(outcome="failed") for _ in range(6)], trace=[])
    with pytest.raises(NotChecked, match="6 of 6 executions failed"):
        list(AlwaysFailing().check(history))


def test_it_is_inside_the_job() -> None:
    diagnosis = diagnosed(MAIL, ended(8))
    assert diagnosis.verdict.where == "inside"
    assert [f.code for f in diagnosis.findings if f.part_of is None and f.severity != "info"] == ["JD606"]


def test_a_job_that_is_killed_each_time_is_one_story() -> None:
    history = history_of(MAIL, ended(8, "killed", error="killed"))
    executions = [replace(execution, exception=None) for execution in history.executions]  # no time for one
    always = only(list(AlwaysFailing().check(replace(history, executions=executions))))
    killed = Finding(
        code="JD306", name="killed", step="internals", severity="critical", confidence=0.9, where="inside", title="",
        cost_ms=always.cost_ms, saving_ms=Saving(400, 800, 800), recommendation=Recommendation("memory", ""),
        callsite="app/reports.py:85",
    )  # fmt: skip
    grouped = group([killed, always], {"JD606": AlwaysFailing.related_to})
    assert [(finding.code, finding.part_of) for finding in grouped] == [("JD306", None), ("JD606", "JD306")]
