"""A recording around a stretch of test code, with every probe installed for the test and taken away after it."""

from __future__ import annotations

import inspect
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from jobdoctor.capture import probes, recorder, recording
from jobdoctor.model import SpanGroup


class Recorded:
    """What was recorded, read when the block ended."""

    def __init__(self, rec: recorder.Recorder) -> None:
        self.recorder = rec
        self.recording: recording.Recording

    @property
    def groups(self) -> list[SpanGroup]:
        return [group for group in self.recording.groups if group.count]

    def of(self, channel: str, operation: str | None = None) -> list[SpanGroup]:
        return [
            group
            for group in self.groups
            if group.channel == channel and (operation is None or group.operation == operation)
        ]

    def one(self, channel: str, operation: str | None = None) -> SpanGroup:
        found = self.of(channel, operation)
        assert len(found) == 1, [
            (group.channel, group.operation, group.fingerprint, group.callsite) for group in self.groups
        ]
        return found[0]

    def facts(self, kind: str) -> list[dict[str, Any]]:
        return self.recording.facts(kind)


Record = Callable[[], AbstractContextManager[Recorded]]


@pytest.fixture
def installed() -> Iterator[None]:
    """Every probe, for the test."""
    probes.install_all()
    try:
        yield
    finally:
        probes.uninstall_all()


@pytest.fixture
def record(installed: None) -> Record:
    """``with record() as recorded:`` records the block as a job's body."""

    @contextmanager
    def block() -> Iterator[Recorded]:
        memory = recorder.open_memory()
        rec = recorder.Recorder(memory.buffer)
        recorded = Recorded(rec)
        assert recorder.start(rec)
        rec.mark("body")
        try:
            yield recorded
        finally:
            rec.mark("end")
            recorder.stop()
            recorded.recording = recording.read(memory.buffer)

    return block


@contextmanager
def let_go(recorded: Recorded, after_s: float, release: Callable[[], object]) -> Iterator[None]:
    """Releases what the block waits for as soon as a call of it has waited for so long, however late it got there."""
    over = threading.Event()

    def work() -> None:
        deadline = time.monotonic() + 20
        while not over.is_set() and time.monotonic() < deadline:
            call = recording.in_flight(recorded.recorder.buffer)
            if call and call.channel in ("lock", "pool") and time.perf_counter_ns() - call.start_ns > after_s * 1e9:
                break
            select.select([], [], [], 0.005)  # which no probe records
        release()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def line(offset: int = 0) -> int:
    """The caller's line, ``offset`` lines further."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno + offset
