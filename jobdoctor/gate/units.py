"""Sizes, durations and shares as a marker writes them: ``"4 KiB"``, ``"200 ms"``, ``"15%"``."""

from __future__ import annotations

import re

SIZES = {"B": 1, "kB": 1_000, "KiB": 1 << 10, "MB": 1_000_000, "MiB": 1 << 20, "GB": 1_000_000_000, "GiB": 1 << 30}
DURATIONS_MS = {"us": 0.001, "ms": 1.0, "s": 1_000.0, "min": 60_000.0}

_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z%]*)\s*\Z")


def size(value: object) -> int:
    """Bytes. ValueError, with the units there are, for anything that is no size."""
    return round(_quantity(value, SIZES, "a size", "4 KiB"))


def duration_ms(value: object) -> float:
    """Milliseconds. ValueError as for ``size``."""
    return _quantity(value, DURATIONS_MS, "a duration", "200 ms")


def share(value: object) -> float:
    """A share of one. ValueError as for ``size``."""
    return _quantity(value, {"%": 0.01}, "a share", "15%")


def _quantity(value: object, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    hint = f"write {what} as a number and one of {', '.join(units)}, such as {example!r}"
    match = _QUANTITY.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(hint)
    factor = units.get(match[2])
    if factor is None:
        said = f"{match[2]!r} is no unit" if match[2] else "the unit is missing"
        raise ValueError(f"{said}: {hint}")
    return float(match[1]) * factor
