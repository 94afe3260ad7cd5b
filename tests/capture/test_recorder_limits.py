"""The recorder at its limits: millions of calls, the largest execution, kills at any moment
(``JOBDOCTOR_TEST_KILLS`` of each recorder, 200 when it is not set); both recorders compared.
"""

from __future__ import annotations

import gc
import itertools
import mmap
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobdoctor.capture import layout, recorder, recording
from jobdoctor.capture.recorder import PythonRecorder, Recorder
from tests.capture.children import in_a_fork
from tests.capture.test_recorder import FakeClock, kind, query

__all__ = ["kind"]  # the fixture

accelerated = pytest.mark.skipif(not recorder.ACCELERATED, reason="the accelerator was not built")


def test_millions_of_calls_are_counted_exactly(kind: type[Recorder]) -> None:
    calls = 50_000 if kind is PythonRecorder else 5_000_000
    rec = kind(recorder.open_memory().buffer)
    shapes = [query(rec, f"SELECT {number}") for number in range(10)]
    for shape, number in zip(itertools.cycle(shapes), range(1, calls + 1), strict=False):
        rec.begin(shape, params=number).end(rows=1)  # type: ignore[union-attr]
    read = recording.read(rec.buffer)
    assert [(group.count, group.rows) for group in read.groups] == [(calls // 10, calls // 10)] * 10
    assert all(group.distinct == layout.DISTINCT_PER_CELL and group.distinct_capped for group in read.groups)
    assert (read.calls, len(read.spans), read.spans_dropped) == (calls, layout.SPANS, calls - layout.SPANS)


def test_the_largest_execution_takes_two_mebibytes_at_most(kind: type[Recorder]) -> None:
    script = Path(__file__).with_name("worst_case.py")
    name = "python" if kind is PythonRecorder else "c"
    root = str(script.parent.parent.parent)
    done = subprocess.run(
        [sys.executable, str(script), name],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert layout.SIZE // 2 < int(done.stdout) <= 2 * 1024 * 1024


# ------------------------------------------------------------------------------------------------------------- kills


def test_a_thousand_kills_at_random_moments(kind: type[Recorder]) -> None:
    """Five hundred for each of the two recorders, by a process that is small to fork (tests/capture/kills.py)."""
    kills = int(os.environ.get("JOBDOCTOR_TEST_KILLS", "500"))
    root = str(Path(__file__).parent.parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "tests.capture.kills", "python" if kind is PythonRecorder else "c", str(kills)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.returncode == 0, done.stderr
    killed, counted, running = map(int, done.stdout.split())
    assert killed == kills
    assert counted > kills * 0.4, "too many died before their first call to say much"
    assert running > kills * 0.04, "too few died within a call to say much"


# --------------------------------------------------------------------------------------------- one is as the other

_facts = st.fixed_dictionaries(
    {},
    optional={
        "rows": st.integers(-1, 5) | st.none(),
        "sent": st.integers(0, 9),
        "received": st.integers(0, 9),
        "items": st.integers(0, 3),
        "blocked_ns": st.integers(-5, 50),
    },
)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, 5), st.integers(0, 40), st.integers(0, 15), st.booleans()),
        st.tuples(st.just("end"), st.integers(0, 5), _facts, st.integers(0, 2), st.sampled_from([0, 200, 503])),
        st.tuples(st.just("through"), st.integers(0, 5)),
        st.tuples(st.just("add"), st.integers(0, 5), _facts),
        st.tuples(st.just("mark"), st.sampled_from(["import", "body", "callback", "persist"])),
        st.tuples(st.just("transaction"), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("wait"), st.integers(0, 100)),
    ),
    max_size=60,
)


