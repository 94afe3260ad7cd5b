"""JD705: executions that stood still or were lost, and jobs that waited for nobody; what is slow or busy is not."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis import replays
from jobdoctor.diagnosis.checklist.queue.stalled_worker import StalledWorker
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Death, Execution, Finding, Rusage, StackFrame, TraceRow
from tests.builders import EPOCH_NS, MS, SECOND, make_execution
from tests.diagnosis.asking import ask, only
from tests.diagnosis.traffic import MAIL, REPORT, history_of
from tests.queueing.traces import row, served

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


def test_before_the_first_worker_was_seen_nobody_knows() -> None:
    with pytest.raises(NotChecked, match="3 jobs waited for 1 min and more before any worker"):
        unattended(gap()[1:])
    assert unattended(gap(2)[1:]) == []
    # It was there at the latest when it took the first of them: what waited for that one waited for no absence.
    assert unattended(served([(0.1 * n, MAIL, 30.0) for n in range(12)])) == []


def steady_then_gone() -> list[TraceRow]:
    """A job every 5 s that takes one; from 200 s to 500 s nobody is there, and then they are done in a row."""
    rows: list[TraceRow] = []
    free = 0.0
    for n in range(200):
        start = max(5.0 * n, free)
        start = 500.0 if 200 <= start < 500 else start
        free = start + 1.0
        rows.append(row(MAIL, 5.0 * n, start, free))
    return rows


def test_what_the_absence_cost_is_replayed() -> None:
    rows = steady_then_gone()
    finding = only(unattended(rows))
    waits = [(each.dequeued_at_ns - each.enqueued_at_ns) / 1e6 for each in rows]
    evidence = finding.evidence[1]
    assert evidence.text.startswith(
        "What the absence cost: with one worker there all the time, an execution would have"
    )
    (replayed,) = evidence.data["replayed"]
    # With a worker there nobody would have waited.
    assert replayed["mean_spared_ms"] == pytest.approx(sum(waits) / len(waits), rel=0.02)
    assert replayed["p95_after_ms"] < 100
    assert finding.saving_ms.low < finding.saving_ms.mid < finding.saving_ms.high
    assert finding.saving_ms.mid == pytest.approx(replayed["mean_spared_ms"])
    low, high = replayed["mean_spared_interval_ms"]
    assert (finding.saving_ms.low, finding.saving_ms.high) == pytest.approx((low, high))


def test_few_jobs_or_another_reason_leave_it_at_the_measured_wait() -> None:
    finding = only(unattended(gap()))
    assert len(finding.evidence) == 1
    assert finding.saving_ms.mid == pytest.approx(0.9 * finding.cost_ms)


@pytest.mark.parametrize(("until", "fires"), [(340.0, True), (500.0, False)])
def test_suspended_workers_are_no_stalled_ones(until: float, fires: bool) -> None:
    """Most of what a job waited counts."""
    suspended = [(EPOCH_NS + 195 * SECOND, EPOCH_NS + int(until * SECOND))]
    found = list(StalledWorker().check(history_of(MAIL, steady_then_gone(), suspended=suspended)))
    assert bool(found) is fires


def idle() -> list[TraceRow]:
    """Three jobs a night: the worker does nothing for hours, and takes each at once."""
    return [row(MAIL, 3_600.0 * n, 3_600.0 * n + 0.01, 3_600.0 * n + 1) for n in range(30)]


def busy_elsewhere() -> list[TraceRow]:
    """The only worker has another queue, too, and is in a job of ten minutes of that."""
    both = {"worker_queues": ["default", "other"]}
    long = row(REPORT, 100.0, 100.0, 700.0, queue="other", **both)
    waited = [row(MAIL, 200.0 + n, 700.0 + n, 700.5 + n, **both) for n in range(30)]
    return [*(row(MAIL, 2.0 * n, 2.0 * n, 2.0 * n + 1, **both) for n in range(30)), long, *waited]


def burst() -> list[TraceRow]:
    """It takes minutes to drain, by a worker that is busy all the time."""
    return [row(MAIL, 0.0, 0.0, 1.0), *served([(10.0, MAIL, 2.0) for _ in range(100)])]


@pytest.mark.parametrize("rows", [idle(), busy_elsewhere(), burst()], ids=["idle", "busy elsewhere", "burst"])
def test_healthy_workers_look_alike(rows: list[TraceRow]) -> None:
    assert unattended(rows) == []


def with_others(stood_s: float | None) -> list[TraceRow]:
    """Mails on two workers, and every twentieth job a report; of the reports two stand still for ``stood_s``."""
    arrivals: list[tuple[float, str, float]] = []
    for n in range(400):
        kind = REPORT if n % 20 == 0 else MAIL
        run = stood_s if stood_s and n in (100, 300) else 0.5 if kind == REPORT else 0.9
        arrivals.append((0.6 * n, kind, run))
    rows = served(arrivals, 2)
    return [
        replace(each, outcome="timeout") if each.reaped_at_ns - each.dequeued_at_ns > 5 * SECOND else each
        for each in rows
    ]


def test_what_others_waited_while_one_stood_still() -> None:
    rows = with_others(60.0)
    history = history_of(REPORT, rows, execution={"death": STOOD, "rusage": Rusage(user_ns=SECOND // 50)})
    finding = only(list(StalledWorker().check(history)))
    evidence = next(each for each in finding.evidence if "other_job" in each.data)
    assert evidence.data["stalled"] == 2
    healthy = with_others(None)

    def waited(each: list[TraceRow]) -> float:
        return sum(one.dequeued_at_ns - one.enqueued_at_ns for one in each if one.job == MAIL) / 1e6

    assert evidence.data["waited_for_each_ms"] == pytest.approx((waited(rows) - waited(healthy)) / 2, rel=0.02)
    assert "each that stood still made the jobs behind it wait" in evidence.text
    # Said once: what acting would spare others is not said again, as of other findings.
    assert replays.priced(history, [finding]) == [finding]


def test_what_the_absence_of_a_lost_worker_cost() -> None:
    """One of two workers is lost at 100 s; the other is alone with twice its work until a new one comes at 200 s."""
    both = served([(0.6 * n, MAIL, 1.0) for n in range(160)], 2)
    lost_at = EPOCH_NS + 96 * SECOND
    alone = served([(96.0 + 0.6 * n, MAIL, 1.0) for n in range(170)])
    after = served([(300.0 + 0.6 * n, MAIL, 1.0) for n in range(100)], 2, worker_queues=["default"])
    after = [replace(each, worker="worker-3") if each.worker == "worker-2" else each for each in after]
    rows = [*both, *alone, *after]
    history = history_of(MAIL, rows)
    dead = replace(
        history.executions[0], worker="worker-2", outcome="killed", dequeued_at_ns=lost_at - SECOND,
        reaped_at_ns=lost_at, death=Death(cause="lost-worker"),
    )  # fmt: skip
    finding = only(list(StalledWorker().check(replace(history, executions=[dead, *history.executions[1:]]))))
    evidence = next(each for each in finding.evidence if "replayed" in each.data)
    (replayed,) = evidence.data["replayed"]
    waits = [(each.dequeued_at_ns - each.enqueued_at_ns) / 1e6 for each in rows]
    assert replayed["mean_spared_ms"] == pytest.approx(sum(waits) / len(waits), rel=0.1)
    assert finding.saving_ms.mid > replayed["mean_spared_ms"]
    assert evidence.text.startswith("What the absence cost: had they stayed, or come back at once, an execution would")


def test_a_worker_that_was_busy_is_no_stalled_one_look_alike() -> None:
    assert unattended([*gap(), row(REPORT, 2.0, 2.0, 125.0)]) == []
    elsewhere = row(REPORT, 2.0, 2.0, 125.0, worker="w-2", queue="other", worker_queues=["other"])
    only(unattended([*gap(), elsewhere]))
