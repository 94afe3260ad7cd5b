"""Numbers as a person says them: ``3.1 s``, ``412 ms``, ``1.2 MB``. Unknown numbers say so."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

#: Control characters and the bidirectional overrides that can make a name look like another one.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def duration(ms: float | None) -> str:
    """A duration in ms, in the unit that suits it."""
    if ms is None or not math.isfinite(ms):
        return "unknown"
    if ms < 0:
        return f"-{duration(-ms)}"
    if ms < 0.005:
        return "0 ms"
    if ms < 1:
        return f"{ms:.2f} ms"
    if ms < 9.95:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if ms < 59_950:
        return f"{ms / 1_000:.1f} s"
    if ms < 3_599_500:
        minutes, seconds = divmod(round(ms / 1_000), 60)
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    return f"{ms / 3_600_000:.1f} h" if ms < 172_800_000 else f"{ms / 86_400_000:.1f} d"


def size(count: float | None) -> str:
    """A size in bytes, in decimal units."""
    if count is None or not math.isfinite(count):
        return "unknown"
    if abs(count) < 999.5:
        return f"{count:.0f} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1_000
        if abs(value) < 999.5:
            return f"{value:.0f} {unit}" if abs(value) >= 99.5 else f"{value:.1f} {unit}"
    return f"{value / 1_000:.1f} TB"


def binary_size(count: int) -> str:
    """A size in bytes in the units in which limits of memory are set: ``512 MiB``."""
    for unit, size_ in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size_:
            value = count / size_
            return f"{value:.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.1f} {unit}"
    return f"{count} B"


def number(value: float | None) -> str:
    """A count with thousands separators; means below ten keep one decimal where it says something."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if abs(value - round(value)) < 0.05 or abs(value) >= 9.5:
        return f"{round(value):,}"
    return f"{value:,.1f}"


def share(value: float | None) -> str:
    """A share between 0 and 1 in percent."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if value == 0:
        return "0%"
    return "<1%" if value < 0.005 else f"{value * 100:.0f}%"


def count(value: float, noun: str, nouns: str = "") -> str:
    """``1 call``, ``412 calls``."""
    return f"{number(value)} {noun if value == 1 else nouns or noun + 's'}"


def instant(at_ns: int) -> str:
    """An instant in UTC, to the second."""
    return datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(at_ns: int) -> str:
    """An instant in ISO 8601, UTC, to the millisecond."""
    seconds, rest = divmod(at_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"


def clean(text: str) -> str:
    """The text with control characters and direction overrides made visible: recordings carry what strangers wrote."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def folded(name: str, width: int) -> str:
    """A dotted name in lines of this width, broken behind a dot or another such mark where there is one."""
    lines = []
    while len(name) > width:
        place = next(
            (at for at in (max(name.rfind(mark, 0, width) for mark in marks) for marks in ("./", "_-")) if at > 0),
            width - 1,
        )
        lines.append(name[: place + 1])
        name = name[place + 1 :]
    return "\n".join([*lines, name])
