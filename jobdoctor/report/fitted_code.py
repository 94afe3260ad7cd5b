"""A snippet in a narrow column that can still be copied: lines are broken where the language lets them be."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

_INDENT = "    "


def fitted(code: str, width: int) -> list[str]:
    """The lines, none wider than ``width`` where that can be done without changing what they mean.

    A comment behind a long line goes above it; a long call is broken within its brackets, behind one or a comma; what
    has none there, at a space and with a backslash.
    """
    return [part for line in code.expandtabs(4).splitlines() for part in _fitted_line(line.rstrip(), width)]


def _fitted_line(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    comment = next((at for at, letter, _ in _outside_strings(line) if letter == "#" and line[:at].endswith(" ")), None)
    if comment is None and line.lstrip().startswith("#"):
        comment = len(indent)
    if comment is None:
        return _broken(line, indent, width)
    above = textwrap.wrap(
        line[comment:].lstrip("# "), width, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )
    before = line[:comment].rstrip()
    return [*above, *_broken(before, indent, width)] if before else above


def _broken(line: str, indent: str, width: int) -> list[str]:
    lines: list[str] = []
    depth = 0
    while len(line) > width:
        places = [
            (inside - (letter != ","), at + 1)
            for at, letter, inside in _outside_strings(line, depth)
            if at < width and inside > 0 and letter in "([{," and at >= len(indent) + len(_INDENT)
        ]
        if not places:
            break
        # The outermost one behind which the rest has room; or else as much as the line holds.
        enough = [(inside, -at) for inside, at in places if len(indent + _INDENT + line[at:].lstrip()) <= width]
        end = -min(enough)[1] if enough else places[-1][1]
        first = line[:end]
        depth = max([inside for _, _, inside in _outside_strings(first, depth)][-1:], default=0)
        lines.append(first)
        line = indent + _INDENT + line[end:].lstrip()
    while len(line) > width:
        # Python and shells alike read on behind a backslash.
        spaces = [at for at, letter, _ in _outside_strings(line) if letter == " " and len(indent) < at <= width - 2]
        spaces = [at for at in spaces if line[:at].strip()]
        if not spaces:
            break
        lines.append(f"{line[: spaces[-1]]} \\")
        line = indent + _INDENT + line[spaces[-1] :].lstrip()
    return [*lines, line]


def _outside_strings(line: str, depth: int = 0) -> Iterator[tuple[int, str, int]]:
    """Letters that no string holds: place, letter, and how many brackets are open behind it."""
    quote = ""
    for at, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote and line[at - 1] != "\\" else quote
            continue
        if letter in "'\"":
            quote = letter
            continue
        depth += (letter in "([{") - (letter in ")]}")
        yield at, letter, depth
