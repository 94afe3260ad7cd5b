"""Anti-clogging with real workers: recorded, moved, run once, whoever is killed meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from rq import Queue, Retry
from rq.job import Job

import jobdoctor
from jobdoctor.rq.slo_state import read_states
from tests.integration import promise_jobs as jobs
from tests.integration.recordings import executions, work
from tests.rq.test_slo_gate import demote, places

NAME = "tests.integration.promise_jobs.quick"
FAST, SLOW = "within_10_seconds", "within_24_hours"


@pytest.fixture
def _minded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDOCTOR_ANTI_CLOGGING", "1")


def _ran(client: redis.Redis) -> list[str]:
    return [line.decode() for line in client.lrange("ran", 0, -1)]


@pytest.mark.usefixtures("_minded")
def test_a_job_that_clogs_is_found_and_moved(redis_client: redis.Redis) -> None:
    queue = jobdoctor.SLOQueue(redis_client)
    names = ("within_10_milliseconds", FAST, SLOW)
    for _ in range(5):
        queue.enqueue(jobs.too_slow)
        queue.enqueue(jobs.too_slow_and_exempt)
    queue.enqueue(jobs.no_promise)
    work(jobdoctor.Worker, redis_client, *names)
    (state,) = read_states(redis_client)
    assert (state.job, state.samples, state.late) == ("tests.integration.promise_jobs.too_slow", 5, 5)
    moved, stays = queue.enqueue(jobs.too_slow), queue.enqueue(jobs.too_slow_and_exempt)
    work(jobdoctor.Worker, redis_client, *names)
    assert _ran(redis_client)[-2:] == [f"{stays.id} within_10_milliseconds", f"{moved.id} {SLOW}"]
    found = {execution.job_id: execution for execution in executions(redis_client)}
    assert found[moved.id].slo_ms == 10.0
    assert found[moved.id].queue == SLOW
    assert found[moved.id].demoted_from == "within_10_milliseconds"
    assert found[moved.id].enqueued_at_ns < found[moved.id].demoted_at_ns + 1_000_000 <= time.time_ns()
    assert found[stays.id].demoted_from == ""
    assert (found[moved.id].route, found[stays.id].route) == ("moved", "straight")
    assert [execution.slo_ms for execution in found.values() if execution.job.endswith("no_promise")] == [None]


@pytest.mark.parametrize("name", ["SimpleWorker", "SpawnWorker", "RoundRobinWorker", "RandomWorker"])
@pytest.mark.usefixtures("_minded")
def test_workers_of_all_kinds_move(redis_client: redis.Redis, name: str) -> None:
    demote(redis_client, NAME)
    job = jobdoctor.SLOQueue(redis_client).enqueue(jobs.quick)
    work(getattr(jobdoctor, name), redis_client, FAST, SLOW)
    assert _ran(redis_client) == [f"{job.id} {SLOW}"]
    (execution,) = executions(redis_client)
    assert (execution.queue, execution.demoted_from, execution.slo_ms) == (SLOW, FAST, 10_000.0)


def test_workers_that_do_not_mind_leave_everything(redis_client: redis.Redis) -> None:
    demote(redis_client, NAME)
    job = jobdoctor.SLOQueue(redis_client).enqueue(jobs.quick)
    work(jobdoctor.SimpleWorker, redis_client, FAST, SLOW)
    assert _ran(redis_client) == [f"{job.id} {FAST}"]
    (execution,) = executions(redis_client)
    assert execution.slo_ms == 10_000.0
    assert read_states(redis_client)[0].samples == 5


@pytest.mark.usefixtures("_minded")
def test_settings_win_over_the_function(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDOCTOR_SLO_MS", f"{NAME}=1500,tests.integration.promise_jobs.no_promise=700")
    Queue(FAST, connection=redis_client).enqueue(jobs.quick)
    Queue("default", connection=redis_client).enqueue(jobs.no_promise)
    work(jobdoctor.SimpleWorker, redis_client, FAST, "default")
    assert [execution.slo_ms for execution in executions(redis_client)] == [1_500.0, 700.0]
    assert [state.slo_ms for state in read_states(redis_client)] == [700.0, 1_500.0]


@pytest.mark.usefixtures("_minded")
def test_moves_count_neither_as_jobs_done_nor_as_idleness(redis_client: redis.Redis) -> None:
    demote(redis_client, NAME)
    queue = jobdoctor.SLOQueue(redis_client)
    moved = [queue.enqueue(jobs.quick) for _ in range(3)]
    own = queue.enqueue(jobs.no_promise)
    worker = jobdoctor.SimpleWorker([FAST, SLOW], connection=redis_client)
    worker.work(burst=True, max_jobs=2, logging_level="CRITICAL")
    assert _ran(redis_client) == [f"{job.id} {SLOW}" for job in moved[:2]]
    assert Queue(SLOW, connection=redis_client).job_ids == [moved[2].id, own.id]


_WORKER = """
import os, signal, sys
import redis, jobdoctor
from jobdoctor.rq.slo_gate import SloGate
when, url, queues = sys.argv[1], sys.argv[2], sys.argv[3:]
asked = SloGate._answer
def answer(self, *arguments):
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    found = asked(self, *arguments)
    if when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return found
