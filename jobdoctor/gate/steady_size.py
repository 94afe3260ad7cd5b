"""Serialised sizes that are the same for the same data: a primary key that grew from 255 to 256 is no larger payload.

Pickle writes whole numbers with 2 to 12 bytes, JSON with as many as they have digits. Here each counts as five. The
directory that pytest makes for a session has another number each time, another name in workers of pytest-xdist, and
another place on other machines: it counts as nothing.
"""

from __future__ import annotations

import pickletools
import re

#: What a number counts as: pickle's form for 32 bits, its usual one for keys and cents.
NUMBER_BYTES = 5

_WHOLE_NUMBERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"})
#: Headers of the stream's frames, which begin where the bytes before them end.
_FRAME = "FRAME"
_FRAME_BYTES = 9
#: ``/tmp/pytest-of-me/pytest-12/popen-gw0/``, of the fixture tmp_path.
_OF_SESSION = re.compile(
    rb"(?:/[!#-&(-.0-\[\]-~]+)*/pytest-of-[!#-&(-.0-\[\]-~]+/pytest-(?:\d+|current)/(?:popen-gw\d+/)?"
)
_JSON_NUMBER = re.compile(rb"(?<=[\s:,\[])-?\d+(?=[\s,\]}]|\Z)|(?<![^\s])-?\d+\Z")


def steady_bytes(data: bytes, serializer: str) -> int:
    """The size of serialised data without pytest's own directories, each whole number taken as NUMBER_BYTES. Numbers
    count as they are for a serializer that is neither pickle nor JSON."""
    directories = _OF_SESSION.findall(data) if b"/pytest-of-" in data else ()
    return _with_steady_numbers(data, serializer) - sum(map(len, directories))


def _with_steady_numbers(data: bytes, serializer: str) -> int:
    if serializer == "json":
        return len(_JSON_NUMBER.sub(b"0" * NUMBER_BYTES, data))
    if serializer != "pickle":
        return len(data)
    try:
        return _pickled(data)
    except ValueError:  # an opcode that this Python does not know
        return len(data)


def _pickled(data: bytes) -> int:
    size = len(data)
    begun: tuple[str, int] | None = None
    for opcode, _, position in pickletools.genops(data):
        at = position or 0
        if begun is not None:
            size += NUMBER_BYTES - (at - begun[1])
        begun = (opcode.name, at) if opcode.name in _WHOLE_NUMBERS else None
        if opcode.name == _FRAME:
            size -= _FRAME_BYTES
    return size
