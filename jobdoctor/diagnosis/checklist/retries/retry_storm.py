"""retry-storm: retries without a pause, or all at one moment.

## What it looks for

Failed attempts that were put back into the queue at once and failed again: no backoff. And retries of many jobs that
came in the same second, because each waits for the same fixed time: no jitter. Both count only when they happened; a
retry policy that nobody needed is silent.

## Why it costs time

What was wrong a millisecond ago is still wrong. Each retry at once burns a worker's time, takes a turn in the queue
from jobs that could succeed, and adds load to the dependency that is down already. When that dependency comes back,
retries that arrive together push it over again.

## What to do

Give `Retry` growing intervals, and add a random part where the job is enqueued: RQ has no jitter of its own, and
`Retry(max=3)` alone means no pause at all.

## When it is a false alarm

When the error is gone within milliseconds by its nature (a lost race for a row) and the second attempt nearly always
succeeds: such retries are not counted as wasted. An error that cannot go away is retrying-permanent-error: a backoff
does not help it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.attempts import FAILING, Chain, busy_ms, chains, exceptions_by_digest
from jobdoctor.diagnosis.rule import Limit, NotChecked
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Finding, JobHistory, Severity, TraceRow

_NS_PER_MS = 1_000_000


class RetryStorm(TimeRule):
    code = "JD602"
    name = "retry-storm"
    step = "retries"
    kind = "retry"
    where = "around"
    related_to = ("JD604", "JD606")

    at_once_ms = Limit(
        1_000, "ms", "a retry enqueued within this time of the failure has no pause", "RQ's shortest interval is 1 s"
    )
    min_wasted = Limit(
        3,
        "executions",
        "retries at once that failed again, below which the rule is silent",
        "SRE: 3 attempts a request",
    )
    min_wasted_share = Limit(
        0.3,
        "share",
        "share of the retries at once that must have failed again",
        "own: a retry at once that works in more than two of three cases earns its keep",
    )
    together_ms = Limit(1_000, "ms", "retries within this time arrive together", "RQ's scheduler ticks once a second")
    min_together = Limit(10, "executions", "retries of different jobs at one moment that make a storm", "own")
    min_retry_share = Limit(
        0.1, "share", "retries among the job's executions below which both are silent", "SRE: overload above 10%"
    )

    def check(self, history: JobHistory) -> Iterable[Finding]:
        if not history.trace:
            if any(execution.attempt > 1 for execution in history.executions):
                raise NotChecked(
                    "The rows of the trace are gone, and only they show when retries came: "
                    "look at a newer window (--since)"
                )
            return
        attempts = chains(history.trace)
        retries = [row for chain in attempts for row in chain.retries]
        if len(retries) < self.limits.min_retry_share * len(history.trace):
            return
        at_once = [
            (before, after)
            for chain in attempts
            for before, after, gap in chain.gaps_ns()
            if self._came_at_once(after, gap)
        ]
        wasted = [after for _, after in at_once if after.outcome in FAILING]
        if len(wasted) >= self.limits.min_wasted and len(wasted) >= self.limits.min_wasted_share * len(at_once):
            yield self._without_backoff(history, attempts, at_once, wasted)
            return
        together = self._together(attempts)
        if len(together) >= self.limits.min_together and _constant_intervals(history):
            yield self._without_jitter(history, retries, together)

    def _came_at_once(self, retry: TraceRow, gap_ns: int) -> bool:
        """A retry that waited in the scheduler's registry had a pause, of which whole seconds may leave little."""
        return gap_ns < self.limits.at_once_ms * _NS_PER_MS and not retry.scheduled

    def _together(self, attempts: Sequence[Chain]) -> list[TraceRow]:
        """The largest set of retries, of different jobs, that were enqueued within ``together_ms``."""
        paused = sorted(
            (after for chain in attempts for _, after, gap in chain.gaps_ns() if not self._came_at_once(after, gap)),
            key=lambda row: row.enqueued_at_ns,
        )
        best: list[TraceRow] = []
        start = 0
        for end, row in enumerate(paused):
            while row.enqueued_at_ns - paused[start].enqueued_at_ns > self.limits.together_ms * _NS_PER_MS:
                start += 1
            if end - start + 1 > len(best):
                best = paused[start : end + 1]
        return best if len({row.job_id for row in best}) == len(best) else []

    def _without_backoff(
        self,
        history: JobHistory,
        attempts: Sequence[Chain],
        at_once: Sequence[tuple[TraceRow, TraceRow]],
        wasted: Sequence[TraceRow],
    ) -> Finding:
        gaps = [max(0, after.enqueued_at_ns - before.reaped_at_ns) / _NS_PER_MS for before, after in at_once]
        executions = len(history.trace)
        cost = busy_ms(wasted) / executions
        retried = [chain for chain in attempts if chain.retries]
        return self.finding(
            severity=self._severity(cost, history, len(wasted)),
            confidence=0.95,
            title=(f"{len(at_once)} retries came at once, without a pause, and {len(wasted)} of them failed again"),
            cost_ms=cost,
            # With a pause, some of those attempts would have found the dependency back: a third, half or all of them.
            saving=(cost / 3, cost / 2, cost),
            text=(
                "Give the retries growing pauses with a random part. What failed a moment ago fails again, and each "
                "attempt takes a turn from other jobs"
            ),
            snippet=_SNIPPET,
            evidence=[
                Evidence(
                    "retries",
                    f"{len(retried)} of {len(attempts)} jobs were retried; retry policy: {_policy(history)}; "
                    f"{measure.words_share(len(wasted) / executions)} of all executions were retries at once that "
                    f"failed again",
                    {
                        "retries": sum(len(chain.retries) for chain in attempts),
                        "at_once": len(at_once),
                        "wasted": len(wasted),
                        "median_gap_ms": round(median(gaps), 3),
                        "attempts": dict(sorted(Counter(str(len(chain.rows)) for chain in retried).items())),
                        "errors": dict(Counter(row.error_type for row in wasted if row.error_type).most_common(5)),
                        "callsite": _error_line(history, wasted),
                        "target": _main_error(wasted),
                    },
                )
            ],
        )

    def _without_jitter(
        self, history: JobHistory, retries: Sequence[TraceRow], together: Sequence[TraceRow]
    ) -> Finding:
        failed = [row for row in together if row.outcome in FAILING]
        waits = [max(0, row.dequeued_at_ns - row.enqueued_at_ns) / _NS_PER_MS for row in together]
        cost = (busy_ms(failed) + sum(waits)) / len(history.trace)
        return self.finding(
            severity=self._severity(cost, history, len(together)),
            confidence=0.8,
            title=f"{len(together)} retries of different jobs came within {measure.words_ms(self.limits.together_ms)}",
            cost_ms=cost,
            saving=(sum(waits) / len(history.trace) / 2, cost / 2, cost),
            text=(
                "Add a random part to the pauses, and let them grow. Jobs that failed together otherwise come back "
                "together, and push over what has just come up again"
            ),
            snippet=_SNIPPET,
            evidence=[
                Evidence(
                    "retries",
                    f"{len(together)} of {len(retries)} retries came at one moment, {len(failed)} of them failed "
                    f"again; retry policy: {_policy(history)}",
                    {
                        "retries": len(retries),
                        "together": len(together),
                        "at_ns": together[0].enqueued_at_ns,
                        "failed_again": len(failed),
                        "callsite": _error_line(history, failed),
                        "target": _main_error(failed),
                    },
                )
            ],
        )

    def _severity(self, cost: float, history: JobHistory, count: int) -> Severity:
        """By worker time as everywhere; a storm of a tenth of all executions is a warning however short they are."""
        graded = self.severity(cost, busy_ms(history.trace) / len(history.trace))
        if graded == "info" and count >= self.limits.min_retry_share * len(history.trace):
            return "warning"
        return graded


