"""The largest execution that the recorder keeps, in a process of its own; prints what it takes, in bytes.

A library with many functions makes the calls, so that there are as many places, shapes, parameters and threads as the
recorder remembers, and every log of the memory is full.
"""

from __future__ import annotations

import gc
import os
import sys
from types import FunctionType
from typing import Any

from jobdoctor.capture import layout, recorder, recording, reference

ERRORS = [type(f"Error{number}", (Exception,), {}) for number in range(8)]


def call(rec: recorder.Recorder, shape: recorder.Shape, number: int) -> None:
    """More parameters than are kept, and more errors and statuses."""
    for again in range(13):
        error = ERRORS[number % 8]() if again == 0 else None
        rec.begin(shape, params=number * 13 + again + 1).end(error, status=200 + number % 9)  # type: ignore[union-attr]


def functions() -> list[Any]:
    """As many functions, each on a line of its own, as there are cells; without what compiling them would leave."""
    return [
        FunctionType(
            call.__code__.replace(co_filename="/app/tasks.py", co_name=f"call_{number}", co_firstlineno=number * 20),
            globals(),
        )
        for number in range(layout.CELLS)
    ]


def fill(rec: recorder.Recorder, places: list[Any]) -> None:
    """Beyond every limit of the recorder."""
    rec.mark("body")
    for number, function in enumerate(places):
        function(rec, rec.shape("sql", "SELECT", f"SELECT * FROM orders_{number} WHERE id = ? {'x' * 100}"), number)
    for number, function in enumerate(places):
        function(rec, rec.shape("http", "GET", f"GET http://api/{number}"), number)
    for number in range(layout.PHASE_MARKS + 1):
        rec.mark("body" if number % 2 else "import")
    for number in range(2 * reference._TRANSACTIONS):
        rec.transaction(number, True)
    for number in range(10_000):
        rec._number(number)
        rec.note(f"kind {number % 9}", text="x" * 300)
        rec.secret("postgresql://db/app", "host=db " * 10)


def resident() -> int:
    """Bytes of this process's own, and of shared, memory that are in RAM."""
    with open("/proc/self/status") as status:
        facts = dict(line.split(":", 1) for line in status)
    return 1024 * sum(int(facts[name].split()[0]) for name in ("RssAnon", "RssShmem"))


def main() -> None:
    """Uses a recorder a little to warm up, and then fills another in a forked process, as in a horse."""
    kind = recorder.PythonRecorder if sys.argv[1] == "python" else recorder.Recorder
    places = functions()
    first = kind(recorder.open_memory().buffer)
    fill(first, places[:8])
    first.release()
    del first
    memory = recorder.open_memory()
    rec = kind(memory.buffer)
    if os.fork() == 0:
        gc.collect()
        before = resident()
        fill(rec, places)
        gc.collect()
        grown = resident() - before
        read = recording.read(memory.buffer)
        assert len(read.groups) > 0.95 * layout.CELLS
        assert len(read.spans) == layout.SPANS
        assert any(group.distinct_capped for group in read.groups)
        print(grown, flush=True)
        os._exit(0)
    os.wait()


main()
