"""What the recorder counts: shapes of calls, their cells (one for each line that makes them), and calls in progress.

The accelerator has types of the same names and attributes, for its own recorder.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import CodeType
from typing import TYPE_CHECKING

from jobdoctor.capture.foreign import foreign
from jobdoctor.capture.layout import (
    C_BLOCKED,
    C_ITEMS,
    C_MAX_ROWS,
    C_RECEIVED,
    C_ROWS,
    C_ROWS_KNOWN,
    C_SENT,
    CELL_WORDS,
    CELLS_AT,
    WORD,
)

if TYPE_CHECKING:
    from jobdoctor.capture.reference import PythonRecorder

#: Flags of a call, for ``begin`` and ``end``.
NO_TIMEOUT = 1
NEW_CONNECTION = 2
BATCHED = 4
IDEMPOTENCY_KEY = 8
# Of the recorder's own.
IN_TRANSACTION = 16
CONCURRENT = 32
PASSTHROUGH = 64
CPU = 128
#: Flags of which a cell counts something.
COUNTED = NO_TIMEOUT | NEW_CONNECTION | BATCHED | IDEMPOTENCY_KEY | IN_TRANSACTION | CONCURRENT | CPU

CELL_WORD = CELLS_AT // WORD


class Shape:
    """An interned shape of call, good for the execution it was made in. Probes may keep it: a recorder that was reset
    since interns it again by itself."""

    __slots__ = ("cells", "channel", "codes", "generation", "identity", "reference", "trail")

    def __init__(self, identity: tuple[str, ...], channel: int, generation: object) -> None:
        self.identity = identity
        self.channel = channel
        self.generation = generation
        self.reference = 0
        self.cells: dict[int, Cell] = {}  # by code identity and instruction
        self.codes: list[CodeType] = []  # kept alive, so that no other one can have the identity
        #: How deep the application frame was, and two code objects on the way: the library's entry and one in between.
        self.trail: tuple[int, CodeType, int, CodeType] | None = None


class Cell:
    """All calls of one shape from one line."""

    __slots__ = ("at", "begun", "channel", "generation", "index", "recorder")

    def __init__(self, recorder: PythonRecorder, index: int, channel: int) -> None:
        self.recorder = recorder
        self.generation = recorder.generation
        self.index = index
        self.at = CELL_WORD + index * CELL_WORDS
        self.channel = channel
        self.begun = 0

    def add(
        self,
        rows: int | None = None,
        sent: int = 0,
        received: int = 0,
        items: int = 0,
        blocked_ns: int = 0,
    ) -> None:
        """What became known after a call ended, such as rows fetched. Never raises."""
        try:
            if self.generation is not self.recorder.generation:
                return
            words = self.recorder.words
            at = self.at
            if rows is not None and rows >= 0:
                words[at + C_ROWS_KNOWN] = 1
                words[at + C_ROWS] += rows
                if rows > words[at + C_MAX_ROWS]:
                    words[at + C_MAX_ROWS] = rows
            if sent:
                words[at + C_SENT] += sent
            if received:
                words[at + C_RECEIVED] += received
            if items:
                words[at + C_ITEMS] += items
            if blocked_ns > 0:
                words[at + C_BLOCKED] += blocked_ns
        except Exception as error:
            if foreign(error):
                raise


class Call:
    """One call in progress."""

    __slots__ = ("cell", "cpu", "ended", "flags", "generation", "params", "recorder", "slot", "start", "thread")

    recorder: PythonRecorder
    cell: Cell
    start: int
    cpu: int
    flags: int
    slot: int
    thread: int
    params: int
    generation: object
    ended: bool

    def end(
        self,
        error: BaseException | None = None,
        rows: int | None = None,
        sent: int = 0,
        received: int = 0,
        status: int = 0,
        items: int = 0,
        flags: int = 0,
        blocked_ns: int = 0,
    ) -> None:
        """The call is over. ``rows``: fetched or affected, None when not known; ``status``: an HTTP status; ``items``:
        parameter sets, commands or keys; ``blocked_ns``: of the call, known to be blocked by somebody else. Ending
        twice does nothing. Never raises."""
        recorder = self.recorder
        try:
            now = recorder.clock()
            if self.ended:
                return
            self.ended = True
            flags |= self.flags
            if not flags & PASSTHROUGH:
                inside.set(None)
            if self.generation is not recorder.generation:
                return
            if recorder.shared:
                with recorder.lock:
                    recorder.finish(self, now, flags, error, rows, sent, received, status, items, blocked_ns)
            else:
                recorder.finish(self, now, flags, error, rows, sent, received, status, items, blocked_ns)
        except Exception as failure:
            if foreign(failure):
                raise

    def let_through(self) -> None:
        """From now on calls inside this one are recorded too, as if it had begun with ``passthrough``: what it waited
        for is there, and the job works while it is still open (a response that is read bit by bit)."""
        recorder = self.recorder
        if not self.ended and not self.flags & PASSTHROUGH and self.generation is recorder.generation:
            with recorder.lock:
                self.flags |= PASSTHROUGH
                recorder.calls_in_flight -= 1
            if inside.get() is self:
                inside.set(None)


#: The recorded call that runs in this thread or task, None outside of one: what is called inside it is part of it.
inside: ContextVar[Call | None] = ContextVar("jobdoctor_call", default=None)
