"""How durations spread: a histogram whose bins double, since waits and runs spread over orders of magnitude."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

#: Bins to an order of magnitude: fine enough to see two humps that differ by half.
BINS_PER_DECADE = 6
MAX_BINS = 36


class Bin(Struct, frozen=True):
    low_ms: float
    high_ms: float
    count: int


class Distribution(Struct, frozen=True):
    bins: list[Bin]
    count: int
    low_ms: float
    high_ms: float


def distribution(values_ms: Sequence[float]) -> Distribution | None:
    """Logarithmic bins from the least to the largest value; None for fewer than two values."""
    if len(values_ms) < 2:
        return None
    low, high = max(0.1, min(values_ms)), max(0.1, *values_ms)
    first, last = math.floor(math.log10(low) * BINS_PER_DECADE), math.floor(math.log10(high) * BINS_PER_DECADE)
    step = max(1, -(-(last - first + 1) // MAX_BINS))
    counts = [0] * ((last - first) // step + 1)
    for value in values_ms:
        counts[(math.floor(math.log10(max(0.1, value)) * BINS_PER_DECADE) - first) // step] += 1
    bins = [
        Bin(
            10 ** ((first + index * step) / BINS_PER_DECADE),
            10 ** ((first + (index + 1) * step) / BINS_PER_DECADE),
            number,
        )
        for index, number in enumerate(counts)
    ]
    return Distribution(bins, len(values_ms), min(values_ms), max(values_ms))
