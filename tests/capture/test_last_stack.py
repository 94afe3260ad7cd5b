"""When a process is looked at, and which part of its stack is the job's."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

from jobdoctor.capture import last_stack
from jobdoctor.capture.last_stack import FRAMES, GROWTH_BYTES, LastStack, frames_of, frames_of_traceback, limits_of
from jobdoctor.capture.outside_stack import RawFrame, UnreadableError
from jobdoctor.model import StackFrame

S = 1_000_000_000
OWN = os.path.dirname(os.path.abspath(last_stack.__file__))
RQ = os.path.join(os.path.dirname(OWN), "rq")
LIBRARY = os.path.join(os.path.dirname(os.__file__), "site-packages", "requests", "sessions.py")


class Reader:
    """Gives one stack after the other, and the last one for ever."""

    def __init__(self, *stacks: list[RawFrame]) -> None:
        self.stacks = list(stacks)
        self.looks = 0
        self.closed = False

    def stack(self, until: str) -> list[RawFrame]:
        self.looks += 1
        return self.stacks.pop(0) if len(self.stacks) > 1 else self.stacks[0]

    def other_stacks(self, limit: int, until: str) -> list[list[RawFrame]]:
        return [[RawFrame(os.__file__, 1, "wait")], [RawFrame("/app/x.py", 9, "in_thread")]][:limit]

    def close(self) -> None:
        self.closed = True


def at(line: int) -> list[RawFrame]:
    return [RawFrame(LIBRARY, 589, "Session.request"), RawFrame("/app/x.py", line, "sync")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=0)
    monkeypatch.setattr(last_stack, "time", SimpleNamespace(perf_counter_ns=lambda: clock.now))
    return clock


def looking(monkeypatch: pytest.MonkeyPatch, reader: Reader) -> LastStack:
    monkeypatch.setattr(last_stack, "StackReader", lambda pid, spawned, thread, parent: reader)
    return LastStack(os.getpid())


def test_a_short_execution_is_never_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(at(12))
    watch = looking(monkeypatch, reader)
    for ms in range(0, 100, 5):
        watch.tick(ms * 1_000_000, 10)
    assert reader.looks == 0
    assert watch.seen is None
    watch.tick(100_000_000, 10)
    assert reader.looks == 1


def test_a_long_one_is_looked_at_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(at(12))
    watch = looking(monkeypatch, reader)
    for tick in range(20 * 20):  # 20 s, every 50 ms
        watch.tick(tick * S // 20)
    assert 25 <= reader.looks <= 50
    before = reader.looks
    for tick in range(20 * 20, 20 * 80):
        watch.tick(tick * S // 20)
    assert reader.looks - before == 60


def test_growth_is_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(at(12))
    watch = looking(monkeypatch, reader)
    watch.tick(1_000_000, 5)
    watch.tick(2_000_000, 4 + GROWTH_BYTES)
    assert reader.looks == 0
    watch.tick(3_000_000, 5 + GROWTH_BYTES)
    assert reader.looks == 1
    watch.tick(4_000_000, 6 + GROWTH_BYTES)
    assert reader.looks == 1


def test_how_long_it_stood_at_one_line(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    watch = looking(monkeypatch, Reader(at(11), at(12), [], at(12)))
    for now in (1, 2, 3, 4):
        clock.now = now * S
        watch.look()
    assert watch.seen is not None
    assert (watch.seen.since_ns, watch.seen.seen_ns) == (2 * S, 4 * S)
    assert watch.seen.stack[0] == StackFrame("requests/sessions.py:589", "Session.request", False)
    assert watch.seen.stack[1] == StackFrame("/app/x.py:12", "sync", True)
    assert watch.seen.threads == [[StackFrame("/app/x.py:9", "in_thread", True)]]
    watch.close()
    assert watch.seen is not None


def test_what_cannot_be_read_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(pid: int, spawned: bool, thread: int, parent: int) -> Reader:
        asked.append(pid)
        raise UnreadableError("the memory of the job's process may not be read: Permission denied")

    monkeypatch.setattr(last_stack, "StackReader", refuse)
    watch = LastStack(7)
    watch.look()
    watch.look()
    assert asked == [7]
    assert "Permission denied" in watch.missing
    assert watch.seen is None
    watch.close()


def test_a_look_that_fails_is_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(at(1))
    monkeypatch.setattr(reader, "other_stacks", lambda limit, until: [][1])
    watch = looking(monkeypatch, reader)
    watch.look()
    assert watch.missing == "the look failed: IndexError"


def test_the_jobs_part_is_without_the_worker_and_without_us() -> None:
    frames = frames_of(
        [
            RawFrame(LIBRARY, 1, "send"),
            RawFrame(os.path.join(OWN, "probes", "http_client.py"), 2, "wrapped"),
            RawFrame("/app/x.py", 3, "sync"),
            RawFrame(LIBRARY, 4, "hook"),
            RawFrame("/app/jobs.py", 5, "job"),
            RawFrame(os.path.join(os.path.dirname(LIBRARY), "..", "rq", "job.py"), 6, "Job._execute"),
            RawFrame(os.path.join(RQ, "horse.py"), 7, "execute"),
            RawFrame("/app/worker.py", 8, "<module>"),
        ]
    )
    assert [(frame.function, frame.application) for frame in frames] == [
        ("send", False), ("sync", True), ("hook", False), ("job", True),
    ]  # fmt: skip


def test_what_strikes_between_two_lines_is_not_what_the_job_does() -> None:
    packages = os.path.dirname(os.path.dirname(LIBRARY))
    frames = frames_of(
        [
            RawFrame(f"{packages}/pyinstrument/stack_sampler.py", 174, "StackSampler._sample"),
            RawFrame(f"{packages}/rq/timeouts.py", 63, "UnixSignalDeathPenalty.handle_death_penalty"),
            RawFrame("/app/x.py", 3, "sync"),
        ]
    )
    assert [frame.function for frame in frames] == ["sync"]


def test_a_deep_stack_keeps_its_top_and_the_application() -> None:
    deep = [RawFrame(LIBRARY, number, "recurse") for number in range(500)] + [RawFrame("/app/x.py", 3, "sync")]
    frames = frames_of(deep)
    assert len(frames) <= FRAMES
    assert frames[0].callsite.endswith(":0")
    assert frames[-1] == StackFrame("/app/x.py:3", "sync", True)
    recursion = frames_of([RawFrame("/app/x.py", number, "recurse") for number in range(500)])
    assert [frame.callsite for frame in recursion] == [f"/app/x.py:{number}" for number in range(FRAMES)]


def test_the_stack_of_an_exception() -> None:
    def load() -> int:
        return int("x")

    try:
        load()
    except ValueError as error:
        frames = frames_of_traceback(error.__traceback__)
    assert [frame.function.rpartition(".")[2] for frame in frames] == ["load", "test_the_stack_of_an_exception"]
    assert all(frame.application for frame in frames)
    assert frames[0].callsite == f"tests/capture/test_last_stack.py:{load.__code__.co_firstlineno + 1}"


def test_limits_are_read_with_the_first_look_and_then_once_a_second(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(last_stack, "limits_of", lambda pid: asked.append(clock.now) or {"RLIMIT_CPU": len(asked)})
    watch = looking(monkeypatch, Reader(at(12)))
    for clock.now in (S, S + S // 2, 2 * S - 1, 2 * S):
        watch.look()
    assert asked == [S, 2 * S]
    assert watch.limits == {"RLIMIT_CPU": 2}


def test_limits_that_are_set() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (77, 80))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, preexec_fn=limit) as process:
        found = limits_of(process.pid)
        assert (found["RLIMIT_CPU"], found["RLIMIT_FSIZE"]) == (77, 1 << 20)
        assert "RLIMIT_AS" not in found or resource.getrlimit(resource.RLIMIT_AS)[0] == found["RLIMIT_AS"]
        process.kill()
    assert limits_of(process.pid) == {}
