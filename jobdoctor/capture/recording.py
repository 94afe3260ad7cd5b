"""Reads what a recorder wrote: at any instant, from any process, also after the writer was killed.

Positions are nanoseconds of the performance counter (``clock`` pairs them with the epoch); ``assemble`` makes them
relative to the execution. A cell that was never counted, a note that was never published, is not there.
"""

from __future__ import annotations

import mmap
import struct
from typing import Any, cast

from msgspec import Struct, field, msgpack

from jobdoctor.capture import relationships
from jobdoctor.capture.layout import (
    C_BATCHED,
    C_BLOCKED,
    C_CAPPED,
    C_CONCURRENT,
    C_COUNT,
    C_CPU_FIRST,
    C_CPU_FIRST_N,
    C_CPU_SAMPLED,
    C_CPU_SAMPLED_N,
    C_DISTINCT,
    C_ERRORS,
    C_FIRST,
    C_IDEMPOTENCY,
    C_IN_TRANSACTION,
    C_ITEMS,
    C_LAST,
    C_MAX,
    C_MAX_ROWS,
    C_MIN,
    C_NEW_CONNECTIONS,
    C_NO_TIMEOUT,
    C_RECEIVED,
    C_ROWS,
    C_ROWS_KNOWN,
    C_SENT,
    C_SHAPE,
    C_SITE,
    C_TOTAL,
    CELL_WORDS,
    CELLS,
    CELLS_AT,
    CHANNELS,
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
    MAGIC,
    NOTE_BYTES,
    NOTES_AT,
    PHASE_MARKS,
    PHASE_WORDS,
    PHASES,
    PHASES_AT,
    RESERVED_CELLS,
    SECRET_BYTES,
    SECRETS_AT,
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
    TALLY_WORDS,
    WORD,
)
from jobdoctor.model import Channel, Effect, Phase, Span, SpanGroup

_EFFECTS = frozenset({"read", "write", "transaction", "lock", "none", "unknown"})


class Note(Struct, frozen=True):
    """A rare fact: see ``Recorder.note``."""

    kind: str
    facts: dict[str, Any]


class InFlight(Struct, frozen=True):
    """A call that has begun and not ended. ``start_ns`` is of the performance counter."""

    channel: str
    operation: str
    fingerprint: str
    target: str
    start_ns: int
    thread: int


class Mark(Struct, frozen=True):
    """The beginning of a phase, with the CPU of the process, and the run-queue delay and CPU (0: not known) of the
    job's thread until then."""

    name: str
    at_ns: int
    cpu_ns: int
    runqueue_ns: int
    thread_cpu_ns: int = 0


class Recording(Struct, frozen=True):
    """One execution, as its own process saw it."""

    #: (epoch ns, performance counter ns) of one instant.
    clock: tuple[int, int]
    pid: int
    groups: list[SpanGroup]
    spans: list[Span]
    spans_dropped: int
    #: The call that was running when the recording ended, and its index in ``groups``.
    in_flight: Span | None
    in_flight_group: SpanGroup | None
    #: The last one may be open: its ``end_ns`` is 0.
    phases: list[Phase]
    notes: list[Note]
    marks: list[Mark]
    #: Wall time of the body (and of recordings without phases) by channel, disjoint: never more than the wall time.
    channel_ns: dict[str, int]
    #: Client-side CPU within calls, by channel, estimated.
    channel_cpu_ns: dict[str, int]
    #: The same wall time by channel, for each phase.
    phase_channel_ns: dict[str, dict[str, int]]
    gc_ns: int
    gc_count: int
    #: Of ``gc_ns``: while the body ran.
    gc_body_ns: int
    calls: int
    overhead_ns: int
    truncated: bool
    notes_dropped: int = 0
    suppressed: int = 0
    #: Of ``gc_ns`` and ``gc_count``: collections that looked at every object.
    gc_full_ns: int = 0
    gc_full_count: int = 0
    #: The latest instant that the recording knows of.
    last_ns: int = 0
    by_kind: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def facts(self, kind: str) -> list[dict[str, Any]]:
        """The notes of one kind, in order."""
        return self.by_kind.get(kind, [])


