"""application-lock-wait: time in line for a Redis, file or thread lock.

## What it looks for

Time the job stood waiting for a lock of the application's own: a Redis lock, a file lock (`fcntl`), a thread lock.
Only contention counts: the time of an acquisition above that of one that finds nobody there.

## Why it costs time

While it waits, the job holds a worker. Ten workers in front of one lock do the work of one worker. Redis locks poll
(every 0.1 s by default), so that on top of the wait the lock stands free between two polls.

## What to do

Hold the lock for less: fetch and compute before taking it, and take it for the write alone. Lock one customer and
not all of them. Where the work is being done already by whoever holds the lock, do not wait: return, or enqueue again
for later. Where the job must run alone, give it a queue with one worker instead of a lock.

## When it is a false alarm

When the job must wait its turn, nobody waits for it and there are workers to spare. Waiting for one's own threads
(`join`, `Event.wait`, a future's result) is not a lock wait and is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.contention import (
    Contention,
    above_uncontended_ns,
    call_waits,
    contention_evidence,
    lock_waits,
    longest_first,
)
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Execution, Finding, JobHistory, SpanGroup

KINDS = frozenset({"redis", "file", "thread"})

#: Operations that wait for work to be done, not for somebody to let go.
_WAITS_FOR_WORK = frozenset({"wait", "wait_for", "join", "get", "put", "result", "release"})

_WORDS = {"redis": "the Redis lock", "file": "the file lock", "thread": "a thread lock"}


class ApplicationLockWait(TimeRule):
    code = "JD502"
    name = "application-lock-wait"
    step = "locks"
    kind = "lock"
    needs = ("lock",)

    min_wait_ms = Limit(
        20,
        "ms",
        "mean contended wait for each execution below which a lock is silent",
        "own: above any uncontended lock; one poll of a Redis lock is 100 ms",
    )
    min_share = Limit(
        0.05,
        "share",
        "share of the job's run, without waits for a processor, imports and what RQ does around it, below which a lock "
        "is silent",
        "Sentry's M(N+1): 0.05",
    )
    uncontended_ms = Limit(
        5,
        "ms",
        "an acquisition faster than this met nobody",
        "own: a Redis lock takes one round trip, 0.1 ms locally and 1 to 2 ms between zones",
    )

    def check(self, history: JobHistory) -> Iterable[Finding]:
        executions = measure.typical(history)
        run, undisturbed = measure.run_ms(executions), measure.undisturbed_ms(executions)
        for wait in self._waits(executions):
            waited = min(wait.mean_ms, run)
            if waited >= self.limits.min_wait_ms and waited >= self.limits.min_share * undisturbed:
                yield self._finding(history, executions, wait, waited)

    def _waits(self, executions: Sequence[Execution]) -> list[Contention]:
        """Contention by line, from the exact counts of the calls; recorded waits add holders, or what has no call."""

        def acquires(group: SpanGroup) -> bool:
            return group.operation.lower() not in _WAITS_FOR_WORK

        by_call = call_waits(
            executions,
            measure.merge_calls(executions, "lock", where=acquires),
            lambda group: above_uncontended_ns(group, self.limits.uncontended_ms),
            _kind,
        )
        alone: list[Contention] = []
        for observed in lock_waits(executions, KINDS):
            known = next((each for each in by_call if _same(each, observed)), None)
            if known is not None:
                known.holders.update(observed.holders)
            else:
                alone.append(observed)
        return longest_first([*by_call, *alone])

    def _finding(
        self, history: JobHistory, executions: Sequence[Execution], wait: Contention, waited: float
    ) -> Finding:
        name = wait.statement or wait.target
        job, _, application = wait.main_holder
        holder = "other executions of this job" if job == history.job else job or application
        title = f"Waits {measure.words_ms(waited)} an execution for {_WORDS[wait.kind]}"
        if name:
            title += f" {name}"
        if holder:
            title += f", held by {holder}"
        worst = max(executions, key=lambda each: wait.waited_ns.get(each.id, 0))
        advice, snippet = _advice(wait.kind)
        return self.finding(
            severity=self.severity(0.9 * waited, measure.run_ms(executions)),
            confidence=0.95 if holder else 0.9,
            title=title,
            cost_ms=waited,
            # A lock for one record, or around the update alone, is seldom met; low: half of the work needs it.
            saving=(0.5 * waited, 0.9 * waited, waited),
            text=advice,
            snippet=snippet,
            callsite=wait.callsite,
            calls=round(wait.times / len(executions)),
            evidence=[
                contention_evidence(
                    f"{wait.affected} of {len(executions)} executions waited, the longest single wait "
                    f"{measure.words_ms(wait.longest_ms)}",
                    [wait],
                ),
                measure.execution_evidence(worst, "The longest wait"),
            ],
        )


def _same(calls: Contention, observed: Contention) -> bool:
    """True when a recorded wait is one of these calls: at their line, or for the lock of their name."""
    if observed.callsite:
        return observed.callsite == calls.callsite
    return observed.kind == calls.kind and bool(calls.statement) and observed.target.endswith(calls.statement)


def _kind(group: SpanGroup) -> str:
    words = f"{group.library} {group.target}".lower()
    if "redis" in words or "valkey" in words:
        return "redis"
    return "file" if any(word in words for word in ("fcntl", "filelock", "flock", "portalocker")) else "thread"


def _advice(kind: str) -> tuple[str, str]:
    if kind == "redis":
        return (
            "Take the lock for the write alone, and for one record at a time; where whoever holds it is doing the "
            "same work, leave instead of waiting. Put jobs that must run one at a time on a queue with one worker",
            "lock = redis.lock(f'stock:{product_id}', timeout=30, blocking=False)  # one record, no standing in line\n"
            "if not lock.acquire():\n"
            "    queue.enqueue_in(timedelta(seconds=5), this_job, product_id)\n"
            "    return",
        )
    if kind == "file":
        return (
            "Write a file of one's own and rename it into place, or lock without blocking and come back later. A "
            "file lock serialises every worker of the host",
            "with tempfile.NamedTemporaryFile(dir=folder, delete=False) as part:\n"
            "    part.write(data)\n"
            "os.replace(part.name, path)  # atomic: no lock needed",
        )
    return (
        "Hold the lock around the shared update alone, not around the slow call beside it: give each thread its own "
        "client or connection, and merge results at the end",
        "answer = client.get(url)      # slow work outside\n"
        "with lock:                    # the shared update inside\n"
        "    totals[key] += answer.count",
    )
