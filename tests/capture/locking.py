"""Jobs that wait for locks: recorded in one process and observed from another, as a worker does it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jobdoctor.capture import probes, recorder, recording
from jobdoctor.capture.lock_observer import LockObserver
from jobdoctor.model import LockWait

Job = Callable[[], None]

#: The processes of jobs whose statement stands still: a holder's seconds count from when all of them do, however long a
#: busy machine took to get there.
standing: set[int] = set()
STANDS_NS = 20_000_000


class Observed:
    """One job in a process of its own, recorded, and what its observer said of it."""

    def __init__(self, observer: LockObserver, job: Job) -> None:
        self.observer = observer
        self._memory = recorder.open_memory()
        rec = recorder.Recorder(self._memory.buffer)
        observer.begin()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                probes.install_all()
                recorder.start(rec)
                rec.mark("body")
                job()
                rec.mark("end")
                status = 0
            finally:
                os._exit(status)
        self.waits: list[LockWait] = []
        self.recorded: recording.Recording

    def tick(self) -> bool:
        """As the worker does it while the horse runs; whether it has ended."""
        done, status = os.waitpid(self.pid, os.WNOHANG)
        if not done:
            self.observer.tick(self._memory.buffer)
            call = recording.in_flight(self._memory.buffer)
            if (
                call is not None
                and (call.channel, call.operation) not in (("sql", "CONNECT"), ("sleep", "sleep"))
                and time.perf_counter_ns() - call.start_ns > STANDS_NS
            ):
                standing.add(self.pid)
            return False
        assert status == 0
        self.recorded = recording.read(self._memory.buffer)
        self.waits = self.observer.end(self.recorded)
        return True


def observe(observer: LockObserver, job: Job) -> tuple[list[LockWait], recording.Recording]:
    """Runs the job and returns what it waited for."""
    observed = Observed(observer, job)
    while not observed.tick():
        time.sleep(0.01)
    return observed.waits, observed.recorded


def observe_together(observers: list[LockObserver], jobs: list[Job]) -> list[Observed]:
    """Runs the jobs at the same time, each with its own observer, as so many workers."""
    all_observed = [Observed(observer, job) for observer, job in zip(observers, jobs, strict=True)]
    running = list(all_observed)
    while running:
        running = [observed for observed in running if not observed.tick()]
        time.sleep(0.01)
    return all_observed


def warm(stand_still: Job, *observers: LockObserver) -> None:
    """Waits until the observers answer, however busy the machine is. ``stand_still`` takes half a second."""
    cold = [observer for observer in observers if not observer._known]
    for _ in range(20):
        if not cold:
            return
        for observed in observe_together(cold, [stand_still] * len(cold)):
            assert (observed.waits, observed.observer.problem) == ([], "")
        cold = [observer for observer in cold if not observer._answered]
    pytest.fail("no answer in 10 s")


class Holder:
    """Who holds a lock. ``released_ns`` is when it began to let go, of the performance counter."""

    def __init__(self, session: int) -> None:
        self.session = session
        self.released_ns = 0


@contextmanager
def held(
    connection: Any, session: int, statements: list[str], seconds: float, release: Job, jobs: int = 1
) -> Iterator[Holder]:
    """A session that runs the statements and keeps what they take, until so many jobs have stood still for so many
    seconds."""
    cursor = connection.cursor()
    for statement in statements:
        cursor.execute(statement)
    holder = Holder(session)
    standing.clear()

    def let_go() -> None:
        deadline = time.monotonic() + 20
        while len(standing) < jobs and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(seconds)
        holder.released_ns = time.perf_counter_ns()
        release()

    thread = threading.Thread(target=let_go)
    thread.start()
    yield holder
    thread.join()
    connection.close()
