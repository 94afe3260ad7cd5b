"""The flight recorder in Python: what the accelerator is held against, the fall-back where there is none, and all that
is seldom done for both.

The accelerator's recorder is a subclass: its C core stands before this class and replaces what is done for each call
(``shape``, ``begin``, ``finish`` and what they need), on the same memory. Where threads could come between, this class
takes ``lock``; the core needs none, since nothing of it gives up the interpreter's own lock midway.

An exception that a signal handler raises while the recorder runs (RQ's job timeout is one) belongs to the job: it is
told apart (``foreign``) and let through. Everything else that fails in here is swallowed.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from _thread import RLock, get_ident  # not from threading, where they may be a probe's
from collections.abc import Callable
from typing import Any, ClassVar

from msgspec import msgpack

from jobdoctor.capture.calls import (
    BATCHED,
    CONCURRENT,
    COUNTED,
    CPU,
    IDEMPOTENCY_KEY,
    IN_TRANSACTION,
    NEW_CONNECTION,
    NO_TIMEOUT,
    PASSTHROUGH,
    Call,
    Cell,
    Shape,
    inside,
)
from jobdoctor.capture.callsites import Site, beyond_greenlets, site_of
from jobdoctor.capture.callsites import files as _files
from jobdoctor.capture.distinct import Distinct
from jobdoctor.capture.foreign import foreign
from jobdoctor.capture.layout import (
    C_BATCHED,
    C_CAPPED,
    C_CONCURRENT,
    C_COUNT,
    C_CPU_FIRST,
    C_CPU_SAMPLED,
    C_DISTINCT,
    C_ERRORS,
    C_FIRST,
    C_IDEMPOTENCY,
    C_IN_TRANSACTION,
    C_LAST,
    C_MAX,
    C_MIN,
    C_NEW_CONNECTIONS,
    C_NO_TIMEOUT,
    C_SHAPE,
    C_SITE,
    C_TOTAL,
    CELL_WORDS,
    CELLS,
    CELLS_AT,
    CHANNEL_INDEX,
    CHANNELS,
    CPU_EVERY,
    DISTINCT_PER_CELL,
    FLIGHT_WORDS,
    FLIGHTS,
    FLIGHTS_AT,
    H_CELLS,
    H_CHANNELS,
    H_COST,
    H_EPOCH,
    H_GC_BODY,
    H_GC_COUNT,
    H_GC_FULL_COUNT,
    H_GC_FULL_NS,
    H_GC_NS,
    H_MAGIC,
    H_NOTES,
    H_NOTES_DROPPED,
    H_PERF,
    H_PHASES,
    H_PID,
    H_SECRETS,
    H_SPANS,
    H_STRINGS,
    H_SUPPRESSED,
    H_TALLIES,
    H_TRUNCATED,
    H_VERSION,
    HEADER_BYTES,
    MAGIC,
    NOTE_BYTES,
    NOTES_AT,
    PHASE_INDEX,
    PHASE_MARKS,
    PHASE_WORDS,
    PHASES_AT,
    RESERVED_CELLS,
    RESERVED_STRING_BYTES,
    SECRET_BYTES,
    SECRETS_AT,
    SILENT_PHASES,
    SIZE,
    SPAN_ERROR,
    SPAN_IN_TRANSACTION,
    SPAN_WORDS,
    SPANS,
    SPANS_AT,
    STRING_BYTES,
    STRINGS_AT,
    TALLIES,
    TALLIES_AT,
    TALLY_ERROR,
    TALLY_STATUS,
    TALLY_WORDS,
    VERSION,
    WORD,
)

#: Shapes kept for one execution. Beyond them, and beyond the cells, calls are counted in one cell a channel.
SHAPES = CELLS
OTHER = "(other)"
#: From this many library frames on, looking at three frames is cheaper than walking all of them.
TRAIL_DEPTH = 6
#: Instructions that made calls, remembered for one execution: usually one or two for each cell. Beyond them, calls from
#: other places are counted in one cell a channel.
PLACES = 2 * CELLS
#: Threads that are told apart, and transactions that are open at one time.
_THREADS = 256
_TRANSACTIONS = 256
#: Notes of the kinds that can come without end leave this much for the rest.
_RESERVED_NOTE_BYTES = 32 * 1024
_NOTE_BYTES_EACH = 8 * 1024
_NOTES_OF_A_KIND = 512
_RARE_NOTES = frozenset({"exception", "result", "missing", "probe", "session"})
_POSITIVE = 0x7FFF_FFFF_FFFF_FFFF
OVER_BUDGET = 1  # of the truncated word

_FLIGHT_WORD = FLIGHTS_AT // WORD
_FLIGHT_START = FLIGHTS_AT + WORD
_FLIGHT_BYTES = FLIGHT_WORDS * WORD
_SPAN_BYTES = SPAN_WORDS * WORD
_TALLY_WORD = TALLIES_AT // WORD
TIMED_PHASES = frozenset({PHASE_INDEX["import"], PHASE_INDEX["body"]})
_PHASE_WORD = PHASES_AT // WORD

_pack_flight = struct.Struct("@3q").pack_into
_pack_span = struct.Struct("@6q").pack_into
_getframe = sys._getframe
_new_call = Call.__new__


def type_name(error: BaseException) -> str:
    """The dotted name of an exception's type; of built-in ones the bare name."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _strand() -> int:
    """The asyncio task, or else the thread, that runs now: what a transaction belongs to."""
    running_loop = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)  # absent while it is being imported
    if running_loop is not None and running_loop() is not None:
        task = sys.modules["asyncio"].current_task()
        if task is not None:
            return id(task)
    return get_ident()


