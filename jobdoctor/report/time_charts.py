"""Charts over the window: how attempts ended, and who was ahead of those that waited; with deploys and incidents."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from jobdoctor import words
from jobdoctor.model import JobHistory, Mark, TraceRow
from jobdoctor.report.over_time import Course
from jobdoctor.report.queue_wait import MAX_ROWS, overlaps

#: Columns of a chart: as many as can be told apart on a small screen.
MOST_COLUMNS = 60
#: Fewer executions than this are a list, not a course.
LEAST_ROWS = 4
#: Jobs with a colour of their own in the chart of waits; the others are one.
NAMED_JOBS = 6
#: Below this mean there is no wait worth a picture.
LEAST_WAIT_MS = 5.0

#: Lengths of columns that people count in, in seconds.
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800)
#: Variables of the page's theme, which differ from one another in both of them.
_COLOURS = ("sql", "redis", "http", "lock", "pool", "sleep")
_ENDS = (
    ("finished at once", "good"),
    ("finished after a retry", "http"),
    ("failed, to be retried", "warning"),
    ("failed for good", "critical"),
    ("cut short or killed", "crash"),
)


class Series(Struct, frozen=True):
    """``colour`` names a variable of the page's theme."""

    label: str
    colour: str
    values: list[float]
    total: float

    def most(self) -> float:
        """The largest value."""
        return max(self.values)


class ChartMark(Struct, frozen=True):
    at_s: float
    kind: str
    label: str


class TimeChart(Struct, frozen=True):
    """Columns of the same length, stacked. Instants are seconds of the epoch; ``unit`` is what the values are in."""

    key: str
    title: str
    unit: Literal["ms", "count"]
    step_s: int
    at_s: list[float]
    series: list[Series]
    marks: list[ChartMark]
    summary: str  # what it shows, in a sentence

    @property
    def from_s(self) -> float:
        """Where the axis begins."""
        return self.at_s[0]

    @property
    def to_s(self) -> float:
        """Where the axis ends."""
        return self.at_s[-1] + self.step_s

    def data(self) -> dict[str, Any]:
        """What the script draws."""
        return {
            "title": self.title,
            "kind": "stack",
            "unit": self.unit,
            "step": self.step_s,
            "from": self.from_s,
            "to": self.to_s,
            "at": self.at_s,
            "series": [{"label": one.label, "colour": one.colour, "values": one.values} for one in self.series],
            "marks": [{"at": mark.at_s, "kind": mark.kind, "label": mark.label} for mark in self.marks],
        }

    def columns(self) -> list[tuple[str, str]]:
        """The picture without a script: a colour and an SVG path for each series, on 1,000 by 100 units."""
        width = 1_000 / len(self.at_s)
        tops = [sum(column) for column in zip(*(one.values for one in self.series), strict=True)]
        scale = 100 / max(max(tops), 1e-9)
        base = [100.0] * len(self.at_s)
        paths = []
        for one in self.series:
            path = []
            for at, value in enumerate(one.values):
                height = value * scale
                if height > 0:
                    base[at] -= height
                    path.append(
                        f"M{at * width:.1f} {base[at]:.2f}h{width * 0.86:.1f}v{height:.2f}h-{width * 0.86:.1f}z"
                    )
            paths.append((one.colour, "".join(path)))
        return paths

    def lines(self) -> list[tuple[float, str]]:
        """Marks as places on 1,000 units."""
        return [
            (round((mark.at_s - self.from_s) / (self.to_s - self.from_s) * 1_000, 1), mark.label) for mark in self.marks
        ]


def attempts_over_time(history: JobHistory) -> TimeChart | None:
    """How attempts ended; None when each one of them finished at once."""
    rows = history.trace
    if len(rows) < LEAST_ROWS or all(row.outcome == "finished" and row.attempt == 1 for row in rows):
        return None
    step, starts = _columns(rows)
    counts = [[0.0] * len(starts) for _ in _ENDS]
    for row in rows:
        counts[_end(row)][_place(row, starts, step)] += 1
    series = [
        Series(label, colour, values, sum(values))
        for (label, colour), values in zip(_ENDS, counts, strict=True)
        if any(values)
    ]
    parts = ", ".join(f"{words.number(one.total)} {one.label}" for one in series)
    return TimeChart(
        "retries", "How attempts ended", "count", step, starts, series, _marks(history.marks, starts, step),
        f"{words.count(len(rows), 'attempt')}: {parts}.",
    )  # fmt: skip


