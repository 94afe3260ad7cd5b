"""How runs and waits went over the window: two lines each, the marks, and what changed, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from jobdoctor import words
from jobdoctor.diagnosis.over_time import Point, sentence, series
from jobdoctor.model import Diagnosis, JobHistory, Mark

#: Fewer points make no line worth looking at.
LEAST_POINTS = 8
TITLES: dict[Literal["run", "wait"], str] = {"run": "Run, from dequeue to reap", "wait": "Wait in the queue"}


class Course(Struct, frozen=True):
    """One metric over the window: polylines on 1,000 by 100 units, from 0 to ``top_ms``."""

    title: str
    median: str
    tail: str  # of the p95; empty where too few stand behind its points
    last_p50_ms: float
    top_ms: float
    marks: list[tuple[float, str]]  # place on the axis, label


class OverTime(Struct, frozen=True):
    courses: list[Course]
    changes: list[str]
    from_ns: int
    to_ns: int


def over_time(diagnosis: Diagnosis) -> OverTime:
    """The window's course; without lines when there are too few points for them."""
    history = diagnosis.history
    metrics: tuple[Literal["run", "wait"], ...] = ("run", "wait")
    courses = [course for metric in metrics if (course := _course(history, metric)) is not None]
    changes = [sentence(change) for change in diagnosis.changes]
    return OverTime(courses, changes, history.from_ns, history.to_ns)


def _course(history: JobHistory, metric: Literal["run", "wait"]) -> Course | None:
    medians = series(history, metric, 0.5)
    if len(medians) < LEAST_POINTS:
        return None
    tails = series(history, metric, 0.95)
    tails = tails if len(tails) >= LEAST_POINTS else []
    top = max(1.0, *(point.value_ms for point in [*medians, *tails]))
    return Course(
        title=TITLES[metric],
        median=_line(history, medians, top),
        tail=_line(history, tails, top),
        last_p50_ms=medians[-1].value_ms,
        top_ms=top,
        marks=[
            (round(_place(history, mark.at_ns), 4), _label(mark)) for mark in history.marks if _within(history, mark)
        ],
    )


def _line(history: JobHistory, points: Sequence[Point], top: float) -> str:
    return " ".join(
        f"{_place(history, point.at_ns) * 1_000:.1f},{98 - point.value_ms / top * 94:.1f}" for point in points
    )


def _place(history: JobHistory, at_ns: int) -> float:
    return min(1.0, max(0.0, (at_ns - history.from_ns) / max(1, history.to_ns - history.from_ns)))


def _within(history: JobHistory, mark: Mark) -> bool:
    return history.from_ns <= mark.at_ns <= history.to_ns


def _label(mark: Mark) -> str:
    return f"{mark.kind} {mark.label}, {words.instant(mark.at_ns)}"
