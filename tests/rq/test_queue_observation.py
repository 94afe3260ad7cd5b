"""Samples of the queues: taken once for the fleet, brought to the store once, and kept within bounds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.suspension import suspend

from jobdoctor import wire
from jobdoctor.model import QueueSample, QueuesSample
from jobdoctor.rq import queue_observation, queue_state
from jobdoctor.store import Store
from jobdoctor.store.stream import StreamReader


def test_one_sample_for_the_fleet(redis_client: redis.Redis) -> None:
    job = Queue("mail", connection=redis_client).enqueue("app.send_mail")
    redis_client.sadd("rq:workers", "rq:worker:a", "rq:worker:b")
    for name in "ab":
        redis_client.hset(f"rq:worker:{name}", mapping={"queues": "high,mail", "state": "idle"})
    assert queue_observation.observe(redis_client)
    assert not queue_observation.observe(redis_client)  # another worker, a moment later
    ((_, fields),) = redis_client.xrange(wire.SAMPLES_KEY)
    sample = wire.decode_sample(fields)
    assert [(each.queue, each.depth, each.workers) for each in sample.queues] == [("high", 0, 2), ("mail", 1, 2)]
    assert sample.pools == [(["high", "mail"], 2)]
    assert not sample.suspended
    assert job.enqueued_at is not None
    assert sample.queues[1].oldest_at_ns == pytest.approx(job.enqueued_at.timestamp() * 1e9, abs=1e3)
    suspend(redis_client)
    assert queue_observation.sample_of(queue_state.read(redis_client)).suspended


def test_samples_come_to_the_store_once(redis_client: redis.Redis, valkey_url: str, tmp_path: Path) -> None:
    now = time.time_ns()
    samples = [
        QueuesSample(now + number, [QueueSample("mail", number, None, workers=1)], [(["mail"], 1)])
        for number in range(5)
    ]
    for sample in samples:
        redis_client.xadd(wire.SAMPLES_KEY, wire.encode_sample(sample))
    redis_client.xadd(wire.SAMPLES_KEY, {b"v": b"1", b"q": b"garbage"})
    redis_client.xadd(wire.SAMPLES_KEY, {b"v": b"99", b"q": b""})
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store, StreamReader(store, valkey_url) as reader:
        assert store.newest_sample_ns() == 0
        assert reader.collect_samples() == 5
        reader.collect_samples()  # known ones come again
        assert store.samples() == samples
        assert store.newest_sample_ns() == now + 4
