"""When did it become slow? Steps and creeping growth of a job's run and wait over the window, held against the marks.

A step is found by Pettitt's test (Pettitt 1979, "A non-parametric approach to the change-point problem"), again on both
sides of each step found (binary segmentation: Scott and Knott 1974). Growth without a step is told by the Mann-Kendall
test (Mann 1945) with Sen's slope (Sen 1968). All three look at ranks only: a few outliers move nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from jobdoctor import words
from jobdoctor.diagnosis.measure import quantile
from jobdoctor.model import Bucket, Change, JobHistory, Mark

#: A change by chance this seldom. Waits of one burst resemble one another, so that theirs has to be plainer.
CHANCE = {"run": 0.01, "wait": 0.001}
#: Points on each side of a step; of fewer than 16 altogether (22 for waits) Pettitt's test can say nothing.
SIDE = 5
#: Points from which growth is told.
TREND_POINTS = 16
#: A change worth a sentence: Lighthouse CI and Sentry's regression alerts speak of a quarter to a third more.
RATIO = 1.3
LEAST_MS = 5.0
#: Points that a series is condensed to: the tests take the square of it.
POINTS = 120
#: A mark explains a step when it lies at most so many points, or so many ns, before it.
NEAR_POINTS = 2
NEAR_NS = 600 * 1_000_000_000
#: Closer than this they are said to have come together.
_TOGETHER_NS = 90 * 1_000_000_000

Metric = Literal["run", "wait"]


class Point(NamedTuple):
    """A stretch of the history: its middle and its length, and how many executions stand behind the value."""

    at_ns: int
    value_ms: float
    executions: int


def changes(history: JobHistory) -> list[Change]:
    """What changed in the window, oldest first. The median is looked at, and the p95 where the median stood still."""
    found: list[Change] = []
    metrics: tuple[Metric, Metric] = ("run", "wait")
    for metric in metrics:
        found += _of(history, metric, 0.5) or _of(history, metric, 0.95)
    return sorted(found, key=lambda change: change.at_ns)


def sentence(change: Change) -> str:
    """``Runs take 200 ms since 2026-01-01 08:30:00 UTC, 100 ms before (p50): with deploy 3f9c2ab``."""
    subject = "Runs take" if change.metric == "run" else "Waits take"
    before, after = words.duration(change.before_ms), words.duration(change.after_ms)
    which = "median" if change.quantile == "p50" else "p95"
    if change.kind == "creep":
        direction = "grew" if change.after_ms > change.before_ms else "fell"
        noun = "runs" if change.metric == "run" else "waits"
        return f"The {which} of {noun} {direction} from {before} to {after} over the window, bit by bit"
    return f"{subject} {after} since {words.instant(change.at_ns)}, {before} before ({which}){_with(change)}"


def _with(change: Change) -> str:
    mark = change.mark
    if mark is None:
        return ""
    apart = abs(change.at_ns - mark.at_ns)
    when = "with" if apart < _TOGETHER_NS or change.at_ns < mark.at_ns else f"{words.duration(apart / 1e6)} after"
    return f": {when} {mark.kind} {mark.label}"


def _of(history: JobHistory, metric: Metric, share: float) -> list[Change]:
    points = series(history, metric, share)
    steps = _steps(points, CHANCE[metric])
    grown = _growth(points, CHANCE[metric])
    if grown is not None:
        # What has one step has a trend as well: growth is said when a line describes the points better than levels do.
        levels = steps or [pettitt([point.value_ms for point in points])[0]]
        if _fit_of_line(points, grown) < _fit_of_levels(points, levels):
            before, after = (math.exp(end) for end in grown)
            change = _change("creep", metric, share, points[0].at_ns, before, after, points, points, None)
            return [change] if change else []
    bounds = [0, *steps, len(points)]
    found = []
    for number, at in enumerate(steps, 1):
        left, right = points[bounds[number - 1] : at], points[at : bounds[number + 1]]
        before, after = _median(left), _median(right)
        mark = _mark(history.marks, points, at)
        change = _change("step", metric, share, right[0].at_ns, before, after, left, right, mark)
        if change is not None:
            found.append(change)
    return found


def _change(
    kind: Literal["step", "creep"], metric: Metric, share: float, at_ns: int, before_ms: float, after_ms: float,
    left: Sequence[Point], right: Sequence[Point], mark: Mark | None,
) -> Change | None:  # fmt: skip
    if abs(after_ms - before_ms) < LEAST_MS or max(before_ms, after_ms) < RATIO * min(before_ms, after_ms):
        return None
    return Change(
        kind=kind,
        metric=metric,
        quantile="p50" if share == 0.5 else "p95",
        at_ns=at_ns,
        before_ms=before_ms,
        after_ms=after_ms,
        executions_before=sum(point.executions for point in left),
        executions_after=sum(point.executions for point in right),
        mark=mark,
    )


# -------------------------------------------------------------------------------------------------------------- series


def series(history: JobHistory, metric: Metric, share: float) -> list[Point]:
    """The metric over time: from the single executions where all of them are known, else from the buckets."""
    rows = [row for row in history.trace if row.outcome == "finished"]
    if len(history.trace) >= history.executions_total and rows:
        values = [
            (
                row.reaped_at_ns,
                (row.reaped_at_ns - row.dequeued_at_ns if metric == "run" else row.dequeued_at_ns - row.enqueued_at_ns)
                / 1e6,
            )
            for row in rows
        ]
        # The p95 of a handful says nothing: at least twenty behind each point.
        size = max(1 if share == 0.5 else 20, math.ceil(len(values) / POINTS))
        groups = [values[start : start + size] for start in range(0, len(values), size)]
        return [
            Point(group[0][0], quantile((value for _, value in group), share), len(group))
            for group in groups
            if len(group) * 2 >= size
        ]
    return _condensed(history.buckets, metric, share)


def _condensed(buckets: Sequence[Bucket], metric: Metric, share: float) -> list[Point]:
    """One point for each step in time, or for several of them; queues together."""
    size = math.ceil(len({bucket.at_ns for bucket in buckets}) / POINTS) or 1
    instants = sorted({bucket.at_ns for bucket in buckets})
    place = {at_ns: number // size for number, at_ns in enumerate(instants)}
    parts: dict[int, list[Bucket]] = {}
    for bucket in buckets:
        if bucket.count:
            parts.setdefault(place[bucket.at_ns], []).append(bucket)
    points = []
    for _, group in sorted(parts.items()):
        count = sum(bucket.count for bucket in group)
        quantiles = [(bucket.run_ms if metric == "run" else bucket.wait_ms, bucket.count) for bucket in group]
        value = sum((each.p50 if share == 0.5 else each.p95) * number for each, number in quantiles) / count
        points.append(Point(min(bucket.at_ns for bucket in group), value, count))
    return points


# --------------------------------------------------------------------------------------------------------------- tests


def _steps(points: Sequence[Point], at_most: float, start: int = 0) -> list[int]:
    """Positions at which a new level begins."""
    at, chance = pettitt([point.value_ms for point in points])
    if chance >= at_most or not SIDE <= at <= len(points) - SIDE:
        return []
    return [*_steps(points[:at], at_most, start), start + at, *_steps(points[at:], at_most, start + at)]


def pettitt(values: Sequence[float]) -> tuple[int, float]:
    """Where the level changes most (the position of the new level's first value), and the probability of chance."""
    number = len(values)
    ranks = _ranks(values)
    total = 0.0
    largest, at = 0.0, 0
    for position in range(number - 1):
        total += ranks[position]
        statistic = abs(2 * total - (position + 1) * (number + 1))
        if statistic > largest:
            largest, at = statistic, position + 1
    return at, min(1.0, 2 * math.exp(-6 * largest**2 / (number**3 + number**2))) if number else 1.0


def mann_kendall(values: Sequence[float]) -> float:
    """The probability that a series without a trend looks like this one, two-sided; 1 for fewer than 8 values."""
    number = len(values)
    if number < 8:
        return 1.0
    score = sum(
        (later > earlier) - (later < earlier)
        for position, earlier in enumerate(values)
        for later in values[position + 1 :]
    )
    tied: dict[float, int] = {}
    for value in values:
        tied[value] = tied.get(value, 0) + 1
    variance = number * (number - 1) * (2 * number + 5) - sum(t * (t - 1) * (2 * t + 5) for t in tied.values())
    if variance <= 0 or not score:
        return 1.0
    z = (abs(score) - 1) / math.sqrt(variance / 18)
    return math.erfc(z / math.sqrt(2))


def _growth(points: Sequence[Point], at_most: float) -> tuple[float, float] | None:
    """The logarithms of a trend's first and last value, when there is a trend."""
    if len(points) < TREND_POINTS:
        return None
    values = [_log(point) for point in points]
    if mann_kendall(values) >= at_most:
        return None
    slopes = [
        (later - earlier) / distance
        for position, earlier in enumerate(values)
        for distance, later in enumerate(values[position + 1 :], 1)
    ]
    slope = quantile(slopes, 0.5)
    start = quantile((value - slope * position for position, value in enumerate(values)), 0.5)
    return start, start + slope * (len(values) - 1)


def _fit_of_line(points: Sequence[Point], ends: tuple[float, float]) -> float:
    slope = (ends[1] - ends[0]) / max(1, len(points) - 1)
    return _information([_log(point) - ends[0] - slope * position for position, point in enumerate(points)], 2)


def _fit_of_levels(points: Sequence[Point], steps: Sequence[int]) -> float:
    misfits: list[float] = []
    for start, end in itertools.pairwise([0, *steps, len(points)]):
        level = quantile((_log(point) for point in points[start:end]), 0.5)
        misfits += [_log(point) - level for point in points[start:end]]
    return _information(misfits, 2 * len(steps) + 1)


def _information(misfits: Sequence[float], parameters: int) -> float:
    """Schwarz's criterion (1978) for a model with errors of Laplace's distribution: less is better."""
    number = len(misfits)
    return 2 * number * math.log(max(1e-9, sum(map(abs, misfits)) / number)) + parameters * math.log(number)


def _log(point: Point) -> float:
    return math.log(max(point.value_ms, 0.001))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for position in range(start, end + 1):
            ranks[order[position]] = (start + end) / 2 + 1
        start = end + 1
    return ranks


def _median(points: Sequence[Point]) -> float:
    return quantile((point.value_ms for point in points), 0.5)


def _mark(marks: Sequence[Mark], points: Sequence[Point], at: int) -> Mark | None:
    """The mark that may have brought the step: the last one before it and not long before."""
    first = points[max(0, at - NEAR_POINTS)].at_ns
    earliest = min(first, points[at].at_ns - NEAR_NS)
    # The new level's first point may hold what ran before the mark: one point of grace.
    latest = points[min(len(points) - 1, at + 1)].at_ns
    return max((mark for mark in marks if earliest <= mark.at_ns <= latest), key=lambda mark: mark.at_ns, default=None)
