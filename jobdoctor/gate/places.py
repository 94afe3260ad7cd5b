"""Lines of files, as annotations and code scanning want them: relative to the working directory."""

from __future__ import annotations

from msgspec import Struct


class Place(Struct, frozen=True):
    """``line`` counts from 1."""

    file: str
    line: int


def place_of(callsite: str) -> Place | None:
    """ "app/tasks.py:41" as a place; None for what is no line of a file."""
    file, _, line = callsite.rpartition(":")
    return Place(file, int(line)) if file and line.isdigit() and int(line) > 0 else None
