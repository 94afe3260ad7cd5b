"""Quantiles of waits, and how far they can be trusted.

Waits follow one another: a long one is seldom alone. So whole blocks of consecutive waits are drawn, and not single
ones: the block bootstrap (E. Carlstein, Annals of Statistics 14, 1986; H. Kuensch, Annals of Statistics 17, 1989,
for blocks of about n^(1/3)). At most ``BLOCKS`` blocks are made, so that blocks of a long trace are longer than that,
and hold whole congested stretches. Each block is a histogram on a logarithmic scale, so that a replicate is a sum
of histograms, whatever the number of waits; intervals are percentiles of the replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from math import ceil, exp, fsum, inf, isfinite, log
from random import Random
from typing import NamedTuple

BLOCKS = 100
REPLICATES = 200
#: Below so many waits there are too few blocks for an interval.
LEAST = 20
#: Relative width of a bin: what an interval's ends are exact to.
_GROWTH = log(1.02)
#: Waits below this (0.1 ms) are one bin.
_SMALLEST_S = 1e-4


class Interval(NamedTuple):
    """95%."""

    low: float
    high: float


def quantile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank of sorted values; 0 of none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, ceil(share * len(ordered)) - 1))]


def intervals(values: Sequence[float], shares: Sequence[float], *, seed: int = 1) -> list[Interval] | None:
    """The interval of each quantile of values that are in the order of their time; None when they are too few, or
    when one is infinite."""
    count = len(values)
    if count < LEAST or not all(isfinite(value) for value in values):
        return None
    blocks = blocks_of(count)
    cells: dict[tuple[int, int], int] = {}  # bin, block: how many
    sizes = [(block + 1) * count // blocks - block * count // blocks for block in range(blocks)]
    for block in range(blocks):
        for value in values[block * count // blocks : (block + 1) * count // blocks]:
            cell = int(log(value / _SMALLEST_S) / _GROWTH) + 1 if value > _SMALLEST_S else 0, block
            cells[cell] = cells.get(cell, 0) + 1
    # From the largest bin down: a high quantile is met soon.
    steps = [(place, block, amount) for (place, block), amount in sorted(cells.items(), reverse=True)]
    order = sorted(range(len(shares)), key=lambda index: -shares[index])
    found: list[list[float]] = [[] for _ in shares]
    for drawn in _draws(blocks, seed):
        number = sum(times * size for times, size in zip(drawn, sizes, strict=True))
        above = 0  # waits in the bins so far
        pending = iter(order)
        wanted = next(pending)
        rank = number - max(1, ceil(shares[wanted] * number))
        for place, block, amount in steps:
            above += drawn[block] * amount
            while above > rank:
                found[wanted].append(_middle(place))
                following = next(pending, None)
                if following is None:
                    break
                wanted = following
                rank = number - max(1, ceil(shares[wanted] * number))
            else:
                continue
            break
    return [_interval(sorted(each)) for each in found]


def mean_interval(values: Sequence[float], *, seed: int = 1) -> Interval | None:
    """The interval of the mean of values that are in the order of their time; None when they are too few, or when one
    is infinite."""
    count = len(values)
    if count < LEAST or not all(isfinite(value) for value in values):
        return None
    blocks = blocks_of(count)
    edges = [block * count // blocks for block in range(blocks + 1)]
    sums = [fsum(values[begin:end]) for begin, end in pairwise(edges)]
    sizes = [end - begin for begin, end in pairwise(edges)]
    means = [
        fsum(times * each for times, each in zip(drawn, sums, strict=True))
        / sum(times * size for times, size in zip(drawn, sizes, strict=True))
        for drawn in _draws(blocks, seed)
    ]
    return _interval(sorted(means))


def blocks_of(count: int) -> int:
    """Into how many blocks so many values are cut."""
    number: float = count ** (2 / 3)
    return max(4, min(BLOCKS, round(number)))


@cache
def _draws(blocks: int, seed: int) -> list[list[int]]:
    """How often each block is in each replicate."""
    rng = Random(seed)  # noqa: S311 -- no secret
    found = []
    for _ in range(REPLICATES):
        drawn = [0] * blocks
        for block in rng.choices(range(blocks), k=blocks):
            drawn[block] += 1
        found.append(drawn)
    return found


def _middle(place: int) -> float:
    return 0.0 if place == 0 else _SMALLEST_S * exp((place - 0.5) * _GROWTH)


def _interval(ordered: list[float]) -> Interval:
    return Interval(quantile(ordered, 0.025), quantile(ordered, 0.975)) if ordered else Interval(0.0, inf)
