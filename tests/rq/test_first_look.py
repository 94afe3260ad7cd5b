"""What is made ready before an execution, and when the witness first looks at it."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from jobdoctor.capture import recorder, recording
from jobdoctor.capture.cgroup import MemoryWatch
from jobdoctor.capture.lock_observer import LockObserver
from jobdoctor.capture.reference import PythonRecorder
from jobdoctor.config import Settings
from jobdoctor.rq.guard import Guard
from jobdoctor.rq.horse import Horse
from jobdoctor.rq.slo_record import PromiseRecord
from jobdoctor.rq.watch import FIRST_LOOK_NS, ExecutionWatch, Surroundings
from tests.rq.packets import begun, ended


@pytest.mark.parametrize("kind", [recorder.Recorder, PythonRecorder])
def test_a_horse_that_was_made_before_finds_nothing_of_another_execution(kind: type[PythonRecorder]) -> None:
    memory = recorder.open_memory()
    waiting = Horse(kind(memory.buffer))  # type: ignore[arg-type]
    earlier = kind(memory.buffer)
    earlier.began()
    earlier.mark("body")
    earlier.note("result", type_name="earlier")
    earlier.secret("postgresql", "password=hunter2")
    guard = Guard()
    guard.problems.append("said before")
    horse = waiting.adopt("job:2", guard, "")
    assert b"hunter2" not in memory.buffer[:]
    assert b"earlier" not in memory.buffer[:]
    assert horse.begin()
    try:
        horse.report()  # nothing that the worker says itself
        horse.decided("finished")
    finally:
        recorder.stop()
    recorded = recording.read(memory.buffer)
    assert recorded is not None
    assert [phase.name for phase in recorded.phases] == ["setup"]
    assert recorded.facts("result") == []
    assert recorded.facts("missing") == []
    assert recorded.facts("outcome") == [{"outcome": "finished"}]


class Answers:
    """A server that says how deep the queue is."""

    def __init__(self) -> None:
        self.asked = 0

    def llen(self, key: str) -> int:
        self.asked += 1
        return 7


def watch_of(kind: Any, forked_done_ns: int, connection: Any) -> ExecutionWatch:
    message = begun(1)
    message.kind, message.pid, message.forked_done_ns = kind, os.getpid(), forked_done_ns
    around = Surroundings(
        connection, "worker", ["default"], os.getpid(), PromiseRecord(connection, Settings()), LockObserver(),
        MemoryWatch([]), "3.0.0", [], stranger=False, thread=0,
    )  # fmt: skip
    return ExecutionWatch(message, b"", None, None, around, ask=True)


def test_a_short_job_is_not_looked_at() -> None:
    """What can be known all the same, is."""
    server = Answers()
    watch = watch_of("fork", time.perf_counter_ns(), server)
    assert 0 < watch.due_s() <= FIRST_LOOK_NS / 1e9
    assert watch.sampler is None
    execution = watch.finish(ended(1))
    assert execution.samples == []
    assert execution.queue_depth == 7
    assert server.asked == 1
    assert watch.baseline_rss_bytes > 0


def test_a_job_that_runs_is_looked_at() -> None:
    server = Answers()
    watch = watch_of("fork", time.perf_counter_ns() - FIRST_LOOK_NS, server)
    assert watch.due_s() == 0
    watch.tick()
    assert watch.sampler is not None
    assert watch.due_s() <= 0.02
    execution = watch.finish(ended(1))
    assert execution.samples
    assert (execution.queue_depth, server.asked) == (7, 1)


def test_processes_that_are_not_forked_are_looked_at_at_once() -> None:
    for kind in ("simple", "spawn"):
        assert watch_of(kind, time.perf_counter_ns(), Answers()).due_s() == 0