def zero(buffer: mmap.mmap) -> None:
    """Makes a recorder's memory ready for the next execution: what was written is zeros again, the secrets too."""
    with memoryview(buffer) as view, view.cast("q") as words:
        if words[H_MAGIC] != MAGIC or words[H_VERSION] != VERSION:
            if any(words[:H_CHANNELS]):  # somebody else's; memory that is new has zeros only, and stays untouched
                view[:] = bytes(SIZE)
            return
        used = (
            (SECRETS_AT, words[H_SECRETS]),
            (CELLS_AT, words[H_CELLS] * CELL_WORDS * WORD),
            (CELLS_AT + (CELLS - RESERVED_CELLS) * CELL_WORDS * WORD, RESERVED_CELLS * CELL_WORDS * WORD),
            (SPANS_AT, words[H_SPANS] * SPAN_WORDS * WORD),
            (STRINGS_AT, words[H_STRINGS]),
            (NOTES_AT, words[H_NOTES]),
            (TALLIES_AT, words[H_TALLIES] * TALLY_WORDS * WORD),
            (PHASES_AT, words[H_PHASES] * PHASE_WORDS * WORD),
            (FLIGHTS_AT, FLIGHTS * FLIGHT_WORDS * WORD),
            (0, HEADER_BYTES),  # last: until then it says what there is to be zeroed
        )
        for start, length in used:
            length = min(max(0, length), SIZE - start)
            # One word more: a process that was killed may have written it without publishing it.
            length = min(length + SPAN_WORDS * WORD, SIZE - start)
            view[start : start + length] = bytes(length)


_costs: dict[type, int] = {}