def _run(rec: Recorder, clock: FakeClock, steps: list[tuple[Any, ...]], threads: bool) -> None:
    calls: list[Any] = []

    def step(name: str, *more: Any) -> None:
        if name == "begin":
            number, params, flags, passthrough = more
            shape = rec.shape(layout.CHANNELS[number % 3], "call", f"call {number}", effect="read")
            if number % 2:  # from two lines
                calls.append(rec.begin(shape, params=params, flags=flags, passthrough=passthrough))
            else:
                calls.append(rec.begin(shape, params=params, flags=flags))
        elif name in ("end", "through", "add") and calls and (call := calls[more[0] % len(calls)]) is not None:
            if name == "end":
                error = [None, ValueError(), KeyError()][more[2]]
                call.end(error, status=more[3], **more[1])
            elif name == "through":
                call.let_through()
            else:
                call.cell.add(**more[1])
        elif name == "mark":
            rec.mark(more[0])
        elif name == "transaction":
            rec.transaction(*more)
        elif name == "wait":
            clock.now += more[0]

    with ThreadPoolExecutor(1) as other:  # one thread: the numbers of threads that end are given again as it happens
        for number, given_step in enumerate(steps):
            if threads and number % 3 == 0:
                other.submit(step, *given_step).result()
            else:
                step(*given_step)


@accelerated
@settings(max_examples=150, deadline=None)
@given(_steps, st.booleans())
def test_both_recorders_write_the_same(steps: list[tuple[Any, ...]], threads: bool) -> None:
    images = []
    for each in (PythonRecorder, Recorder):
        clock = FakeClock()
        rec = each(mmap.mmap(-1, layout.SIZE), clock, clock, lambda clock=clock: clock.now // 3)  # type: ignore[misc]
        rec._schedule = os.memfd_create("schedstat")  # in the kernel's place, whose figures are never the same
        os.write(rec._schedule, b"11 22 33\n")
        recorder.start(rec)
        try:
            _run(rec, clock, steps, threads)
        finally:
            recorder.stop()
            rec._close_schedule()
        # Of the real clock, and of collections in this process, which a probe of another test may still report.
        for word in (layout.H_EPOCH, layout.H_COST, layout.H_GC_NS, layout.H_GC_COUNT, layout.H_GC_BODY):
            rec.words[word] = 0
        images.append(bytes(rec.buffer))
    # Not compared by assert itself, which would take minutes to say how two MiB differ.
    same = images[0] == images[1]
    assert same


@accelerated
def test_nothing_is_kept_of_calls_that_are_over() -> None:
    rec = Recorder(recorder.open_memory().buffer)
    shape = query(rec)
    error, clocks = ValueError(), (rec.clock, rec.generation, rec)

    count = 20_000

    def calls() -> None:
        for number in range(count):
            call = rec.begin(shape, params=number % 9, flags=recorder.BATCHED)
            assert call is not None
            call.cell.add(rows=1)
            call.end(error if number % 3 else None, rows=number, status=200 + number % 3)
            query(rec)

    def drifts() -> list[int]:
        def counts() -> list[int]:
            gc.collect()
            held = (*clocks, shape, error, type(error), None)
            return [sys.getallocatedblocks(), *(sys.getrefcount(each) for each in held)]

        calls()
        before = counts()
        calls()
        return [other - one for one, other in zip(before, counts(), strict=True)]

    # A reference kept by a call would be there thousands of times.
    found = in_a_fork(drifts)
    assert all(abs(drift) < 100 for drift in found), found
    assert recording.read(rec.buffer).calls == 2 * count


@accelerated
def test_a_recorder_and_its_calls_go_away() -> None:
    class Counted(Recorder):
        gone = 0

        def __del__(self) -> None:
            Counted.gone += 1

    for _ in range(5):
        rec = Counted(mmap.mmap(-1, layout.SIZE))
        rec.home = rec  # a cycle
        rec.begin(query(rec), passthrough=True)
        del rec
    gc.collect()
    assert Counted.gone >= 5


@accelerated
def test_threads_in_the_accelerator_lose_no_call() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        rec = Recorder(recorder.open_memory().buffer)

        def work(number: int) -> None:
            for again in range(3_000):
                shape = query(rec, f"SELECT {again % 3}")
                rec.begin(shape, params=again + 1).end(status=200 + number % 2)  # type: ignore[union-attr]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    read = recording.read(rec.buffer)
    assert read.calls == sum(sum(group.statuses.values()) for group in read.groups) == 18_000
    assert recording.in_flight(rec.buffer) is None
    assert all(group.distinct == 1_000 for group in read.groups)
