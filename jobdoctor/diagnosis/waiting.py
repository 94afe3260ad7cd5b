"""What the rules of the queue step share: when a wait is large, and how grave it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from jobdoctor import words
from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.rule import Limit, NotChecked
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import JobHistory, TraceRow
from jobdoctor.queueing.arrivals import Service
from jobdoctor.queueing.occupancy import WaitShares

_NS_PER_MS = 1_000_000


class WaitRule(TimeRule):
    """A rule about queue waits. Healthy queues have some wait, so that both a floor and a proportion apply."""

    min_wait_ms = Limit(
        300,
        "ms",
        "mean queue wait below which the rule is silent",
        "own: people notice from about 0.3 s; the sample shop's healthy queues wait 1 to 30 ms",
    )
    min_wait_ratio = Limit(
        2, "times its run", "mean queue wait, in runs of the job, below which the rule is silent", "own: M/M/1 at 67%"
    )
    min_rows = Limit(5, "executions", "recorded executions of the job below which it is not checked", "own")
    min_affected = Limit(3, "executions", "executions that waited for min_wait_ms or longer", "own: not one bad minute")
    min_affected_share = Limit(0.1, "share", "share of the executions that waited so long", "own: one in ten")
    # A wait holds up nobody's worker, so that the scale is coarser than for time inside a job.
    critical_ms = Limit(
        10_000,
        "ms",
        "saving for each execution from which a finding is critical",
        "Nielsen: attention is lost after 10 s",
    )
    critical_least_ms = Limit(
        10_000, "ms", "saving below which a finding is never critical", "Nielsen: attention is lost after 10 s"
    )

    def rows(self, history: JobHistory) -> list[TraceRow]:
        """The job's rows; raises NotChecked when they are too few, or when the workers' other jobs are unknown."""
        if len(history.trace) < self.limits.min_rows:
            raise NotChecked(
                f"{words.count(len(history.trace), 'execution')} in the trace, {self.limits.min_rows:.0f} needed: run "
                f"the job more often, or look at a longer window (--since)"
            )
        if not history.neighbours:
            raise NotChecked(
                "What the workers did meanwhile is not recorded: run every worker of the queue under `jobdoctor run`"
            )
        return history.trace

    def waits_long(self, rows: Sequence[TraceRow]) -> bool:
        """True when the wait is large in itself, large against the job's own run, and not a single bad moment."""
        waits = [wait_ms(row) for row in rows]
        mean_wait = measure.mean(waits)
        long = sum(wait >= self.limits.min_wait_ms for wait in waits)
        return (
            mean_wait >= self.limits.min_wait_ms
            and mean_wait >= self.limits.min_wait_ratio * mean_run_ms(rows)
            and long >= max(self.limits.min_affected, self.limits.min_affected_share * len(waits))
        )


def wait_ms(row: TraceRow) -> float:
    return max(0, row.dequeued_at_ns - row.enqueued_at_ns) / _NS_PER_MS


def mean_wait_ms(rows: Sequence[TraceRow]) -> float:
    return measure.mean(wait_ms(row) for row in rows)


def mean_run_ms(rows: Sequence[TraceRow]) -> float:
    return measure.mean(max(0, row.reaped_at_ns - row.dequeued_at_ns) for row in rows) / _NS_PER_MS


def queues_of(rows: Sequence[TraceRow]) -> list[str]:
    """The queues these rows came through, the busiest first."""
    return [queue for queue, _ in Counter(row.queue for row in rows).most_common()]


def occupants_table(shares: WaitShares, services: dict[str, Service]) -> list[dict[str, Any]]:
    """Who had the workers while the job waited: one row for each kind, with its share of the wait."""
    return [
        {
            "job": occupant.job,
            "share": round(shares.share([occupant.job]), 4),
            "wait_ms": round(occupant.overlap_ns / shares.waits / _NS_PER_MS, 3),
            "executions": occupant.executions,
            "mean_run_ms": round(services[occupant.job].mean_s * 1_000, 3) if occupant.job in services else None,
        }
        for occupant in shares.occupants[:10]
    ]


def names(jobs: Sequence[str], most: int = 2) -> str:
    """ "app.a", "app.a and app.b", "app.a, app.b and 3 more"."""
    if len(jobs) > most:
        return f"{', '.join(jobs[:most])} and {len(jobs) - most} more"
    return " and ".join(jobs)
