"""Statistics of interleaved pairs: what was measured in one round is compared within that round only."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

RESAMPLES = 2000

_T = TypeVar("_T")


class Comparison(NamedTuple):
    """An arm against the plain one. Ratios are of single rounds, ``low`` to ``high`` holds their median with 95 %."""

    ratio: float
    low: float
    high: float
    quartiles: tuple[float, float]
    added: float  # median of the differences, in the unit that was measured


def compare(plain: Sequence[float], other: Sequence[float]) -> Comparison:
    """Both hold one figure for each round, in order."""
    ratios = [mine / theirs for mine, theirs in zip(other, plain, strict=True)]
    low, high = interval(ratios, statistics.median)
    first, _, third = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    added = statistics.median(mine - theirs for mine, theirs in zip(other, plain, strict=True))
    return Comparison(statistics.median(ratios), low, high, (first, third), added)


def of_sums(plain: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """(ratio of the sums, its 95 % interval): for a cost that few executions have, which a median would not see."""
    pairs = list(zip(plain, other, strict=True))

    def ratio(chosen: Sequence[tuple[float, float]]) -> float:
        return sum(mine for _, mine in chosen) / sum(theirs for theirs, _ in chosen)

    return ratio(pairs), *interval(pairs, ratio)


def interval(values: Sequence[_T], figure: Callable[[Sequence[_T]], float]) -> tuple[float, float]:
    """Where the figure is with 95 % confidence: bootstrap, always with the same choices."""
    chosen = random.Random(1)
    found = sorted(figure(chosen.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return found[int(0.025 * RESAMPLES)], found[int(0.975 * RESAMPLES) - 1]