def _constant_intervals(history: JobHistory) -> bool:
    """True when the retry policies seen wait the same time each time."""
    policies = [execution.retry for execution in history.executions if execution.retry.max_retries is not None]
    return bool(policies) and all(len(set(policy.intervals_s)) <= 1 for policy in policies)


def _policy(history: JobHistory) -> str:
    for execution in history.executions:
        policy = execution.retry
        if policy.max_retries is not None or policy.intervals_s:
            pauses = ", ".join(f"{seconds} s" for seconds in policy.intervals_s if seconds) or "none"
            most = f"{policy.max_retries} times" if policy.max_retries is not None else "several times"
            return f"{most}, pauses {pauses}"
    return "not recorded"


def _error_line(history: JobHistory, rows: Sequence[TraceRow]) -> str:
    """The line where most of these failed."""
    known = exceptions_by_digest(history)
    lines = Counter(known[row.error_digest].callsite for row in rows if row.error_digest in known)
    return lines.most_common(1)[0][0] if lines else ""


def _main_error(rows: Sequence[TraceRow]) -> str:
    types = Counter(row.error_type for row in rows if row.error_type)
    return types.most_common(1)[0][0] if types else ""


_SNIPPET = (
    "import random\n"
    "\n"
    "# growing pauses with a random part, so that jobs that failed together do not come back together\n"
    "pauses = [int(base * random.uniform(1, 1.5)) for base in (10, 60, 300)]\n"
    "queue.enqueue(this_job, *args, retry=Retry(max=3, interval=pauses))"
)