class _View:
    """The memory's words and texts."""

    def __init__(self, buffer: mmap.mmap | bytes | bytearray | memoryview) -> None:
        self.bytes = memoryview(buffer)
        self.words = self.bytes.cast("B").cast("q")
        self.texts: dict[int, str] = {}

    def text(self, reference: int) -> str:
        known = self.texts.get(reference)
        if known is None:
            start, length = reference >> 20, reference & 0xFFFFF
            if not 0 < start <= STRING_BYTES or start + length > STRING_BYTES:
                return ""
            known = bytes(self.bytes[STRINGS_AT + start : STRINGS_AT + start + length]).decode("utf-8", "replace")
            self.texts[reference] = known
        return known

    def shape(self, reference: int) -> list[str]:
        parts = self.text(reference).split("\0")
        return parts if len(parts) == 7 and parts[0] in CHANNELS else ["", "", "", "", "", "", ""]

    def log(self, start: int, used: int, limit: int) -> list[Any]:
        entries: list[Any] = []
        position, end = start, start + min(max(0, used), limit)
        while position + 4 <= end:
            length = int.from_bytes(self.bytes[position : position + 4], "little")
            position += 4
            if length == 0 or position + length > end:
                break
            try:
                entries.append(msgpack.decode(bytes(self.bytes[position : position + length])))
            except ValueError:
                break
            position += length
        return entries

    def release(self) -> None:
        self.words.release()
        self.bytes.release()


def _cpu_ns(words: memoryview, at: int, count: int) -> int:
    """The first calls' CPU was measured each, of later ones a sample: their mean stands for all of them."""
    first, first_n = words[at + C_CPU_FIRST], words[at + C_CPU_FIRST_N]
    sampled, sampled_n = words[at + C_CPU_SAMPLED], words[at + C_CPU_SAMPLED_N]
    rest = max(0, count - first_n)
    if rest and sampled_n:
        first += sampled * rest // sampled_n
    elif rest and first_n:
        first += first * rest // first_n
    return int(min(max(0, first), words[at + C_TOTAL]))


def _group(view: _View, at: int, tallies: dict[str, dict[str, int]]) -> SpanGroup:
    words = view.words
    channel, operation, fingerprint, target, library, effect, relationship = view.shape(words[at + C_SHAPE])
    relationship, load_strategy = relationships.parts(relationship)
    site = view.text(words[at + C_SITE]).split("\n")
    count = words[at + C_COUNT]
    return SpanGroup(
        channel=cast("Channel", channel),
        operation=operation,
        fingerprint=fingerprint,
        target=target,
        library=library,
        effect=cast("Effect", effect if effect in _EFFECTS else "unknown"),
        callsite=site[0],
        function=site[1] if len(site) > 1 else "",
        stack=site[2:],
        relationship=relationship,
        load_strategy=load_strategy,
        count=count,
        total_ns=words[at + C_TOTAL] if count else 0,
        min_ns=words[at + C_MIN],
        max_ns=words[at + C_MAX],
        cpu_ns=_cpu_ns(words, at, count),
        first_start_ns=words[at + C_FIRST],
        last_end_ns=words[at + C_LAST],
        errors=words[at + C_ERRORS],
        error_types=tallies.get("errors", {}),
        distinct=words[at + C_DISTINCT],
        distinct_capped=bool(words[at + C_CAPPED]),
        rows=words[at + C_ROWS] if words[at + C_ROWS_KNOWN] else None,
        max_rows=words[at + C_MAX_ROWS] if words[at + C_ROWS_KNOWN] else None,
        sent_bytes=words[at + C_SENT],
        received_bytes=words[at + C_RECEIVED],
        batched=words[at + C_BATCHED],
        items=words[at + C_ITEMS],
        in_transaction=words[at + C_IN_TRANSACTION],
        concurrent=words[at + C_CONCURRENT],
        no_timeout=words[at + C_NO_TIMEOUT],
        new_connections=words[at + C_NEW_CONNECTIONS],
        statuses=tallies.get("statuses", {}),
        idempotency_keys=words[at + C_IDEMPOTENCY],
        blocked_ns=words[at + C_BLOCKED],
    )


