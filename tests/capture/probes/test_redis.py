"""redis-py on a real server: commands, pipelines, multi-key commands, locks; blocking and asyncio."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis
import redis.asyncio
import redis.lock

from jobdoctor.capture import probes
from tests.capture.probes.conftest import Record, let_go, line


def test_commands_of_one_line(record: Record, redis_client: redis.Redis) -> None:
    kwargs = redis_client.connection_pool.connection_kwargs
    with record() as recorded:
        for n in range(30):
            redis_client.hset(f"order:{n}", "name", "x" * 100)
        for n in range(60):
            redis_client.hget(f"order:{n % 30}", "name")
            here = line(-1)
    write, read = recorded.of("redis")
    assert (write.operation, write.fingerprint, write.effect, write.count) == ("HSET", "HSET order:{}", "write", 30)
    assert (read.operation, read.fingerprint, read.effect, read.count) == ("HGET", "HGET order:{}", "read", 60)
    assert (read.distinct, read.batched, read.received_bytes) == (30, 0, 6000)
    assert read.callsite == f"tests/capture/probes/test_redis.py:{here}"
    assert write.sent_bytes > 3000
    assert read.target == f"redis://{kwargs['host']}:{kwargs['port']}/{kwargs.get('db') or 0}"


def test_many_keys_and_pipelines_are_batches(record: Record, redis_client: redis.Redis) -> None:
    with record() as recorded:
        redis_client.mset({f"a:{n}": n for n in range(50)})
        redis_client.mget([f"a:{n}" for n in range(50)])
        redis_client.sadd("members", *range(20))
        redis_client.hset("hash", mapping={"a": 1, "b": 2, "c": 3})
        with redis_client.pipeline() as pipeline:
            for n in range(40):
                pipeline.get(f"a:{n}")
            pipeline.execute()
        with redis_client.pipeline(transaction=False) as pipeline:
            pipeline.set("a:1", 1).get("a:1")
            assert pipeline.execute() == [True, b"1"]
    facts = {
        group.fingerprint: (group.count, group.batched, group.items, group.effect) for group in recorded.of("redis")
    }
    assert facts == {
        "MSET a:{}": (1, 1, 50, "write"),
        "MGET a:{}": (1, 1, 50, "read"),
        "SADD members": (1, 1, 20, "write"),
        "HSET hash": (1, 1, 3, "write"),
        "PIPELINE GET a:{}": (1, 1, 40, "read"),
        "PIPELINE SET a:{}; GET a:{}": (1, 1, 2, "write"),
    }


def test_errors_and_watched_transactions(record: Record, redis_client: redis.Redis) -> None:
    redis_client.set("text", "x")
    with record() as recorded:
        with pytest.raises(redis.ResponseError):
            redis_client.incr("text")
        with redis_client.pipeline() as pipeline:
            pipeline.watch("text")
            assert pipeline.get("text") == b"x"
            pipeline.multi()
            pipeline.set("text", "y")
            pipeline.execute()
    operations = {group.operation: (group.count, group.errors) for group in recorded.of("redis")}
    assert operations["INCRBY"] == (1, 1)
    assert operations["GET"] == (1, 0)
    assert operations["PIPELINE"] == (1, 0)


def test_a_lock_that_is_held_is_one_wait_and_its_polling_is_part_of_it(
    record: Record, redis_client: redis.Redis
) -> None:
    holder = redis_client.lock("lock:stock:42", timeout=5)
    holder.acquire()
    with record() as recorded:
        began = time.perf_counter_ns()
        with (
            let_go(recorded, 0.25, lambda: redis_client.delete("lock:stock:42")),
            redis_client.lock("lock:stock:42", timeout=5, sleep=0.02),
        ):
            waited_ns = time.perf_counter_ns() - began
    group = recorded.one("lock")
    assert (group.operation, group.fingerprint, group.library, group.count) == ("acquire", "lock:stock:{}", "redis", 1)
    assert 240_000_000 < group.blocked_ns <= group.total_ns < waited_ns
    assert recorded.of("sleep") == []
    assert [(command.operation, command.count) for command in recorded.of("redis") if command.operation == "SET"] == [
        ("SET", 1)
    ]
    (wait,) = recorded.facts("lock")
    assert (wait["kind"], wait["target"]) == ("redis", "lock:stock:{}")


def test_a_free_lock_waits_for_nobody(record: Record, redis_client: redis.Redis) -> None:
    with record() as recorded:
        with redis_client.lock("free", timeout=5):
            assert not redis_client.lock("free", timeout=5).acquire(blocking=False)
        with redis_client.lock("short", timeout=5), pytest.raises(redis.exceptions.LockError):
            redis_client.lock("short", timeout=5, blocking_timeout=0.05, sleep=0.01).__enter__()
    waited = recorded.one("lock")
    assert waited.fingerprint == "short"
    assert len(recorded.facts("lock")) == 1


def test_asyncio_commands_pipelines_and_locks(record: Record, redis_client: redis.Redis, valkey_url: str) -> None:
    async def work() -> None:
        client = redis.asyncio.Redis.from_url(valkey_url)
        for n in range(5):
            await client.get(f"a:{n}")
        async with client.pipeline() as pipeline:
            await pipeline.set("a:1", 1).set("a:2", 2).execute()
        await asyncio.gather(*(client.hget(f"b:{n}", "x") for n in range(8)))
        holder = client.lock("busy", timeout=5)
        await holder.acquire()

        async def let_go() -> None:
            await asyncio.sleep(0.15)
            await holder.release()

        task = asyncio.create_task(let_go())
        async with client.lock("busy", timeout=5, sleep=0.02):
            pass
        await task
        await client.aclose()

    with record() as recorded:
        asyncio.run(work())
    get, gathered = recorded.one("redis", "GET"), recorded.one("redis", "HGET")
    assert (get.count, get.concurrent) == (5, 0)
    assert (gathered.count, gathered.concurrent) == (8, 7)
    assert recorded.one("redis", "PIPELINE").items == 2
    assert recorded.one("lock").count == 1
    assert recorded.one("lock").blocked_ns > 100_000_000


def test_rqs_own_phases_are_silent(record: Record, redis_client: redis.Redis) -> None:
    with record() as recorded:
        recorded.recorder.mark("persist")
        redis_client.set("a", 1)
        recorded.recorder.mark("callback")
        redis_client.get("a")
    assert [group.operation for group in recorded.of("redis")] == ["GET"]


def test_everything_is_put_back(redis_client: redis.Redis) -> None:
    kinds = (redis.Redis, redis.client.Pipeline, redis.asyncio.Redis, redis.asyncio.client.Pipeline, redis.lock.Lock,
             redis.asyncio.lock.Lock)  # fmt: skip
    before = [dict(vars(kind)) for kind in kinds]
    probes.install_all()
    assert [dict(vars(kind)) for kind in kinds] != before
    assert redis_client.set("a", 1)
    time.sleep(0)
    probes.uninstall_all()
    assert [dict(vars(kind)) for kind in kinds] == before
