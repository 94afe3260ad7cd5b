"""Which queues a worker of `jobdoctor run --slo` listens to."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
import rq.worker
from rq import Queue

from jobdoctor.errors import ConfigError
from jobdoctor.rq import launch, slo_listen
from jobdoctor.rq.slo_listen import Listening
from jobdoctor.rq.slo_state import VARIABLE
from tests.rq import promised_jobs as jobs

PREDEFINED = ["within_10_seconds", "within_30_seconds", "within_5_minutes", "within_24_hours"]


def test_the_predefined_and_those_that_exist_in_order(redis_client: redis.Redis) -> None:
    assert slo_listen.names(redis_client) == PREDEFINED
    for name in ("within_2_days", "within_1_minute", "default"):
        Queue(name, connection=redis_client).enqueue(jobs.any_time)
    assert slo_listen.names(redis_client) == [
        "within_10_seconds", "within_30_seconds", "within_1_minute", "within_5_minutes", "within_24_hours",
        "within_2_days",
    ]  # fmt: skip


def test_other_queues_come_before_the_slowest(redis_client: redis.Redis) -> None:
    assert slo_listen.names(redis_client, None, ["mail", "within_1_hour"]) == [
        *PREDEFINED[:3], "within_1_hour", "mail", "within_24_hours",
    ]  # fmt: skip


def test_only_promises_up_to_a_duration(redis_client: redis.Redis) -> None:
    assert slo_listen.names(redis_client, "30s", ["mail"]) == PREDEFINED[:2]
    with pytest.raises(ConfigError, match="no queue promises less than 1s; the fastest is within_10_seconds"):
        slo_listen.names(redis_client, "1s")
    with pytest.raises(ConfigError, match="'soon' is no duration"):
        slo_listen.names(redis_client, "soon")


@pytest.mark.parametrize(("workers", "few"), [(1, 0), (2, 1), (3, 1), (4, 1), (7, 1), (8, 2), (40, 10)])
def test_a_quarter_is_reserved(workers: int, few: int) -> None:
    assert slo_listen.reserved(workers) == few
    assert launch.reserved_options(workers, None) == [["--within", "30s"]] * few
    assert launch.reserved_options(workers, "5m") == []


def test_what_each_listens_to_is_said_once(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    redis.Redis.from_url(valkey_url).flushall()
    monkeypatch.delenv("JOBDOCTOR_SUPERVISED", raising=False)
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setenv("JOBDOCTOR_SUPERVISED", "")
    queues, lines = launch.promise_queues({"url": valkey_url, "queues": ("mail",)}, None, 2)
    assert queues == (*PREDEFINED[:3], "mail", "within_24_hours")
    assert lines == [
        "worker 1 listens to within_10_seconds, within_30_seconds only",
        "worker 2 listens to within_10_seconds, within_30_seconds, within_5_minutes, mail, within_24_hours",
    ]
    assert launch.promise_queues({"url": valkey_url}, "30s", 1) == (tuple(PREDEFINED[:2]), [])
    assert launch.worker_commands(["--slo", "--workers", "2"], 2, None, None, launch.reserved_options(2, None)) == [
        ["run", "--slo", "--workers", "2", "--workers", "1", "--no-collect", "--within", "30s"],
        ["run", "--slo", "--workers", "2", "--workers", "1", "--no-collect"],
    ]


class Dequeue:
    """RQ's step: what it is asked for, and what it brings."""

    def __init__(self, *brings: Any, takes_s: float = 0.0) -> None:
        self.brings = list(brings)
        self.asked: list[tuple[int | None, int | None]] = []
        self.takes_s = takes_s

    def __call__(self, timeout: int | None, max_idle_time: int | None) -> Any:
        self.asked.append((timeout, max_idle_time))
        time.sleep(self.takes_s)
        return self.brings.pop(0)


@pytest.fixture
def listening(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Listening:
    monkeypatch.setenv(VARIABLE, "all")
    worker: Any = rq.worker.SimpleWorker(slo_listen.names(redis_client, None, ["mail"]), connection=redis_client)
    worker.register_birth()
    return Listening(worker)


def test_a_new_promise_is_listened_to(listening: Listening, redis_client: redis.Redis) -> None:
    worker = listening._worker
    Queue("within_1_minute", connection=redis_client).enqueue(jobs.any_time)
    assert listening.dequeue(Dequeue("job"), 405, None) == "job"
    expected = ["within_10_seconds", "within_30_seconds", "within_1_minute", "within_5_minutes", "mail", PREDEFINED[3]]
    assert worker.queue_names() == expected
    assert [queue.name for queue in worker._ordered_queues] == expected
    assert redis_client.hget(worker.key, "queues") == ",".join(expected).encode()
    assert redis_client.smembers("rq:workers:within_1_minute") == {worker.key.encode()}
    found = worker.dequeue_job_and_maintain_ttl(None)
    assert found[1].name == "within_1_minute"
    Queue("within_2_minutes", connection=redis_client).enqueue(jobs.any_time)
    listening.dequeue(Dequeue("job"), 405, None)
    assert worker.queue_names() == expected  # it has just looked
    worker.register_death()


def test_a_worker_for_fast_jobs_stays_one(
    listening: Listening, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "30s")
    worker: Any = rq.worker.SimpleWorker(PREDEFINED[:2], connection=redis_client)
    for name in ("within_20_seconds", "within_40_seconds"):
        Queue(name, connection=redis_client).enqueue(jobs.any_time)
    Listening(worker).dequeue(Dequeue(None), None, None)
    assert worker.queue_names() == ["within_10_seconds", "within_20_seconds", "within_30_seconds"]


def test_waiting_is_cut_into_pieces_and_ends_when_rq_would_end_it(listening: Listening) -> None:
    waits = Dequeue(None, None, "job")
    assert listening.dequeue(waits, 405, None) == "job"
    assert waits.asked == [(5, 5)] * 3
    burst = Dequeue(None)
    assert listening.dequeue(burst, None, 7) is None
    assert burst.asked == [(None, 7)]
    idle = Dequeue(None, None, None, takes_s=0.6)
    assert listening.dequeue(idle, 405, 1) is None
    assert idle.asked == [(1, 1)] * 2
    listening._worker.register_death()
