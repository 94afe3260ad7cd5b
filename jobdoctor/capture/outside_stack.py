"""Reads the Python stack of another process from outside, through /proc/<pid>/mem. That process is not stopped, gets no
signal and no thread, and does nothing for it: it can be killed at any moment, and its last stack is known.

(faulthandler's own watchdog, ``dump_traceback_later``, walks frames that change below it: a job that calls and frees
functions quickly dies of a segmentation fault within seconds of dumps. Here a frame that changes while it is read gives
a wrong address, whose reading fails, or an object that is no code object, which is looked at and left.)

The process must run the same interpreter: a fork of this one, or a spawned one of the same binary. Where the fields of
the interpreter's structures are is in a table by version of Python, and is tried on this process itself before it is
used on another one.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType

from msgspec import Struct

#: Frames looked at, and those taken, innermost first.
DEPTH = 400
#: Characters of a file's or a function's name.
_NAME = 4096
_LINES = 1 << 20
#: Code objects whose names and lines are remembered.
_CODES = 2000

_EIGHT = struct.Struct("<8Q")
_LOWEST, _HIGHEST = 1 << 12, 1 << 56


class Offsets(Struct, frozen=True):
    """Where the fields are (bytes), from the headers of CPython: cpython/pystate.h and internal/pycore_frame.h."""

    frame: tuple[int, ...]  # from the thread's state to its innermost frame, by way of pointers
    code: int  # in a frame
    previous: int
    instruction: int
    text: int  # from the beginning of an ASCII string to its characters


_OFFSETS = {
    (3, 11): Offsets(frame=(56, 8), code=32, previous=48, instruction=56, text=48),
    (3, 12): Offsets(frame=(56, 0), code=0, previous=8, instruction=56, text=40),
    (3, 13): Offsets(frame=(72,), code=0, previous=8, instruction=56, text=40),
}
#: In a thread's state: the one that was made after it, which stands before it in the interpreter's list.
_NEWER_THREAD = 0
#: In an object: its type. In a string, in bytes: the length; in bytes: the beginning of the data.
_TYPE, _LENGTH, _BYTES = 8, 16, 32


class RawFrame:
    """A frame as the interpreter has it: file, line, qualified name of the function.

    Which line an instruction belongs to takes a while to work out, and most stacks that are looked at are never shown:
    it is worked out when it is asked for.
    """

    __slots__ = ("_late", "_line", "filename", "function")

    def __init__(self, filename: str, line: int, function: str, late: tuple[bytes, int, int] | None = None) -> None:
        self.filename = filename
        self.function = function
        self._line = line
        self._late = late  # table of lines, first line, code unit

    @property
    def line(self) -> int:
        """Its line in the file."""
        if self._late is not None:
            self._line, self._late = _line(*self._late), None
        return self._line

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RawFrame) and (self.filename, self.line, self.function) == (
            other.filename, other.line, other.function,
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.filename, self.function))

    def __repr__(self) -> str:
        return f"RawFrame({self.filename!r}, {self.line}, {self.function!r})"


def own_thread() -> int:
    """Where the state of the thread that asks is: for ``StackReader`` in another program. 0 when that is not known."""
    try:
        return _layout().thread
    except UnreadableError:
        return 0


class _CodeFields(Struct, frozen=True):
    """Where a code object's fields are: found in one of this process, whose values are known."""

    filename: int
    function: int
    lines: int
    first_line: int
    size: int  # up to the instructions

    def identity(self, body: bytes) -> bytes:
        """What tells a code object from another one that came to be at its address: its type, and all from its first
        line to the pointers of its names and lines. Between the two it has counters that move while it runs."""
        places = (self.filename, self.function, self.lines, self.first_line)
        return body[_TYPE : _TYPE + 8] + body[min(places) : max(places) + 8]

    @classmethod
    def find(cls, read: Callable[[int, int], bytes]) -> _CodeFields:
        """Raises UnreadableError when a field cannot be found."""
        code = StackReader.close.__code__  # a method: its qualified name is not its name
        size = CodeType.__basicsize__
        body = read(id(code), size)
        words = list(struct.unpack_from(f"<{size // 8}Q", body))
        try:
            places = [words.index(id(each)) * 8 for each in (code.co_filename, code.co_qualname, code.co_linetable)]
        except ValueError:
            raise UnreadableError("the fields of a code object were not found") from None
        numbers = struct.unpack_from(f"<{size // 4}i", body)
        # The first line is the number that differs between two functions as their lines do.
        other = _lines.__code__
        others = struct.unpack_from(f"<{size // 4}i", read(id(other), size))
        found = [
            index
            for index, pair in enumerate(zip(numbers, others, strict=True))
            if pair == (code.co_firstlineno, other.co_firstlineno)
        ]
        if len(found) != 1:
            raise UnreadableError("the first line of a code object was not found")
        return cls(places[0], places[1], places[2], first_line=found[0] * 4, size=size)


