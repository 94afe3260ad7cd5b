"""Did a second sample of times come out higher than a first one? Ranks only: a few wild values do not move them.

Sources: H. B. Mann and D. R. Whitney, "On a test of whether one of two random variables is stochastically larger than
the other", 1947, for the test and the recurrence of its exact distribution; the normal approximation with corrections
for ties and continuity as in M. Hollander and D. A. Wolfe, "Nonparametric Statistical Methods", 4.1; J. L. Hodges and
E. L. Lehmann, 1963, for the size of the shift.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import product
from math import comb, erfc, sqrt
from statistics import median

#: Up to this many values of both samples together, the distribution is counted out.
EXACT = 40


def higher(first: Sequence[float], second: Sequence[float]) -> float:
    """One-sided p value of the Mann-Whitney test: how likely ``second`` would be as high as it is, were both of one
    distribution. 1 when one of them is empty."""
    if not first or not second:
        return 1.0
    score = sum((b > a) + 0.5 * (a == b) for a, b in product(first, second))
    ties = [number for number in Counter([*first, *second]).values() if number > 1]
    if not ties and len(first) + len(second) <= EXACT:
        ways = _ways(len(first), len(second))
        return sum(ways[int(score) :]) / comb(len(first) + len(second), len(first))
    count, total = len(first) * len(second), len(first) + len(second)
    tied = sum(number**3 - number for number in ties) / (total * (total - 1))
    variance = count / 12 * (total + 1 - tied)
    if variance <= 0:
        return 1.0
    return 0.5 * erfc((score - count / 2 - 0.5) / sqrt(2 * variance))


@cache
def _ways(first: int, second: int) -> tuple[int, ...]:
    """How many orders of both samples give each score, from 0 to ``first * second``."""
    if not first or not second:
        return (1,)
    ways = [0] * (first * second + 1)
    for score, number in enumerate(_ways(first, second - 1)):
        ways[score + first] += number  # the highest value is of the second sample: it is above all of the first
    for score, number in enumerate(_ways(first - 1, second)):
        ways[score] += number
    return tuple(ways)


def ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """How many times higher ``second`` is: the median of all quotients (Hodges and Lehmann, for ratios)."""
    return median(b / a for a, b in product(first, second))
