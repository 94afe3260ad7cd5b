"""Arrivals and service times: rates, variability, bursts and offered load."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import fsum, sqrt
from statistics import fmean

from msgspec import Struct

from jobdoctor.model import TraceRow

_SECOND_NS = 1_000_000_000


class Arrivals(Struct, frozen=True):
    """How jobs came: ``rate_per_s`` over the gaps between the first and the last arrival."""

    count: int
    first_ns: int
    last_ns: int
    rate_per_s: float  # 0 when fewer than two instants differ
    gap_cv: float  # coefficient of variation of the gaps: 0 regular, 1 Poisson, more is bursty

    @property
    def span_ns(self) -> int:
        return self.last_ns - self.first_ns


class Service(Struct, frozen=True):
    """How long workers were busy with each, from dequeue to reap."""

    count: int
    mean_s: float
    median_s: float
    longest_s: float
    cv: float

    @property
    def total_s(self) -> float:
        return self.mean_s * self.count


def variation(values: Sequence[float]) -> float:
    """Coefficient of variation: population standard deviation over mean; 0 without spread or mean."""
    if len(values) < 2:
        return 0.0
    mean = fmean(values)
    # statistics.pstdev sums fractions, exactly and a hundred times slower.
    return sqrt(fsum((value - mean) ** 2 for value in values) / len(values)) / mean if mean > 0 else 0.0


def arrivals(instants_ns: Sequence[int]) -> Arrivals:
    """Arrivals at these instants (ns since the epoch), in any order."""
    ordered = sorted(instants_ns)
    if not ordered:
        return Arrivals(0, 0, 0, 0.0, 0.0)
    gaps = [later - earlier for earlier, later in pairwise(ordered)]
    span_ns = ordered[-1] - ordered[0]
    rate = (len(ordered) - 1) * _SECOND_NS / span_ns if span_ns else 0.0
    return Arrivals(len(ordered), ordered[0], ordered[-1], rate, variation(gaps))


def service(rows: Sequence[TraceRow]) -> Service:
    """Service times of these executions."""
    times = sorted(max(0, row.reaped_at_ns - row.dequeued_at_ns) / _SECOND_NS for row in rows)
    if not times:
        return Service(0, 0.0, 0.0, 0.0, 0.0)
    middle = len(times) // 2
    median = times[middle] if len(times) % 2 else (times[middle - 1] + times[middle]) / 2
    return Service(len(times), fmean(times), median, times[-1], variation(times))


def service_by_job(rows: Sequence[TraceRow]) -> dict[str, Service]:
    """Service times of each job kind."""
    kinds: dict[str, list[TraceRow]] = {}
    for row in rows:
        kinds.setdefault(row.job, []).append(row)
    return {job: service(of_kind) for job, of_kind in kinds.items()}


def offered_load(rate_per_s: float, mean_service_s: float) -> float:
    """Erlangs: the number of workers that the work arriving would keep busy all the time."""
    return rate_per_s * mean_service_s


def bursts(instants_ns: Sequence[int], gap_ns: int) -> list[tuple[int, int]]:
    """Runs of arrivals no more than ``gap_ns`` apart, as (first, last) index into the sorted instants."""
    ordered = sorted(instants_ns)
    found: list[tuple[int, int]] = []
    start = 0
    for index in range(1, len(ordered) + 1):
        if index == len(ordered) or ordered[index] - ordered[index - 1] > gap_ns:
            found.append((start, index - 1))
            start = index
    return found
