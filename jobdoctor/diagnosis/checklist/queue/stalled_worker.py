"""stalled-worker: a worker made no progress, or nobody listened to the queue.

## What it looks for

Three things. Executions that took many times as long as the others and did nothing meanwhile: no CPU, no call that a
probe knows, until the timeout or a signal ended them. Executions that were lost with their worker. And jobs that
waited for a minute and more while every worker of the queue was idle or gone, although one had taken jobs before. What
that cost is replayed: the same jobs, with a worker that stays, or with executions that take no longer than usual.

## Why it costs time

A worker that stands still looks busy to everybody: its jobs wait, and no error says why. A queue that nobody listens
to looks like a quiet one.

## What to do

Wait with a limit for everything that may not come: `queue.get(timeout=...)`, `future.result(timeout=...)`,
`event.wait(...)`, `lock.acquire(timeout=...)`; and let errors of threads reach the one who waits for them. Give the
job a timeout near what it needs. Watch that each queue has a worker, and let a supervisor start those that die.

## When it is a false alarm

When workers are stopped on purpose: at night, or while a deploy goes on for minutes. Waits while the workers were
suspended (`rq suspend`) are passed over where samples of the queues say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from jobdoctor import words
from jobdoctor.diagnosis import measure, replays
from jobdoctor.diagnosis.measure import words_ms
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, TraceRow
from jobdoctor.queueing.traffic import merged
from jobdoctor.queueing.workers import SeenWorker, busy_ns, seen_workers

_CUT = frozenset({"timeout", "killed"})
#: Parts of the ledger in which nothing is known to go on.
_NOTHING = ("other_wait", "lock", "unexplained")
_NS_PER_S = 1_000_000_000
#: A mean wait from which the absence of a lost worker is told, in s.
_NOTICED_S = 0.05


class StalledWorker(Rule):
    """JD705."""

    code = "JD705"
    name = "stalled-worker"
    step = "queue"
    kind = "queue"
    where = "around"
    related_to = ("JD306",)

    min_warning = Limit(
        2, "executions", "stalled or lost executions from which it is a warning", "own: once is a chance"
    )
    least_s = Limit(1, "s", "run of an execution below which it did not stall", "own: a hundred forks")
    times = Limit(5, "times", "its run over the median of those that finished", "own: far outside of what is usual")
    min_finished = Limit(3, "executions", "finished ones to compare it with", "Clinic.js: no verdict under 4 samples")
    nothing_share = Limit(0.75, "share", "share of its run in which nothing was seen to go on", "own")
    max_cpu = Limit(0.1, "share", "share of its run spent computing", "own: starting Python's part of a job takes some")
    gap_s = Limit(
        60, "s", "wait for idle or absent workers", "own: RQ takes a job at once; a deploy restarts workers in a minute"
    )
    max_busy = Limit(0.1, "share", "of that wait the workers may have been busy", "own: as good as never")
    min_waited = Limit(3, "jobs", "jobs that waited so", "own: not one moment")

    def check(self, history: JobHistory) -> Iterable[Finding]:
        lost = [each for each in history.executions if each.death is not None and each.death.cause == "lost-worker"]
        if lost:
            yield self._lost(history, lost)
        waited, before = self._unattended(history)
        gone = len(waited) >= self.limits.min_waited
        if gone:
            yield self._nobody(history, waited)
        finished = [each for each in history.executions if each.outcome == "finished"]
        cut = [each for each in history.executions if each.outcome in _CUT and each not in lost]
        if cut and len(finished) < self.limits.min_finished:
            if not lost and not gone:
                raise NotChecked(
                    f"{len(cut)} executions were cut off, but only {len(finished)} finished to compare them with"
                )
            return
        stalled = [each for each in cut if self._stood_still(each, finished)]
        if stalled:
            yield self._stalled(history, stalled, finished)
        elif before >= self.limits.min_waited and not lost and not gone:
            raise NotChecked(
                f"{before} jobs waited for {words_ms(1_000 * self.limits.gap_s)} and more before any worker of their "
                f"queue was seen, and nobody knows whether there was one: look at a longer window (--since)"
            )

    def _stood_still(self, execution: Execution, finished: Sequence[Execution]) -> bool:
        run = execution.run_ns
        usual = median(each.run_ns for each in finished)
        if run < self.limits.least_s * _NS_PER_S or run < self.limits.times * usual:
            return False
        if execution.ledger_ns(*_NOTHING) < self.limits.nothing_share * run:
            return False
        used = execution.rusage
        cpu = used.user_ns + used.system_ns if used is not None else execution.ledger_ns("cpu")
        return cpu <= self.limits.max_cpu * run

    def _unattended(self, history: JobHistory) -> tuple[list[TraceRow], int]:
        """The job's rows that waited while no worker of their queue did anything; and how many waited before the first
        worker was seen."""
        found: list[TraceRow] = []
        before = 0
        workers: dict[str, list[SeenWorker]] = {}
        for row in history.trace:
            waited_ns = row.dequeued_at_ns - row.enqueued_at_ns
            if waited_ns < self.limits.gap_s * _NS_PER_S or _overlap_ns(row, history.suspended) > waited_ns / 2:
                continue
            if row.queue not in workers:
                workers[row.queue] = seen_workers(history.neighbours, row.queue)
            listening = workers[row.queue]
            if not any(worker.first_ns < row.enqueued_at_ns for worker in listening):
                first_ns = min((worker.first_ns for worker in listening), default=row.dequeued_at_ns)
                before += first_ns - row.enqueued_at_ns >= self.limits.gap_s * _NS_PER_S
                continue
            busy = busy_ns(listening, row.enqueued_at_ns, row.dequeued_at_ns)
            if busy <= self.limits.max_busy * waited_ns:
                found.append(row)
        return found, before

    def _stalled(self, history: JobHistory, stalled: Sequence[Execution], finished: Sequence[Execution]) -> Finding:
        number = len(history.executions)
        usual = median(each.run_ns for each in finished) / 1e6
        cost = sum(each.run_ns for each in stalled) / 1e6 / number
        spared = max(0.0, cost - usual * len(stalled) / number)
        frames = [each.death.stack for each in stalled if each.death is not None and each.death.stack]
        at = next((frame.callsite for stack in frames for frame in stack if frame.application), "")
        others = replays.without_stalls(history, [each.id for each in stalled], usual)
        return self.finding(
            severity="warning" if len(stalled) >= self.limits.min_warning else "info",
            confidence=0.8 if at else 0.7,
            title=(
                f"{len(stalled)} of {number} executions stood still until they were cut off"
                + (f", at {at}" if at else "")
                + f": {words_ms(max(each.run_ns for each in stalled) / 1e6)} instead of {words_ms(usual)}"
            ),
            cost_ms=cost,
            saving=(spared / 2, 0.9 * spared, spared),
            text=(
                f"Wait with a limit {f'at {at}' if at else 'for what may not come'}, and let the error of a thread "
                f"reach the one who waits for it. Give the job a timeout near the {words_ms(usual)} that it needs"
            ),
            snippet=(
                "item = results.get(timeout=10)  # queue.Empty instead of a worker that stands still\n"
                "value = future.result(timeout=10)  # and the thread's own error, when it had one"
            ),
            callsite=at,
            kind="timeout",
            where="inside",
            evidence=[
                Evidence(
                    "fact",
                    f"No CPU and no known call for "
                    f"{words.share(measure.mean(e.ledger_ns(*_NOTHING) / e.run_ns for e in stalled))} of "
                    f"{words_ms(measure.run_ms(stalled))}",
                    {"stalled": len(stalled), "executions": number, "usual_ms": round(usual, 3), "callsite": at},
                ),
                *([] if others is None else [others]),
                measure.execution_evidence(stalled[0], "One that stood still"),
            ],
        )

    def _lost(self, history: JobHistory, lost: Sequence[Execution]) -> Finding:
        cost = sum(each.run_ns for each in lost) / 1e6 / len(history.executions)
        absence = replays.with_listeners(history, [_until_back(history, each) for each in lost])
        if absence is not None and absence.mean_s < _NOTICED_S:
            absence = None
        low, mid, high = _range_ms(absence) if absence is not None else (0.0, 0.0, 0.0)
        workers = ", ".join(dict.fromkeys(each.worker for each in lost[:3]))
        return self.finding(
            severity="warning" if len(lost) >= self.limits.min_warning else "info",
            confidence=0.95,
            title=f"{len(lost)} of {len(history.executions)} executions were lost with their worker",
            cost_ms=cost + mid,
            saving=(low, cost / 2 + mid, cost + high),
            text=(
                "Find out what ends the workers: the kernel's log (out of memory), the deploy, the supervisor. They "
                "need a signal that they can answer (SIGTERM) and the time to finish a job"
            ),
            snippet="# systemd: KillSignal=SIGTERM, KillMode=mixed, TimeoutStopSec=longer than a job, Restart=always",
            evidence=[
                Evidence("fact", f"The workers were {workers}", {"lost": len(lost), "target": f"worker {workers}"}),
                *([] if absence is None else [_absence(absence, "had they stayed, or come back at once")]),
                measure.execution_evidence(lost[0], "The newest"),
            ],
        )

    def _nobody(self, history: JobHistory, waited: Sequence[TraceRow]) -> Finding:
        total = sum(row.dequeued_at_ns - row.enqueued_at_ns for row in waited) / 1e6
        cost = total / len(history.trace)
        longest = max(waited, key=lambda row: row.dequeued_at_ns - row.enqueued_at_ns)
        gap_ms = (longest.dequeued_at_ns - longest.enqueued_at_ns) / 1e6
        absence = replays.with_listeners(history, _stretches(waited))
        low, mid, high = (cost / 2, 0.9 * cost, cost) if absence is None else _range_ms(absence)
        return self.finding(
            severity="warning",
            confidence=0.8,
            title=(
                f"{len(waited)} jobs waited on queue {longest.queue} while nobody took any, up to {words_ms(gap_ms)}"
            ),
            cost_ms=cost,
            saving=(low, mid, high),
            text=(
                f"See that a worker listens to {longest.queue} at all times: its workers were idle or gone from "
                f"{words.instant(longest.enqueued_at_ns)} to {words.instant(longest.dequeued_at_ns)}. Let a supervisor "
                f"start those that die, and look whether somebody had suspended them (`rq resume`)"
            ),
            snippet=f"$ rq info -W  # who is there\n$ rq worker-pool {longest.queue} --num-workers 2",
            evidence=[
                Evidence(
                    "queue",
                    f"{len(waited)} of {len(history.trace)} jobs waited {words_ms(total / len(waited))} on average for "
                    f"workers that did nothing",
                    {
                        "target": f"queue {longest.queue}",
                        "queue": longest.queue,
                        "waited": len(waited),
                        "from_ns": longest.enqueued_at_ns,
                        "to_ns": longest.dequeued_at_ns,
                    },
                ),
                *([] if absence is None else [_absence(absence, "with one worker there all the time")]),
            ],
        )


def _overlap_ns(row: TraceRow, stretches: Sequence[tuple[int, int]]) -> int:
    return sum(
        max(0, min(until, row.dequeued_at_ns) - max(since, row.enqueued_at_ns)) for since, until in stretches
    )  # fmt: skip


def _stretches(waited: Sequence[TraceRow]) -> list[tuple[list[str], list[tuple[int, int]]]]:
    """By queue: from when to when jobs waited for nobody."""
    by_queue: dict[str, list[tuple[int, int]]] = {}
    for row in waited:
        by_queue.setdefault(row.queue, []).append((row.enqueued_at_ns, row.dequeued_at_ns))
    return [([queue], merged(own)) for queue, own in sorted(by_queue.items())]


def _until_back(history: JobHistory, lost: Execution) -> tuple[list[str], list[tuple[int, int]]]:
    """What the lost worker listened to, and the time until it, or a new one in its place, took a job."""
    queues = lost.worker_queues or [lost.queue]
    back_ns = history.to_ns
    for worker in seen_workers(history.neighbours, lost.queue):
        if worker.name == lost.worker:
            begun = [busy.start_ns for busy in worker.busy if busy.start_ns >= lost.reaped_at_ns]
        else:
            begun = [worker.first_ns] if worker.first_ns >= lost.reaped_at_ns else []
        back_ns = min([back_ns, *begun])
    return queues, [(lost.reaped_at_ns, max(back_ns, lost.reaped_at_ns))]


def _range_ms(spared: replays.Spared) -> tuple[float, float, float]:
    """What an execution waits less, in ms: by the bootstrap, or from half of it where that has too little."""
    mid = 1_000 * spared.mean_s
    low, high = (mid / 2, mid) if spared.mean_interval is None else (1_000 * end for end in spared.mean_interval)
    return min(low, mid), mid, max(high, mid)


def _absence(spared: replays.Spared, if_: str) -> Evidence:
    low, mid, high = _range_ms(spared)
    return Evidence(
        "queue",
        f"What the absence cost: {if_}, an execution would have waited {words_ms(mid)} less "
        f"({words_ms(max(0.0, low))} to {words_ms(high)}), with a p95 wait of {words_ms(1_000 * spared.p95_after_s)} "
        f"instead of {words_ms(1_000 * spared.p95_before_s)} (replay of {spared.executions:,} executions)",
        {"replayed": replays.data_of([spared])},
    )
