"""Geometry of the pictures: numbers for SVG attributes, so that no style attribute is needed under a strict CSP.

Pictures are drawn on an axis of 1,000 units and stretched to the room there is.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from jobdoctor.report.distribution import Distribution
from jobdoctor.report.ledger import LedgerEntry
from jobdoctor.report.timeline import UsagePoint

WIDTH = 1_000.0
#: A part that took any time is seen, however small its share.
LEAST_WIDTH = 3.0
GAP = 1.5
#: Parts with a legend entry of their own; the rest is one entry, and all are in the table below.
LEGEND_ENTRIES = 8
LEGEND_SHARE = 0.01


class Segment(Struct, frozen=True):
    x: float
    width: float
    entry: LedgerEntry


class Legend(Struct, frozen=True):
    entries: list[LedgerEntry]
    others: int
    others_ms: float
    others_share: float


class Column(Struct, frozen=True):
    x: float
    width: float
    height: float  # 0 to 100
    low_ms: float
    high_ms: float
    count: int


def stack(entries: Sequence[LedgerEntry]) -> list[Segment]:
    """The ledger as one bar, from enqueue to reap."""
    if not entries:
        return []
    widths = [max(LEAST_WIDTH, entry.share * WIDTH) for entry in entries]
    room = WIDTH - GAP * (len(entries) - 1)
    total = sum(widths)
    segments = []
    x = 0.0
    for entry, width in zip(entries, widths, strict=True):
        scaled = width * room / total
        segments.append(Segment(round(x, 2), round(scaled, 2), entry))
        x += scaled + GAP
    return segments


def legend(entries: Sequence[LedgerEntry]) -> Legend:
    """The parts worth naming beside the bar, in the bar's order."""
    worth = sorted((entry for entry in entries if entry.share >= LEGEND_SHARE), key=lambda entry: -entry.ms)
    named = {entry.name for entry in worth[:LEGEND_ENTRIES]}
    rest = [entry for entry in entries if entry.name not in named]
    return Legend(
        [entry for entry in entries if entry.name in named],
        len(rest),
        sum(entry.ms for entry in rest),
        sum(entry.share for entry in rest),
    )


def columns(spread: Distribution) -> list[Column]:
    """A histogram's bars; one that holds anything is seen."""
    width = WIDTH / len(spread.bins)
    most = max(one.count for one in spread.bins) or 1
    return [
        Column(
            round(index * width + 1, 2),
            round(max(1.0, width - 2), 2),
            round(max(2.0, one.count / most * 100), 2) if one.count else 0.0,
            one.low_ms,
            one.high_ms,
            one.count,
        )
        for index, one in enumerate(spread.bins)
    ]


def line(points: Sequence[UsagePoint], what: str) -> str:
    """The points of a polyline on 1,000 by 100 units, from 0 to the largest value: ``cpu`` or ``rss``."""
    values = [point.cpu if what == "cpu" else float(point.rss_bytes) for point in points]
    top = max(1.0, *values)
    return " ".join(
        f"{point.at * WIDTH:.1f},{98 - value / top * 94:.1f}" for point, value in zip(points, values, strict=True)
    )
