"""DDSketch: quantiles of any number of values in a few bytes, mergeable without loss.

C. Masson, J. E. Rim, H. K. Lee: "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with Relative-Error Guarantees",
PVLDB 12(12), 2019. With alpha = 0.01 every quantile is within 1% of a value that was seen, at any size and after any
merge: what a minute's rollup needs so that hours and weeks can be made of minutes.

Values are milliseconds. What is at or below a nanosecond counts as zero; a range of 16 decades has at most 1,843
buckets, so no bucket ever has to be collapsed, and the sketch of one value takes some thirty bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable

from jobdoctor.model import Quantiles

#: Relative error of a quantile. The paper's own choice; APM back ends use it for latencies.
ALPHA = 0.01

_GAMMA = (1 + ALPHA) / (1 - ALPHA)
_LOG_GAMMA = math.log(_GAMMA)
_SMALLEST_MS = 1e-6
_LARGEST_MS = 1e10  # four months
_VERSION = 1
_HEAD = struct.Struct("<Bddd")  # version, sum, minimum, maximum


class Sketch:
    """Counts of values in logarithmic buckets, with the exact count, sum, minimum and maximum."""

    __slots__ = ("_buckets", "_zeros", "count", "maximum", "minimum", "total")

    def __init__(self, values_ms: Iterable[float] = ()) -> None:
        self._buckets: dict[int, int] = {}
        self._zeros = 0
        self.count = 0
        self.total = 0.0
        self.minimum = math.inf
        self.maximum = 0.0
        for value in values_ms:
            self.add(value)

    def add(self, value_ms: float) -> None:
        """Count one value; negative ones count as zero."""
        value = min(max(0.0, value_ms), _LARGEST_MS)
        self.count += 1
        self.total += value
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)
        if value <= _SMALLEST_MS:
            self._zeros += 1
        else:
            index = math.ceil(math.log(value) / _LOG_GAMMA)
            self._buckets[index] = self._buckets.get(index, 0) + 1

    def merge(self, other: Sketch) -> None:
        """Take over all of the other's values."""
        buckets = self._buckets
        for index, count in other._buckets.items():
            buckets[index] = buckets.get(index, 0) + count
        self._zeros += other._zeros
        self.count += other.count
        self.total += other.total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def quantile(self, share: float) -> float:
        """The value below which ``share`` of the values lie (the lower quantile), within 1%; 0.0 of nothing."""
        return self._at([share])[0]

    def quantiles(self) -> Quantiles:
        """What histories carry of it."""
        if not self.count:
            return Quantiles()
        p50, p95, p99 = self._at([0.5, 0.95, 0.99])
        return Quantiles(p50, p95, p99, self.total / self.count, self.maximum, self.count)

    def _at(self, shares: list[float]) -> list[float]:
        """Quantiles for ascending shares, in one walk over the buckets."""
        if not self.count:
            return [0.0 for _ in shares]
        found: list[float] = []
        below = self._zeros
        value = 0.0
        buckets = iter(sorted(self._buckets.items()))
        for share in shares:
            rank = share * (self.count - 1)
            while below <= rank:
                index, count = next(buckets, (0, 0))
                if not count:
                    break
                below += count
                value = 2 * _GAMMA**index / (_GAMMA + 1)
            found.append(min(max(value, self.minimum), self.maximum))
        return found

    def to_bytes(self) -> bytes:
        """Head, then variable-length integers: zeros, then (distance to the next bucket, count) by bucket."""
        out = bytearray(_HEAD.pack(_VERSION, self.total, self.minimum if self.count else 0.0, self.maximum))
        _put(out, self._zeros)
        previous = _LOWEST
        for index, count in sorted(self._buckets.items()):
            _put(out, index - previous)
            _put(out, count)
            previous = index
        return bytes(out)

    @classmethod
    def from_bytes(cls, data: bytes) -> Sketch:
        """The sketch that :meth:`to_bytes` wrote; ValueError for anything else."""
        try:
            version, total, minimum, maximum = _HEAD.unpack_from(data)
            if version != _VERSION:
                raise ValueError(f"sketch of version {version}")
            numbers = _numbers(data, _HEAD.size)
        except struct.error:
            raise ValueError("not a sketch") from None
        if len(numbers) % 2 != 1:
            raise ValueError("a sketch cut short")
        self = cls()
        self._zeros = numbers[0]
        index = _LOWEST
        for position in range(1, len(numbers), 2):
            index += numbers[position]
            self._buckets[index] = numbers[position + 1]
        self.count = self._zeros + sum(self._buckets.values())
        self.total = total
        self.maximum = maximum
        if self.count:
            self.minimum = minimum
        return self


#: No index is lower: distances to it are never negative.
_LOWEST = math.floor(math.log(_SMALLEST_MS) / _LOG_GAMMA)


def _put(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _numbers(data: bytes, position: int) -> list[int]:
    found: list[int] = []
    number = shift = 0
    for byte in data[position:]:
        number |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
        else:
            found.append(number)
            number = shift = 0
    if shift:
        raise ValueError("a sketch cut short")
    return found