def waits_over_time(history: JobHistory) -> TimeChart | None:
    """The mean wait of each column by what its workers ran meanwhile; None without waits worth a picture, and when
    nobody was ahead."""
    rows = history.trace[-MAX_ROWS:]
    total_ns = sum(max(0, row.dequeued_at_ns - row.enqueued_at_ns) for row in rows)
    if len(rows) < LEAST_ROWS or total_ns / len(rows) < LEAST_WAIT_MS * 1e6:
        return None
    step, starts = _columns(rows)
    counts = [0] * len(starts)
    left = [0.0] * len(starts)
    for row in rows:
        place = _place(row, starts, step)
        counts[place] += 1
        left[place] += max(0, row.dequeued_at_ns - row.enqueued_at_ns)
    by_job: dict[str, list[float]] = {}
    for row, ahead, overlap_ns in overlaps(history):
        place = _place(row, starts, step)
        by_job.setdefault(ahead.job, [0.0] * len(starts))[place] += overlap_ns
        left[place] -= overlap_ns
    if not by_job:
        return None
    ranked = sorted(by_job.items(), key=lambda item: (-sum(item[1]), item[0]))
    named, others = ranked[:NAMED_JOBS], ranked[NAMED_JOBS:]
    layers = [
        (f"{job} (this job)" if job == history.job else job, colour, values)
        for (job, values), colour in zip(named, _COLOURS, strict=False)
    ]
    if others:
        layers.append(
            (words.count(len(others), "other job"), "file", [sum(v) for v in zip(*(v for _, v in others), strict=True)])
        )
    layers.append(("nothing that was recorded", "unexplained", left))
    series = [
        Series(
            label,
            colour,
            [round(max(0.0, ns) / 1e6 / max(1, number), 3) for ns, number in zip(values, counts, strict=True)],
            max(0.0, sum(values)) / 1e6 / len(rows),
        )
        for label, colour, values in layers
        if sum(values) > 0.005 * total_ns
    ]
    first = max(series, key=lambda one: one.total)
    mean = words.duration(total_ns / 1e6 / len(rows))
    return TimeChart(
        "waits", "Queue wait by who was ahead", "ms", step, starts, series, _marks(history.marks, starts, step),
        f"{mean} of wait on average; the most of it while the workers ran {first.label}.",
    )  # fmt: skip


def course_data(course: Course, from_ns: int, to_ns: int) -> dict[str, Any]:
    """What the script draws of a course over the window: both lines on one axis, marks, and where a level changed.

    The lines may have points of their own each; where nothing ran for more than a slot, they are broken.
    """
    medians = {point.at_ns: point.p50_ms for point in course.points}
    tails = dict(course.tails)
    instants = sorted(medians.keys() | tails.keys())
    if course.slot_ns:
        gaps = [
            before + course.slot_ns
            for before, after in itertools.pairwise(instants)
            if after - before > 1.6 * course.slot_ns
        ]
        instants = sorted([*instants, *gaps])
    lines = [("median", "accent", "strong", medians), ("p95", "accent", "weak", tails)]
    length_s = (to_ns - from_ns) / 1e9
    marks = [
        {"at": from_ns / 1e9 + mark.place * length_s, "kind": mark.kind, "label": mark.short} for mark in course.marks
    ]
    marks += [{"at": from_ns / 1e9 + step.place * length_s, "kind": "change", "label": ""} for step in course.steps]
    return {
        "title": course.title,
        "kind": "line",
        "unit": "ms",
        "from": from_ns / 1e9,
        "to": to_ns / 1e9,
        "at": [at_ns / 1e9 for at_ns in instants],
        "bridged": course.slot_ns is None,
        "series": [
            {"label": label, "colour": colour, "style": style, "values": [_rounded(values.get(at)) for at in instants]}
            for label, colour, style, values in lines
            if values
        ],
        "marks": marks,
    }


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 3)


def _end(row: TraceRow) -> int:
    if row.outcome == "finished":
        return 0 if row.attempt == 1 else 1
    return {"retried": 2, "failed": 3}.get(row.outcome, 4)


def _columns(rows: Sequence[TraceRow]) -> tuple[int, list[float]]:
    """The length of a column, and where each begins."""
    first = min(row.dequeued_at_ns for row in rows) / 1e9
    last = max(row.dequeued_at_ns for row in rows) / 1e9
    step = (
        next((one for one in _STEPS if (last - first) / one < MOST_COLUMNS - 1), 0)
        or int((last - first) / MOST_COLUMNS) + 1
    )
    begin = first // step * step
    return step, [begin + step * number for number in range(int((last - begin) // step) + 1)]


def _place(row: TraceRow, starts: Sequence[float], step: int) -> int:
    return min(len(starts) - 1, max(0, int((row.dequeued_at_ns / 1e9 - starts[0]) // step)))


def _marks(marks: Sequence[Mark], starts: Sequence[float], step: int) -> list[ChartMark]:
    return [
        ChartMark(mark.at_ns / 1e9, mark.kind, f"{mark.kind} {mark.label}"[:40])
        for mark in marks
        if starts[0] <= mark.at_ns / 1e9 <= starts[-1] + step
    ]
