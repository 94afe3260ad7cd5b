"""How runs and waits went over the window: by execution, minute, hour and day; the marks, and what changed, in words.

Where every execution is known one by one its quantiles are exact. Else they come from the rollups: where a slot has
several of them, their quantiles are means weighed by executions, which is close for a median and rough for a p95.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from jobdoctor import words
from jobdoctor.diagnosis.measure import quantile
from jobdoctor.diagnosis.over_time import sentence, series
from jobdoctor.model import Bucket, Change, Diagnosis, JobHistory, Mark, Quantiles

#: Fewer points make no line worth looking at.
LEAST_POINTS = 8
#: Of hours and days a few are worth comparing.
LEAST_SLOTS = 3
#: As many as a picture can show.
MOST_SLOTS = 400
#: Executions behind a p95: of fewer it is their maximum.
LEAST_FOR_TAIL = 20
#: Labels of marks that have room side by side, as shares of the axis; the others keep their line and its title.
LABEL_ROOM = 0.16

_MINUTE_NS = 60 * 1_000_000_000
SLOTS: tuple[tuple[str, str, int], ...] = (
    ("minute", "by minute", _MINUTE_NS),
    ("hour", "by hour", 60 * _MINUTE_NS),
    ("day", "by day", 1_440 * _MINUTE_NS),
)

Metric = Literal["run", "wait"]
METRICS: tuple[Metric, Metric] = ("run", "wait")
TITLES: dict[Metric, str] = {"run": "Run, from dequeue to reap", "wait": "Wait in the queue"}


class CoursePoint(Struct, frozen=True):
    at_ns: int  # middle of the slot
    p50_ms: float
    p95_ms: float | None  # None: too few stand behind it
    executions: int
    failed: int


class MarkLine(Struct, frozen=True):
    """``place`` on the axis, 0 to 1. ``short`` is empty where a neighbour's label takes the room."""

    place: float
    label: str
    short: str
    kind: str


class StepLine(Struct, frozen=True):
    """A change of level: where it came, and both levels as heights on 100 units."""

    place: float
    before_y: float
    after_y: float
    worse: bool
    label: str


class Course(Struct, frozen=True):
    """One metric over the window: paths on 1,000 by 100 units, from 0 to ``top_ms``."""

    metric: Metric
    title: str
    points: list[CoursePoint]
    median: str
    tail: str  # of the p95; empty where too few stand behind its points
    tails: list[tuple[int, float]]  # what ``tail`` goes through: instant, ms
    last_p50_ms: float
    top_ms: float
    marks: list[MarkLine]
    steps: list[StepLine]
    slot_ns: int | None  # how much time a point stands for; None: an execution, or some


class View(Struct, frozen=True):
    """The courses at one resolution. ``key`` is a name for HTML ids."""

    key: str
    title: str
    exact: bool
    courses: list[Course]


class OverTime(Struct, frozen=True):
    views: list[View]
    first: str  # key of the view to begin with
    changes: list[str]
    from_ns: int
    to_ns: int


def over_time(diagnosis: Diagnosis) -> OverTime:
    """The window's course; without views when there are too few points for any."""
    history = diagnosis.history
    views = [view for view in (_of_executions(diagnosis), *(_of_slots(diagnosis, *slot) for slot in SLOTS)) if view]
    # The coarsest that still shows a course: single executions are noise where there are many.
    first = next((view for view in reversed(views) if len(view.courses[0].points) >= LEAST_POINTS), None)
    return OverTime(
        views=views,
        first=(first or views[0]).key if views else "",
        changes=[sentence(change) for change in diagnosis.changes],
        from_ns=history.from_ns,
        to_ns=history.to_ns,
    )


def _of_executions(diagnosis: Diagnosis) -> View | None:
    history = diagnosis.history
    courses = []
    for metric in METRICS:
        medians = series(history, metric, 0.5)
        if len(medians) < LEAST_POINTS:
            continue
        tails = [(point.at_ns, point.value_ms) for point in series(history, metric, 0.95)]
        points = [CoursePoint(point.at_ns, point.value_ms, None, point.executions, 0) for point in medians]
        courses.append(_course(diagnosis, metric, points, tails if len(tails) >= LEAST_POINTS else [], None))
    exact = len(history.trace) >= history.executions_total
    return View("each", "each execution" if exact else "all", exact, courses) if courses else None


