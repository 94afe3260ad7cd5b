"""The same jobs with RQ's workers and with ours: everything RQ tells about them afterwards is equal."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import redis
from rq import Callback, Queue, Retry
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry, StartedJobRegistry

from tests.integration import jobs
from tests.integration.recordings import PLAIN, RECORDING, executions, work

CASES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "result": (jobs.add, (2, 3), {}),
    "none": (jobs.nothing, (), {}),
    "current job": (jobs.describe, (), {}),
    "large result": (jobs.large_result, (), {"result_ttl": 77}),
    "result thrown away": (jobs.add, (2, 3), {"result_ttl": 0}),
    "result kept for ever": (jobs.add, (2, 3), {"result_ttl": -1}),
    "coroutine": (jobs.coroutine, (4,), {}),
    "method": (jobs.Order(3).total, (), {}),
    "object argument": (jobs.order_total, (jobs.Order(3),), {}),
    "exception": (jobs.raise_value_error, (), {}),
    "no such function": ("tests.integration.jobs.no_such_function", (), {}),
    "no such module": ("tests.integration.no_such_module.function", (), {}),
    "unpicklable result": (jobs.unpicklable_result, (), {}),
    "wrong arguments": (jobs.add, (1,), {}),
    "retry": (jobs.fail_twice, (), {"retry": Retry(max=3)}),
    "retry exhausted": (jobs.raise_value_error, (), {"retry": Retry(max=2)}),
    "retry later": (jobs.raise_value_error, (), {"retry": Retry(max=2, interval=[60, 120])}),
    "returned retry": (jobs.return_retry, (), {}),
    "returned retry exhausted": (jobs.always_return_retry, (), {}),
    "timeout": (jobs.too_slow, (), {"job_timeout": 1}),
    "meta": (jobs.save_meta, (), {"meta": {"of": "the user"}}),
    "success callback": (jobs.add, (2, 3), {"on_success": Callback(jobs.on_success)}),
    "failure callback": (jobs.raise_value_error, (), {"on_failure": Callback(jobs.on_failure)}),
    "broken callback": (jobs.add, (2, 3), {"on_success": Callback(jobs.broken_callback)}),
    "killed": (jobs.save_meta_and_die, (), {"retry": Retry(max=1)}),
    "exit": (jobs.exit_with, (3,), {}),
}
#: A SimpleWorker runs the job in the test's own process, and spawning is slow: a choice of them.
NOT_SIMPLE = {"killed", "exit"}
SPAWNED = {"result", "exception", "retry", "timeout", "success callback", "killed", "no such function"}


def _cases() -> list[Any]:
    return [
        pytest.param(kind, name, id=f"{kind}-{name}")
        for name in CASES
        for kind in PLAIN
        if not (kind == "simple" and name in NOT_SIMPLE) and not (kind == "spawn" and name not in SPAWNED)
    ]


@pytest.mark.parametrize(("kind", "name"), _cases())
def test_rq_sees_no_difference(redis_client: redis.Redis, kind: str, name: str) -> None:
    plain = _outcome(redis_client, PLAIN[kind], name)
    assert not executions(redis_client)
    redis_client.flushdb()
    ours = _outcome(redis_client, RECORDING[kind], name)
    recorded = executions(redis_client)
    assert ours == plain
    assert recorded
    assert not [problem for each in recorded for problem in each.not_captured]


def _outcome(client: redis.Redis, worker_class: Any, name: str) -> dict[str, Any]:
    function, args, options = CASES[name]
    queue = Queue(connection=client)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        job = queue.enqueue(function, args=args, job_id="the-job", **options)
    worker = work(worker_class, client)
    found = {
        "queued": queue.job_ids,
        "finished": FinishedJobRegistry(queue=queue).get_job_ids(),
        "failed": FailedJobRegistry(queue=queue).get_job_ids(),
        "started": StartedJobRegistry(queue=queue).get_job_ids(),
        "scheduled": ScheduledJobRegistry(queue=queue).get_job_ids(),
        "callbacks": client.lrange("callbacks", 0, -1),
        "successes": worker.successful_job_count,
        "keys": sorted(key for key in client.scan_iter() if not key.startswith((b"rq:worker", b"jobdoctor:"))),
        "exists": Job.exists("the-job", client),
    }
    if found["exists"]:
        job = Job.fetch("the-job", client)
        found |= {
            "status": job.get_status(),
            "fields": {key: _steady(value) for key, value in client.hgetall(job.key).items() if key not in MOVING},
            "meta": {key: value for key, value in job.meta.items() if key != "jobdoctor"},
            "results": [
                (result.type, result.return_value and repr(result.return_value), _steady(result.exc_string or ""))
                for result in job.results()
            ],
            "ttl": _roughly(client.ttl(job.key)),
        }
    return found


#: Times, the worker's name, and the meta, which is compared without ours.
MOVING = {b"created_at", b"enqueued_at", b"started_at", b"ended_at", b"last_heartbeat", b"worker_name", b"meta"}


def _steady(text: Any) -> Any:
    if isinstance(text, bytes):
        return text
    return re.sub(r"0x[0-9a-f]+", "0x", text)


def _roughly(seconds: int) -> int:
    return seconds if seconds < 0 else round(seconds, -2)


def test_a_killed_job_keeps_what_it_saved(redis_client: redis.Redis) -> None:
    """The parent retries a killed job with the meta of the dequeue; ours must not make it overwrite the job's own."""
    from jobdoctor.rq import stamps

    stamps.stamp_enqueues()
    try:
        job = Queue(connection=redis_client).enqueue(jobs.save_meta_and_die, retry=Retry(max=1))
        assert "jobdoctor" in job.meta
        worker = RECORDING["fork"](["default"], connection=redis_client)
        worker.work(burst=True, logging_level="CRITICAL", max_jobs=1)
        assert Job.fetch(job.id, redis_client).meta["progress"] == 5
    finally:
        stamps.uninstall()
