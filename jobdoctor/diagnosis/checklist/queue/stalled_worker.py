"""stalled-worker: a worker made no progress, or nobody listened to the queue.

## What it looks for

Three things. Executions that took many times as long as the others and did nothing meanwhile: no CPU, no call that a
probe knows, until the timeout or a signal ended them. Executions that were lost with their worker. And jobs that
waited for a minute and more while every worker of the queue was idle or gone, although one had taken jobs before.

## Why it costs time

A worker that stands still looks busy to everybody: its jobs wait, and no error says why. A queue that nobody listens
to looks like a quiet one.

## What to do

Wait with a limit for everything that may not come: `queue.get(timeout=...)`, `future.result(timeout=...)`,
`event.wait(...)`, `lock.acquire(timeout=...)`; and let errors of threads reach the one who waits for them. Give the
job a timeout near what it needs. Watch that each queue has a worker, and let a supervisor start those that die.

## When it is a false alarm

When workers are stopped on purpose: at night, or while a deploy goes on for minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from jobdoctor import words
from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import words_ms
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, TraceRow
from jobdoctor.queueing.workers import SeenWorker, busy_ns, seen_workers

_CUT = frozenset({"timeout", "killed"})
#: Parts of the ledger in which nothing is known to go on.
_NOTHING = ("other_wait", "lock", "unexplained")
_NS_PER_S = 1_000_000_000


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
        waited = self._unattended(history)
        if len(waited) >= self.limits.min_waited:
            yield self._nobody(history, waited)
        finished = [each for each in history.executions if each.outcome == "finished"]
        cut = [each for each in history.executions if each.outcome in _CUT and each not in lost]
        if cut and len(finished) < self.limits.min_finished:
            if not lost and len(waited) < self.limits.min_waited:
                raise NotChecked(
                    f"{len(cut)} executions were cut off, but only {len(finished)} finished to compare them with"
                )
            return
        stalled = [each for each in cut if self._stood_still(each, finished)]
        if stalled:
            yield self._stalled(history, stalled, finished)

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

    def _unattended(self, history: JobHistory) -> list[TraceRow]:
        """The job's rows that waited while no worker of their queue did anything."""
        found: list[TraceRow] = []
        workers: dict[str, list[SeenWorker]] = {}
        for row in history.trace:
            if row.dequeued_at_ns - row.enqueued_at_ns < self.limits.gap_s * _NS_PER_S:
                continue
            if row.queue not in workers:
                workers[row.queue] = seen_workers(history.neighbours, row.queue)
            listening = workers[row.queue]
            # Before the first worker was seen nobody knows what there was.
            if not any(worker.first_ns < row.enqueued_at_ns for worker in listening):
                continue
            busy = busy_ns(listening, row.enqueued_at_ns, row.dequeued_at_ns)
            if busy <= self.limits.max_busy * (row.dequeued_at_ns - row.enqueued_at_ns):
                found.append(row)
        return found

    def _stalled(self, history: JobHistory, stalled: Sequence[Execution], finished: Sequence[Execution]) -> Finding:
        number = len(history.executions)
        usual = median(each.run_ns for each in finished) / 1e6
        cost = sum(each.run_ns for each in stalled) / 1e6 / number
        spared = max(0.0, cost - usual * len(stalled) / number)
        frames = [each.death.stack for each in stalled if each.death is not None and each.death.stack]
        at = next((frame.callsite for stack in frames for frame in stack if frame.application), "")
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
                measure.execution_evidence(stalled[0], "One that stood still"),
            ],
        )

    def _lost(self, history: JobHistory, lost: Sequence[Execution]) -> Finding:
        cost = sum(each.run_ns for each in lost) / 1e6 / len(history.executions)
        workers = ", ".join(dict.fromkeys(each.worker for each in lost[:3]))
        return self.finding(
            severity="warning" if len(lost) >= self.limits.min_warning else "info",
            confidence=0.95,
            title=f"{len(lost)} of {len(history.executions)} executions were lost with their worker",
            cost_ms=cost,
            saving=(0.0, cost / 2, cost),
            text=(
                "Find out what ends the workers: the kernel's log (out of memory), the deploy, the supervisor. They "
                "need a signal that they can answer (SIGTERM) and the time to finish a job"
            ),
            snippet="# systemd: KillSignal=SIGTERM, KillMode=mixed, TimeoutStopSec=longer than a job, Restart=always",
            evidence=[
                Evidence("fact", f"The workers were {workers}", {"lost": len(lost), "target": f"worker {workers}"}),
                measure.execution_evidence(lost[0], "The newest"),
            ],
        )

    def _nobody(self, history: JobHistory, waited: Sequence[TraceRow]) -> Finding:
        total = sum(row.dequeued_at_ns - row.enqueued_at_ns for row in waited) / 1e6
        cost = total / len(history.trace)
        longest = max(waited, key=lambda row: row.dequeued_at_ns - row.enqueued_at_ns)
        gap_ms = (longest.dequeued_at_ns - longest.enqueued_at_ns) / 1e6
        return self.finding(
            severity="warning",
            confidence=0.8,
            title=(
                f"{len(waited)} jobs waited on queue {longest.queue} while nobody took any, up to {words_ms(gap_ms)}"
            ),
            cost_ms=cost,
            saving=(cost / 2, 0.9 * cost, cost),
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
                )
            ],
        )