def _of_slots(diagnosis: Diagnosis, key: str, title: str, slot_ns: int) -> View | None:
    history = diagnosis.history
    slots = (history.to_ns // slot_ns) - (history.from_ns // slot_ns) + 1
    if not LEAST_SLOTS <= slots <= MOST_SLOTS:
        return None
    exact = len(history.trace) >= history.executions_total and bool(history.trace)
    if not exact and _coarsest_ns(history.buckets) > slot_ns:
        return None
    courses = []
    for metric in METRICS:
        points = _exact_points(history, metric, slot_ns) if exact else _rolled_points(history, metric, slot_ns)
        if len(points) >= LEAST_SLOTS:
            tails = [(point.at_ns, point.p95_ms) for point in points if point.p95_ms is not None]
            # Where a p95 stands behind a few slots only, its dots would look like outliers.
            courses.append(_course(diagnosis, metric, points, tails if len(tails) * 2 >= len(points) else [], slot_ns))
    return View(key, title, exact, courses) if courses else None


def _coarsest_ns(buckets: Sequence[Bucket]) -> int:
    """The step of the rollups: what all their distances are multiples of."""
    instants = sorted({bucket.at_ns for bucket in buckets})
    distances = [later - earlier for earlier, later in itertools.pairwise(instants)]
    return math.gcd(*distances) if distances else _MINUTE_NS


def _exact_points(history: JobHistory, metric: Metric, slot_ns: int) -> list[CoursePoint]:
    values: dict[int, list[float]] = {}
    failed: dict[int, int] = {}
    for row in history.trace:
        slot = row.reaped_at_ns // slot_ns
        if row.outcome != "finished":
            failed[slot] = failed.get(slot, 0) + 1
            continue
        ns = row.reaped_at_ns - row.dequeued_at_ns if metric == "run" else row.dequeued_at_ns - row.enqueued_at_ns
        values.setdefault(slot, []).append(max(0, ns) / 1e6)
    return [
        CoursePoint(
            _middle(history, slot, slot_ns),
            quantile(own, 0.5),
            quantile(own, 0.95) if len(own) >= LEAST_FOR_TAIL else None,
            len(own) + failed.get(slot, 0),
            failed.get(slot, 0),
        )
        for slot, own in sorted(values.items())
    ]


def _rolled_points(history: JobHistory, metric: Metric, slot_ns: int) -> list[CoursePoint]:
    slots: dict[int, list[Bucket]] = {}
    for bucket in history.buckets:
        if bucket.count:
            slots.setdefault(bucket.at_ns // slot_ns, []).append(bucket)
    points = []
    for slot, own in sorted(slots.items()):
        count = sum(bucket.count for bucket in own)
        quantiles: list[tuple[Quantiles, int]] = [
            (bucket.run_ms if metric == "run" else bucket.wait_ms, bucket.count) for bucket in own
        ]
        points.append(
            CoursePoint(
                _middle(history, slot, slot_ns),
                sum(each.p50 * number for each, number in quantiles) / count,
                sum(each.p95 * number for each, number in quantiles) / count if count >= LEAST_FOR_TAIL else None,
                count,
                sum(bucket.failed for bucket in own),
            )
        )
    return points


def _middle(history: JobHistory, slot: int, slot_ns: int) -> int:
    return min(history.to_ns, max(history.from_ns, slot * slot_ns + slot_ns // 2))


def _course(
    diagnosis: Diagnosis,
    metric: Metric,
    points: list[CoursePoint],
    tails: Sequence[tuple[int, float]],
    slot_ns: int | None,
) -> Course:
    history = diagnosis.history
    top = max(1.0, *(point.p50_ms for point in points), *(value for _, value in tails))
    return Course(
        metric=metric,
        title=TITLES[metric],
        points=points,
        median=_path(history, [(point.at_ns, point.p50_ms) for point in points], top, slot_ns),
        tail=_path(history, tails, top, slot_ns),
        tails=list(tails),
        last_p50_ms=points[-1].p50_ms,
        top_ms=top,
        marks=_marks(history),
        steps=[_step(history, change, top) for change in diagnosis.changes if change.metric == metric],
        slot_ns=slot_ns,
    )


def _path(history: JobHistory, points: Sequence[tuple[int, float]], top: float, slot_ns: int | None) -> str:
    """A path that is broken where slots are missing: nothing ran there. A single point is a dot."""
    parts: list[str] = []
    before: int | None = None
    for at_ns, value in points:
        together = before is not None and (slot_ns is None or at_ns - before < 1.6 * slot_ns)
        parts.append(f"{'L' if together else 'M'}{_place(history, at_ns) * 1_000:.1f} {_height(value, top):.1f}")
        if not together:
            parts.append("h0")
        before = at_ns
    return "".join(parts)


def _height(value: float, top: float) -> float:
    return 98 - min(1.0, max(0.0, value / top)) * 94


def _step(history: JobHistory, change: Change, top: float) -> StepLine:
    return StepLine(
        place=round(_place(history, change.at_ns), 4),
        before_y=round(_height(change.before_ms, top), 1),
        after_y=round(_height(change.after_ms, top), 1),
        worse=change.after_ms > change.before_ms,
        label=sentence(change),
    )


def _marks(history: JobHistory) -> list[MarkLine]:
    lines: list[MarkLine] = []
    taken = -1.0
    for mark in sorted(history.marks, key=lambda mark: mark.at_ns):
        if not history.from_ns <= mark.at_ns <= history.to_ns:
            continue
        place = _place(history, mark.at_ns)
        room = place - taken >= LABEL_ROOM
        taken = place if room else taken
        lines.append(MarkLine(round(place, 4), _label(mark), mark.label if room else "", mark.kind))
    return lines


def _place(history: JobHistory, at_ns: int) -> float:
    return min(1.0, max(0.0, (at_ns - history.from_ns) / max(1, history.to_ns - history.from_ns)))


def _label(mark: Mark) -> str:
    return f"{mark.kind} {mark.label}, {words.instant(mark.at_ns)}"
