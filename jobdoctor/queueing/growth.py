"""Does a series grow? Mann-Kendall says whether, the Theil-Sen slope says how fast.

Both are rank statistics: a few wild values do not move them. Sources: H. B. Mann (1945) and M. G. Kendall (1975) for
the test, with the correction for ties; P. K. Sen (1968) for the median of slopes. Both look at pairs, so that a long
series is thinned evenly to ``MOST_POINTS`` first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import erfc, sqrt
from statistics import median

from msgspec import Struct

#: 400 points are 79,800 pairs: some tens of milliseconds.
MOST_POINTS = 400


class Trend(Struct, frozen=True):
    """``slope`` is in units of y for one unit of x; ``p_value`` is two-sided; ``tau`` is Kendall's, -1 to 1."""

    slope: float
    p_value: float
    tau: float


def trend(points: Sequence[tuple[float, float]]) -> Trend:
    """The trend of y over x. Fewer than four points prove nothing: p is 1."""
    ordered = _thinned(sorted(points))
    if len(ordered) < 4:
        return Trend(0.0, 1.0, 0.0)
    slopes: list[float] = []
    score = 0
    for index, (x, y) in enumerate(ordered):
        for later_x, later_y in ordered[index + 1 :]:
            score += (later_y > y) - (later_y < y)
            if later_x > x:
                slopes.append((later_y - y) / (later_x - x))
    count = len(ordered)
    ties = Counter(y for _, y in ordered)
    variance = (
        count * (count - 1) * (2 * count + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties.values())
    ) / 18  # fmt: skip
    z = (score - (score > 0) + (score < 0)) / sqrt(variance) if variance > 0 else 0.0
    return Trend(
        slope=median(slopes) if slopes else 0.0,
        p_value=erfc(abs(z) / sqrt(2)),
        tau=score / (count * (count - 1) / 2),
    )


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    if len(points) <= MOST_POINTS:
        return points
    return [points[index * (len(points) - 1) // (MOST_POINTS - 1)] for index in range(MOST_POINTS)]
