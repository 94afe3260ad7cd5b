"""The user's own lines around a callsite, when the file can be read from here.

A callsite comes out of a recording, so it is not trusted: only Python files below the project's root are read, symbolic
links resolved, nothing hidden and nothing of an installed package.
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

from msgspec import Struct

_CALLSITE = re.compile(r"^(?P<path>[^:\0]+\.py):(?P<line>\d{1,7})$")
_NOT_THE_PROJECTS = frozenset({"site-packages", "dist-packages", "node_modules", "__pycache__"})
MAX_BYTES = 2_000_000
MAX_COLUMNS = 200


class SourceLine(Struct, frozen=True):
    number: int
    text: str
    current: bool


class Source(Struct, frozen=True):
    path: str
    lines: list[SourceLine]

    @property
    def spot(self) -> list[str]:
        """The line that is meant, and the next one where it only opens a bracket; without their indentation."""
        at = next(index for index, line in enumerate(self.lines) if line.current)
        opens = self.lines[at].text.endswith(("(", "[", "{"))
        return dedent("\n".join(line.text for line in self.lines[at : at + 1 + opens])).split("\n")


def read_source(root: Path, callsite: str, around: int = 2) -> Source | None:
    """``around`` lines before and after the callsite; None when it is not the project's, or cannot be read."""
    match = _CALLSITE.match(callsite)
    if match is None:
        return None
    try:
        base = root.resolve()
        path = (base / match["path"]).resolve()
        relative = path.relative_to(base)
        if any(part.startswith(".") or part in _NOT_THE_PROJECTS for part in relative.parts):
            return None
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return None
    line = int(match["line"])
    if not 1 <= line <= len(text):
        return None
    first = max(1, line - around)
    # Deep in a class and two loops, indentation would take the room of the code.
    excerpt = dedent("\n".join(one.expandtabs(4) for one in text[first - 1 : line + around])).split("\n")
    return Source(
        relative.as_posix(),
        [
            SourceLine(number, shown[:MAX_COLUMNS].rstrip(), number == line)
            for number, shown in enumerate(excerpt, first)
        ],
    )
