"""too-small-to-queue: the job costs less than the queueing around it, and calls nothing.

## What it looks for

Jobs whose body takes a millisecond or two and makes no call at all (no database, no network, no file, no
subprocess, no enqueue), while fork, import, serialisation and bookkeeping around it take many times as long. Jobs that
a timer starts are left out: they have no caller that could do the work.

## Why it costs time

A forked job costs ten milliseconds and more of a worker before and after its first line, and a round trip to Redis for
each change of its state. The caller pays one for the enqueue alone: more than the work itself.

## What to do

Call the function where it was enqueued. Or, if many come together, do them as one job over a list. Where only the fork
is too dear, `SimpleWorker` runs jobs without it.

## When it is a false alarm

When the job is a stub, or does its work through something that no probe sees (shared memory, a library of its own in
C): its effects are invisible here. When the arguments in use are small but others are not.
"""

from __future__ import annotations

from collections.abc import Iterable

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.model import AROUND_PARTS, Evidence, Execution, Finding, JobHistory

_TICKING = frozenset({"scheduler", "cron"})
_FORKING = frozenset({"fork", "spawn"})
_NS_PER_MS = 1_000_000


class TooSmallToQueue(Rule):
    code = "JD804"
    name = "too-small-to-queue"
    step = "trigger"
    kind = "delete"
    where = "around"
    needs = ("sql", "redis", "http", "subprocess")
    min_executions = 5

    max_body_ms = Limit(2, "ms", "body of the job, mean, above which it is worth a queue", "own: a sixth of a fork")
    max_slowest_ms = Limit(10, "ms", "body of the slowest execution above which it is not small", "own: about one fork")
    min_overhead_ratio = Limit(5, "times", "time around the body, in bodies", "own: nobody argues about a factor of 5")
    warning_executions = Limit(
        100, "executions", "executions in the window below which it is only a remark", "own: few do not matter"
    )
    warning_share = Limit(
        0.05, "share", "share of one worker's time in the window that the overhead takes, for a warning", "own: 5%"
    )

    def check(self, history: JobHistory) -> Iterable[Finding]:
        finished = _finished_after_a_fork(history.executions)
        executions = _finished_after_a_fork(measure.typical(history))
        if len(finished) < self.min_executions:
            raise NotChecked(
                f"{len(finished)} executions finished in a forking worker, {self.min_executions} needed: run the job "
                f"more often under `jobdoctor run`"
            )
        bodies = [_undisturbed_body_ms(execution) for execution in executions]
        if min(bodies) <= 0:
            raise NotChecked("The body's own time was not recorded: run the job again with the recorder in the horse")
        if any(execution.groups or execution.scheduled for execution in finished):
            return
        if any(execution.trigger and execution.trigger.kind in _TICKING for execution in finished):
            return
        body = measure.mean(bodies)
        run = measure.run_ms(executions)
        overhead = run - body
        if body > self.limits.max_body_ms or max(bodies) > self.limits.max_slowest_ms:
            return
        if overhead < self.limits.min_overhead_ratio * body:
            return
        window_ms = max(1.0, (history.to_ns - history.from_ns) / _NS_PER_MS)
        taken = history.executions_total * overhead
        heavy = (
            history.executions_total >= self.limits.warning_executions
            and taken >= self.limits.warning_share * window_ms
        )
        parts = sorted(
            (
                (part.name, part.ns / _NS_PER_MS)
                for part in measure.mean_ledger(executions)
                if part.name != "queue_wait" and (part.name in AROUND_PARTS or part.name in ("import", "deserialize"))
            ),
            key=lambda part: -part[1],
        )
        callsite = next((e.trigger.callsite for e in executions if e.trigger and e.trigger.callsite), "")
        wait = measure.ledger_ms(executions, "queue_wait")
        yield self.finding(
            severity="warning" if heavy else "info",
            confidence=0.8,
            title=f"{measure.words_ms(body)} of work cost {measure.words_ms(overhead)} of a worker around it",
            cost_ms=overhead,
            saving=measure.give_or_take(0.9 * overhead, overhead, overhead),
            text=(
                f"Call the function where it is enqueued{f' ({callsite})' if callsite else ''}: it calls nothing that "
                f"a caller should not wait for. If many come together, make one job of a list of them"
            ),
            snippet=(
                "result = this_job(value)                       # instead of queue.enqueue(this_job, value)\n"
                "queue.enqueue(these_jobs, values)              # or one job for many"
            ),
            callsite=callsite,
            evidence=[
                Evidence(
                    "fact",
                    f"In {len(executions)} executions the body took {measure.words_ms(body)} on average, "
                    f"{measure.words_ms(max(bodies))} at most, and made no call; the worker was busy for "
                    f"{measure.words_ms(run)}, after {measure.words_ms(wait)} in the queue",
                    {
                        "body_ms": round(body, 3),
                        "slowest_body_ms": round(max(bodies), 3),
                        "run_ms": round(run, 3),
                        "queue_wait_ms": round(wait, 3),
                        "around": {name: round(ms, 3) for name, ms in parts[:8]},
                        "worker_time_ms": round(taken, 1),
                        "executions": history.executions_total,
                    },
                )
            ],
        )


def _undisturbed_body_ms(execution: Execution) -> float:
    """The body without its waits for a processor: a busy host makes no work of a small job. What is recorded of these
    waits is of the whole run, so the body keeps its CPU at least."""
    body = float(execution.body_ns)
    computed = sum(part.ns for part in execution.ledger if part.name == "cpu" and not part.detail)
    return max(body - execution.ledger_ns("cpu_wait"), min(body, computed)) / _NS_PER_MS


def _finished_after_a_fork(executions: Iterable[Execution]) -> list[Execution]:
    return [each for each in executions if each.outcome == "finished" and each.worker_kind in _FORKING]
