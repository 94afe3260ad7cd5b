"""Waits for a connection of redis-py's bounded pools, and connections that were opened."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import redis
import redis.asyncio
import redis.asyncio.connection
import redis.connection

from jobdoctor.capture import probes
from jobdoctor.model import SpanGroup
from tests.capture.probes.conftest import Record, let_go, line

HELD_S = 0.15


def test_a_wait_for_a_connection_is_a_call_of_its_own(record: Record, valkey_url: str) -> None:
    pool = redis.BlockingConnectionPool.from_url(valkey_url, max_connections=1, timeout=5)
    client = redis.Redis(connection_pool=pool)
    client.ping()
    held = pool.get_connection()
    with record() as recorded:
        began = time.perf_counter_ns()
        with let_go(recorded, HELD_S, lambda: pool.release(held)):
            client.get("a")
            here = line(-1)
        client.get("a")
        wall_ns = time.perf_counter_ns() - began
    pool.disconnect()
    wait = recorded.one("pool")
    waited, read = recorded.of("redis", "GET")
    assert (wait.operation, wait.library, wait.count, wait.new_connections) == ("checkout", "redis", 1, 0)
    assert wait.callsite == f"tests/capture/probes/test_redis_pool.py:{here}"
    assert wait.target == waited.target == read.target
    assert wait.blocked_ns > 0.9 * HELD_S * 1e9
    assert (waited.count, read.count) == (1, 1)
    # The command begins when it has its connection.
    assert waited.first_start_ns >= wait.first_start_ns + wait.total_ns
    assert recorded.recording.channel_ns["pool"] > 0.9 * HELD_S * 1e9
    assert recorded.recording.channel_ns["redis"] < wall_ns - wait.total_ns


def test_a_pool_that_gives_none_is_an_error_of_both(record: Record, valkey_url: str) -> None:
    pool = redis.BlockingConnectionPool.from_url(valkey_url, max_connections=1, timeout=0.05)
    held = pool.get_connection()
    with record() as recorded, pytest.raises(redis.ConnectionError):
        redis.Redis(connection_pool=pool).get("a")
    pool.release(held)
    pool.disconnect()
    assert recorded.one("pool").errors == 1
    assert recorded.one("redis").errors == 1


def test_an_asyncio_pool(record: Record, valkey_url: str) -> None:
    async def work() -> None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(valkey_url, max_connections=1, timeout=5)
        client = redis.asyncio.Redis(connection_pool=pool)
        await client.ping()
        held = await pool.get_connection()

        async def give_back() -> None:
            await asyncio.sleep(HELD_S)
            await pool.release(held)

        task = asyncio.create_task(give_back())
        await client.get("a")
        await client.get("a")
        await task
        await client.aclose()
        await pool.disconnect()

    with record() as recorded:
        asyncio.run(work())
    wait = recorded.one("pool")
    assert (wait.count, wait.blocked_ns > 0.9 * HELD_S * 1e9) == (1, True)
    first = min(recorded.of("redis", "GET"), key=lambda group: group.first_start_ns)
    assert first.first_start_ns >= wait.first_start_ns + wait.total_ns


def test_commands_that_open_a_connection_say_so(record: Record, valkey_url: str) -> None:
    with record() as recorded:
        for _ in range(4):
            with redis.Redis.from_url(valkey_url) as client:
                client.get("a")
                client.get("b")
    first, again = recorded.of("redis")
    assert (first.count, first.new_connections) == (4, 4)
    assert (again.count, again.new_connections) == (4, 0)


def test_asyncio_commands_that_open_a_connection_say_so(record: Record, valkey_url: str) -> None:
    async def work() -> None:
        async with redis.asyncio.from_url(valkey_url) as client:
            await client.get("a")
            await client.get("b")

    with record() as recorded:
        asyncio.run(work())
    assert [(group.count, group.new_connections) for group in recorded.of("redis")] == [(1, 1), (1, 0)]


def test_a_connection_outside_of_a_command_is_a_connect(record: Record, valkey_url: str) -> None:
    client = redis.Redis.from_url(valkey_url)
    with record() as recorded, client.pubsub() as channel:
        channel.subscribe("news")
    client.close()
    connect: SpanGroup = recorded.one("redis", "CONNECT")
    assert (connect.count, connect.new_connections, connect.effect) == (1, 1, "none")
    assert connect.target.startswith("redis://127.0.0.1:")


def test_a_wait_within_a_lock_is_the_locks(record: Record, redis_client: redis.Redis, valkey_url: str) -> None:
    redis_client.set("free", 1)
    pool = redis.BlockingConnectionPool.from_url(valkey_url, max_connections=1, timeout=5)
    client = redis.Redis(connection_pool=pool)
    redis_client.lock("guard", timeout=10).acquire()
    with record() as recorded:
        lock = client.lock("guard", sleep=0.02, blocking_timeout=0.2)

        def hold() -> None:
            held = pool.get_connection()
            time.sleep(0.05)
            pool.release(held)

        thread = threading.Thread(target=hold)
        timer = threading.Timer(0.05, thread.start)
        timer.start()
        assert not lock.acquire()
        timer.join()
        thread.join()
    pool.disconnect()
    assert recorded.one("lock").count == 1
    # The other thread may have met a command of the lock's, and waited for its connection.
    assert [group for group in recorded.of("pool") if not group.function.endswith("hold")] == []


def test_everything_is_put_back() -> None:
    owners = [
        (owner, name)
        for owner, name in (
            (redis.connection.BlockingConnectionPool, "get_connection"),
            (redis.connection.Connection, "_connect"),
            (redis.asyncio.connection.BlockingConnectionPool, "get_connection"),
            (redis.asyncio.connection.UnixDomainSocketConnection, "_connect"),
        )
    ]
    before = [vars(owner)[name] for owner, name in owners]
    probes.install_all()
    assert all(vars(owner)[name] is not one for (owner, name), one in zip(owners, before, strict=True))
    probes.uninstall_all()
    assert all(vars(owner)[name] is one for (owner, name), one in zip(owners, before, strict=True))
