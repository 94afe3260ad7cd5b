"""JD705: executions that stood still or were lost, and jobs that waited for nobody; what is slow or busy is not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.queue.stalled_worker import StalledWorker
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Death, Execution, Finding, Rusage, StackFrame, TraceRow
from tests.builders import MS, make_execution
from tests.diagnosis.asking import ask, only
from tests.diagnosis.traffic import MAIL, REPORT, history_of
from tests.queueing.traces import row

STOOD = Death(
    cause="timeout", stack=[StackFrame("queue.py:171", "get", False), StackFrame("app/print.py:9", "f", True)]
)
USUAL = [make_execution(run_ms=100) for _ in range(4)]


def stalled(number: int = 2, *, run_ms: float = 2_000, nothing: float = 0.9, cpu: float = 0.02, **fields: Any) -> Any:
    parts = {"other_wait": nothing * run_ms, "sql": (1 - nothing) * run_ms}
    used = Rusage(user_ns=int(cpu * run_ms * MS))
    defaults = {"outcome": "timeout", "death": STOOD, "rusage": used, "ledger": parts, "run_ms": run_ms}
    return [make_execution(**{**defaults, **fields}) for _ in range(number)]


def found(*executions: Execution) -> list[Finding]:
    return ask(StalledWorker, [*USUAL, *executions])


def test_fires_on_executions_that_stood_still() -> None:
    finding = only(found(*stalled()))
    assert finding.title == (
        "2 of 6 executions stood still until they were cut off, at app/print.py:9: 2.0 s instead of 100 ms"
    )
    assert (finding.severity, finding.where, finding.callsite) == ("warning", "inside", "app/print.py:9")
    assert finding.recommendation.kind == "timeout"
    assert finding.cost_ms == pytest.approx(4_000 / 6, abs=0.01)
    assert finding.saving_ms.high == pytest.approx(3_800 / 6, abs=0.01)
    assert "results.get(timeout=10)" in finding.recommendation.snippet
    assert finding.evidence[0].text == "No CPU and no known call for 90% of 2.0 s"
    assert finding.evidence[1].kind == "execution"


def test_below_two_it_is_a_remark() -> None:
    assert only(found(*stalled(1))).severity == "info"


@pytest.mark.parametrize(("nothing", "fires"), [(0.74, False), (0.76, True)])
def test_just_below_three_quarters_of_nothing(nothing: float, fires: bool) -> None:
    assert bool(found(*stalled(nothing=nothing))) is fires


@pytest.mark.parametrize(("cpu", "fires"), [(0.11, False), (0.09, True)])
def test_just_below_a_tenth_of_cpu(cpu: float, fires: bool) -> None:
    assert bool(found(*stalled(cpu=cpu))) is fires


@pytest.mark.parametrize(("run_ms", "fires"), [(999, False), (1_000, True)])
def test_just_below_a_second(run_ms: float, fires: bool) -> None:
    assert bool(found(*stalled(run_ms=run_ms))) is fires


@pytest.mark.parametrize(("usual_ms", "fires"), [(401, False), (400, True)])
def test_just_below_five_times_the_usual(usual_ms: float, fires: bool) -> None:
    usual = [make_execution(run_ms=usual_ms) for _ in range(3)]
    assert bool(ask(StalledWorker, [*usual, *stalled()])) is fires


def test_too_few_to_compare_with() -> None:
    with pytest.raises(NotChecked, match="only 2 finished"):
        ask(StalledWorker, [*USUAL[:2], *stalled()])


@pytest.mark.parametrize(
    "executions",
    [
        stalled(ledger={"http": 1_950}),
        stalled(ledger={"sleep": 1_950}),
        stalled(ledger={"cpu": 1_950}, cpu=0.97),
        stalled(outcome="finished", death=None),
        stalled(outcome="failed"),
    ],
    ids=["a slow call", "a sleep", "computing", "it finished", "it failed"],
)
def test_look_alikes(executions: list[Execution]) -> None:
    assert found(*executions) == []


def test_fires_on_executions_that_were_lost_with_their_worker() -> None:
    lost = [
        make_execution(run_ms=600, outcome="killed", death=Death(cause="lost-worker"), worker=f"w-{n}") for n in (1, 2)
    ]
    finding = only(found(*lost))
    assert finding.title == "2 of 6 executions were lost with their worker"
    assert (finding.severity, finding.where) == ("warning", "around")
    assert finding.cost_ms == pytest.approx(200)
    assert finding.evidence[0].text == "The workers were w-1, w-2"
    assert only(found(lost[0])).severity == "info"


def gap(number: int = 3, length: float = 120.0, **fields: Any) -> list[TraceRow]:
    """One job at first; then some that wait until a worker comes back, and are taken at once."""
    waited = [row(MAIL, 10.0 + n, 10.0 + n + length, 11.0 + n + length, **fields) for n in range(number)]
    return [row(MAIL, 0.0, 0.0, 1.0), *waited]


def unattended(rows: list[TraceRow]) -> list[Finding]:
    return list(StalledWorker().check(history_of(MAIL, rows)))


def test_fires_on_a_queue_that_nobody_listened_to() -> None:
    finding = only(unattended(gap()))
    assert finding.title == "3 jobs waited on queue default while nobody took any, up to 2 min"
    assert (finding.severity, finding.where, finding.recommendation.kind) == ("warning", "around", "queue")
    assert finding.cost_ms == pytest.approx(90_000)
    assert "rq worker-pool default" in finding.recommendation.snippet
    assert finding.evidence[0].data["waited"] == 3


@pytest.mark.parametrize(("number", "length", "fires"), [(2, 120, False), (3, 59, False), (3, 60, True)])
def test_just_below_three_jobs_or_a_minute(number: int, length: float, fires: bool) -> None:
    assert bool(unattended(gap(number, length))) is fires


def test_before_the_first_worker_was_seen_nobody_knows_and_it_is_silent() -> None:
    assert unattended(gap()[1:]) == []


def test_a_worker_that_was_busy_is_no_stalled_one_look_alike() -> None:
    assert unattended([*gap(), row(REPORT, 2.0, 2.0, 125.0)]) == []
    elsewhere = row(REPORT, 2.0, 2.0, 125.0, worker="w-2", queue="other", worker_queues=["other"])
    only(unattended([*gap(), elsewhere]))