SloGate._answer = answer
jobdoctor.SimpleWorker(queues, connection=redis.Redis.from_url(url)).work(burst=True, logging_level="CRITICAL")
"""


def _killed(url: str, when: str, *queues: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _WORKER, when, url, *queues],
        timeout=60,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JOBDOCTOR_ANTI_CLOGGING": "1"},
    )
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("when", "queues"),
    # Not "before" with two queues: what BLPOP has brought to a worker that is killed is in no list, in plain RQ, too.
    [("before", (FAST,)), ("after", (FAST,)), ("after", (FAST, SLOW))],
    ids=["before", "after, single queue", "after, two queues"],
)
@pytest.mark.usefixtures("_minded")
def test_killed_around_the_move_it_is_in_one_place_and_runs_once(
    redis_client: redis.Redis, valkey_url: str, when: str, queues: tuple[str, ...]
) -> None:
    listener = jobdoctor.SimpleWorker([SLOW], connection=redis_client)
    listener.register_birth()
    demote(redis_client, NAME)
    job = jobdoctor.SLOQueue(redis_client).enqueue(jobs.quick, retry=Retry(max=1))
    _killed(valkey_url, when, *queues)
    assert places(redis_client, job.id) == [f"queue:{FAST}:intermediate" if when == "before" else f"queue:{SLOW}"]
    if when == "before":  # RQ's maintenance sees it, and a minute later puts it back
        fast = Queue(FAST, connection=redis_client)
        redis_client.set(fast.intermediate_queue.get_first_seen_key(job.id), time.time() - 61)
        fast.intermediate_queue.cleanup(listener, fast)
        assert places(redis_client, job.id) == [f"queue:{FAST}"]
    listener.register_death()
    work(jobdoctor.SimpleWorker, redis_client, FAST, SLOW)
    assert _ran(redis_client) == [f"{job.id} {SLOW}"]
    assert Job.fetch(job.id, connection=redis_client).get_status() == "finished"


@pytest.mark.usefixtures("_minded")
def test_killed_anywhere_among_many_none_is_lost_or_doubled(redis_client: redis.Redis, valkey_url: str) -> None:
    """Workers are killed at random moments while they move."""
    demote(redis_client, NAME)
    keeper = jobdoctor.SimpleWorker([SLOW], connection=redis_client)
    keeper.register_birth()
    queue = jobdoctor.SLOQueue(redis_client)
    made = sorted(queue.enqueue(jobs.quick).id.encode() for _ in range(300))
    moments = random.Random(5)
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, "never", valkey_url, FAST],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "JOBDOCTOR_ANTI_CLOGGING": "1"},
        )
        before = redis_client.llen(f"rq:queue:{SLOW}")
        deadline = time.monotonic() + 30
        while redis_client.llen(f"rq:queue:{SLOW}") < before + 5 and time.monotonic() < deadline:
            time.sleep(0.0005)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.wait()
        keys = [f"rq:queue:{FAST}", f"rq:queue:{FAST}:intermediate", f"rq:queue:{SLOW}"]
        assert sorted(job for key in keys for job in redis_client.lrange(key, 0, -1)) == made
    keeper.register_death()