class PythonRecorder:
    """Writes one execution at a time into ``buffer`` (see ``open_memory``).

    ``clock`` gives nanoseconds; the default is comparable between processes of one machine (CLOCK_MONOTONIC). A
    recorder made over memory that holds an execution starts afresh: read with ``recording``, which needs no recorder.
    """

    #: What the recorder makes of calls; the accelerator's has types of its own.
    shape_type: ClassVar[type[Shape]] = Shape
    cell_type: ClassVar[type[Cell]] = Cell

    def __init__(
        self,
        buffer: mmap.mmap,
        clock: Callable[[], int] = time.perf_counter_ns,
        cpu_clock: Callable[[], int] = time.process_time_ns,
        thread_clock: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self.buffer = buffer
        self.clock = clock
        self.thread_clock = thread_clock
        self._cpu_clock = cpu_clock
        self._schedule: int | None = None
        self._cost_ns = self.calibrate()
        self.words = memoryview(buffer).cast("q")
        self.lock = RLock()
        self._attach(buffer)
        zero(self.buffer)
        self._forget()

    # -- life

    def _attach(self, buffer: mmap.mmap) -> None:
        """The core's own way to the memory."""

    def _detach(self) -> None:
        """The core lets go of the memory."""

    def reset(self) -> None:
        """Make ready for the next execution: every area is zeroed, the secrets too."""
        with self.lock:
            self._close_schedule()
            zero(self.buffer)
            self._forget()

    def _forget(self) -> None:
        self._forget_calls()
        self._shapes: dict[tuple[str, ...], Shape] = {}
        self._cells = 0
        self._cells_at: dict[int, Cell] = {}  # by the hash of shape and place: the texts are in the memory already
        self._strings: dict[int, int] = {}  # references by the hash of their text
        self._others: dict[int, Cell] = {}
        self._tallies: dict[tuple[int, int], int] = {}
        self._notes_of: dict[str, int] = {}
        self._threads: dict[int, int] = {}
        self._open: dict[int, int] = {}  # transactions of each thread or task
        self._owners: dict[int, int] = {}  # of a connection's transaction
        self.shared = False  # more than one thread makes calls: from then on they take the lock
        self.forked = False  # the job has forked processes of its own
        self.phase = 0
        self.home: Any = None  # the function that runs: the callsite of calls that no application frame makes
        self.silent = False  # a phase of RQ's own: its calls are not recorded
        self._stamp()

    def _stamp(self) -> None:
        words = self.words
        words[H_STRINGS] = 1  # so that a reference of 0 means none
        words[H_EPOCH] = time.time_ns()
        words[H_PERF] = self.clock()
        words[H_COST] = self._cost_ns
        words[H_VERSION] = VERSION
        words[H_MAGIC] = MAGIC

    def _forget_calls(self) -> None:
        """The state of what is in flight, of which the core keeps its own."""
        self.generation = object()
        self.spans = 0
        self.flight = [0] * len(CHANNELS)
        self.busy = 0
        self.calls_in_flight = 0
        self.top = 0
        self.last = 0
        self.slots = list(range(FLIGHTS - 1, -1, -1))
        self.channels_at = H_CHANNELS
        self._places = 0
        self._distinct = Distinct()

    def renew(self) -> None:
        """In the process that runs a job, with a recorder that its parent made long before, and never used: the memory
        may have been cleared since, or not have been."""
        if self.words[H_MAGIC]:
            self.reset()
        else:
            self._stamp()

    def release(self) -> None:
        """Let go of the buffer, so that it can be closed. The recorder is of no use afterwards."""
        self._close_schedule()
        self._detach()
        self.words.release()

    def _close_schedule(self) -> None:
        if self._schedule is not None and self._schedule >= 0:
            os.close(self._schedule)
        self._schedule = None

    def began(self) -> None:
        """The execution begins, in this process and thread."""
        self.words[H_PID] = os.getpid()
        self._threads = {get_ident(): 0}
        inside.set(None)

    @classmethod
    def calibrate(cls) -> int:
        """Cost of one begin/end pair in this process, ns, measured once (under a millisecond): the fastest of ten
        batches, because what else the machine does is no cost of ours."""
        if cls not in _costs:
            _costs[cls] = 1  # the scratch recorder asks for it too
            scratch = cls(mmap.mmap(-1, SIZE))
            shape = scratch.shape("sleep", "calibrate", "calibrate")
            fastest = 0
            for _ in range(10):
                began = time.perf_counter_ns()
                for number in range(10):
                    call = scratch.begin(shape, params=number)
                    if call is not None:
                        call.end(rows=1)
                spent = (time.perf_counter_ns() - began) // 10
                fastest = min(fastest or spent, spent)
            _costs[cls] = max(1, fastest)
            scratch.release()
        return _costs[cls]

    # -- strings and cells

    def _string(self, text: str, reserve: int = RESERVED_STRING_BYTES) -> int:
        """A reference (offset and length in one word) to the text, 0 when there is no room."""
        data = text.encode("utf-8", "replace")
        digest = hash(data)
        known = self._strings.get(digest)
        if known is not None:
            start = STRINGS_AT + (known >> 20)
            if self.buffer[start : start + (known & 0xFFFFF)] == data:
                return known
        used = self.words[H_STRINGS]
        if used + len(data) > STRING_BYTES - reserve:
            self.words[H_TRUNCATED] |= OVER_BUDGET
            return 0
        start = STRINGS_AT + used
        self.buffer[start : start + len(data)] = data
        self.words[H_STRINGS] = used + len(data)
        reference = used << 20 | len(data)
        self._strings[digest] = reference
        return reference

    def shape(
        self,
        channel: str,
        operation: str,
        fingerprint: str,
        *,
        target: str = "",
        library: str = "",
        effect: str = "unknown",
        relationship: str = "",
    ) -> Shape:
        """The interned shape of a call. Beyond ``SHAPES`` shapes: the overflow shape of the channel, "(other)"."""
        identity = (channel, operation, fingerprint, target, library, effect, relationship)
        shape = self._shapes.get(identity)
        return shape if shape is not None else self._intern(identity)

    def _intern(self, identity: tuple[str, ...]) -> Shape:
        with self.lock:
            shape = self._shapes.get(identity)
            if shape is None:
                if len(self._shapes) >= SHAPES and identity[2] != OTHER:
                    self.words[H_TRUNCATED] |= OVER_BUDGET
                    return self._intern((identity[0], OTHER, OTHER, "", "", "unknown", ""))
                shape = self.shape_type(identity, CHANNEL_INDEX[identity[0]], self.generation)
                self._shapes[identity] = shape
            return shape

    def _find_cell(self, shape: Shape, key: int, frame: Any) -> Cell:
        """The cell of a call seen for the first time from this instruction."""
        with self.lock:
            if self._places >= PLACES:
                return self._other_cell(shape.channel)
            cell = self._cell_at(shape, frame)
            self._places += 1
            shape.cells[key] = cell
            shape.codes.append(frame.f_code)
            return cell

    def _cell_at(self, shape: Shape, frame: Any) -> Cell:
        """The cell of a shape's calls from the line where ``frame`` is."""
        with self.lock:
            site = site_of(frame, self.home)
            place = hash((shape.identity, site.callsite, site.function))
            cell = self._cells_at.get(place)
            if cell is None:
                self._cells_at[place] = cell = self._new_cell(shape, site)
            return cell

    def _new_cell(self, shape: Shape, site: Site) -> Cell:
        words = self.words
        if self._cells < CELLS - RESERVED_CELLS and shape.identity[2] != OTHER:
            if not shape.reference:
                shape.reference = self._string("\0".join(shape.identity))
            where = self._string("\n".join([site.callsite, site.function, *site.stack]))
            if shape.reference and where:
                cell = self.cell_type(self, self._cells, shape.channel)
                words[cell.at + C_SITE] = where
                words[cell.at + C_SHAPE] = shape.reference
                self._cells += 1
                words[H_CELLS] = self._cells
                return cell
        return self._other_cell(shape.channel)

    def _other_cell(self, channel: int) -> Cell:
        """The cell of a channel's calls that there is no room to tell apart."""
        with self.lock:
            words = self.words
            words[H_TRUNCATED] |= OVER_BUDGET
            other = self._others.get(channel)
            if other is None:
                other = self.cell_type(self, CELLS - RESERVED_CELLS + channel, channel)
                identity = "\0".join((CHANNELS[channel], OTHER, OTHER, "", "", "unknown", ""))
                words[other.at + C_SHAPE] = self._string(identity, reserve=0)
                self._others[channel] = other
            return other

    def _tally_at(self, cell: int, kind: int, fact: object) -> int:
        """The word that counts a keyed fact of a cell, an error's type or a status; 0 when there is no room."""
        with self.lock:
            words = self.words
            reference = self._string(type_name(fact) if isinstance(fact, BaseException) else str(fact))
            entry = (cell << 1 | kind, reference)
            at = self._tallies.get(entry)
            if at is None:
                used = words[H_TALLIES]
                if used >= TALLIES or not reference:
                    words[H_TRUNCATED] |= OVER_BUDGET
                    return 0
                at = _TALLY_WORD + used * TALLY_WORDS
                words[at] = entry[0]
                words[at + 1] = reference
                words[H_TALLIES] = used + 1
                self._tallies[entry] = at + 2
                return at + 2
            return at

    # -- calls

    def begin(self, shape: Shape, *, params: int = 0, flags: int = 0, passthrough: bool = False) -> Call | None:
        """A call begins now. None: it is not to be recorded (it runs inside another recorded call of this thread or
        task, which is counted instead, or in one of RQ's own phases); the probe just calls the original.

        ``params``: any hash of the parameters, 0 for none. ``passthrough``: calls inside this one are recorded too, and
        where the wall time goes is decided by the channels' priority.
        """
        try:
            outer = inside.get()
            if outer is not None and not outer.ended and outer.recorder is self:
                return None
            if self.silent:
                return None
            if shape.generation is not self.generation:
                shape = self._intern(shape.identity)
            # The first application frame: where it was the last time, if the way there is the same, or else by a walk,
            # which ends at it or with an AttributeError above the outermost one.
            frame: Any = None
            key = 0
            trail = shape.trail
            if trail is not None:
                try:
                    frame = _getframe(trail[0])
                    if (
                        _files[frame.f_code.co_filename]
                        and _getframe(trail[0] - 1).f_code is trail[1]
                        and _getframe(trail[2]).f_code is trail[3]
                    ):
                        key = frame.f_lasti << 48 | id(frame.f_code)
                except ValueError:  # the stack is not that deep
                    pass
            if not key:
                frame = _getframe(1)
                depth = 1
                try:
                    while not _files[frame.f_code.co_filename]:
                        frame = frame.f_back
                        depth += 1
                    key = frame.f_lasti << 48 | id(frame.f_code)
                    if depth >= TRAIL_DEPTH:
                        middle = depth // 2
                        shape.trail = (depth, _getframe(depth - 1).f_code, middle, _getframe(middle).f_code)
                except AttributeError:
                    frame = beyond_greenlets()
                    if frame is not None:
                        key = frame.f_lasti << 48 | id(frame.f_code)
            cell = shape.cells.get(key)
            if cell is None:
                cell = self._find_cell(shape, key, frame if frame is not None else _getframe(1))
            call = _new_call(Call)
            call.recorder = self
            call.generation = self.generation
            call.cell = cell
            call.ended = False
            call.params = params = params & _POSITIVE
            ident = get_ident()
            thread = self._threads.get(ident)
            call.thread = thread if thread is not None else self._number(ident)
            if passthrough:
                flags |= PASSTHROUGH
            if self._open and _strand() in self._open:
                flags |= IN_TRANSACTION
            if self.shared:
                with self.lock:
                    self.launch(call, cell, flags, params)
            else:
                self.launch(call, cell, flags, params)
            return call
        except Exception as error:
            inside.set(None)
            if foreign(error):
                raise
            return None

    def launch(self, call: Call, cell: Cell, flags: int, params: int) -> None:
        """The part of ``begin`` that other threads must not come between."""
        if not flags & PASSTHROUGH:
            inside.set(call)
        call.start = now = self.clock()
        # Nothing fails from here on.
        if params:
            self._count_distinct(cell, params)
        if self.calls_in_flight:
            flags |= CONCURRENT
        begun = cell.begun + 1
        cell.begun = begun
        if begun <= CPU_EVERY or not begun % CPU_EVERY:
            flags |= CPU
        call.flags = flags
        slots = self.slots
        call.slot = slot = slots.pop() if slots else -1
        channel = cell.channel
        if not flags & PASSTHROUGH:
            self.calls_in_flight += 1
        if self.busy:
            self.words[self.channels_at + self.top] += now - self.last
            if channel < self.top:
                self.top = channel
        else:
            self.top = channel
        self.busy += 1
        self.flight[channel] += 1
        self.last = now
        if slot >= 0:
            # What is in flight first, that something is last.
            _pack_flight(self.buffer, _FLIGHT_START + slot * _FLIGHT_BYTES, now, call.thread, params)
            self.words[_FLIGHT_WORD + slot * FLIGHT_WORDS] = cell.index + 1
        if flags & CPU:
            call.cpu = self.thread_clock()

    def finish(
        self,
        call: Call,
        now: int,
        flags: int,
        error: BaseException | None,
        rows: int | None,
        sent: int,
        received: int,
        status: int,
        items: int,
        blocked_ns: int,
    ) -> None:
        """The part of ``end`` that other threads must not come between: the attribution of wall time, the cell with
        its count last, then the span. The call is in flight until it is counted."""
        cell = call.cell
        error_at = self._tally_at(cell.index, TALLY_ERROR, error) if error is not None else 0
        status_at = self._tally_at(cell.index, TALLY_STATUS, status) if status else 0
        at = cell.at
        words = self.words
        start = call.start
        duration = now - start
        if duration < 0:
            duration = 0
        channel = cell.channel
        top = self.top
        words[self.channels_at + top] += now - self.last
        self.last = now
        self.busy -= 1
        flight = self.flight
        flight[channel] -= 1
        if self.busy and not flight[top]:
            self.top = next((index for index, count in enumerate(flight) if count), 0)
        if not flags & PASSTHROUGH:
            self.calls_in_flight -= 1
        words[at + C_TOTAL] += duration
        words[at + C_LAST] = now
        count = words[at + C_COUNT]
        if not count:
            words[at + C_FIRST] = start
            words[at + C_MAX] = words[at + C_MIN] = duration  # the maximum first: it may be killed in between
        elif duration > words[at + C_MAX]:
            words[at + C_MAX] = duration
        elif duration < words[at + C_MIN]:
            words[at + C_MIN] = duration
        if flags & COUNTED:
            self._count_flags(call, at, flags, duration)
        if rows is not None or sent or received or items or blocked_ns:
            cell.add(rows, sent, received, items, blocked_ns if blocked_ns < duration else duration)
        if error is not None:
            words[at + C_ERRORS] += 1
        if error_at:
            words[error_at] += 1
        if status_at:
            words[status_at] += 1
        words[at + C_COUNT] = count + 1
        slot = call.slot
        if slot >= 0:
            words[_FLIGHT_WORD + slot * FLIGHT_WORDS] = 0
            self.slots.append(slot)
        spans = self.spans
        if spans < SPANS:
            mark = call.thread << 8
            if error is not None:
                mark |= SPAN_ERROR
            if flags & IN_TRANSACTION:
                mark |= SPAN_IN_TRANSACTION
            _pack_span(
                self.buffer,
                SPANS_AT + spans * _SPAN_BYTES,
                cell.index,
                start,
                duration,
                mark,
                call.params,
                0 if rows is None or rows < 0 else rows + 1,
            )
            self.spans = spans + 1
            words[H_SPANS] = spans + 1

    def _count_flags(self, call: Call, at: int, flags: int, duration: int) -> None:
        words = self.words
        if flags & CPU:
            cpu = self.thread_clock() - call.cpu
            # With another call in flight in between, the thread's CPU is not this call's alone (asyncio).
            if not flags & CONCURRENT and not self.calls_in_flight and cpu >= 0:
                first = at + (C_CPU_FIRST if call.cell.begun <= CPU_EVERY else C_CPU_SAMPLED)
                words[first] += cpu if cpu < duration else duration
                words[first + 1] += 1
        if flags & IN_TRANSACTION:
            words[at + C_IN_TRANSACTION] += 1
        if flags & CONCURRENT:
            words[at + C_CONCURRENT] += 1
        if flags & NO_TIMEOUT:
            words[at + C_NO_TIMEOUT] += 1
        if flags & BATCHED:
            words[at + C_BATCHED] += 1
        if flags & NEW_CONNECTION:
            words[at + C_NEW_CONNECTIONS] += 1
        if flags & IDEMPOTENCY_KEY:
            words[at + C_IDEMPOTENCY] += 1

    def _number(self, ident: int) -> int:
        """The number of a thread that makes its first call."""
        with self.lock:
            known = len(self._threads)
            self.shared = known > 0
            return self._threads.setdefault(ident, known) if known < _THREADS else _THREADS - 1

    def _count_distinct(self, cell: Cell, params: int) -> None:
        words = self.words
        at = cell.at
        new = self._distinct.add(cell.index, params, words[at + C_DISTINCT] < DISTINCT_PER_CELL)
        if new:
            words[at + C_DISTINCT] += 1
        elif new is None:
            words[at + C_CAPPED] = 1

    def transaction(self, connection_key: int, open: bool) -> None:  # noqa: A002
        """A database transaction of this thread (or asyncio task) begins or ends on a connection."""
        try:
            strand = _strand()
            with self.lock:
                # It may end in another task or thread than the one it began in (a pool's reset on return).
                owner = self._owners.pop(connection_key, None)
                if owner is not None:
                    left = self._open[owner] - 1
                    if left:
                        self._open[owner] = left
                    else:
                        del self._open[owner]
                if open and len(self._owners) < _TRANSACTIONS:
                    self._owners[connection_key] = strand
                    self._open[strand] = self._open.get(strand, 0) + 1
        except Exception as error:
            if foreign(error):
                raise

    def _enter(self, phase: int, now: int) -> None:
        """What is in flight belongs to the phase before until now, to this one from now on."""
        if self.busy:
            self.words[self.channels_at + self.top] += now - self.last
            self.last = now
        self.channels_at = H_CHANNELS + phase * len(CHANNELS)

    # -- phases, notes, secrets

    def mark(self, name: str) -> None:
        """A phase begins, one of ``layout.PHASES``; "end" closes the last one. To be called in the thread that runs
        the job. Its CPU and run-queue delay and the CPU of the process are read where the first phase begins, and where
        "import" and "body" begin and end; elsewhere nobody asks for them. Calls made in "setup", "persist" and after
        "end" are RQ's own and are not recorded."""
        try:
            index = PHASE_INDEX[name]
            with self.lock:
                now = self.clock()
                words = self.words
                self._enter(index, now)
                used = words[H_PHASES]
                timed = not used or index in TIMED_PHASES or self.phase in TIMED_PHASES
                self.phase = index
                self.silent = index in SILENT_PHASES
                if used < PHASE_MARKS:
                    at = _PHASE_WORD + used * PHASE_WORDS
                    words[at] = index
                    words[at + 1] = now
                    if timed:
                        words[at + 2] = self._cpu_clock()
                        words[at + 4], words[at + 3] = self._scheduled()
                    words[H_PHASES] = used + 1
                else:
                    words[H_TRUNCATED] |= OVER_BUDGET
            inside.set(None)
        except Exception as error:
            if foreign(error):
                raise

    def _scheduled(self) -> tuple[int, int]:
        """CPU and run-queue delay of this thread so far, ns; 0 where the kernel does not say."""
        if self._schedule is None:
            try:
                self._schedule = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._schedule = -1
        if self._schedule < 0:
            return 0, 0
        try:
            cpu, delay, _ = os.pread(self._schedule, 64, 0).split()
            return int(cpu), int(delay)
        except (OSError, ValueError):
            return 0, 0

    def note(self, kind: str, /, **facts: Any) -> None:
        """A rare fact, JSON-like. Bounded: beyond the room for its kind it is counted as dropped."""
        try:
            data = msgpack.encode([kind, facts])
            with self.lock:
                words = self.words
                used = words[H_NOTES]
                rare = kind in _RARE_NOTES
                seen = self._notes_of.get(kind, 0)
                room = NOTE_BYTES if rare else NOTE_BYTES - _RESERVED_NOTE_BYTES
                if len(data) > _NOTE_BYTES_EACH or used + 4 + len(data) > room or seen >= _NOTES_OF_A_KIND:
                    words[H_NOTES_DROPPED] += 1
                    words[H_TRUNCATED] |= OVER_BUDGET
                    return
                self._notes_of[kind] = seen + 1
                start = NOTES_AT + used
                self.buffer[start : start + 4 + len(data)] = len(data).to_bytes(4, "little") + data
                words[H_NOTES] = used + 4 + len(data)
        except Exception as error:
            if foreign(error):
                raise

    def secret(self, backend: str, conninfo: str) -> None:
        """Connection parameters of a database session, for the lock observer in the parent: kept in memory only, apart
        from the notes, zeroed by ``reset``."""
        try:
            data = msgpack.encode([backend, conninfo])
            with self.lock:
                used = self.words[H_SECRETS]
                if used + 4 + len(data) > SECRET_BYTES:
                    return
                start = SECRETS_AT + used
                self.buffer[start : start + 4 + len(data)] = len(data).to_bytes(4, "little") + data
                self.words[H_SECRETS] = used + 4 + len(data)
        except Exception as error:
            if foreign(error):
                raise

    def gc_pause(self, ns: int, full: bool = False) -> None:
        """A garbage collection took ``ns``. ``full``: it looked at every object, not at young ones only."""
        words = self.words
        words[H_GC_NS] += ns
        words[H_GC_COUNT] += 1
        if full:
            words[H_GC_FULL_NS] += ns
            words[H_GC_FULL_COUNT] += 1
        if self.phase in (0, PHASE_INDEX["body"]):
            words[H_GC_BODY] += ns

    def suppressed(self) -> None:
        """A call was seen and deliberately not recorded (a nested recording, for instance)."""
        self.words[H_SUPPRESSED] += 1
