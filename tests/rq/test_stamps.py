"""Stamps: what they say of the enqueue side, that they go away again, and that they stay out of the way."""

from __future__ import annotations

import sys
import timeit
import types
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from rq import Queue, Retry
from rq.job import Job
from rq.queue import Queue as QueueClass
from rq.serializers import JSONSerializer

from jobdoctor.rq import stamp_enqueues, stamps


@pytest.fixture(autouse=True)
def _uninstalled() -> Iterator[None]:
    yield
    stamps.uninstall()


def _attributes() -> list[Any]:
    names = ("create_job", "enqueue_job", "enqueue_many", "schedule_job")
    return [Job.__dict__["create"], *(QueueClass.__dict__[name] for name in names)]


def some_view(queue: Queue) -> Job:
    return queue.enqueue("app.tasks.sync", 1)


def test_a_stamp_says_who_enqueued(redis_client: redis.Redis) -> None:
    stamp_enqueues()
    job = some_view(Queue(connection=redis_client))
    trigger = stamps.read(Job.fetch(job.id, redis_client), scheduled=False)
    assert trigger.kind == "code"
    assert trigger.callsite == f"tests/rq/test_stamps.py:{some_view.__code__.co_firstlineno + 1}"
    assert trigger.function == "some_view"
    assert trigger.pid
    assert trigger.host


@pytest.mark.parametrize("way", ["enqueue", "enqueue_call", "enqueue_in", "enqueue_many", "delay"])
def test_every_way_of_enqueueing(redis_client: redis.Redis, way: str) -> None:
    from datetime import timedelta

    from rq.decorators import job as job_decorator

    stamp_enqueues()
    queue = Queue(connection=redis_client)
    if way == "enqueue":
        job = queue.enqueue("app.f")
    elif way == "enqueue_call":
        job = queue.enqueue_call("app.f")
    elif way == "enqueue_in":
        job = queue.enqueue_in(timedelta(seconds=5), "app.f")
    elif way == "enqueue_many":
        (job,) = queue.enqueue_many([Queue.prepare_data("app.f")])
    else:
        job = job_decorator(queue, connection=redis_client)(some_view).delay()  # type: ignore[attr-defined]
    assert stamps.read(Job.fetch(job.id, redis_client), scheduled=False).callsite.startswith("tests/rq/test_stamps.py:")


def test_idempotent_and_undone() -> None:
    before = _attributes()
    stamp_enqueues()
    wrapped = _attributes()
    stamp_enqueues()
    assert _attributes() == wrapped
    assert all(one is not other for one, other in zip(before, wrapped, strict=True))
    stamps.uninstall()
    assert all(one is other for one, other in zip(before, _attributes(), strict=True))


def test_the_users_meta_is_left_alone(redis_client: redis.Redis) -> None:
    stamp_enqueues()
    meta = {"of": "the user"}
    job = Queue(connection=redis_client).enqueue("app.f", meta=meta)
    assert meta == {"of": "the user"}
    assert job.meta["of"] == "the user"
    own = {"jobdoctor": "the user's own"}
    assert Queue(connection=redis_client).enqueue("app.f", meta=own).meta == own


def test_installed_in_a_worker_it_stamps_nothing_outside_of_jobs(redis_client: redis.Redis) -> None:
    stamps.install()
    assert Queue(connection=redis_client).enqueue("app.f").meta == {}


def test_retries_are_remembered(redis_client: redis.Redis) -> None:
    stamp_enqueues()
    job = Queue(connection=redis_client).enqueue("app.f", retry=Retry(max=4))
    assert stamps.max_retries(Job.fetch(job.id, redis_client)) == 4


def test_json_and_serializers_that_cannot(redis_client: redis.Redis) -> None:
    stamp_enqueues()
    job = Queue(connection=redis_client, serializer=JSONSerializer).enqueue("app.f")
    assert "jobdoctor" in Job.fetch(job.id, redis_client, serializer=JSONSerializer).meta

    class OnlyLists:
        @staticmethod
        def dumps(value: Any) -> bytes:
            if isinstance(value, dict):
                raise TypeError("no dicts")
            return JSONSerializer.dumps(value)

        loads = JSONSerializer.loads

    job = Queue(connection=redis_client, serializer=OnlyLists).enqueue("app.f")
    assert job.meta == {}


def test_a_request_of_flask(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    flask: Any = types.ModuleType("flask")
    flask.has_request_context = lambda: True
    flask.request = types.SimpleNamespace(method="POST", url_rule=types.SimpleNamespace(rule="/orders/<int:number>"))
    monkeypatch.setitem(sys.modules, "flask", flask)
    stamp_enqueues()
    trigger = stamps.read(Queue(connection=redis_client).enqueue("app.f"), scheduled=False)
    assert (trigger.kind, trigger.request) == ("request", "POST /orders/{}")


def test_a_broken_framework_does_no_harm(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    flask: Any = types.ModuleType("flask")
    monkeypatch.setitem(sys.modules, "flask", flask)
    stamp_enqueues()
    assert Queue(connection=redis_client).enqueue("app.f").meta == {}


def test_without_a_stamp_a_scheduler_is_recognised(redis_client: redis.Redis) -> None:
    job = Job.create("app.f", connection=redis_client)
    assert stamps.read(job, scheduled=False).kind == "unknown"
    assert stamps.read(job, scheduled=True).kind == "scheduler"
    job.meta = {"cron_string": "* * * * *"}
    assert stamps.read(job, scheduled=True).kind == "cron"


def test_a_stamp_is_cheap(redis_client: redis.Redis) -> None:
    """Measured at 10 us; the limit only catches a mistake of another order."""
    plain = min(timeit.repeat(lambda: Job.create("app.f", connection=redis_client), number=200, repeat=5)) / 200
    stamp_enqueues()
    stamped = min(timeit.repeat(lambda: Job.create("app.f", connection=redis_client), number=200, repeat=5)) / 200
    assert stamped - plain < 300e-6
