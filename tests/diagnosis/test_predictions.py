"""Promises held against what came of them after the deploy."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.predictions import kept, mean_ms, predictions
from jobdoctor.model import Finding, JobHistory, KeptPrediction, Mark, Prediction, Saving
from tests.builders import EPOCH_NS, MS, SECOND, make_execution, make_history, make_row
from tests.report import diagnoses

DEPLOY = Mark("deploy", "3f9c2ab", EPOCH_NS + 100 * SECOND)
PROMISED = Prediction(
    "app.tasks.sync_orders",
    "JD401",
    "app/tasks.py:41",
    "412 queries",
    "inside",
    EPOCH_NS + 50 * SECOND,
    1_000,
    500,
    600,
    700,
)


def ran(before_ms: float, after_ms: float, *, after: int = 5, marks: tuple[Mark, ...] = (DEPLOY,)) -> JobHistory:
    executions = [make_execution(run_ms=before_ms, at_ms=number * 1_000) for number in range(10)]
    executions += [make_execution(run_ms=after_ms, at_ms=110_000 + number * 1_000) for number in range(after)]
    rows = [make_row(each) for each in executions]
    return make_history(executions, trace=rows, marks=list(marks), predictions=[PROMISED])


def judged(history: JobHistory, *findings: Finding) -> KeptPrediction:
    [one] = kept(history, lambda _: findings)
    return one


@pytest.mark.parametrize(
    ("after_ms", "status"),
    [(400, "came true"), (500, "came true"), (300, "came true"), (299, "more"), (501, "less"), (1_200, "less")],
)
def test_what_came_of_it(after_ms: float, status: str) -> None:
    one = judged(ran(1_000, after_ms))
    assert one.status == status
    assert one.after_ms == pytest.approx(after_ms)
    assert (one.deploy, one.executions) == (DEPLOY, 5)


def test_what_is_still_found_was_not_applied() -> None:
    assert judged(ran(1_000, 990), diagnoses.N_PLUS_ONE).status == "not applied"
    assert judged(ran(1_000, 990), diagnoses.SLOW_API).status == "less"
    assert judged(ran(1_000, 400), diagnoses.N_PLUS_ONE).status == "came true", "half of it, as promised"


def test_the_rules_are_asked_about_the_time_since_the_deploy_alone() -> None:
    asked: list[JobHistory] = []

    def ask(history: JobHistory) -> list[Finding]:
        asked.append(history)
        return []

    kept(ran(1_000, 400), ask)
    [since] = asked
    assert len(since.executions) == len(since.trace) == since.executions_total == 5
    assert since.predictions == []
    assert min(each.dequeued_at_ns for each in since.executions) > DEPLOY.at_ns


def test_two_executions_are_too_early() -> None:
    assert judged(ran(1_000, 400, after=2)).status == "too early"
    assert judged(ran(1_000, 400, after=3)).status == "came true"


def test_without_a_deploy_there_is_nothing_to_tell() -> None:
    incident = Mark("incident", "outage", DEPLOY.at_ns)
    before = Mark("deploy", "old", EPOCH_NS)
    assert kept(ran(1_000, 400, marks=(incident, before)), lambda _: []) == []


def test_the_next_deploy_ends_the_comparison() -> None:
    later = Mark("deploy", "next", EPOCH_NS + 200 * SECOND)
    history = ran(1_000, 400, marks=(DEPLOY, later))
    slow = [make_execution(run_ms=5_000, at_ms=210_000 + number * 1_000) for number in range(5)]
    history = replace(
        history,
        executions=[*history.executions, *slow],
        trace=[*history.trace, *(make_row(each) for each in slow)],
        to_ns=EPOCH_NS + 300 * SECOND,
    )
    one = judged(history)
    assert (one.status, one.deploy) == ("came true", DEPLOY)


def test_several_places_of_one_rule_are_one_promise() -> None:
    other = replace(PROMISED, callsite="app/tasks.py:90", low_ms=50, mid_ms=60, high_ms=70)
    one = judged(replace(ran(1_000, 400), predictions=[PROMISED, other]))
    assert (one.prediction.low_ms, one.prediction.mid_ms, one.prediction.high_ms) == (550, 660, 770)
    assert one.prediction.callsite == PROMISED.callsite


def test_findings_become_predictions() -> None:
    history = ran(1_000, 1_000)
    hint = replace(diagnoses.SLOW_API, severity="info")
    nothing = replace(diagnoses.SLOW_API, saving_ms=Saving(0, 0, 0))
    made = predictions(history, [diagnoses.N_PLUS_ONE, diagnoses.REPEATED, diagnoses.BEHIND, hint, nothing], 7)
    assert [one.code for one in made] == ["JD401", "JD701"]
    inside, around = made
    assert (inside.at_ns, inside.mid_ms, inside.before_ms) == (7, 3_100, pytest.approx(1_000))
    assert around.before_ms == pytest.approx(1_005), "the wait counts for what is around the job"


def test_means_are_over_every_execution_that_finished() -> None:
    history = ran(100, 400, after=10)
    assert mean_ms(history, "inside") == pytest.approx(250)
    failed = replace(history.trace[0], outcome="failed", reaped_at_ns=history.trace[0].reaped_at_ns + 9_000 * MS)
    assert mean_ms(replace(history, trace=[failed, *history.trace]), "inside") == pytest.approx(250)
    assert mean_ms(replace(history, trace=[]), "inside") == pytest.approx(250)
