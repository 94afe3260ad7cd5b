"""Jobs for the worker tests, importable by forked and spawned horses."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import sqlite3
import time
from typing import Any

import redis
from rq import Queue, Retry, get_current_job


def add(left: int, right: int) -> int:
    return left + right


def nothing() -> None:
    return None


def describe() -> dict[str, Any]:
    job = get_current_job()
    assert job is not None
    return {"id": job.id, "func": job.func_name, "args": list(job.args), "timeout": job.timeout}


def large_result() -> list[str]:
    return ["x" * 50] * 1000


async def coroutine(value: int) -> int:
    await asyncio.sleep(0.01)
    return value * 2


def raise_value_error(order: int = 17) -> None:
    raise ValueError(f"no order {order}")


def unpicklable_result() -> Any:
    return lambda: None


def fail_twice() -> str:
    job = get_current_job()
    assert job is not None
    attempts = job.connection.incr(f"attempts:{job.id}")
    if attempts < 3:
        raise ConnectionError(f"attempt {attempts}")
    return "at last"


def return_retry(times: int = 1) -> Any:
    job = get_current_job()
    assert job is not None
    if job.connection.incr(f"returned:{job.id}") <= times:
        return Retry(max=2, interval=0)
    return "done"


def always_return_retry() -> Any:
    return Retry(max=1)


def too_slow() -> None:
    time.sleep(30)


def too_slow_in_small_steps() -> None:
    # Not with redis-py, which itself swallows one timeout in a hundred.
    connection = sqlite3.connect(":memory:")
    ends = time.monotonic() + 8
    while time.monotonic() < ends:
        connection.execute("SELECT 1").fetchone()


def save_meta() -> str:
    job = get_current_job()
    assert job is not None
    job.meta["progress"] = 100
    job.save_meta()
    return "saved"


def save_meta_and_die() -> None:
    job = get_current_job()
    assert job is not None
    job.meta["progress"] = 5
    job.save_meta()
    if job.connection.incr(f"deaths:{job.id}") == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def die_in_a_call(url: str) -> None:
    """Is killed while it waits for Redis."""
    client = redis.Redis.from_url(url)
    client.set("about-to-die", os.getpid())
    client.blpop(["never"], timeout=30)


def exit_with(code: int) -> None:
    os._exit(code)


def enqueue_one_by_one(url: str, count: int) -> None:
    queue = Queue("later", connection=redis.Redis.from_url(url))
    for number in range(count):
        queue.enqueue(add, number, 1)


def enqueue_many(url: str, count: int) -> None:
    queue = Queue("later", connection=redis.Redis.from_url(url))
    queue.enqueue_many([Queue.prepare_data(add, (number, 1)) for number in range(count)])


def use_redis(url: str, times: int) -> None:
    client = redis.Redis.from_url(url)
    for number in range(times):
        client.set(f"key:{number}", number)


def use_redis_slowly(url: str, times: int) -> None:
    use_redis(url, times)
    time.sleep(0.3)


def write_file(path: str) -> None:
    pathlib.Path(path).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(30)


def on_success(job: Any, connection: Any, result: Any) -> None:
    connection.rpush("callbacks", f"success {job.id} {result!r}")


def on_failure(job: Any, connection: Any, kind: Any, value: Any, traceback: Any) -> None:
    connection.rpush("callbacks", f"failure {job.id} {kind.__name__} {value}")


def broken_callback(job: Any, connection: Any, result: Any) -> None:
    raise RuntimeError("the callback is broken")


def on_stopped(job: Any, connection: Any) -> None:
    connection.rpush("callbacks", f"stopped {job.id}")


class Order:
    """An object as an argument, and with a method as a job."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lines = [{"sku": f"sku-{index}", "count": index} for index in range(50)]

    def total(self) -> int:
        return sum(line["count"] for line in self.lines)  # type: ignore[misc]


def order_total(order: Order) -> int:
    return order.total()


def wait_for_file(started: str, release: str) -> str:
    pathlib.Path(started).touch()
    while not pathlib.Path(release).exists():
        time.sleep(0.01)
    return "released"


def spin_for(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


def length(data: bytes) -> int:
    return len(data)
