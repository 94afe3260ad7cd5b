"""Congested periods: stretches in which a queue was never empty.

A burst makes one (all arrive, then the workers drain it); so does a load above capacity (they keep arriving). What
tells them apart is for how much of the period jobs arrived, and whether the wait of each was longer than that of the
one before.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from jobdoctor.model import TraceRow
from jobdoctor.queueing.arrivals import Arrivals, arrivals
from jobdoctor.queueing.growth import Trend, trend
from jobdoctor.queueing.workers import SeenWorker, busy_ns, present_ns

_SECOND_NS = 1_000_000_000


class Congestion(Struct, frozen=True):
    """One congested period of a queue."""

    start_ns: int
    end_ns: int
    rows: list[TraceRow]  # of this queue, that waited in it, by arrival
    arrivals: Arrivals

    @property
    def length_ns(self) -> int:
        return self.end_ns - self.start_ns

    @property
    def arriving_share(self) -> float:
        """For how much of the period jobs kept arriving, 0 to 1: near 0 for a burst that drains."""
        return self.arrivals.span_ns / self.length_ns if self.length_ns else 0.0

    def wait_trend(self) -> Trend:
        """Seconds of wait over seconds of arrivals. Over capacity the slope is load / workers - 1."""
        return trend(
            [
                (
                    (row.enqueued_at_ns - self.start_ns) / _SECOND_NS,
                    max(0, row.dequeued_at_ns - row.enqueued_at_ns) / _SECOND_NS,
                )
                for row in self.rows
            ]
        )


def congested_periods(rows: Sequence[TraceRow], gap_ns: int = 0) -> list[Congestion]:
    """Periods in which at least one of the rows (of one queue) waited; gaps up to ``gap_ns`` do not end a period."""
    found: list[Congestion] = []
    members: list[TraceRow] = []
    end_ns = 0
    for row in sorted(rows, key=lambda row: (row.enqueued_at_ns, row.dequeued_at_ns)):
        if members and row.enqueued_at_ns > end_ns + gap_ns:
            found.append(_congestion(members, end_ns))
            members = []
        end_ns = max(end_ns, row.dequeued_at_ns) if members else max(row.enqueued_at_ns, row.dequeued_at_ns)
        members.append(row)
    if members:
        found.append(_congestion(members, end_ns))
    return found


def _congestion(rows: list[TraceRow], end_ns: int) -> Congestion:
    return Congestion(rows[0].enqueued_at_ns, end_ns, rows, arrivals([row.enqueued_at_ns for row in rows]))


def utilisation(workers: Sequence[SeenWorker], from_ns: int, to_ns: int) -> float:
    """Busy share of the worker time there was between two instants, 0 to 1; 0 when no worker was there."""
    present = present_ns(workers, from_ns, to_ns)
    return busy_ns(workers, from_ns, to_ns) / present if present else 0.0
