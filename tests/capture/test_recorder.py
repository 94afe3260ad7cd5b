"""The flight recorder and its reader: exact counts, bounded memory, readable at any instant."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import random
import signal
import stat
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from jobdoctor.capture import layout, recorder, recording
from jobdoctor.capture.recorder import PythonRecorder, Recorder, Shape


class FakeClock:
    """Nanoseconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["python", "c"])
def kind(request: pytest.FixtureRequest) -> type[Recorder]:
    """Every test here is of both recorders."""
    if request.param == "python":
        return PythonRecorder
    if not recorder.ACCELERATED:
        pytest.skip("the accelerator was not built")
    return Recorder


@pytest.fixture
def rec(kind: type[Recorder], clock: FakeClock) -> Iterator[Recorder]:
    made = kind(recorder.open_memory().buffer, clock, lambda: clock.now // 10, lambda: clock.now // 2)
    recorder.start(made)
    yield made
    recorder.stop()


def query(rec: Recorder, fingerprint: str = "SELECT ?", **more: Any) -> Shape:
    return rec.shape("sql", "SELECT", fingerprint, target="postgresql://db/app", library="psycopg", **more)


def call(rec: Recorder, shape: Shape, clock: FakeClock, ns: int = 10, **end: Any) -> None:
    begun = rec.begin(shape)
    assert begun is not None
    clock.now += ns
    begun.end(**end)


class TestCells:
    def test_a_call_is_counted_with_all_that_was_said_of_it(self, rec: Recorder, clock: FakeClock) -> None:
        shape = rec.shape(
            "http", "POST", "POST http://api/orders/{}", target="http://api", library="http.client", effect="write"
        )
        for number in range(3):
            begun = rec.begin(shape, params=7 if number else 8, flags=recorder.NO_TIMEOUT)
            assert begun is not None
            clock.now += 100 * (number + 1)
            begun.end(
                error=ValueError("x") if number == 2 else None,
                rows=number,
                sent=10,
                received=20,
                status=503 if number == 2 else 200,
                items=2,
                flags=recorder.IDEMPOTENCY_KEY | recorder.BATCHED,
                blocked_ns=5,
            )
            begun.cell.add(rows=4, received=1)
        (group,) = recording.read(rec.buffer).groups
        assert (group.channel, group.operation, group.fingerprint) == ("http", "POST", "POST http://api/orders/{}")
        assert (group.target, group.library, group.effect) == ("http://api", "http.client", "write")
        assert (group.count, group.total_ns, group.min_ns, group.max_ns) == (3, 600, 100, 300)
        assert (group.first_start_ns, group.last_end_ns) == (1_000, 1_600)
        assert (group.errors, group.error_types) == (1, {"ValueError": 1})
        assert (group.distinct, group.distinct_capped) == (2, False)
        assert (group.rows, group.max_rows) == (15, 4)
        assert (group.sent_bytes, group.received_bytes, group.items) == (30, 63, 6)
        assert (group.batched, group.no_timeout, group.idempotency_keys) == (3, 3, 3)
        assert (group.blocked_ns, group.statuses) == (15, {"200": 2, "503": 1})
        assert group.new_connections == 0
        assert group.callsite.startswith("tests/capture/test_recorder.py:")
        assert group.function == "TestCells.test_a_call_is_counted_with_all_that_was_said_of_it"

    def test_each_line_and_each_shape_has_its_own_group(self, rec: Recorder, clock: FakeClock) -> None:
        call(rec, query(rec), clock)
        call(rec, query(rec), clock)
        for fingerprint in ("SELECT 1", "SELECT 2"):
            for _ in range(5):
                call(rec, query(rec, fingerprint), clock)
        call(rec, query(rec, relationship="Order.items"), clock)
        groups = recording.read(rec.buffer).groups
        # ``call`` is the first application frame of all: the lines of its callers are in the stack only.
        assert [group.count for group in groups] == [2, 5, 5, 1]
        assert groups[3].relationship == "Order.items"

        one, other = rec.begin(query(rec, "line")), None
        assert one is not None
        one.end()
        other = rec.begin(query(rec, "line"))
        assert other is not None
        other.end()
        lines = [group.callsite for group in recording.read(rec.buffer).groups if group.fingerprint == "line"]
        assert len(lines) == 2
        assert int(lines[1].rpartition(":")[2]) - int(lines[0].rpartition(":")[2]) == 3

    def test_two_calls_on_one_line_are_one_group(self, rec: Recorder, clock: FakeClock) -> None:
        pair = [rec.begin(query(rec)).end(), rec.begin(query(rec)).end()]  # type: ignore[union-attr]
        assert len(pair) == 2
        (group,) = recording.read(rec.buffer).groups
        assert group.count == 2

    def test_shapes_without_end_are_counted_in_one_cell_a_channel(self, rec: Recorder, clock: FakeClock) -> None:
        for number in range(layout.CELLS + 500):
            call(rec, query(rec, f"SELECT {number}"), clock)
            call(rec, rec.shape("http", "GET", f"GET http://api/{number}"), clock)
        read = recording.read(rec.buffer)
        assert read.truncated
        assert sum(group.count for group in read.groups) == 2 * (layout.CELLS + 500)
        others = {group.channel: group.count for group in read.groups if group.fingerprint == recorder.OTHER}
        assert set(others) == {"sql", "http"}
        assert sum(others.values()) + len(read.groups) - 2 == 2 * (layout.CELLS + 500)

    def test_long_fingerprints_fill_the_strings_and_nothing_else(self, rec: Recorder, clock: FakeClock) -> None:
        for number in range(200):
            call(rec, query(rec, f"SELECT {number} " + "x" * 10_000), clock)
        read = recording.read(rec.buffer)
        assert read.truncated
        assert sum(group.count for group in read.groups) == 200
        assert read.groups[0].fingerprint == "SELECT 0 " + "x" * 10_000
        assert read.groups[-1].fingerprint == recorder.OTHER

    def test_client_side_cpu_is_extrapolated_from_a_sample(self, rec: Recorder, clock: FakeClock) -> None:
        shape = query(rec)
        for _ in range(16 + 320):
            call(rec, shape, clock, ns=100)
        read = recording.read(rec.buffer)
        assert read.groups[0].cpu_ns == 336 * 50
        assert read.channel_cpu_ns == {"sql": 336 * 50}


class TestDeepStacks:
    """Calls made deep inside a library: where the application is, is remembered."""

    @pytest.fixture
    def library(self, rec: Recorder) -> Any:
        code = """
def down(depth, work):
    return down(depth - 1, work) if depth else work()

def call():
    rec.begin(shape).end()

def entry(depth):
    down(depth, call)

def call_back(depth, work):
    down(depth, work)
"""
        names: dict[str, Any] = {"rec": rec, "shape": query(rec)}
        exec(compile(code, "/x/site-packages/library.py", "exec"), names)
        return type("Library", (), {name: staticmethod(names[name]) for name in ("entry", "call_back", "down")})

    def lines(self, rec: Recorder) -> list[tuple[str, int]]:
        groups = recording.read(rec.buffer).groups
        return [(group.function.rpartition(".")[2], group.count) for group in groups]

    def test_each_caller_is_found_at_any_depth(self, rec: Recorder, library: Any) -> None:
        def one(depth: int) -> None:
            library.entry(depth)

        def two(depth: int) -> None:
            library.entry(depth)

        for depth in (20, 20, 8, 20, 0, 8, 30):
            one(depth)
            two(depth)
            two(depth)
        assert self.lines(rec) == [("one", 7), ("two", 14)]

    def test_an_application_frame_nearer_by_is_not_passed_over(self, rec: Recorder, library: Any) -> None:
        def outer(depth: int) -> None:
            library.entry(depth)

        def listener() -> None:
            library.entry(5)

        def outer_with_listener(depth: int) -> None:
            library.call_back(depth, listener)

        for depth in range(20):
            outer(20)
            # At one of these depths the outer caller stands where the frame looked for stood the last time.
            outer_with_listener(depth)
        assert self.lines(rec) == [("outer", 20), ("listener", 20)]


class TestNesting:
    def test_only_the_outermost_call_is_recorded(self, rec: Recorder, clock: FakeClock) -> None:
        outer = rec.begin(rec.shape("http", "GET", "GET http://api/"))
        assert rec.begin(rec.shape("file", "read", "read")) is None
        assert outer is not None
        outer.end()
        call(rec, rec.shape("file", "read", "read"), clock)
        assert [(group.channel, group.count) for group in recording.read(rec.buffer).groups] == [
            ("http", 1),
            ("file", 1),
        ]

    def test_a_passthrough_call_lets_calls_inside_be_recorded(self, rec: Recorder, clock: FakeClock) -> None:
        pool = rec.begin(rec.shape("pool", "checkout", "checkout"), passthrough=True)
        assert pool is not None
        clock.now += 5
        call(rec, query(rec), clock, ns=10)
        clock.now += 7
        pool.end()
        read = recording.read(rec.buffer)
        assert {group.channel: group.total_ns for group in read.groups} == {"pool": 22, "sql": 10}
        assert all(group.concurrent == 0 for group in read.groups)
        # Wall time is attributed once: to the higher priority while both are in flight.
        assert read.channel_ns == {"pool": 12, "sql": 10}

    def test_a_call_may_let_others_through_while_it_is_open(self, rec: Recorder, clock: FakeClock) -> None:
        response = rec.begin(rec.shape("http", "GET", "GET http://api/"))
        assert response is not None
        clock.now += 5
        assert rec.begin(query(rec)) is None
        response.let_through()
        response.let_through()
        clock.now += 5
        call(rec, query(rec), clock, ns=10)
        clock.now += 5
        response.end()
        call(rec, query(rec, "after"), clock, ns=10)
        read = recording.read(rec.buffer)
        assert {group.fingerprint: group.total_ns for group in read.groups} == {
            "GET http://api/": 25,
            "SELECT ?": 10,
            "after": 10,
        }
        assert all(group.concurrent == 0 for group in read.groups)
        assert read.channel_ns == {"http": 15, "sql": 20}

    def test_calls_of_threads_are_recorded_beside_each_other(self, rec: Recorder, clock: FakeClock) -> None:
        mine = rec.begin(query(rec))
        clock.now += 10
        theirs: list[Any] = []

        def work() -> None:
            theirs.append(rec.begin(rec.shape("http", "GET", "GET http://api/")))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        clock.now += 10
        assert mine is not None
        mine.end()
        clock.now += 10
        theirs[0].end()
        read = recording.read(rec.buffer)
        sql, http = sorted(read.groups, key=lambda group: group.channel, reverse=True)
        assert (sql.concurrent, http.concurrent) == (0, 1)
        assert (sql.total_ns, http.total_ns) == (20, 20)
        assert read.channel_ns == {"sql": 20, "http": 10}
        assert sorted(span.thread for span in read.spans) == [0, 1]

    def test_attribution_never_exceeds_the_wall_time(self, kind: type[Recorder]) -> None:
        rec = kind(recorder.open_memory().buffer)
        recorder.start(rec)
        channels = list(layout.CHANNELS)

        def work(number: int) -> None:
            shape = rec.shape(channels[number % len(channels)], "call", f"call {number}")
            for _ in range(300):
                begun = rec.begin(shape)
                assert begun is not None
                time.sleep(0.0001)
                begun.end()

        began = time.perf_counter_ns()
        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall = time.perf_counter_ns() - began
        recorder.stop()
        read = recording.read(rec.buffer)
        assert sum(group.count for group in read.groups) == 12 * 300
        assert sum(group.total_ns for group in read.groups) > wall
        assert 0 < sum(read.channel_ns.values()) <= wall

    def test_asyncio_tasks_do_not_suppress_one_another(self, rec: Recorder, clock: FakeClock) -> None:
        async def fetch(shape: Shape) -> None:
            begun = rec.begin(shape)
            assert begun is not None
            assert rec.begin(shape) is None  # inside this task's own call
            await asyncio.sleep(0)
            clock.now += 10
            begun.end()

        async def main() -> None:
            await asyncio.gather(*(fetch(rec.shape("http", "GET", "GET http://api/{}")) for _ in range(5)))

        asyncio.run(main())
        read = recording.read(rec.buffer)
        (group,) = read.groups
        assert (group.count, group.concurrent) == (5, 4)
        assert group.total_ns == 10 + 20 + 30 + 40 + 50
        assert read.channel_ns == {"http": 50}

    def test_a_task_made_inside_a_call_records_once_that_call_has_ended(self, rec: Recorder, clock: FakeClock) -> None:
        counted: list[bool] = []

        async def later() -> None:
            await asyncio.sleep(0)
            counted.append(rec.begin(query(rec, "later")) is not None)

        async def main() -> None:
            outer = rec.begin(query(rec))
            task = asyncio.create_task(later())
            assert outer is not None
            outer.end()
            await task

        asyncio.run(main())
        assert counted == [True]

    def test_ending_twice_counts_once(self, rec: Recorder, clock: FakeClock) -> None:
        begun = rec.begin(query(rec))
        assert begun is not None
        begun.end()
        begun.end()
        read = recording.read(rec.buffer)
        assert read.groups[0].count == 1
        assert recording.in_flight(rec.buffer) is None

    def test_a_finalizer_that_records_while_the_recorder_works_does_not_lock_up(self, kind: type[Recorder]) -> None:
        rec = kind(recorder.open_memory().buffer)
        recorder.start(rec)
        shape = query(rec)

        class Closing:
            def __init__(self) -> None:
                self.itself = self

            def __del__(self) -> None:
                rec.begin(shape)
                rec.gc_pause(1)

        threshold = gc.get_threshold()
        gc.set_threshold(5)
        try:
            for _ in range(300):
                Closing()
                begun = rec.begin(shape, params=random.getrandbits(60))
                if begun is not None:
                    begun.end()
        finally:
            gc.set_threshold(*threshold)
            recorder.stop()
        assert recording.read(rec.buffer).groups[0].count > 0


class TestTransactions:
    def test_calls_begun_in_an_open_transaction_are_counted(self, rec: Recorder, clock: FakeClock) -> None:
        shape = rec.shape("http", "GET", "GET http://api/")
        call(rec, shape, clock)
        rec.transaction(1, True)
        rec.transaction(2, True)
        call(rec, shape, clock)
        rec.transaction(1, False)
        call(rec, shape, clock)
        rec.transaction(2, False)
        call(rec, shape, clock)
        read = recording.read(rec.buffer)
        assert read.groups[0].in_transaction == 2
        assert [span.in_transaction for span in read.spans] == [False, True, True, False]

    def test_another_thread_is_not_in_it(self, rec: Recorder, clock: FakeClock) -> None:
        rec.transaction(1, True)
        thread = threading.Thread(target=lambda: call(rec, query(rec), clock))
        thread.start()
        thread.join()
        assert recording.read(rec.buffer).groups[0].in_transaction == 0
        # A pool's reset may end it from elsewhere.
        thread = threading.Thread(target=lambda: rec.transaction(1, False))
        thread.start()
        thread.join()
        call(rec, query(rec, "after"), clock)
        assert recording.read(rec.buffer).groups[1].in_transaction == 0

    def test_another_asyncio_task_is_not_in_it(self, rec: Recorder, clock: FakeClock) -> None:
        async def one() -> None:
            rec.transaction(1, True)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            rec.transaction(1, False)

        async def other() -> None:
            await asyncio.sleep(0)
            call(rec, rec.shape("http", "GET", "GET http://api/"), clock)

        async def main() -> None:
            await asyncio.gather(one(), other())

        asyncio.run(main())
        assert recording.read(rec.buffer).groups[0].in_transaction == 0


class TestPhases:
    def test_marks_close_the_phase_before(self, rec: Recorder, clock: FakeClock) -> None:
        for name in ("setup", "deserialize", "import", "body", "result", "end"):
            rec.mark(name)
            clock.now += 100
        read = recording.read(rec.buffer)
        assert [(phase.name, phase.end_ns - phase.start_ns) for phase in read.phases] == [
            (name, 100) for name in ("setup", "deserialize", "import", "body", "result")
        ]
        # The CPU is read where the first phase begins, and around import and body.
        assert [bool(mark.cpu_ns) for mark in read.marks] == [True, False, True, True, True, False]
        read_ns = [mark.cpu_ns for mark in read.marks if mark.cpu_ns]
        assert read_ns == sorted(set(read_ns))

    def test_a_phase_without_end_is_open(self, rec: Recorder, clock: FakeClock) -> None:
        rec.mark("body")
        assert recording.read(rec.buffer).phases[0].end_ns == 0

    @pytest.mark.parametrize("phase", ["setup", "persist", "end"])
    def test_calls_of_rq_itself_are_not_recorded(self, rec: Recorder, phase: str) -> None:
        rec.mark(phase)
        assert rec.begin(query(rec)) is None
        rec.mark("body")
        assert rec.begin(query(rec)) is not None

    def test_wall_time_of_calls_is_kept_apart_by_phase(self, rec: Recorder, clock: FakeClock) -> None:
        rec.mark("import")
        call(rec, query(rec), clock, ns=50)
        rec.mark("body")
        call(rec, query(rec), clock, ns=70)
        begun = rec.begin(query(rec))
        clock.now += 5
        rec.mark("callback")
        clock.now += 3
        assert begun is not None
        begun.end()
        read = recording.read(rec.buffer)
        assert read.channel_ns == {"sql": 75}
        assert read.phase_channel_ns == {"import": {"sql": 50}, "body": {"sql": 75}, "callback": {"sql": 3}}

    def test_garbage_collection_of_the_body_is_told_apart(self, rec: Recorder) -> None:
        gc.disable()  # a probe that another test has installed would report real ones
        try:
            rec.mark("import")
            rec.gc_pause(5)
            rec.mark("body")
            rec.gc_pause(7)
            read = recording.read(rec.buffer)
        finally:
            gc.enable()
        assert (read.gc_ns, read.gc_count, read.gc_body_ns) == (12, 2, 7)


class TestNotes:
    def test_notes_come_back_in_order(self, rec: Recorder) -> None:
        rec.note("import", module="a", total_ns=3)
        rec.note("exception", type_name="ValueError", callsite="app/x.py:1")
        rec.note("import", module="b", total_ns=4)
        read = recording.read(rec.buffer)
        assert [note.kind for note in read.notes] == ["import", "exception", "import"]
        assert read.facts("import") == [{"module": "a", "total_ns": 3}, {"module": "b", "total_ns": 4}]

    def test_many_notes_leave_room_for_the_rare_ones(self, rec: Recorder) -> None:
        for number in range(5_000):
            rec.note("lock", target=f"lock {number}", filler="x" * 900)
        rec.note("exception", type_name="ValueError")
        read = recording.read(rec.buffer)
        assert read.facts("exception") == [{"type_name": "ValueError"}]
        assert read.notes_dropped == 5_000 - len(read.facts("lock")) > 0
        assert read.truncated

    def test_what_cannot_be_encoded_is_left_out(self, rec: Recorder) -> None:
        rec.note("result", value=object())
        assert recording.read(rec.buffer).notes == []

    def test_secrets_are_apart_and_gone_after_a_reset(self, rec: Recorder) -> None:
        rec.secret("postgresql://db/app#12", "host=db password=hunter2")
        assert recording.secrets(rec.buffer) == [("postgresql://db/app#12", "host=db password=hunter2")]
        assert recording.read(rec.buffer).notes == []
        rec.reset()
        assert recording.secrets(rec.buffer) == []
        assert b"hunter2" not in rec.buffer[:]


class TestInFlight:
    def test_the_call_that_runs_is_readable(self, rec: Recorder, clock: FakeClock) -> None:
        assert recording.in_flight(rec.buffer) is None
        begun = rec.begin(query(rec), params=42)
        assert recording.in_flight(rec.buffer) == recording.InFlight(
            "sql", "SELECT", "SELECT ?", "postgresql://db/app", 1_000, 0
        )
        assert recording.in_flight(rec.buffer, 1_000) is None  # it did not begin before
        assert recording.in_flight(rec.buffer, 1_001) == recording.in_flight(rec.buffer)
        read = recording.read(rec.buffer)
        assert read.in_flight is not None
        assert read.in_flight_group is not None
        assert (read.in_flight.start_ns, read.in_flight.params) == (1_000, 42)
        assert read.groups[read.in_flight.group] == read.in_flight_group
        assert read.in_flight_group.count == 0
        assert begun is not None
        begun.end()
        assert recording.in_flight(rec.buffer) is None
        assert recording.read(rec.buffer).in_flight is None

    def test_the_jobs_own_thread_comes_first_and_the_innermost_call(self, rec: Recorder, clock: FakeClock) -> None:
        pool = rec.begin(rec.shape("pool", "checkout", "checkout"), passthrough=True)
        clock.now += 1
        inner = rec.begin(query(rec))
        clock.now += 1
        thread = threading.Thread(target=lambda: rec.begin(rec.shape("http", "GET", "GET http://api/")))
        thread.start()
        thread.join()
        found = recording.in_flight(rec.buffer)
        assert pool is not None
        assert inner is not None
        assert found is not None
        assert (found.channel, found.thread) == ("sql", 0)

    def test_more_calls_in_flight_than_slots(self, rec: Recorder, clock: FakeClock) -> None:
        begun: list[Any] = []

        async def fetch() -> None:
            call = rec.begin(rec.shape("http", "GET", "GET http://api/{}"))
            begun.append(call)
            await asyncio.sleep(0)
            assert call is not None
            call.end()

        async def main() -> None:
            await asyncio.gather(*(fetch() for _ in range(3 * layout.FLIGHTS)))

        asyncio.run(main())
        read = recording.read(rec.buffer)
        assert read.groups[0].count == 3 * layout.FLIGHTS
        assert read.in_flight is None


class TestReset:
    def test_the_next_execution_starts_empty(self, rec: Recorder, clock: FakeClock) -> None:
        shape = query(rec)
        rec.mark("body")
        stale = rec.begin(shape, params=3)
        assert stale is not None
        for number in range(50):
            stale.cell.add(rows=1)
            rec.note("import", module=str(number))
        rec.reset()
        recorder.start(rec)
        read = recording.read(rec.buffer)
        assert (read.groups, read.spans, read.notes, read.phases, read.channel_ns) == ([], [], [], [], {})
        # A shape kept by a probe, and a call that ends late, do no harm.
        stale.end(rows=3)
        stale.cell.add(rows=9)
        call(rec, shape, clock, rows=1)
        read = recording.read(rec.buffer)
        assert [(group.count, group.rows, group.distinct) for group in read.groups] == [(1, 1, 0)]

    def test_memory_after_a_reset_is_as_new(self, rec: Recorder, clock: FakeClock) -> None:
        for number in range(300):
            call(rec, query(rec, f"SELECT {number}"), clock, error=KeyError(number), status=500)
            rec.note("import", module=str(number))
        rec.mark("body")
        rec.secret("a", "b")
        rec.begin(query(rec))
        rec.reset()
        used = rec.buffer[layout.HEADER_BYTES :]
        assert used == bytes(len(used))

    def test_nothing_is_recorded_after_stop(self, rec: Recorder) -> None:
        assert recorder.current is rec
        recorder.stop()
        assert recorder.current is None

    def test_starting_inside_another_recording_changes_nothing(self, kind: type[Recorder], rec: Recorder) -> None:
        other = kind(recorder.open_memory().buffer)
        assert not recorder.start(other)
        assert recorder.current is rec
        assert recording.read(rec.buffer).suppressed == 1


class TestMemory:
    def test_anonymous_memory_is_shared_with_a_forked_child(self, kind: type[Recorder]) -> None:
        memory = recorder.open_memory()
        rec = kind(memory.buffer)
        pid = os.fork()
        if pid == 0:
            recorder.start(rec)
            for _ in range(10):
                rec.begin(query(rec)).end()  # type: ignore[union-attr]
            os._exit(0)
        os.waitpid(pid, 0)
        read = recording.read(memory.buffer)
        assert read.groups[0].count == 10
        assert read.pid == pid

    def test_a_file_is_private_found_again_and_removed(self, kind: type[Recorder], tmp_path: Any) -> None:
        path = str(tmp_path / "memory")
        memory = recorder.open_memory(path)
        assert (memory.path, memory.fallback) == (path, "")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        again = recorder.open_memory(path)
        rec = kind(again.buffer)
        rec.begin(query(rec)).end()  # type: ignore[union-attr]
        assert recording.read(memory.buffer).groups[0].count == 1
        memory.close()
        assert not os.path.exists(path)

    def test_a_file_that_cannot_be_used_falls_back_and_says_so(self, tmp_path: Any) -> None:
        missing = recorder.open_memory(str(tmp_path / "nowhere" / "memory"))
        assert missing.path is None
        assert "nowhere" in missing.fallback
        foreign = tmp_path / "foreign"
        foreign.write_bytes(b"not ours")
        kept = recorder.open_memory(str(foreign))
        assert kept.path is None
        assert kept.fallback
        assert foreign.read_bytes() == b"not ours"

    def test_a_symbolic_link_is_not_followed(self, tmp_path: Any) -> None:
        victim = tmp_path / "victim"
        victim.write_bytes(bytes(layout.SIZE))
        link = tmp_path / "link"
        link.symlink_to(victim)
        assert recorder.open_memory(str(link)).path is None

    def test_memory_that_was_never_written_reads_as_empty(self) -> None:
        read = recording.read(mmap.mmap(-1, layout.SIZE))
        assert (read.groups, read.phases, read.in_flight, read.calls) == ([], [], None, 0)

    def test_a_process_that_the_job_forks_does_not_write(self, rec: Recorder) -> None:
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if recorder.current is None else 1)
            assert os.waitpid(pid, 0)[1] == 0
        assert recorder.current is rec
        # What is not seen is said, once.
        (note,) = recording.read(rec.buffer).facts("missing")
        assert "forked" in note["text"]


