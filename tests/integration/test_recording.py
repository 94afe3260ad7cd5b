"""What ends up on the stream: for horses that end, fail, time out, are stopped and are killed."""

from __future__ import annotations

import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time
import zlib
from typing import Any

import pytest
import redis
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.job import Job

import jobdoctor
from jobdoctor.model import Execution
from jobdoctor.rq import WorkerMixin
from tests.integration import jobs
from tests.integration.recordings import executions, record, work

KINDS = ["fork", "simple", "spawn"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_job(redis_client: redis.Redis, kind: str) -> None:
    execution = record(redis_client, jobs.add, 2, 3, kind=kind)
    assert execution.outcome == "finished"
    assert execution.job == "tests.integration.jobs.add"
    assert execution.worker_kind == kind
    assert execution.attempt == 1
    assert not execution.scheduled
    assert execution.worker_queues == ["default"]
    assert execution.queue_depth == 0
    assert execution.result is not None
    assert (execution.result.type_name, execution.result.ttl_s) == ("int", 500)
    assert execution.result.bytes == len(pickle.dumps(5, pickle.HIGHEST_PROTOCOL))
    assert execution.payload is not None
    assert [node.path for node in execution.payload.nodes] == ["args[0]", "args[1]"]
    assert execution.exception is None
    assert execution.death is None
    assert execution.not_captured == []
    assert (execution.rusage is not None) == (kind != "simple")
    names = [phase.name for phase in execution.phases]
    for name in ("setup", "deserialize", "import", "body", "result", "persist"):
        assert name in names, (name, names)
    assert names.count("body") == 1
    assert execution.enqueued_at_ns <= execution.dequeued_at_ns <= execution.reaped_at_ns
    assert sum(part.ns for part in execution.ledger) == execution.wall_ns
    assert execution.pid == os.getpid()
    assert execution.id.startswith(execution.job_id + ":")


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_job(redis_client: redis.Redis, kind: str) -> None:
    execution = record(redis_client, jobs.raise_value_error, order=12345, kind=kind)
    assert execution.outcome == "failed"
    assert execution.exception is not None
    assert execution.exception.type_name == "ValueError"
    assert execution.exception.message_shape == "no order ?"
    line = jobs.raise_value_error.__code__.co_firstlineno + 1
    assert execution.exception.callsite == f"tests/integration/jobs.py:{line}"
    assert execution.result is None


def test_no_call_of_rq_counts_as_the_jobs(redis_client: redis.Redis, valkey_url: str) -> None:
    assert record(redis_client, jobs.nothing).groups == []
    redis_client.flushdb()
    execution = record(redis_client, jobs.use_redis, valkey_url, 7)
    assert [
        (group.channel, group.operation, group.count) for group in execution.groups if group.channel == "redis"
    ] == [("redis", "SET", 7)]


def test_retries_are_numbered(redis_client: redis.Redis) -> None:
    Queue(connection=redis_client).enqueue(jobs.fail_twice, retry=Retry(max=3))
    work(jobdoctor.Worker, redis_client)
    found = executions(redis_client)
    assert [(each.outcome, each.attempt) for each in found] == [("retried", 1), ("retried", 2), ("finished", 3)]
    assert [each.route for each in found] == ["straight", "retried", "retried"]
    assert [each.retry.retries_left for each in found] == [3, 2, 1]
    assert {each.retry.max_retries for each in found} == {3}
    assert len({each.id for each in found}) == 3


def test_returned_retries_are_numbered(redis_client: redis.Redis) -> None:
    Queue(connection=redis_client).enqueue(jobs.always_return_retry)
    work(jobdoctor.Worker, redis_client)
    found = executions(redis_client)
    assert [(each.outcome, each.attempt) for each in found] == [("retried", 1), ("failed", 2)]
    assert found[0].retry.max_retries == 1


def test_a_timeout(redis_client: redis.Redis) -> None:
    execution = record(redis_client, jobs.too_slow, job_timeout=1)
    assert execution.outcome == "timeout"
    assert execution.exception is not None
    assert execution.exception.type_name == "rq.timeouts.JobTimeoutException"
    assert execution.timeout_s == 1
    assert execution.death is not None
    assert (execution.death.cause, execution.death.signal, execution.death.exit_code) == ("timeout", 0, None)


@pytest.mark.parametrize("kind", ["fork", "simple"])
def test_a_timeout_in_the_middle_of_our_own_code(redis_client: redis.Redis, kind: str) -> None:
    """The job spends much of its time in probes; the timeout must get through, wherever it strikes."""
    for _ in range(4):
        assert record(redis_client, jobs.too_slow_in_small_steps, job_timeout=1, kind=kind).outcome == "timeout"
        redis_client.flushdb()


def _wait_for(condition: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def _start_worker(url: str, code: str = "jobdoctor.Worker") -> subprocess.Popen[bytes]:
    source = (
        "import redis, jobdoctor\n"
        f"w = {code}(['default'], name='the-worker', connection=redis.Redis.from_url({url!r}))\n"
        "w.work(burst=True, logging_level='CRITICAL')"
    )
    return subprocess.Popen([sys.executable, "-c", source])


def test_a_killed_horse(redis_client: redis.Redis, valkey_url: str) -> None:
    Queue(connection=redis_client).enqueue(jobs.die_in_a_call, valkey_url)
    worker = _start_worker(valkey_url)
    _wait_for(lambda: redis_client.exists("about-to-die") and redis_client.info("clients")["blocked_clients"])
    time.sleep(0.2)  # long enough to be looked at
    os.kill(int(redis_client.get("about-to-die") or 0), signal.SIGKILL)
    assert worker.wait(30) == 0
    (execution,) = executions(redis_client)
    assert execution.outcome == "killed"
    assert execution.death is not None
    assert execution.death.signal == signal.SIGKILL
    assert "BLPOP" in execution.death.in_flight
    assert execution.in_flight is not None
    group = execution.groups[execution.in_flight.group]
    assert (group.channel, group.operation) == ("redis", "BLPOP")
    assert group.callsite.startswith("tests/integration/jobs.py:")
    assert execution.rusage is not None
    assert execution.samples
    assert execution.payload is not None


def test_a_stopped_job(redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path) -> None:
    started = tmp_path / "started"
    job = Queue(connection=redis_client).enqueue(jobs.write_file, str(started))
    worker = _start_worker(valkey_url)
    _wait_for(started.exists)
    send_stop_job_command(redis_client, job.id)
    assert worker.wait(30) == 0
    (execution,) = executions(redis_client)
    assert execution.outcome == "stopped"
    assert execution.death is not None
    assert execution.death.cause == "stopped"


def test_an_undeserializable_job(redis_client: redis.Redis) -> None:
    queue = Queue(connection=redis_client)
    job = queue.enqueue(jobs.add, 1, 2, description="tests.integration.jobs.add(1, 2)")
    redis_client.hset(job.key, "data", zlib.compress(b"no pickle at all"))
    work(jobdoctor.Worker, redis_client)
    (execution,) = executions(redis_client)
    assert execution.outcome == "failed"
    assert execution.job == "tests.integration.jobs.add"
    assert execution.exception is not None
    assert execution.exception.type_name == "rq.exceptions.DeserializationError"
    assert execution.exception.message_shape.startswith("UnpicklingError: ")
    assert execution.payload is not None
    assert execution.payload.not_measured
    redis_client.flushdb()
    job = queue.enqueue(jobs.add, 1, 2, description="something secret")
    redis_client.hset(job.key, "data", zlib.compress(b"no pickle at all"))
    work(jobdoctor.Worker, redis_client)
    (execution,) = executions(redis_client)
    assert execution.job == "(undeserializable)"
    assert any("Name of the job" in text for text in execution.not_captured)


def test_the_name_is_known_when_only_the_arguments_cannot_be_unpickled(redis_client: redis.Redis) -> None:
    job = Queue(connection=redis_client).enqueue(jobs.order_total, jobs.Order(1))
    data = job.data.replace(b"Order", b"0rder")
    redis_client.hset(job.key, "data", zlib.compress(data))
    work(jobdoctor.Worker, redis_client)
    (execution,) = executions(redis_client)
    assert execution.job == "tests.integration.jobs.order_total"
    assert execution.outcome == "failed"


def test_wire_bytes_are_those_of_redis(redis_client: redis.Redis) -> None:
    job = Queue(connection=redis_client).enqueue(jobs.nothing)
    assert job.data
    redis_client.flushdb()
    job = Queue(connection=redis_client).enqueue("tests.integration.jobs.order_total", "x" * 20_000)
    size = redis_client.hstrlen(job.key, "data")
    work(jobdoctor.Worker, redis_client)
    (execution,) = executions(redis_client)
    assert execution.payload is not None
    assert execution.payload.wire_bytes == size
    assert execution.payload.raw_bytes == len(job.data)


def test_enqueues_of_a_job_are_calls(redis_client: redis.Redis, valkey_url: str) -> None:
    execution = record(redis_client, jobs.enqueue_one_by_one, valkey_url, 12)
    (group,) = [group for group in execution.groups if group.channel == "enqueue"]
    assert (group.operation, group.count, group.items, group.batched) == ("enqueue", 12, 12, 0)
    assert group.fingerprint == "tests.integration.jobs.add"
    assert group.callsite.startswith("tests/integration/jobs.py:")
    assert not [group for group in execution.groups if group.channel == "redis" and group.operation == "HSET"]
    children = [Job.fetch(job_id, redis_client) for job_id in Queue("later", connection=redis_client).job_ids]
    redis_client.delete("jobdoctor:executions")
    work(jobdoctor.Worker, redis_client, "later")
    found = executions(redis_client)
    assert len(found) == len(children) == 12
    for each in found:
        assert each.trigger is not None
        assert each.trigger.kind == "job"
        assert each.trigger.parent_job == "tests.integration.jobs.enqueue_one_by_one"
        assert each.trigger.parent_execution_id == execution.id
        assert each.trigger.callsite == group.callsite


def test_enqueue_many_is_one_call(redis_client: redis.Redis, valkey_url: str) -> None:
    execution = record(redis_client, jobs.enqueue_many, valkey_url, 12)
    (group,) = [group for group in execution.groups if group.channel == "enqueue"]
    assert (group.operation, group.count, group.items, group.batched) == ("enqueue_many", 1, 12, 1)


def test_a_class_with_its_own_way_of_waiting_stays_in_charge(redis_client: redis.Redis) -> None:
    from rq.worker import Worker

    waited = []

    class Patient(Worker):
        def wait_for_horse(self) -> Any:
            waited.append(self.horse_pid)
            return super().wait_for_horse()

    class Recording(WorkerMixin, Patient):
        pass

    Queue(connection=redis_client).enqueue(jobs.add, 1, 2)
    work(Recording, redis_client)
    (execution,) = executions(redis_client)
    assert len(waited) == 1
    assert execution.outcome == "finished"
    assert execution.rusage is not None
    assert execution.not_captured == []


def test_it_can_be_switched_off(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDOCTOR_DISABLE", "1")
    job = Queue(connection=redis_client).enqueue(jobs.add, 1, 2)
    work(jobdoctor.Worker, redis_client)
    assert job.return_value() == 3
    assert executions(redis_client) == []


def test_our_own_failure_changes_nothing(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from jobdoctor.rq import horse, taken, watch, witness_link

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("planted")

    for owner, name in [
        (horse.Horse, "begin"),
        (horse.Horse, "shadow"),
        (taken.TakenJob, "__init__"),
        (taken.TakenJob, "begun"),
        (taken.TakenJob, "ended"),
        (witness_link.WitnessLink, "start"),
        (witness_link.WitnessLink, "begin"),
        (witness_link.WitnessLink, "end"),
        (watch.ExecutionWatch, "__init__"),
        (watch.ExecutionWatch, "tick"),
        (watch.ExecutionWatch, "_ask"),
        (watch.ExecutionWatch, "_decide"),
        (watch.ExecutionWatch, "_observation"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            job = Queue(connection=redis_client).enqueue(jobs.add, 1, 2)
            work(jobdoctor.Worker, redis_client)
            assert job.return_value(refresh=True) == 3, name
    assert any("planted" in message for message in caplog.messages)


def test_the_worker_stays_light(valkey_url: str, redis_client: redis.Redis) -> None:
    Queue(connection=redis_client).enqueue(jobs.add, 1, 2)
    source = (
        "import sys, redis, rq.worker\n"
        "before = set(sys.modules)\n"  # redis-py imports OpenTelemetry where that is installed
        "import jobdoctor\n"
        f"w = jobdoctor.Worker(['default'], connection=redis.Redis.from_url({valkey_url!r}))\n"
        "w.work(burst=True, logging_level='CRITICAL')\n"
        "print([m for m in ('sqlalchemy', 'rich', 'jinja2', 'psutil', 'pyinstrument', 'jobdoctor.store', "
        "'jobdoctor.diagnosis', 'jobdoctor.report', 'httpx', 'requests', 'jobdoctor.capture.assemble', "
        "'jobdoctor.capture.payload', 'jobdoctor.capture.sampler', 'jobdoctor.rq.witness', 'jobdoctor.config', "
        "'jobdoctor.wire') if m in set(sys.modules) - before])"
    )
    output = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize("mode", ["always", "never"])
def test_profiles(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("JOBDOCTOR_PROFILE", mode)
    execution: Execution = record(redis_client, jobs.large_result)
    assert (execution.profile is not None) == (mode == "always")
