"""Moving a job that was just taken: all of it kept, in one step, once, and never against RQ."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import rq.worker
from rq import Queue, Retry
from rq.job import Job, JobStatus

from jobdoctor.config import Settings
from jobdoctor.rq.slo_gate import SloGate, StopRequested
from jobdoctor.rq.slo_state import MARK, read_states, record, state_key
from tests.rq import promised_jobs as jobs

FAST, SLOW = "within_30_seconds", "within_24_hours"
NAME = "tests.rq.promised_jobs.fast"


def demote(client: redis.Redis, name: str = NAME, *, took_ms: float = 600_000.0) -> None:
    now = time.time_ns() // 1_000_000
    for _ in range(5):
        record(client, name, now_ms=now, took_ms=took_ms, slo_ms=30_000.0)


@pytest.fixture
def queue(redis_client: redis.Redis) -> Queue:
    return Queue(FAST, connection=redis_client)


def worker_of(client: redis.Redis, *queues: str) -> Any:
    worker = rq.worker.SimpleWorker(list(queues) or [FAST, SLOW], connection=client)
    worker.register_birth()
    return worker


@pytest.fixture
def worker(redis_client: redis.Redis) -> Iterator[Any]:
    found = worker_of(redis_client)
    yield found
    found.register_death()


def take(worker: Any, settings: Settings | None = None) -> tuple[Job, bool]:
    """What ``Promises.dequeue`` does with the next job: the job, and whether it was moved."""
    job, queue = worker.dequeue_job_and_maintain_ttl(None)
    return job, SloGate(worker, settings or Settings()).moved(job, queue)


def places(client: redis.Redis, job_id: str) -> list[str]:
    """Every list and sorted set of RQ that has the job."""
    found = []
    for key in sorted(client.keys("rq:*")):
        kind = client.type(key)
        if kind == b"list":
            members = client.lrange(key, 0, -1)
        elif kind == b"zset":
            members = [member.partition(b":")[0] for member in client.zrange(key, 0, -1)]
        else:
            continue
        found += [key.decode().removeprefix("rq:")] * members.count(job_id.encode())
    return found


def test_a_job_that_keeps_its_promise_runs(queue: Queue, worker: Any, redis_client: redis.Redis) -> None:
    queue.enqueue(jobs.fast)
    record(redis_client, NAME, now_ms=1, took_ms=5, slo_ms=30_000.0)
    assert take(worker)[1] is False


def test_a_demoted_job_is_moved_with_all_that_it_has(queue: Queue, worker: Any, redis_client: redis.Redis) -> None:
    demote(redis_client)
    before = queue.enqueue(jobs.any_time)
    job = queue.enqueue(
        jobs.fast, 1, job_timeout=77, retry=Retry(max=3, interval=9), meta={"a": 1}, result_ttl=5, depends_on=before,
        failure_ttl=6, description="one", on_failure=rq.Callback(jobs.any_time),
    )  # fmt: skip
    after = queue.enqueue(jobs.any_time, depends_on=job)
    queue.remove(before)
    queue.deferred_job_registry.remove(job)
    queue._enqueue_job(job)
    kept = redis_client.hgetall(job.key)
    taken, moved = take(worker)
    assert (taken.id, moved) == (job.id, True)
    now = redis_client.hgetall(job.key)
    mark = now.pop(MARK.encode()).decode()
    assert mark.startswith(f"{FAST}|{int(time.time())}"[: len(FAST) + 9])
    assert now == {**kept, b"origin": SLOW.encode()}
    assert places(redis_client, job.id) == [f"queue:{SLOW}"]
    assert redis_client.smembers("rq:queues") == {f"rq:queue:{FAST}".encode(), f"rq:queue:{SLOW}".encode()}
    assert [each.decode() for each in redis_client.smembers(job.dependents_key)] == [after.id]
    assert Job.fetch(job.id, connection=redis_client).get_status() == JobStatus.QUEUED
    assert read_states(redis_client)[0].moved == 1


def test_the_intermediate_queue_of_a_single_queue_is_left(queue: Queue, redis_client: redis.Redis) -> None:
    listener = worker_of(redis_client, SLOW)
    single = worker_of(redis_client, FAST)
    demote(redis_client)
    job = queue.enqueue(jobs.fast)
    redis_client.set(queue.intermediate_queue.get_first_seen_key(job.id), "1.0")
    assert take(single)[1] is True
    assert places(redis_client, job.id) == [f"queue:{SLOW}"]
    assert not redis_client.keys("*first_seen*")
    # Taken and failed by RQ's own cleaning, meanwhile: nothing is done to it.
    other = queue.enqueue(jobs.fast)
    taken, of = single.dequeue_job_and_maintain_ttl(None)
    redis_client.delete(queue.intermediate_queue_key)
    assert SloGate(single, Settings()).moved(taken, of) is False
    assert places(redis_client, other.id) == []
    listener.register_death()
    single.register_death()


def test_its_place_is_that_of_its_age(queue: Queue, worker: Any, redis_client: redis.Redis) -> None:
    demote(redis_client)
    slow = Queue(SLOW, connection=redis_client)
    oldest = slow.enqueue(jobs.any_time)
    moved = [queue.enqueue(jobs.fast) for _ in range(3)]
    younger = [slow.enqueue(jobs.any_time) for _ in range(4)]
    for _ in moved:
        assert take(worker)[1]
    assert slow.job_ids == [oldest.id, *(job.id for job in moved), *(job.id for job in younger)]
    # At most before the last 32: the scan is of constant length.
    late = queue.enqueue(jobs.fast)
    more = [slow.enqueue(jobs.any_time) for _ in range(40)]
    assert take(worker)[1]
    assert slow.job_ids[-33:] == [late.id, *(job.id for job in more[-32:])]


def test_it_is_moved_once(queue: Queue, worker: Any, redis_client: redis.Redis) -> None:
    demote(redis_client)
    job = queue.enqueue(jobs.fast)
    assert take(worker)[1]
    Queue(SLOW, connection=redis_client).remove(job)
    queue.push_job_id(job.id)  # somebody puts it back
    assert take(worker) == (job, False)


@pytest.mark.parametrize(
    "options", [{"ttl": 100}, {"repeat": "twice"}, {"rate_limit": "one"}], ids=["ttl", "repeat", "rate_limit"]
)
def test_what_waiting_would_harm_runs(
    queue: Queue, worker: Any, redis_client: redis.Redis, options: dict[str, Any]
) -> None:
    if "repeat" in options:
        options = {"repeat": rq.Repeat(times=2)}
    elif "rate_limit" in options:
        options = {"rate_limit": rq.rate_limit.RateLimit("key", 1)}
    demote(redis_client)
    queue.enqueue(jobs.fast, **options)
    assert take(worker)[1] is False


def test_nobody_listens_to_the_slowest_queue(queue: Queue, redis_client: redis.Redis) -> None:
    alone = worker_of(redis_client, FAST)
    demote(redis_client)
    queue.enqueue(jobs.fast)
    assert take(alone)[1] is False
    alone.register_death()


def test_only_workers_that_live_listen(queue: Queue, redis_client: redis.Redis) -> None:
    alone = worker_of(redis_client, FAST)
    killed = worker_of(redis_client, SLOW)
    demote(redis_client)
    queue.enqueue(jobs.fast)
    redis_client.delete(killed.key)  # it expires when nobody renews it; the set has its name for longer
    assert take(alone)[1] is False
    other = worker_of(redis_client, SLOW)
    queue.enqueue(jobs.fast)
    assert take(alone)[1] is True
    for each in (alone, killed, other):
        each.register_death()


def test_whatever_happens_each_job_is_in_one_place_and_moved_once_at_most(redis_client: redis.Redis) -> None:
    """Random enqueues, with all sorts of options, and takes by workers of one queue and of two."""
    rng = random.Random(2)
    fast, slow = Queue(FAST, connection=redis_client), Queue(SLOW, connection=redis_client)
    workers = [worker_of(redis_client, FAST), worker_of(redis_client, FAST, SLOW), worker_of(redis_client, SLOW)]
    gates = [SloGate(worker, Settings()) for worker in workers]
    known: dict[str, dict[bytes, bytes]] = {}
    moves: Counter[str] = Counter()
    ran: set[str] = set()
    demote(redis_client)
    for _ in range(70):
        if rng.random() < 0.45:
            options: dict[str, Any] = rng.choice(
                [
                    {}, {"at_front": True}, {"ttl": 600}, {"meta": {"a": 1}, "retry": Retry(max=2)},
                    {"repeat": rq.Repeat(times=2)}, {"job_timeout": 9, "failure_ttl": 7, "result_ttl": 3},
                ]
            )  # fmt: skip
            job = rng.choice([fast, fast, slow]).enqueue(jobs.fast, **options)
            known[job.id] = redis_client.hgetall(job.key)
        else:
            place = rng.randrange(3)
            if not any(queue.count for queue in workers[place].queues):
                continue
            job, queue = workers[place].dequeue_job_and_maintain_ttl(None)
            if gates[place].moved(job, queue):
                moves[job.id] += 1
            else:
                ran.add(job.id)  # RQ would register it now
                redis_client.lrem(fast.intermediate_queue_key, 0, job.id)
                redis_client.lrem(slow.intermediate_queue_key, 0, job.id)
        lists = [f"rq:queue:{name}{end}" for name in (FAST, SLOW) for end in ("", ":intermediate")]
        waiting = Counter(each.decode() for key in lists for each in redis_client.lrange(key, 0, -1))
        assert waiting == Counter({*known} - ran)
    assert len(moves) > 5
    assert set(moves.values()) == {1}
    for job_id, before in known.items():
        now = redis_client.hgetall(f"rq:job:{job_id}")
        assert (now.pop(MARK.encode(), None) is not None) == (moves[job_id] > 0)
        assert now == {**before, b"origin": SLOW.encode() if moves[job_id] else before[b"origin"]}
        assert not (moves[job_id] and {b"repeats_left", b"ttl"} & before.keys())
    for worker in workers:
        worker.register_death()


def test_exempt_jobs_run(queue: Queue, worker: Any, redis_client: redis.Redis) -> None:
    demote(redis_client)
    queue.enqueue(jobs.fast)
    assert take(worker, Settings(slo_exempt=[NAME]))[1] is False


@pytest.mark.parametrize("name", ["default", SLOW, "within_2_days"])
def test_other_queues_are_not_asked_about(redis_client: redis.Redis, name: str) -> None:
    only = worker_of(redis_client, name)
    demote(redis_client)
    Queue(name, connection=redis_client).enqueue(jobs.fast)
    job, queue = only.dequeue_job_and_maintain_ttl(None)
    gate = SloGate(only, Settings())
    gate._script = None  # would fail if it were asked
    assert gate.moved(job, queue) is False
    only.register_death()


def test_one_in_a_while_is_tried_and_an_hour_without_runs_frees_it(
    queue: Queue, worker: Any, redis_client: redis.Redis
) -> None:
    demote(redis_client, took_ms=40_000.0)
    key = state_key(NAME)
    assert int(redis_client.hget(key, "probe_at") or 0) - int(redis_client.hget(key, "demoted_at") or 0) == 800_000
    for _ in range(4):
        queue.enqueue(jobs.fast)
    assert take(worker)[1] is True
    redis_client.hset(key, "probe_at", 1)
    assert take(worker)[1] is False  # the probe
    assert read_states(redis_client)[0].probes == 1
    assert take(worker)[1] is True
    redis_client.hset(key, "seen_at", time.time_ns() // 1_000_000 - 3_600_001)
    assert take(worker)[1] is False
    assert read_states(redis_client)[0].demoted_since_ns is None


def test_a_script_that_is_refused_lets_the_job_run(
    queue: Queue, worker: Any, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    demote(redis_client)
    job = queue.enqueue(jobs.fast)
    taken, of = worker.dequeue_job_and_maintain_ttl(None)
    gate = SloGate(worker, Settings())
    gate._script = redis_client.register_script("return redis.call('NOSUCH')")
    assert gate.moved(taken, of) is False
    assert redis_client.hget(job.key, "origin") == FAST.encode()


def test_a_job_that_may_run_is_asked_about_once_a_second(
    queue: Queue, worker: Any, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = SloGate(worker, Settings())
    now = [100.0]
    monkeypatch.setattr("jobdoctor.rq.slo_gate.time.monotonic", lambda: now[0])
    answers = []
    for pause in (0.0, 0.9, 0.2):
        now[0] += pause
        queue.enqueue(jobs.fast)
        taken = worker.dequeue_job_and_maintain_ttl(None)
        answers.append(gate.moved(*taken))
        demote(redis_client)
    assert answers == [False, False, True]


class _LosesAnswers:
    """A script whose answer is lost on the way."""

    def __init__(self, script: Any, *, executed: bool) -> None:
        self.script, self.executed = script, executed
        self.arguments: dict[str, Any] = {}

    def __call__(self, **arguments: Any) -> Any:
        self.arguments = arguments
        if self.executed:
            self.script(**arguments)
        raise redis.exceptions.ConnectionError("gone")


@pytest.mark.parametrize("executed", [True, False])
def test_a_lost_answer_neither_doubles_nor_drops_it(
    queue: Queue, worker: Any, redis_client: redis.Redis, executed: bool
) -> None:
    demote(redis_client)
    job = queue.enqueue(jobs.fast)
    taken, of = worker.dequeue_job_and_maintain_ttl(None)
    gate = SloGate(worker, Settings())
    script = gate._script
    gate._script = _LosesAnswers(script, executed=executed)
    assert gate.moved(taken, of) is executed
    assert places(redis_client, job.id) == ([f"queue:{SLOW}"] if executed else [])
    if not executed:
        script(**gate._script.arguments)  # it was only late, and finds that the job runs here
        assert places(redis_client, job.id) == []
        assert (redis_client.hget(job.key, MARK) or b"").startswith(b"|")  # "kept": no queue before the bar


def test_asked_again_it_says_the_same(queue: Queue, worker: Any, redis_client: redis.Redis) -> None:
    """redis-py sends a command again when the connection broke."""
    demote(redis_client)
    job = queue.enqueue(jobs.fast)
    taken, of = worker.dequeue_job_and_maintain_ttl(None)
    gate = SloGate(worker, Settings())
    script = gate._script
    gate._script = lambda **arguments: [script(**arguments), script(**arguments)][1]
    assert gate.moved(taken, of) is True
    assert places(redis_client, job.id) == [f"queue:{SLOW}"]


def test_a_signal_meanwhile_waits_until_the_job_is_somewhere(
    queue: Queue, worker: Any, redis_client: redis.Redis
) -> None:
    demote(redis_client)
    job = queue.enqueue(jobs.fast)
    taken, of = worker.dequeue_job_and_maintain_ttl(None)
    gate = SloGate(worker, Settings())
    script = gate._script

    def interrupted(**arguments: Any) -> Any:
        worker.request_stop(15, None)
        return script(**arguments)

    gate._script = interrupted
    with pytest.raises(StopRequested):
        gate.moved(taken, of)
    assert places(redis_client, job.id) == [f"queue:{SLOW}"]
    assert worker._state != "busy"


def test_the_log_says_it(
    queue: Queue, worker: Any, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    demote(redis_client)
    for _ in range(3):
        queue.enqueue(jobs.fast)
    gate = SloGate(worker, Settings())
    with caplog.at_level(logging.INFO, "rq.worker"):
        for _ in range(2):
            assert gate.moved(*worker.dequeue_job_and_maintain_ttl(None))
        redis_client.delete(state_key(NAME))
        assert not gate.moved(*worker.dequeue_job_and_maintain_ttl(None))
    ours = [record.getMessage() for record in caplog.records if "jobdoctor" in record.getMessage()]
    assert ours[0] == (
        f"jobdoctor: {NAME} keeps a worker busy for longer than the 30.0 s that it promises (5 of 5 runs): its jobs "
        f"are moved from {FAST} to {SLOW}, until it is faster"
    )
    assert [line.split(") ")[-1] for line in ours[1:3]] == [f"moved from {FAST} to {SLOW}"] * 2
    assert ours[3] == f"jobdoctor: {NAME} runs in {FAST} again"