class TestAnyInstant:
    def test_a_copy_taken_between_any_two_writes_is_readable(self, kind: type[Recorder]) -> None:
        """The writer runs in a child as fast as it can; the memory is copied at random moments meanwhile."""
        memory = recorder.open_memory()
        rec = kind(memory.buffer)
        pid = os.fork()
        if pid == 0:
            _write_without_end(rec)
        try:
            last = 0
            deadline = time.monotonic() + 60
            copies = 0
            while copies < 50 or not last:
                assert time.monotonic() < deadline
                time.sleep(random.random() / 500)
                read = recording.read(bytes(memory.buffer))
                _check(read)
                total = sum(group.count for group in read.groups)
                assert total >= last
                last = total
                copies += 1
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def test_a_killed_writer_leaves_a_readable_recording_with_counts_never_above_the_truth(
        self, kind: type[Recorder]
    ) -> None:
        truth = mmap.mmap(-1, 16)
        begun_and_ended = memoryview(truth).cast("q")
        memory = recorder.open_memory()
        rec = kind(memory.buffer)
        for _ in range(50):
            begun_and_ended[0] = begun_and_ended[1] = 0
            pid = os.fork()
            if pid == 0:
                _write_without_end(rec, begun_and_ended)
            time.sleep(random.random() / 100)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            read = recording.read(memory.buffer)
            _check(read)
            total = sum(group.count for group in read.groups)
            # [0] is counted before begin, [1] after end.
            assert begun_and_ended[1] <= total <= begun_and_ended[0]
            rec.reset()


