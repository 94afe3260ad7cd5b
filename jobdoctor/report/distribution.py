"""How durations spread: a histogram on a logarithmic axis, since waits and runs spread over orders of magnitude."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

MOST_BINS = 30
#: Below this many values for each bin on average, a histogram shows gaps that are chance.
VALUES_PER_BIN = 1.5
#: Durations below this are drawn at it: a logarithm has no zero, and a tenth of a millisecond is noise.
LEAST_MS = 0.1
#: A spread narrower than this is drawn as if it were this wide, so that noise does not look like a finding.
LEAST_RATIO = 1.25


class Bin(Struct, frozen=True):
    low_ms: float
    high_ms: float
    count: int


class Distribution(Struct, frozen=True):
    """``bins`` have edges in one ratio; the first begins at ``from_ms``, the last ends at ``to_ms``."""

    bins: list[Bin]
    count: int
    from_ms: float
    to_ms: float

    def place(self, ms: float) -> float:
        """Where a duration lies on the axis, 0 to 1."""
        part = math.log(max(LEAST_MS, ms) / self.from_ms) / math.log(self.to_ms / self.from_ms)
        return min(1.0, max(0.0, part))


def distribution(values_ms: Sequence[float]) -> Distribution | None:
    """Bins from the least to the largest value; None for fewer than two values."""
    if len(values_ms) < 2:
        return None
    low, high = max(LEAST_MS, min(values_ms)), max(LEAST_MS, *values_ms)
    if high / low < LEAST_RATIO:
        middle = math.sqrt(low * high)
        low, high = min(low, middle / math.sqrt(LEAST_RATIO)), max(high, middle * math.sqrt(LEAST_RATIO))
    number = min(MOST_BINS, max(5, math.ceil(len(values_ms) / VALUES_PER_BIN)))
    ratio = (high / low) ** (1 / number)
    counts = [0] * number
    for value in values_ms:
        position = math.log(max(LEAST_MS, value) / low) / math.log(ratio)
        counts[min(number - 1, max(0, math.floor(position)))] += 1
    bins = [Bin(low * ratio**index, low * ratio ** (index + 1), count) for index, count in enumerate(counts)]
    return Distribution(bins, len(values_ms), low, high)
