"""A relationship that an ORM loaded because it was touched, with the strategy, as one text of a call's shape."""

from __future__ import annotations

_BETWEEN = "\x1f"


def lazily(name: str, strategy: str) -> str:
    """A relationship ("Order.items") with the strategy that loads it: "select", "deferred", "dynamic"."""
    return f"{name}{_BETWEEN}{strategy}"


def parts(text: str) -> tuple[str, str]:
    """Name and strategy."""
    name, _, strategy = text.partition(_BETWEEN)
    return name, strategy