def _write_without_end(rec: Recorder, truth: memoryview | None = None) -> None:
    """In a forked child: calls of ever new shapes until killed."""
    try:
        recorder.start(rec)
        rec.mark("body")
        number = 0
        while True:
            shape = query(rec, f"SELECT number {number % 500} {'x' * (number % 97)}")
            if truth is not None:
                truth[0] += 1
            begun = rec.begin(shape, params=number + 1)
            assert begun is not None
            begun.end(rows=3, error=ValueError() if number % 7 == 0 else None)
            if truth is not None:
                truth[1] += 1
            rec.note("import", module=f"module {number}")
            number += 1
    finally:
        os._exit(1)


def _check(read: recording.Recording) -> None:
    """Nothing in a recording is garbage."""
    for group in read.groups:
        assert group.channel == "sql"
        assert group.fingerprint.startswith("SELECT number ") or group.fingerprint == recorder.OTHER
        assert group.callsite.startswith("tests/capture/test_recorder.py:") or group.fingerprint == recorder.OTHER
        assert 0 <= group.min_ns <= group.max_ns
        assert group.errors - group.count <= 1
    for span in read.spans:
        assert span.start_ns > 0
        assert span.duration_ns >= 0
        assert span.rows == 3
    for number, note in enumerate(read.facts("import")):
        assert note == {"module": f"module {number}"}


