"""Geometry of the pictures: numbers for SVG attributes, so that no style attribute is needed under a strict CSP.

Pictures are drawn on an axis of 1,000 units and stretched to the room there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from jobdoctor.report.distribution import Distribution
from jobdoctor.report.ledger import LedgerEntry

WIDTH = 1_000.0
#: A part that took any time is seen, however small its share.
LEAST_WIDTH = 3.0
GAP = 1.5
BAND_GAP = 8.0
#: Parts of one side with a legend entry of their own; the rest is one entry, and all are in the table below.
LEGEND_ENTRIES = 4
LEGEND_SHARE = 0.01

Side = Literal["around", "inside", "unexplained"]
SIDE_TITLES: dict[Side, str] = {"around": "Around the job", "inside": "Inside the job", "unexplained": "Unexplained"}


class Segment(Struct, frozen=True):
    x: float
    width: float
    entry: LedgerEntry


class Band(Struct, frozen=True):
    """The parts of one side, in one stretch of the bar. ``others``: parts too small to be named in the legend."""

    side: Side
    title: str
    x: float
    width: float
    ms: float
    share: float
    segments: list[Segment]
    named: list[LedgerEntry]  # largest first
    others: int
    others_ms: float


class Column(Struct, frozen=True):
    x: float
    width: float
    height: float  # 0 to 100
    low_ms: float
    high_ms: float
    count: int


def bands(entries: Sequence[LedgerEntry]) -> list[Band]:
    """The ledger as one bar in at most three stretches: the system around the job, the job itself, and what nobody
    explains. A ledger is no timeline: sides stand together, so that their shares can be seen."""
    sides = [(side, [entry for entry in entries if _side(entry) == side]) for side in SIDE_TITLES]
    sides = [(side, own) for side, own in sides if own]
    if not sides:
        return []
    least = [[max(LEAST_WIDTH, entry.share * WIDTH) for entry in own] for _, own in sides]
    gaps = BAND_GAP * (len(sides) - 1) + GAP * sum(len(own) - 1 for _, own in sides)
    scale = (WIDTH - gaps) / sum(map(sum, least))
    found = []
    x = 0.0
    for (side, own), widths in zip(sides, least, strict=True):
        start = x
        segments = []
        for entry, width in zip(own, widths, strict=True):
            segments.append(Segment(round(x, 2), round(width * scale, 2), entry))
            x += width * scale + GAP
        x -= GAP
        found.append(_band(side, start, x - start, own, segments))
        x += BAND_GAP
    return found


def _side(entry: LedgerEntry) -> Side:
    if entry.name == "unexplained":
        return "unexplained"
    return "around" if entry.around else "inside"


def _band(side: Side, x: float, width: float, own: Sequence[LedgerEntry], segments: list[Segment]) -> Band:
    worth = sorted((entry for entry in own if entry.share >= LEGEND_SHARE), key=lambda entry: -entry.ms)
    named = worth[:LEGEND_ENTRIES] or [max(own, key=lambda entry: entry.ms)]
    if len(own) - len(named) == 1:  # it takes no more room than the words for it
        named = sorted(own, key=lambda entry: -entry.ms)
    ms = sum(entry.ms for entry in own)
    return Band(
        side=side,
        title=SIDE_TITLES[side],
        x=round(x, 2),
        width=round(width, 2),
        ms=ms,
        share=sum(entry.share for entry in own),
        segments=segments,
        named=named,
        others=len(own) - len(named),
        others_ms=ms - sum(entry.ms for entry in named),
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
