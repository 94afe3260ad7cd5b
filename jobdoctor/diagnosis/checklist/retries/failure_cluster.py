"""failure-cluster: failures that bunch in time, and what they came with.

## What it looks for

A stretch of the window in which the job fails far more often than outside of it, by a scan statistic over the order
of its executions. What came with it is said when it can be seen: a deploy just before it began, a dependency that
failed for other jobs at the same time or that nearly all of its errors name, or waits and timeouts that were longer
than usual (congestion).

## Why it costs time

An execution that fails because something else is down is a worker's time for nothing, and is paid again when somebody
enqueues it anew. Looked at one by one, such failures look like bugs of the job.

## What to do

After a deploy: roll it back, or mend what it brought. For a dependency: let the job end early while it is down (a
circuit breaker), put the work off instead of failing it, or retry with pauses that are longer than the outage. For
congestion: look at the queue first.

## When it is a false alarm

When a batch of bad data was enqueued together: the failures bunch because their arguments did.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jobdoctor import words
from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.attempts import FAILING, busy_ms, error_words, exceptions_by_digest
from jobdoctor.diagnosis.rule import Limit, NotChecked
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Finding, JobHistory, Mark, Severity, TraceRow, Where

#: Failures whose pairs are looked at; of more, every n-th is a possible edge.
_EDGES = 200


@dataclass(frozen=True)
class _Cluster:
    """Rows of the stretch, in the order in which they ended."""

    rows: Sequence[TraceRow]
    outside: Sequence[TraceRow]
    ratio: float  # logarithm of the likelihoods

    @property
    def failures(self) -> list[TraceRow]:
        return [row for row in self.rows if row.outcome in FAILING]

    @property
    def from_ns(self) -> int:
        return self.rows[0].dequeued_at_ns

    @property
    def to_ns(self) -> int:
        return self.rows[-1].reaped_at_ns


class FailureCluster(TimeRule):
    """JD603."""

    code = "JD603"
    name = "failure-cluster"
    step = "retries"
    kind = "retry"
    where = "around"
    related_to = ("JD606", "JD604", "JD306", "JD605")

    min_failures = Limit(5, "executions", "failures of one stretch below which it may be chance", "own: as JD606")
    min_executions_outside = Limit(
        10, "executions", "executions outside of the stretch, to compare it with", "own: fewer say nothing of normal"
    )
    likelihood = Limit(
        8, "nats", "how much likelier two failure rates are than one, from which it is no chance",
        "Kulldorff's scan statistic (1997): about one in a hundred by chance for some hundred stretches",
    )  # fmt: skip
    inside_share = Limit(0.5, "share", "failed share within the stretch", "own: most of what ran then")
    rate_factor = Limit(5, "times", "failure rate within, over that outside", "own: plainly another state of affairs")
    deploy_s = Limit(900, "s", "time after a deploy in which what begins is put down to it", "own: a rolling restart")
    same_error_share = Limit(0.8, "share", "failures of the stretch with one error, for naming it", "own: four of five")
    congestion_factor = Limit(3, "times", "median wait within, over that outside, that is congestion", "own")
    warning_failures = Limit(
        0.02, "share", "failed share of all executions from which it is a warning", "alerts of the field: 2% failing"
    )

    def check(self, history: JobHistory) -> Iterable[Finding]:
        failed = sum(number for name, number in history.outcomes.items() if name in FAILING)
        if failed < self.limits.min_failures:
            return
        if not history.trace:
            raise NotChecked(
                f"{failed} executions failed, but the rows of the trace are gone, and only they show when: "
                f"look at a newer window (--since)"
            )
        found = self._scan([row for row in history.trace if row.outcome != "stopped"])
        if found is not None:
            yield self._finding(history, found)

    def _scan(self, trace: Sequence[TraceRow]) -> _Cluster | None:
        """The stretch, from a failure to a failure, for which a failure rate of its own is likeliest."""
        rows = sorted(trace, key=lambda row: row.reaped_at_ns)
        failures = [position for position, row in enumerate(rows) if row.outcome in FAILING]
        step = math.ceil(len(failures) / _EDGES) or 1
        best: tuple[float, int, int] = (0.0, 0, 0)
        for begin in range(0, len(failures), step):
            for end in range(begin + int(self.limits.min_failures) - 1, len(failures), step):
                first, last = failures[begin], failures[end]
                inside, number = end - begin + 1, last - first + 1
                if inside < self.limits.inside_share * number:
                    continue
                ratio = _likelihood_ratio(inside, number, len(failures), len(rows))
                best = max(best, (ratio, first, last))
        ratio, first, last = best
        if ratio < self.limits.likelihood:
            return None
        cluster = _Cluster(rows[first : last + 1], [*rows[:first], *rows[last + 1 :]], ratio)
        if len(cluster.outside) < self.limits.min_executions_outside:
            return None
        outside_failures = sum(row.outcome in FAILING for row in cluster.outside)
        rate_inside = len(cluster.failures) / len(cluster.rows)
        rate_outside = outside_failures / len(cluster.outside)
        return cluster if rate_inside >= self.limits.rate_factor * rate_outside else None

    # -- what it came with

    def _deploy(self, history: JobHistory, cluster: _Cluster) -> Mark | None:
        earliest = cluster.from_ns - self.limits.deploy_s * 1e9
        before = [row for row in cluster.outside if row.reaped_at_ns < cluster.from_ns]
        marks = [mark for mark in history.marks if mark.kind == "deploy" and earliest <= mark.at_ns <= cluster.to_ns]
        # A deploy after which most went well is none of it.
        return next(
            (
                mark
                for mark in sorted(marks, key=lambda mark: -mark.at_ns)
                if mark.at_ns <= cluster.failures[0].reaped_at_ns
                and sum(row.dequeued_at_ns > mark.at_ns for row in before) < self.limits.min_failures
            ),
            None,
        )

    def _others(self, history: JobHistory, cluster: _Cluster) -> Counter[str]:
        """Other jobs that failed meanwhile with the same error."""
        errors = {row.error_type for row in cluster.failures if row.error_type}
        return Counter(
            row.job
            for row in history.neighbours
            if row.job != history.job
            and row.outcome in FAILING
            and row.error_type in errors
            and cluster.from_ns <= row.reaped_at_ns <= cluster.to_ns
        )

    def _target(self, history: JobHistory, cluster: _Cluster) -> str:
        """The host or database whose calls failed in the executions kept of the stretch."""
        targets = Counter(
            group.target
            for execution in history.executions
            if execution.outcome in FAILING and cluster.from_ns <= execution.dequeued_at_ns <= cluster.to_ns
            for group in execution.groups
            if group.target and (group.errors or any(status >= "500" for status in group.statuses))
        )
        return targets.most_common(1)[0][0] if targets else ""

    def _congested(self, cluster: _Cluster) -> tuple[float, float] | None:
        inside, outside = (
            measure.quantile((max(0, row.dequeued_at_ns - row.enqueued_at_ns) / 1e6 for row in rows), 0.5)
            for rows in (cluster.rows, cluster.outside)
        )
        cut = sum(row.outcome in ("timeout", "killed") for row in cluster.failures)
        if cut >= self.limits.inside_share * len(cluster.failures) and inside >= max(
            1_000.0, self.limits.congestion_factor * outside
        ):
            return inside, outside
        return None

    def _finding(self, history: JobHistory, cluster: _Cluster) -> Finding:
        failures = cluster.failures
        errors = Counter(row.error_type or row.outcome for row in failures)
        error, times = errors.most_common(1)[0]
        known = exceptions_by_digest(history)
        info = next((known[row.error_digest] for row in failures if row.error_digest in known), None)
        callsite = info.callsite if info is not None else ""
        length = words.duration((cluster.to_ns - cluster.from_ns) / 1e6)
        lost = history.outcomes
        of_all = sum(number for name, number in lost.items() if name in FAILING)
        cost = busy_ms(failures) / len(history.trace)
        where, cause, text, snippet = self._advice(history, cluster, error_words(error), callsite)
        named = times >= self.limits.same_error_share * len(failures)
        return self.finding(
            severity=self._severity(cost, history, of_all),
            confidence=0.85 if cause else 0.65,
            title=(
                f"{len(failures)} of {of_all} failures came within {length}"
                + (f", with {error_words(error)}" if named else "")
                + (f": {cause}" if cause else "")
            ),
            cost_ms=cost,
            saving=(0.0, cost / 2, cost),
            text=text,
            snippet=snippet,
            callsite=callsite,
            where=where,
            evidence=[
                Evidence(
                    "retries",
                    f"{len(failures)} of {len(cluster.rows)} executions failed from {words.instant(cluster.from_ns)} "
                    f"to {words.instant(cluster.to_ns)}, and {of_all - len(failures)} of {len(cluster.outside)} before "
                    f"and after",
                    {
                        "from_ns": cluster.from_ns,
                        "to_ns": cluster.to_ns,
                        "failures": len(failures),
                        "executions": len(cluster.rows),
                        "failures_outside": max(0, of_all - len(failures)),
                        "executions_outside": len(cluster.outside),
                        "likelihood": round(cluster.ratio, 1),
                        "errors": dict(errors.most_common(5)),
                        "cause": cause,
                        "callsite": callsite,
                        "target": error,
                    },
                )
            ],
        )

    def _advice(self, history: JobHistory, cluster: _Cluster, error: str, callsite: str) -> tuple[Where, str, str, str]:
        """Where it is, what it came with, what to do, a snippet."""
        deploy = self._deploy(history, cluster)
        if deploy is not None:
            at = f" (at {callsite})" if callsite else ""
            return (
                "inside",
                f"after deploy {deploy.label}",
                f"Look at what deploy {deploy.label} changed{at}; roll it back while you do",
                f"git log -p {deploy.label}~1..{deploy.label}",
            )
        others, target = self._others(history, cluster), self._target(history, cluster)
        if others or target:
            named = target or f"what {', '.join(job for job, _ in others.most_common(3))} depend on, too"
            return (
                "around",
                f"an outage of {target}" if target else "other jobs failed alike",
                f"Put the work off while {named} is down, instead of failing it: let the job end early, or retry with "
                f"pauses longer than {words.duration((cluster.to_ns - cluster.from_ns) / 1e6)}",
                _PUT_OFF,
            )
        congested = self._congested(cluster)
        if congested is not None:
            inside, outside = congested
            return (
                "around",
                f"waits of {words.duration(inside)} instead of {words.duration(outside)}",
                "Look at the queue first: workers were overloaded when the job ran out of time",
                "",
            )
        return ("inside", "", f"Find out what was different then: nothing recorded says it. The error is {error}", "")

    def _severity(self, cost: float, history: JobHistory, failures: int) -> Severity:
        graded = self.severity(cost, busy_ms(history.trace) / len(history.trace))
        if graded == "info" and failures >= self.limits.warning_failures * history.executions_total:
            return "warning"
        return graded


def _likelihood_ratio(inside: int, number: int, failures: int, executions: int) -> float:
    """Kulldorff's statistic for Bernoulli data: two rates against one; 0 when the rate inside is not the higher one."""
    if number >= executions or inside * (executions - number) <= (failures - inside) * number:
        return 0.0

    def log_likelihood(hits: int, of: int) -> float:
        if not 0 < hits < of:
            return 0.0
        return hits * math.log(hits / of) + (of - hits) * math.log(1 - hits / of)

    return (
        log_likelihood(inside, number)
        + log_likelihood(failures - inside, executions - number)
        - log_likelihood(failures, executions)
    )


_PUT_OFF = (
    "try:\n"
    "    answer = client.call(...)\n"
    "except (ConnectionError, Timeout):\n"
    "    queue.enqueue_in(timedelta(minutes=10, seconds=random.randint(0, 120)), this_job, *args)\n"
    "    return 'put off'"
)
