"""The flight recorder's memory: what lies where. Written by the recorder, read by ``recording``.

Everything is native 64-bit words, aligned, so that a reader in another process sees each word old or new and never
half-written; variable-length areas are written first and published by their length word afterwards. The whole is
``SIZE`` bytes (1 MiB), of which only the pages that an execution needs are ever touched.

The accelerator takes every number from here when it is imported.
"""

from __future__ import annotations

MAGIC = 0x4A4F4244  # "JOBD"
VERSION = 2
SIZE = 1024 * 1024
WORD = 8

#: In the order of priority for the attribution of wall time: a call that runs inside, or beside, another one of a lower
#: priority is where the time goes.
CHANNELS = ("sql", "http", "redis", "enqueue", "mail", "subprocess", "file", "pool", "lock", "sleep")
CHANNEL_INDEX = {name: index for index, name in enumerate(CHANNELS)}
PHASES = ("", "setup", "deserialize", "import", "body", "callback", "result", "persist", "end")
PHASE_INDEX = {name: index for index, name in enumerate(PHASES)}
#: Calls made in these phases are RQ's own: they are not recorded.
SILENT_PHASES = frozenset({PHASE_INDEX["setup"], PHASE_INDEX["persist"], PHASE_INDEX["end"]})

# Header, in words.
H_MAGIC, H_VERSION, H_EPOCH, H_PERF, H_STRINGS, H_CELLS, H_SPANS = range(7)
H_NOTES, H_PHASES, H_SECRETS, H_GC_NS, H_GC_COUNT, H_GC_BODY, H_TRUNCATED, H_COST = range(7, 15)
H_TALLIES, H_SUPPRESSED, H_NOTES_DROPPED, H_PID, H_GC_FULL_NS, H_GC_FULL_COUNT = range(15, 21)
H_CHANNELS = 32  # [phase][channel], ns of wall time
HEADER_BYTES = 4096

# One cell, in words.
(
    C_SHAPE, C_SITE, C_COUNT, C_TOTAL, C_MIN, C_MAX, C_FIRST, C_LAST, C_ERRORS, C_DISTINCT, C_CAPPED, C_ROWS,
    C_ROWS_KNOWN, C_MAX_ROWS, C_SENT, C_RECEIVED, C_BATCHED, C_ITEMS, C_IN_TRANSACTION, C_CONCURRENT, C_NO_TIMEOUT,
    C_NEW_CONNECTIONS, C_IDEMPOTENCY, C_BLOCKED, C_CPU_FIRST, C_CPU_FIRST_N, C_CPU_SAMPLED, C_CPU_SAMPLED_N,
) = range(28)  # fmt: skip
CELL_WORDS = 28
CELLS = 640
#: Kept back for the overflow cell of each channel.
RESERVED_CELLS = 16
RESERVED_STRING_BYTES = 8 * 1024

FLIGHT_WORDS = 4  # cell index + 1 (0: free), start, thread, params
FLIGHTS = 64
SPAN_WORDS = 6  # cell, start, duration, thread << 8 | flags, params, rows + 1 (0: not known)
SPANS = 4096
TALLY_WORDS = 4  # cell << 1 | kind, reference of the key, count, unused
TALLIES = 512
PHASE_WORDS = 5  # index of the name, ns, CPU of the process ns, run-queue delay and CPU of the thread ns
PHASE_MARKS = 128
STRING_BYTES = 320 * 1024
NOTE_BYTES = 192 * 1024
SECRET_BYTES = 16 * 1024

FLIGHTS_AT = HEADER_BYTES
PHASES_AT = FLIGHTS_AT + FLIGHTS * FLIGHT_WORDS * WORD
TALLIES_AT = PHASES_AT + PHASE_MARKS * PHASE_WORDS * WORD
SECRETS_AT = TALLIES_AT + TALLIES * TALLY_WORDS * WORD
CELLS_AT = SECRETS_AT + SECRET_BYTES
SPANS_AT = CELLS_AT + CELLS * CELL_WORDS * WORD
STRINGS_AT = SPANS_AT + SPANS * SPAN_WORDS * WORD
NOTES_AT = STRINGS_AT + STRING_BYTES
END = NOTES_AT + NOTE_BYTES

SPAN_ERROR = 1
SPAN_IN_TRANSACTION = 2
TALLY_ERROR = 0
TALLY_STATUS = 1

#: The CPU of the first calls of a cell is measured each; of later ones, one in this many.
CPU_EVERY = 16
#: Distinct parameter sets counted exactly for each cell, and over all: three quarters of a table of 128 KiB at most, in
#: the process's own memory.
DISTINCT_PER_CELL = 1024
DISTINCT_TOTAL = 12_288
#: How a cell and its parameters become one word: odd numbers without structure (digits of the golden ratio and of pi).
DISTINCT_FACTOR = 0x9E37_79B9_7F4A_7C15
DISTINCT_CELL_FACTOR = 0x243F_6A88_85A3_08D3
