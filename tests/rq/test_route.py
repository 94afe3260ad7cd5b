"""How a job came to its queue, told from its hash: each of RQ's ways, on a real server."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from rq import Queue, Retry
from rq.job import Job
from rq.scheduler import RQScheduler
from rq.worker import SimpleWorker

import jobdoctor
from jobdoctor import wire
from jobdoctor.model import Route
from jobdoctor.rq.facts import attempt, epoch_ns
from jobdoctor.rq.route import _MOST_DEPENDENCIES, released_by, route

PAST = datetime.now(UTC) - timedelta(hours=1)


def passing() -> None:
    """A job that is done at once."""


def failing() -> None:
    """A job that fails."""
    raise ValueError("no")


def came(job: Job, number: int | None = None) -> Route:
    """Its route, as a worker asks that has just taken it."""
    held_ns = epoch_ns(job.enqueued_at) - epoch_ns(job.created_at) if job.enqueued_at else None
    return route(job, attempt(job)[0] if number is None else number, held_ns)


class Ways:
    """RQ's ways into a queue, without waiting: what is due is due in the past, and created even before that."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.queue = Queue(connection=client)

    def aged(self, job: Job, seconds: float = 5) -> Job:
        """As if it had been created so long before."""
        created = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
        self.client.hset(job.key, "created_at", created)
        return job

    def run(self) -> None:
        """By a plain worker of RQ."""
        SimpleWorker([self.queue], connection=self.client).work(burst=True, logging_level="CRITICAL")

    def schedule(self) -> None:
        """What is due comes to its queue, as a worker with a scheduler does it."""
        scheduler: Any = RQScheduler([self.queue], connection=self.client)
        scheduler.acquire_locks()
        scheduler.enqueue_scheduled_jobs()
        scheduler.release_locks()

    def straight(self) -> Job:
        return self.queue.enqueue(passing)

    def scheduled(self) -> Job:
        job = self.aged(self.queue.enqueue_at(PAST, passing))
        self.schedule()
        return job

    def deferred(self, *, wait_s: float = 5) -> Job:
        first = self.queue.enqueue(passing, job_id="first")
        job = self.aged(self.queue.enqueue(passing, depends_on=first), wait_s)
        self.run_one()
        return job

    def run_one(self) -> None:
        SimpleWorker([self.queue], connection=self.client).work(burst=True, max_jobs=1, logging_level="CRITICAL")

    def dependency_was_done(self) -> Job:
        first = self.queue.enqueue(passing)
        self.run()
        return self.queue.enqueue(passing, depends_on=first)

    def retried(self) -> Job:
        job = self.queue.enqueue(failing, retry=Retry(max=1))
        self.run_one()
        return job

    def retried_later(self) -> Job:
        job = self.queue.enqueue(failing, retry=Retry(max=1, interval=60))
        self.run_one()
        self.client.zadd("rq:scheduled:default", {job.id: PAST.timestamp()})
        self.schedule()
        return job

    def requeued(self) -> Job:
        job = self.aged(self.queue.enqueue(failing))
        self.run()
        Job.fetch(job.id, connection=self.client).requeue()
        return job

    def requeued_after_retries(self) -> Job:
        # Stamped, so that the number of its attempt is known.
        job = self.queue.enqueue(failing, retry=Retry(max=1), meta={"jobdoctor": {"k": "code", "m": 1}})
        self.run()
        Job.fetch(job.id, connection=self.client).requeue()
        return job

    def enqueued_twice(self) -> Job:
        job = self.queue.enqueue(passing)
        self.run()
        return self.queue.enqueue_job(Job.fetch(job.id, connection=self.client))


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (Ways.straight, "straight"),
        (Ways.scheduled, "scheduled"),
        (Ways.deferred, "deferred"),
        (Ways.dependency_was_done, "straight"),
        (Ways.retried, "retried"),
        (Ways.retried_later, "retried"),
        (Ways.requeued, "requeued"),
        (Ways.requeued_after_retries, "requeued"),
        (Ways.enqueued_twice, "requeued"),
    ],
)
def test_every_way_into_a_queue(redis_client: redis.Redis, way: Callable[[Ways], Job], expected: Route) -> None:
    ways = Ways(redis_client)
    job = way(ways)
    taken = Job.fetch(job.id, connection=redis_client)  # as a worker does
    assert taken.id in ways.queue.job_ids
    assert came(taken) == expected
    assert released_by(taken, expected) == (["first"] if expected == "deferred" else [])


def test_a_repetition(redis_client: redis.Redis) -> None:
    repeat = pytest.importorskip("rq.repeat").Repeat
    ways = Ways(redis_client)
    job = ways.queue.enqueue(passing, repeat=repeat(times=2, interval=0))
    assert came(Job.fetch(job.id, connection=redis_client)) == "straight"
    ways.run_one()
    taken = Job.fetch(job.id, connection=redis_client)
    assert came(taken) == "repeated"
    assert came(taken, 2) == "unknown"  # a retry, or the repetition after one: RQ does not count anew


def test_a_rate_limit(redis_client: redis.Redis) -> None:
    limit = getattr(__import__("rq"), "RateLimit", None)
    if limit is None:
        pytest.skip("this RQ has no rate limits")
    ways = Ways(redis_client)
    first, second = (ways.queue.enqueue(passing, rate_limit=limit("key", 1)) for _ in range(2))
    ways.aged(second, 0.5)
    ways.run_one()
    taken = Job.fetch(second.id, connection=redis_client)
    assert taken.id in ways.queue.job_ids
    assert came(taken) == "rate-limited"
    assert came(first) == "straight"
    taken._dependency_ids = ["one"]
    assert came(taken) == "unknown"  # either may have held it


def test_nothing_is_made_up() -> None:
    job: Any = Job.create("app.f", connection=redis.Redis())
    assert came(job) == "unknown"  # it was never put in a queue
    job.enqueued_at = job.created_at + timedelta(milliseconds=900)
    assert came(job) == "straight"
    job._dependency_ids = [str(number) for number in range(_MOST_DEPENDENCIES + 1)]
    assert came(job) == "deferred"
    assert released_by(job, "deferred") == []  # too many to say which


def test_it_is_in_the_recording(redis_client: redis.Redis) -> None:
    queue = Queue(connection=redis_client)
    first = queue.enqueue(passing, job_id="first")
    second = Ways(redis_client).aged(queue.enqueue(passing, depends_on=first, job_id="second"))
    jobdoctor.SimpleWorker([queue], connection=redis_client).work(burst=True, logging_level="CRITICAL")
    recorded = [wire.decode(fields) for _, fields in redis_client.xrange(wire.STREAM_KEY)]
    found = {each.job_id: each for each in recorded}
    assert [found[each].route for each in ("first", second.id)] == ["straight", "deferred"]
    assert found["second"].depends_on == ["first"]
    assert found["second"].wait_ns == found["second"].ledger_ns("queue_wait")
    assert found["second"].enqueued_at_ns - found["second"].created_at_ns > 4_000_000_000