class TestForeignExceptions:
    def test_what_a_signal_handler_raises_in_the_recorder_reaches_the_job(self, kind: type[Recorder]) -> None:
        class Timeout(Exception):
            pass

        def handler(number: int, frame: Any) -> None:
            raise Timeout

        rec = kind(recorder.open_memory().buffer)
        recorder.start(rec)
        shape = query(rec)
        previous = signal.signal(signal.SIGUSR1, handler)
        arrived = 0
        try:
            for _ in range(30):
                delay_s = 0.01 + random.random() / 200
                timer = threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGUSR1))
                try:
                    timer.start()
                    deadline = time.monotonic() + 5
                    while time.monotonic() < deadline:
                        for _ in range(100):
                            begun = rec.begin(shape)
                            if begun is not None:
                                begun.end()
                except Timeout:
                    arrived += 1
                timer.join()
                rec.mark("body")
        finally:
            signal.signal(signal.SIGUSR1, previous)
            recorder.stop()
        assert arrived == 30

    def test_an_error_of_our_own_is_not_foreign(self) -> None:
        with pytest.raises(KeyError) as caught:
            {}["ours"]
        assert not recorder.foreign(caught.value)

    def test_a_failing_clock_never_reaches_the_job(self, rec: Recorder) -> None:
        begun = rec.begin(query(rec))

        def broken() -> int:
            raise OSError("no clock")

        rec.clock = broken
        assert begun is not None
        begun.end()
        assert rec.begin(query(rec)) is None
        rec.mark("body")


def test_calibration_gives_a_plausible_cost(kind: type[Recorder]) -> None:
    assert 100 < kind.calibrate() < 1_000_000
    rec = kind(recorder.open_memory().buffer)
    for _ in range(10):
        rec.begin(query(rec)).end()  # type: ignore[union-attr]
    assert recording.read(rec.buffer).overhead_ns == 10 * kind.calibrate()
