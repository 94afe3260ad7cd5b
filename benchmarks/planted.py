"""Jobs that wait and compute in ways that no probe sees, and say themselves where their time went.

The truth of each comes from the kernel's own figures, read by the job around each of its steps: wall time less the
thread's CPU less its run-queue delay is how long it was blocked there. ``benchmarks/ledger.py`` holds the ledger to it.
"""

from __future__ import annotations

import asyncio
import os
import queue
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from sqlalchemy import text

from sample_app import clients, db

#: What a job returns: ns by part of the ledger, "other_wait socket" with the detail.
Truth = dict[str, int]


class Account:
    """Adds up the job's own time by steps."""

    def __init__(self) -> None:
        self.parts: defaultdict[str, int] = defaultdict(int)

    @contextmanager
    def step(self, blocked_in: str) -> Iterator[None]:
        """What the thread is blocked in this block belongs to this part."""
        began, cpu, delay = _now()
        try:
            yield
        finally:
            ended, cpu_then, delay_then = _now()
            self.parts["cpu"] += cpu_then - cpu
            self.parts["cpu_wait"] += delay_then - delay
            self.parts[blocked_in] += max(0, ended - began - (cpu_then - cpu) - (delay_then - delay))

    def truth(self) -> Truth:
        return dict(self.parts)


def _now() -> tuple[int, int, int]:
    with open("/proc/thread-self/schedstat", "rb") as scheduled:
        delay = int(scheduled.read().split()[1])
    return time.perf_counter_ns(), time.thread_time_ns(), delay


def _compute(milliseconds: float) -> None:
    until = time.thread_time_ns() + int(milliseconds * 1e6)
    while time.thread_time_ns() < until:
        pass


def sleeps_in_select() -> Truth:
    """Four sleeps of 60 ms that ``time.sleep`` has no part in."""
    account = Account()
    for _ in range(4):
        with account.step("other_wait sleep"):
            select.select([], [], [], 0.06)
    return account.truth()


def short_waits() -> Truth:
    """Sixty waits of 3 ms with 1 ms of CPU between them."""
    account = Account()
    for _ in range(60):
        with account.step("other_wait sleep"):
            _compute(1)
            select.select([], [], [], 0.003)
    return account.truth()


def waits_for_a_socket() -> Truth:
    """Another process answers after 60 ms, four times."""
    ours, theirs = socket.socketpair()
    return _answered(lambda: ours.recv(1), lambda: theirs.send(b"."), "other_wait socket")


def waits_for_a_pipe() -> Truth:
    """A child of the job writes after 60 ms, four times."""
    end, other = os.pipe()
    return _answered(lambda: os.read(end, 1), lambda: os.write(other, b"."), "other_wait child")


def _answered(wait: Callable[[], object], answer: Callable[[], object], part: str) -> Truth:
    account = Account()
    with account.step("unexplained"):
        child = os.fork()
        if child == 0:
            for _ in range(4):
                time.sleep(0.06)
                answer()
            os._exit(0)
    for _ in range(4):
        with account.step(part):
            wait()
    os.waitpid(child, 0)
    return account.truth()


def waits_for_a_queue() -> Truth:
    """Four waits of 60 ms for a queue that is made in C: a futex that no probe sees."""
    account = Account()
    empty: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(4):
        with account.step("other_wait futex"):
            try:
                empty.get(timeout=0.06)
            except queue.Empty:
                pass
    return account.truth()


def queries_between_waits() -> Truth:
    """Twenty queries, each followed by 4 ms of CPU and a sleep of 6 ms that no probe sees."""
    account = Account()
    with account.step("sql"):
        connection = db.engine().connect()
    with connection:
        for _ in range(20):
            with account.step("sql"):
                connection.execute(text("SELECT 1"))
            with account.step("other_wait sleep"):
                _compute(4)
                select.select([], [], [], 0.006)
    return account.truth()


def loop_with_requests() -> Truth:
    """Eight tasks of asyncio: requests in flight while the loop computes 100 ms."""
    account = Account()

    async def one(client: httpx.AsyncClient) -> None:
        for number in range(3):
            await client.get(f"{clients.upstream_url()}/stock/SKU-{number:05}")
            _compute(4)

    async def all_of_them() -> None:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            await asyncio.gather(*(one(client) for _ in range(8)))

    with account.step("http"):
        asyncio.run(all_of_them())
    return account.truth()


def threads_that_compute() -> Truth:
    """The job waits for a thread of its own that computes 150 ms: CPU, not a lock."""
    account = Account()
    before = time.process_time_ns()
    thread = threading.Thread(target=_compute, args=[150])
    thread.start()
    thread.join()
    account.parts["cpu"] = time.process_time_ns() - before
    return account.truth()


def starved() -> Truth:
    """100 ms of CPU on a processor that it shares with another process."""
    processor = {min(os.sched_getaffinity(0))}
    os.sched_setaffinity(0, processor)
    child = os.fork()
    if child == 0:
        _compute(400)
        os._exit(0)
    account = Account()
    with account.step("unexplained"):
        _compute(100)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return account.truth()


JOBS = (
    sleeps_in_select,
    short_waits,
    waits_for_a_socket,
    waits_for_a_pipe,
    waits_for_a_queue,
    queries_between_waits,
    loop_with_requests,
    threads_that_compute,
    starved,
)