def _flights(words: memoryview) -> list[tuple[int, int, int, int]]:
    """(cell, start, thread, params) of the calls in flight, the one that matters most first: the job's own thread
    before others, then the call that began last (the innermost)."""
    slots = words[FLIGHTS_AT // WORD : FLIGHTS_AT // WORD + FLIGHTS * FLIGHT_WORDS]
    if not any(slots[::FLIGHT_WORDS].tolist()):
        return []
    area = slots.tolist()
    found = [
        (area[at] - 1, area[at + 1], area[at + 2], area[at + 3])
        for at in range(0, FLIGHTS * FLIGHT_WORDS, FLIGHT_WORDS)
        if 0 < area[at] <= CELLS
    ]
    found.sort(key=lambda flight: (flight[2] != 0, -flight[1]))
    return found


def _marks(words: memoryview) -> list[Mark]:
    marks = []
    for number in range(min(words[H_PHASES], PHASE_MARKS)):
        at = PHASES_AT // WORD + number * PHASE_WORDS
        index = words[at]
        if 0 <= index < len(PHASES):
            marks.append(Mark(PHASES[index], *words[at + 1 : at + PHASE_WORDS].tolist()))
    return marks


def _phases(marks: list[Mark]) -> list[Phase]:
    return [
        Phase(mark.name, mark.at_ns, marks[number + 1].at_ns if number + 1 < len(marks) else 0)
        for number, mark in enumerate(marks)
        if mark.name not in ("", "end")
    ]


def _channels(words: memoryview) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    width = len(CHANNELS)
    area = words[H_CHANNELS : H_CHANNELS + len(PHASES) * width].tolist()
    if any(area):
        for index, phase in enumerate(PHASES):
            row = area[index * width : (index + 1) * width]
            spent = {channel: ns for channel, ns in zip(CHANNELS, row, strict=True) if ns > 0}
            if spent:
                found[phase] = spent
    return found


_span_words = struct.Struct(f"@{SPAN_WORDS}q")


def read(buffer: mmap.mmap | bytes | bytearray | memoryview) -> Recording:
    """All that the recorder wrote. Memory that no recorder ever wrote gives an empty recording."""
    view = _View(buffer)
    try:
        return _read(view)
    finally:
        view.release()


def _read(view: _View) -> Recording:
    words = view.words
    if words[H_MAGIC] != MAGIC:
        return Recording((0, 0), 0, [], [], 0, None, None, [], [], [], {}, {}, {}, 0, 0, 0, 0, 0, False)
    # Lengths first: what is published later belongs to the next read.
    cells, spans_used, strings = words[H_CELLS], min(words[H_SPANS], SPANS), words[H_STRINGS]
    tallies: dict[int, dict[str, dict[str, int]]] = {}
    for number in range(min(words[H_TALLIES], TALLIES)):
        at = TALLIES_AT // WORD + number * TALLY_WORDS
        key, count = view.text(words[at + 1]), words[at + 2]
        if key and count:
            kind = "errors" if words[at] & 1 == TALLY_ERROR else "statuses"
            tallies.setdefault(words[at] >> 1, {}).setdefault(kind, {})[key] = count
    groups: list[SpanGroup] = []
    indexes: dict[int, int] = {}
    last_ns = words[H_PERF]
    if strings:
        for cell in (*range(min(cells, CELLS - RESERVED_CELLS)), *range(CELLS - RESERVED_CELLS, CELLS)):
            at = CELLS_AT // WORD + cell * CELL_WORDS
            if words[at + C_COUNT] > 0 and words[at + C_SHAPE]:
                group = _group(view, at, tallies.get(cell, {}))
                if group.channel:
                    indexes[cell] = len(groups)
                    groups.append(group)
                    last_ns = max(last_ns, group.last_end_ns)
    calls = sum(group.count for group in groups)
    spans = []
    for number in range(spans_used):
        cell, start, duration, mark, params, rows = _span_words.unpack_from(
            view.bytes, SPANS_AT + number * SPAN_WORDS * WORD
        )
        index = indexes.get(cell)
        if index is not None:
            spans.append(
                Span(
                    group=index,
                    start_ns=start,
                    duration_ns=duration,
                    thread=mark >> 8,
                    params=params,
                    error=bool(mark & SPAN_ERROR),
                    rows=rows - 1 if rows else None,
                    in_transaction=bool(mark & SPAN_IN_TRANSACTION),
                )
            )
    in_flight: Span | None = None
    in_flight_group: SpanGroup | None = None
    flights = _flights(words)
    for cell, start, thread, params in flights:
        last_ns = max(last_ns, start)
        if in_flight is None:
            at = CELLS_AT // WORD + cell * CELL_WORDS
            index = indexes.get(cell)
            group = groups[index] if index is not None else _group(view, at, {})
            if group.channel:
                if index is None:
                    # Begun and never ended: a group of no calls, so that the span has one to point at.
                    index = len(groups)
                    groups.append(group)
                in_flight = Span(group=index, start_ns=start, duration_ns=0, thread=thread, params=params)
                in_flight_group = group
    marks = _marks(words)
    phases = _phases(marks)
    for phase in phases:
        last_ns = max(last_ns, phase.start_ns, phase.end_ns)
    if marks:
        last_ns = max(last_ns, marks[-1].at_ns)
    notes = [
        Note(entry[0], entry[1])
        for entry in view.log(NOTES_AT, words[H_NOTES], NOTE_BYTES)
        if isinstance(entry, list) and len(entry) == 2
    ]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for note in notes:
        by_kind.setdefault(note.kind, []).append(note.facts)
    phase_channel_ns = _channels(words)
    channel_ns: dict[str, int] = {}
    for name in ("", "body"):
        for channel, ns in phase_channel_ns.get(name, {}).items():
            channel_ns[channel] = channel_ns.get(channel, 0) + ns
    channel_cpu_ns: dict[str, int] = {}
    for group in groups:
        if group.cpu_ns:
            channel_cpu_ns[group.channel] = channel_cpu_ns.get(group.channel, 0) + group.cpu_ns
    return Recording(
        clock=(words[H_EPOCH], words[H_PERF]),
        pid=words[H_PID],
        groups=groups,
        spans=spans,
        spans_dropped=max(0, calls - spans_used),
        in_flight=in_flight,
        in_flight_group=in_flight_group,
        phases=phases,
        notes=notes,
        marks=marks,
        channel_ns=channel_ns,
        channel_cpu_ns=channel_cpu_ns,
        phase_channel_ns=phase_channel_ns,
        gc_ns=words[H_GC_NS],
        gc_count=words[H_GC_COUNT],
        gc_body_ns=words[H_GC_BODY],
        gc_full_ns=words[H_GC_FULL_NS],
        gc_full_count=words[H_GC_FULL_COUNT],
        calls=calls,
        overhead_ns=calls * words[H_COST],
        truncated=bool(words[H_TRUNCATED]),
        notes_dropped=words[H_NOTES_DROPPED],
        suppressed=words[H_SUPPRESSED],
        last_ns=last_ns,
        by_kind=by_kind,
    )


def in_flight(buffer: mmap.mmap | bytes | bytearray | memoryview, before_ns: int | None = None) -> InFlight | None:
    """The call that runs now (the innermost one of the job's own thread first), or None; also when that call did not
    begin before ``before_ns``. Cheap: to be asked again and again, while the horse runs."""
    view = _View(buffer)
    try:
        words = view.words
        if words[H_MAGIC] != MAGIC:
            return None
        for cell, start, thread, _ in _flights(words):
            if before_ns is not None and start >= before_ns:
                return None
            channel, operation, fingerprint, target, *_ = view.shape(
                words[CELLS_AT // WORD + cell * CELL_WORDS + C_SHAPE]
            )
            if channel:
                return InFlight(channel, operation, fingerprint, target, start, thread)
        return None
    finally:
        view.release()


def writer(buffer: mmap.mmap | bytes | bytearray | memoryview) -> int:
    """The process that writes the recording, 0 when it has not begun."""
    view = _View(buffer)
    try:
        return int(view.words[H_PID])
    finally:
        view.release()


def secrets(buffer: mmap.mmap | bytes | bytearray | memoryview) -> list[tuple[str, str]]:
    """(backend, connection parameters) of the database sessions of this execution. Never to be stored or sent."""
    view = _View(buffer)
    try:
        entries = view.log(SECRETS_AT, view.words[H_SECRETS], SECRET_BYTES)
        return [(entry[0], entry[1]) for entry in entries if isinstance(entry, list) and len(entry) == 2]
    finally:
        view.release()
