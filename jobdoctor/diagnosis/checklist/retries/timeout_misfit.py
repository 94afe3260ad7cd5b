"""timeout-misfit: the job's timeout cuts it off, or is so long that a stuck job holds its worker for ages.

## What it looks for

Two misfits. Executions that ended in RQ's timeout while others of the same job need nearly as long: the timeout cuts
what would have succeeded. And a timeout that is far above anything the job was ever seen to need, where a stuck
execution would matter: it is at least ten minutes and fifty times the longest run of twenty or more; the fewer were
seen, the more times.

## Why it costs time

An execution that is cut off has used a worker for its whole timeout and done nothing, or half of it, and is often
retried to be cut off again. A timeout that is far too long holds a worker, and all jobs behind it, for as long when a
call hangs once.

## What to do

Let the timeout be a few times what the job needs at its 99th percentile, and give each call inside a timeout of its
own that is shorter. A job that needs more than its timeout should be split, or be given the time. RQ takes a timeout
for each job: `job_timeout=...` of `enqueue` or of the decorator; the default is 180 s.

## When it is a false alarm

When the slow days are not in the window (a month's end, a full import): a longer window shows them. A job that is cut
off because something it waits for hangs is not helped by more time: look at what it was doing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import words_count, words_ms, words_share
from jobdoctor.diagnosis.rule import Limit, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory


class TimeoutMisfit(Rule):
    """JD605."""

    code = "JD605"
    name = "timeout-misfit"
    step = "retries"
    kind = "timeout"
    related_to = ("JD606", "JD601", "JD201", "JD202", "JD305", "JD501", "JD502", "JD705", "JD407")

    min_cut = Limit(2, "executions", "executions cut off below which the rule is silent", "own: once may be an outage")
    cut_share = Limit(
        0.02, "share", "share of the executions that were cut off", "Sidekiq and Datadog alerts: 2% of jobs failing"
    )
    spent_share = Limit(
        0.2, "share", "share of the timeout from which calls of those that were cut off are named", "own: a fifth"
    )
    loose_s = Limit(
        600, "s", "timeout from which a stuck job matters", "RQ's default is 180 s, Celery's common soft limit 300 s"
    )
    loose_factor = Limit(
        50, "times", "timeout over the longest run from which it is loose", "own: RQ's 180 s on a job of 3 s are fine"
    )
    loose_executions = Limit(
        20, "executions", "executions that say how long it takes; with fewer, loose_factor grows by their square", "own"
    )
    loose_fewest = Limit(5, "executions", "executions below which nothing is said of it", "own: 16 times loose_factor")

    def check(self, history: JobHistory) -> Iterable[Finding]:
        cut = [each for each in history.executions if each.outcome == "timeout" or _killed_by_timeout(each)]
        number = max(len(cut), history.outcomes.get("timeout", 0))
        if cut and number >= self.limits.min_cut and number >= self.limits.cut_share * history.executions_total:
            yield self._too_short(history, cut, number)
            return
        timeouts = [each.timeout_s for each in history.executions if each.timeout_s and each.timeout_s > 0]
        seen = history.run_ms.count
        if not timeouts or seen < self.limits.loose_fewest:
            return
        usual = Counter(timeouts).most_common(1)[0][0]
        longest_s = max(history.run_ms.max, 1.0) / 1_000
        factor = self.limits.loose_factor * max(1.0, self.limits.loose_executions / seen) ** 2
        if usual >= self.limits.loose_s and usual >= factor * longest_s:
            yield self._too_long(history, usual, longest_s)

    def _too_short(self, history: JobHistory, cut: Sequence[Execution], number: int) -> Finding:
        timeout_s = max((each.timeout_s or 0.0) for each in cut)
        finished = [each.run_ns / 1e6 for each in history.executions if each.outcome == "finished"]
        share = measure.share(number, max(number, history.executions_total))
        cost = share * timeout_s * 1_000
        doing = Counter(line for each in cut if (line := _was_at(each)))
        where, _ = doing.most_common(1)[0] if doing else ("", 0)
        near = sum(run >= 500 * timeout_s for run in finished)
        needs = (
            f"; {near} of {len(finished)} that finished took over half of it"
            if near
            else f"; those that finished took {words_ms(max(finished))} at most"
            if finished
            else "; none finished"
        )
        hangs = bool(finished) and not near
        # What is only too long is met by its timeout at any of its lines: what took the time says more.
        spent = [
            calls
            for calls in measure.merge_calls(cut)
            if near and calls.total_ms >= self.limits.spent_share * 1_000 * timeout_s
        ]
        return self.finding(
            severity="critical" if share >= 0.5 else "warning",
            confidence=0.9,
            title=(
                f"{number} of {history.executions_total} executions were cut off by the timeout of "
                f"{_seconds(timeout_s)}"
            ),
            cost_ms=cost,
            # A call that hangs is given up after a few times what it takes else; a job that needs more time takes it.
            saving=(cost / 4, 0.75 * cost, cost) if hangs else (0.0, cost / 2, cost),
            text=(
                f"Find what hangs{f' at {where}' if where else ''} and give that call a timeout of its own: the others "
                f"need far less than {_seconds(timeout_s)}"
                if hangs
                else f"Give the job the time it needs, or split it into slices that fit {_seconds(timeout_s)}"
                + (f"; it was cut at {where}" if where else "")
            ),
            snippet=(
                "requests.get(url, timeout=(3, 10))  # seconds to connect, and to wait for data"
                if hangs
                else f"queue.enqueue(this_job, *args, job_timeout={max(1, round(timeout_s * 3))})"
            ),
            callsite=where,
            evidence=[
                Evidence(
                    "retries",
                    f"{number} executions were cut off after {_seconds(timeout_s)}, {words_share(share)} of all"
                    + needs,
                    {
                        "cut": number,
                        "executions": history.executions_total,
                        "timeout_s": timeout_s,
                        "callsites": dict(doing.most_common(5)),
                        "callsite": where,
                    },
                ),
                *(
                    [measure.calls_evidence("What those that were cut off did for most of their time", spent)]
                    * bool(spent)
                ),
                measure.execution_evidence(cut[0], "One that was cut off"),
            ],
        )

    def _too_long(self, history: JobHistory, timeout_s: float, longest_s: float) -> Finding:
        fitting = max(30, round(longest_s * 5))
        return self.finding(
            severity="info",
            confidence=0.7,
            title=(
                f"The timeout of {_seconds(timeout_s)} is {words_count(timeout_s / longest_s)} times the "
                f"longest run, {words_ms(longest_s * 1_000)}"
            ),
            cost_ms=0.0,
            saving=(0.0, 0.0, 0.0),
            text=(
                f"Let the timeout be near what the job needs: a stuck one would hold its worker, and the jobs behind "
                f"it, for {_seconds(timeout_s)}"
            ),
            snippet=f"queue.enqueue(this_job, *args, job_timeout={fitting})  # the longest took {longest_s:.1f} s",
            evidence=[
                Evidence(
                    "fact",
                    f"{history.run_ms.count} runs: p99 {words_ms(history.run_ms.p99)}, the longest "
                    f"{words_ms(history.run_ms.max)}; none was cut off",
                    {"timeout_s": timeout_s, "longest_ms": round(history.run_ms.max, 3)},
                )
            ],
        )


def _killed_by_timeout(execution: Execution) -> bool:
    return execution.outcome == "killed" and execution.death is not None and execution.death.cause == "timeout"


def _was_at(execution: Execution) -> str:
    """The line that the timeout met: of the exception, or of the call in flight."""
    if execution.exception is not None and execution.exception.callsite:
        return execution.exception.callsite
    if execution.in_flight is not None and 0 <= execution.in_flight.group < len(execution.groups):
        return execution.groups[execution.in_flight.group].callsite
    return ""


def _seconds(seconds: float) -> str:
    return words_ms(seconds * 1_000)