class _Code:
    """A code object, with the frames of it that were seen."""

    __slots__ = ("_first_line", "_frames", "_function", "_lines", "filename")

    def __init__(self, filename: str, function: str, lines: bytes, first_line: int) -> None:
        self.filename = filename
        self._function = function
        self._lines = lines
        self._first_line = first_line
        self._frames: dict[int, RawFrame] = {}

    def frame(self, unit: int) -> RawFrame:
        """At a code unit, counted from the first one."""
        found = self._frames.get(unit)
        if found is None:
            late = (self._lines, self._first_line, unit)
            found = self._frames[unit] = RawFrame(self.filename, 0, self._function, late)
        return found


class UnreadableError(Exception):
    """Stacks cannot be read from outside here; the message says why, for the report."""


class _LostError(Exception):
    """What was read is not what it should be: the process went on meanwhile, or is gone."""


class StackReader:
    """Reads the stacks of one process. Raises UnreadableError when that cannot be done, in words for the report, and
    ProcessLookupError when the process is gone."""

    def __init__(self, pid: int, *, spawned: bool = False, thread: int = 0, parent: int = 0) -> None:
        """``spawned``: it is no fork of this process, and has the interpreter elsewhere: where its ``parent``'s other
        forks have it, if it is a fork. ``thread``: where the state of the thread that runs the job is, when it is not
        that of the interpreter's first thread."""
        self._layout = _layout()
        try:
            self._memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            raise ProcessLookupError(f"process {pid} is gone") from None
        except OSError as error:
            raise UnreadableError(f"the memory of the job's process may not be read: {error.strerror}") from None
        self._codes: dict[tuple[int, bytes], _Code | None] = {}
        try:
            self._shift = _shift(pid, parent) if spawned else 0
            self._thread = thread or self._layout.thread + self._shift
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the process's memory."""
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def stack(self, until: str = "") -> list[RawFrame]:
        """The stack of the thread that runs the job, innermost first; empty when it could not be read now. It ends
        before the first frame of a file whose name begins with ``until``."""
        return self._stack_of(self._thread, until)

    def other_stacks(self, limit: int, until: str = "") -> list[list[RawFrame]]:
        """The stacks of up to ``limit`` threads that the job's own thread has started, newest first."""
        found: list[list[RawFrame]] = []
        threads: list[int] = []
        try:
            thread = self._pointer(self._thread + _NEWER_THREAD)
            while thread and len(threads) < 64 and thread not in threads:
                threads.append(thread)
                thread = self._pointer(thread + _NEWER_THREAD)
        except _LostError:
            pass
        for thread in reversed(threads):
            stack = self._stack_of(thread, until)
            if stack and len(found) < limit:
                found.append(stack)
        return found

    # -- reading

    def _stack_of(self, thread: int, until: str) -> list[RawFrame]:
        for _ in range(3):
            try:
                innermost = self._innermost(thread)
                frames = list(self._frames(innermost, until))
                if self._innermost(thread) == innermost:
                    return frames
            except _LostError:
                continue
        return []

    def _innermost(self, thread: int) -> int:
        address = thread
        for offset in self._layout.offsets.frame:
            address = self._pointer(address + offset)
        return address

    def _frames(self, frame: int, until: str = "") -> Iterator[RawFrame]:
        offsets = self._layout.offsets
        for _ in range(DEPTH):
            if not frame:
                return
            words = _EIGHT.unpack(self._read(frame, _EIGHT.size))
            code = words[offsets.code // 8]
            found = self._code(code)
            if found is not None:
                if until and found.filename.startswith(until):
                    return
                yield found.frame((words[offsets.instruction // 8] - code - self._layout.fields.size) // 2)
            frame = words[offsets.previous // 8]

    def _code(self, address: int) -> _Code | None:
        """What a frame runs; None for the interpreter's own frames between Python and C."""
        fields = self._layout.fields
        body = self._read(address, fields.size)
        key = (address, fields.identity(body))
        if key in self._codes:
            return self._codes[key]
        kind = _word(body, _TYPE) - self._shift
        if kind == id(type(None)):
            return None
        if kind != id(CodeType):
            raise _LostError
        filename, function = self._string(_word(body, fields.filename)), self._string(_word(body, fields.function))
        (first_line,) = struct.unpack_from("<i", body, fields.first_line)
        lines = self._bytes(_word(body, fields.lines))
        known = _Code(filename, function, lines, first_line) if filename != "<shim>" else None
        if len(self._codes) >= _CODES:
            self._codes.clear()
        self._codes[key] = known
        return known

    def _string(self, address: int) -> str:
        head = self._read(address, self._layout.offsets.text)
        if _word(head, _TYPE) - self._shift != id(str):
            raise _LostError
        length, (state,) = _word(head, _LENGTH), struct.unpack_from("<I", head, 32)
        if length > _NAME:
            raise _LostError
        # Bits 2 to 4 of the state are the bytes of a character, 5 says compact, 6 says ASCII.
        width = state >> 2 & 7
        if not state & 32 or width not in (1, 2, 4):
            raise _LostError
        beginning = self._layout.offsets.text + (0 if state & 64 else self._layout.compact)
        text = self._read(address + beginning, length * width) if length else b""
        return text.decode({1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[width], "replace")

    def _bytes(self, address: int) -> bytes:
        head = self._read(address, _BYTES)
        length = _word(head, _LENGTH)
        if _word(head, _TYPE) - self._shift != id(bytes) or length > _LINES:
            raise _LostError
        return self._read(address + _BYTES, length) if length else b""

    def _pointer(self, address: int) -> int:
        return _word(self._read(address, 8), 0)

    def _read(self, address: int, size: int) -> bytes:
        if not _LOWEST <= address < _HIGHEST:
            raise _LostError
        try:
            found = os.pread(self._memory, size, address)
        except OSError:
            raise _LostError from None
        if len(found) != size:
            raise _LostError
        return found


def _word(body: bytes, offset: int) -> int:
    return int.from_bytes(body[offset : offset + 8], "little")


# --------------------------------------------------------------------------------------------------------------- lines


def _lines(table: bytes, first_line: int) -> Iterator[tuple[int, int]]:
    """(code units, line) of each entry of a code object's location table; see Objects/locations.md of CPython."""
    line = first_line
    position = 0
    end = len(table)
    while position < end:
        head = table[position]
        position += 1
        kind = head >> 3 & 15
        delta = 0
        if kind in (13, 14):
            delta, position = _signed(table, position)
        elif 10 <= kind <= 12:
            delta = kind - 10
        line += delta
        yield (head & 7) + 1, 0 if kind == 15 else line
        while position < end and not table[position] & 128:
            position += 1


def _signed(table: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = table[position] if position < len(table) else 0
        position += 1
        value |= (byte & 63) << shift
        shift += 6
        if not byte & 64:
            return (-(value >> 1) if value & 1 else value >> 1), position


def _line(table: bytes, first_line: int, unit: int) -> int:
    """The line of a code unit; the first one when the frame is at its very beginning."""
    before = 0
    known = first_line
    for units, line in _lines(table, first_line):
        before += units
        if unit < before:
            return line or known
        known = line or known
    return first_line


# ------------------------------------------------------------------------------------------------------- this process


class _Layout(Struct, frozen=True):
    offsets: Offsets
    fields: _CodeFields
    thread: int  # the address of the state of the thread that asks, which is the one that forks horses
    compact: int  # bytes between the end of an ASCII string's head and the characters of one that is not ASCII


#: Strings whose characters have one, two and four bytes, and one that is ASCII.
_TEXTS = ["app/tasks.py", "caf\u00e9.py", "\u65e5\u672c.py", "\U0001f4e6.py"]
#: Of this process; the reason in words when its own stack could not be read right.
_known: tuple[int, _Layout | str] | None = None


def _layout() -> _Layout:
    """Found and tried once in each process. Raises UnreadableError."""
    global _known
    if _known is None or _known[0] != os.getpid():
        try:
            _known = (os.getpid(), _find_layout())
        except (UnreadableError, OSError, ImportError, AttributeError) as error:
            _known = (os.getpid(), str(error) or type(error).__name__)
    found = _known[1]
    if isinstance(found, str):
        raise UnreadableError(found)
    return found


def _find_layout() -> _Layout:
    offsets = _OFFSETS.get(sys.version_info[:2])
    if (
        offsets is None
        or sys.implementation.name != "cpython"
        or struct.calcsize("P") != 8
        or sys.byteorder != "little"
    ):
        raise UnreadableError(
            f"this version does not know the frames of {sys.implementation.name} {sys.version.split()[0]}"
        )
    import ctypes  # only in the process that looks at another one

    ctypes.pythonapi.PyThreadState_Get.restype = ctypes.c_void_p
    thread = ctypes.pythonapi.PyThreadState_Get()
    descriptor = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fields = _CodeFields.find(lambda address, size: os.pread(descriptor, size, address))
    finally:
        os.close(descriptor)
    # A string that is not ASCII has its UTF-8 length and text in its head, and one word more up to Python 3.11.
    layout = _Layout(offsets, fields, int(thread or 0), 24 if sys.version_info < (3, 12) else 16)
    _try(layout)
    return layout


def _try(layout: _Layout) -> None:
    """Reads this very stack, and compares. Raises UnreadableError when it is not the same."""
    reader = StackReader.__new__(StackReader)
    reader._layout, reader._codes, reader._shift = layout, {}, 0
    reader._memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            texts = [reader._string(id(text)) for text in _TEXTS]
            found = _read_self(reader)
        finally:
            reader.close()
    except _LostError:
        texts, found = [], []
    frame: FrameType | None = sys._getframe()
    expected: list[RawFrame] = []
    while frame is not None:
        expected.append(RawFrame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname))
        frame = frame.f_back
    # The frame of this function has gone on since; those that called it stand where they stood.
    if texts != _TEXTS or len(found) != len(expected) + 1 or found[2:] != expected[1:]:
        raise UnreadableError("the frames of this build of Python are not where they should be")


def _read_self(reader: StackReader) -> list[RawFrame]:
    address = reader._layout.thread
    for offset in reader._layout.offsets.frame:  # here and not in a function, whose frame would be gone afterwards
        address = int.from_bytes(os.pread(reader._memory, 8, address + offset), "little")
    return list(reader._frames(address))


#: Of the forks of a process.
_shifts: dict[int, int] = {}


def _shift(pid: int, parent: int) -> int:
    """How far the interpreter's own data lies from where this process has it. Raises UnreadableError."""
    known = _shifts.get(parent) if parent else None
    if known is not None:
        return known
    try:
        here, path = _base("self", id(CodeType))
        there, _ = _base(str(pid), 0, path)
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"process {pid} is gone") from None
    except OSError as error:
        raise UnreadableError(f"the map of the job's process may not be read: {error.strerror}") from None
    if parent:
        _shifts.clear()  # a witness has one worker
        _shifts[parent] = there - here
    return there - here


def _base(process: str, address: int, path: str = "") -> tuple[int, str]:
    """The lowest address at which a file is mapped: that at ``address``, or that of ``path``."""
    lowest: dict[str, int] = {}
    with open(f"/proc/{process}/maps", encoding="utf-8", errors="replace") as mapped:
        for line in mapped:
            parts = line.split(maxsplit=5)
            if len(parts) < 6:
                continue
            low, high = (int(each, 16) for each in parts[0].split("-"))
            name = parts[5].rstrip("\n")
            lowest.setdefault(name, low)
            if (path and name == path) or low <= address < high:
                return lowest[name], name
    raise UnreadableError("the job's process runs another interpreter")
