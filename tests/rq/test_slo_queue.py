"""Jobs go to the queue of their promise, with every option of RQ's own enqueue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import redis
from rq import Queue, Retry
from rq.job import Job

import jobdoctor
from jobdoctor.errors import ConfigError
from tests.rq import promised_jobs as jobs


@pytest.fixture
def queue(redis_client: redis.Redis) -> jobdoctor.SLOQueue:
    return jobdoctor.SLOQueue(redis_client)


def test_the_promise_chooses_the_queue(queue: jobdoctor.SLOQueue) -> None:
    assert queue.enqueue(jobs.fast).origin == "within_30_seconds"
    assert queue.enqueue(jobs.unhurried).origin == "within_2_minutes"
    assert queue.enqueue(jobs.Mailer().send).origin == "within_10_seconds"
    assert queue.enqueue("tests.rq.promised_jobs.fast").origin == "within_30_seconds"
    assert queue.enqueue("tests.rq.promised_jobs.Mailer.send").origin == "within_10_seconds"


def test_without_a_promise_there_is_all_the_time(redis_client: redis.Redis, queue: jobdoctor.SLOQueue) -> None:
    assert queue.enqueue(jobs.any_time).origin == "within_24_hours"
    assert jobdoctor.SLOQueue(redis_client, default="5m").enqueue(jobs.any_time).origin == "within_5_minutes"


def test_a_name_that_cannot_be_imported_here_is_said(queue: jobdoctor.SLOQueue, redis_client: redis.Redis) -> None:
    for name in ("no.such.module.job", "tests.rq.promised_jobs.nothing", "job"):
        with pytest.raises(ConfigError, match=r"what '.*' promises is not known.*queue_within\('30s'\)"):
            queue.enqueue(name)
    assert queue.queue_within("30s").enqueue("no.such.module.job").origin == "within_30_seconds"
    assert redis_client.keys("rq:queue:*") == [b"rq:queue:within_30_seconds"]


@pytest.mark.parametrize("default", [0, "soon", -1])
def test_an_impossible_default_is_said_at_once(redis_client: redis.Redis, default: object) -> None:
    with pytest.raises(ConfigError, match="an SLO within"):
        jobdoctor.SLOQueue(redis_client, default=default)


def test_it_has_no_name(redis_client: redis.Redis) -> None:
    with pytest.raises(ConfigError, match="has no name"):
        jobdoctor.SLOQueue(redis_client, name="mail")


def test_options_of_rq_arrive(queue: jobdoctor.SLOQueue, redis_client: redis.Redis) -> None:
    first = queue.enqueue(jobs.unhurried)
    job = queue.enqueue(
        jobs.fast, 1, name="x", job_timeout=77, retry=Retry(max=3, interval=[1, 2]), depends_on=first, meta={"a": 1},
        job_id="mine", result_ttl=5, failure_ttl=6, ttl=70, description="one",
    )  # fmt: skip
    found = Job.fetch("mine", connection=redis_client)
    assert (found.args, found.kwargs, found.timeout, found.retries_left) == ((1,), {"name": "x"}, 77, 3)
    assert (found.result_ttl, found.failure_ttl, found.ttl, found.description) == (5, 6, 70, "one")
    assert found.meta["a"] == 1
    assert job.get_status() == "deferred"
    front = queue.enqueue(jobs.fast)
    assert queue.enqueue(jobs.fast, at_front=True).get_position() == 0
    assert front.get_position() == 1


def test_enqueue_call_and_later(queue: jobdoctor.SLOQueue, redis_client: redis.Redis) -> None:
    assert queue.enqueue_call(jobs.fast, args=(1,), timeout=9).origin == "within_30_seconds"
    queue.enqueue_in(timedelta(hours=1), jobs.fast, job_id="in")
    queue.enqueue_at(datetime.now(UTC) + timedelta(hours=1), jobs.unhurried, job_id="at")
    assert Queue("within_30_seconds", connection=redis_client).scheduled_job_registry.get_job_ids() == ["in"]
    assert Queue("within_2_minutes", connection=redis_client).scheduled_job_registry.get_job_ids() == ["at"]
    made = Job.create(jobs.fast, connection=redis_client)
    assert queue.enqueue_job(made).origin == "within_30_seconds"


def test_many_come_in_the_order_given_each_in_its_queue(queue: jobdoctor.SLOQueue) -> None:
    made = queue.enqueue_many(
        [
            queue.prepare_data(jobs.fast, (1,)),
            queue.prepare_data(jobs.unhurried, job_id="second"),
            queue.prepare_data(jobs.fast, (3,), depends_on="second"),
            queue.prepare_data(jobs.any_time),
        ]
    )
    assert [job.origin for job in made] == [
        "within_30_seconds", "within_2_minutes", "within_30_seconds", "within_24_hours",
    ]  # fmt: skip
    assert [job.get_status() for job in made] == ["queued", "queued", "deferred", "queued"]
    assert made[1].id == "second"


def test_the_same_id_twice_is_an_error_also_across_queues(queue: jobdoctor.SLOQueue) -> None:
    with pytest.raises(ValueError, match="'same' appears more than once"):
        queue.enqueue_many(
            [queue.prepare_data(jobs.fast, job_id="same"), queue.prepare_data(jobs.any_time, job_id="same")]
        )


def test_within_a_pipeline_nothing_happens_before_it_is_executed(
    queue: jobdoctor.SLOQueue, redis_client: redis.Redis
) -> None:
    with redis_client.pipeline() as pipeline:
        queue.enqueue(jobs.fast, pipeline=pipeline)
        queue.enqueue_many([queue.prepare_data(jobs.unhurried)], pipeline=pipeline)
        assert redis_client.keys("rq:queue:*") == []
        pipeline.execute()
    assert sorted(redis_client.keys("rq:queue:*")) == [b"rq:queue:within_2_minutes", b"rq:queue:within_30_seconds"]


def test_enqueue_takes_the_server_that_rq_would(
    redis_client: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RQ_REDIS_URL", valkey_url)
    job = jobdoctor.enqueue(jobs.fast, 1, job_timeout=5)
    assert Job.fetch(job.id, connection=redis_client).timeout == 5
    assert jobdoctor.enqueue(jobs.fast).connection is job.connection
