"""The process beside each worker: whatever dies, no job is harmed, and what can be known of it is on the stream."""

from __future__ import annotations

import gc
import os
import pathlib
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import redis
import rq
from rq import Queue
from rq.job import Job

import jobdoctor
from jobdoctor import wire
from jobdoctor.capture.sampler import inherited_bytes
from jobdoctor.rq import witness_link
from jobdoctor.rq.recording_state import MEMORIES
from jobdoctor.store import Store
from jobdoctor.store.stream import StreamReader
from tests.integration import death_jobs, jobs
from tests.integration.recordings import RECORDING, executions, work

ROOT = pathlib.Path(__file__).parents[2]


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """What the condition gives, once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return found


def alive(pid: int) -> bool:
    """Whether the process runs: a zombie does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def witnesses(worker: int) -> list[int]:
    """The witnesses of a worker that run."""
    children = pathlib.Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    return [
        int(pid)
        for pid in children
        if pathlib.Path(f"/proc/{pid}/comm").read_text() == "rq-witness\n" or own_program(int(pid))
    ]


def own_program(pid: int) -> bool:
    """Whether a witness has become a program of its own."""
    return b"-I\0-S\0" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()


def goes_on(pid: int) -> bool:
    """Whether it has, and is ready for the next job: it keeps an eye on its worker."""
    try:
        targets = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False  # something was closed meanwhile
    return own_program(pid) and "anon_inode:[pidfd]" in targets


SOON = (
    "__import__('jobdoctor.rq.witness').rq.witness.__dict__.update(FORKED_S=0.5)"
    " or jobdoctor.rq.own_program.__dict__.update(WORTHWHILE_BYTES=0)"
)


@contextmanager
def running(url: str, code: str = "jobdoctor.Worker", **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, until the end of the block."""
    source = (
        "import redis, jobdoctor\n"
        f"w = {code}(['default'], connection=redis.Redis.from_url({url!r}))\n"
        "w.work(logging_level='CRITICAL')"
    )
    client = redis.Redis.from_url(url)
    client.delete("rq:workers")
    process = subprocess.Popen(
        [sys.executable, "-c", source], env={**os.environ, "PYTHONPATH": str(ROOT), **environment}
    )
    try:
        until(lambda: client.scard("rq:workers") and witnesses(process.pid))
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def test_it_ends_with_its_worker(redis_client: redis.Redis, valkey_url: str) -> None:
    with running(valkey_url) as worker:
        (pid,) = witnesses(worker.pid)
    assert not alive(pid)


def test_nothing_is_left_behind(redis_client: redis.Redis, valkey_url: str) -> None:
    """After 100 jobs the worker has the descriptors that it had after the first, and one witness."""
    queue = Queue(connection=redis_client)
    with running(valkey_url, f"({SOON} or jobdoctor.Worker)") as worker:
        until(lambda: any(goes_on(pid) for pid in witnesses(worker.pid)))
        queue.enqueue(jobs.nothing)
        until(lambda: redis_client.xlen(wire.STREAM_KEY) == 1)
        before = witnesses(worker.pid)
        (witness,) = before
        descriptors = [len(os.listdir(f"/proc/{pid}/fd")) for pid in (worker.pid, witness)]
        for _ in range(99):
            queue.enqueue(jobs.nothing)
        until(lambda: redis_client.xlen(wire.STREAM_KEY) == 100, 90)
        assert [len(os.listdir(f"/proc/{pid}/fd")) for pid in (worker.pid, witness)] == descriptors
        assert witnesses(worker.pid) == before
    assert len({each.id for each in executions(redis_client)}) == 100


def test_it_becomes_a_program_of_its_own(redis_client: redis.Redis, valkey_url: str) -> None:
    """Which has nothing of the application's, goes on with the memories and lines that it had, and sees as much."""
    queue = Queue(connection=redis_client)
    secret = valkey_url.replace("redis://", "redis://default:hunter2@")
    with running(secret, f"({SOON} or __import__('sqlalchemy') and jobdoctor.Worker)") as worker:
        (witness,) = witnesses(worker.pid)
        until(lambda: goes_on(witness))
        process = pathlib.Path(f"/proc/{witness}")
        assert b"hunter2" not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        assert "sqlalchemy" in pathlib.Path(f"/proc/{worker.pid}/maps").read_text()
        assert "sqlalchemy" not in (process / "maps").read_text()
        bare = "import redis; print([line for line in open('/proc/self/status') if line.startswith('RssAnon')][0])"
        said = subprocess.run([sys.executable, "-c", bare], capture_output=True, text=True, check=True).stdout
        assert inherited_bytes(witness) < 1.5 * int(said.split()[1]) * 1024
        killed = queue.enqueue(death_jobs.kill_self_after, 0.5)
        until(lambda: redis_client.xlen(wire.STREAM_KEY) == 1)
        assert killed.is_failed
        queue.enqueue(jobs.add, 1, 2)
        until(lambda: redis_client.xlen(wire.STREAM_KEY) == 2)
        assert witnesses(worker.pid) == [witness]
    assert not alive(witness)
    dead, done = executions(redis_client)
    assert dead.death is not None
    assert dead.death.stack_source == "observed"
    assert [frame.function for frame in dead.death.stack] == ["computing", "kill_self_after"]
    assert len(dead.samples) > 3
    assert done.outcome == "finished"
    assert {phase.name for phase in done.phases} >= {"setup", "body"}
    assert done.rq_version == rq.VERSION
    assert {probe.channel for probe in done.probes} >= {"sql", "redis", "enqueue"}
    assert done.not_captured == []


def test_a_program_that_cannot_begin(redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path) -> None:
    """The witness dies of it, once more, and then stays what it was: a fork. Nothing is lost."""
    broken = tmp_path / "witness_program.py"
    broken.write_text("import sys; sys.exit(1)")
    wrong = f"jobdoctor.rq.own_program.__dict__.update(_PROGRAM={str(broken)!r})"
    queue = Queue(connection=redis_client)
    with running(valkey_url, f"({SOON} or {wrong} or jobdoctor.Worker)") as worker:
        for number in range(4):
            job = queue.enqueue(jobs.add, 1, number)
            until(lambda job=job: job.is_finished)  # type: ignore[misc]
            time.sleep(0.8)
        (last,) = until(lambda: witnesses(worker.pid))
        assert not own_program(last)
    assert [each.outcome for each in executions(redis_client)] == ["finished"] * 4


def test_a_worker_that_is_not_told_to_end(redis_client: redis.Redis) -> None:
    worker: Any = jobdoctor.SimpleWorker(["default"], connection=redis_client)
    job = Queue(connection=redis_client).enqueue(jobs.add, 1, 2)
    worker.execute_job(job, worker.queues[0])
    pid = worker._recording_state.link.pid
    assert alive(pid)
    del worker
    gc.collect()
    assert not alive(pid)
    assert [each.outcome for each in executions(redis_client)] == ["finished"]


def test_a_worker_works_again(redis_client: redis.Redis) -> None:
    queue = Queue(connection=redis_client)
    worker: Any = jobdoctor.Worker(["default"], connection=redis_client)
    for number in range(1, 4):
        queue.enqueue(jobs.add, 1, 2)
        worker.work(burst=True, logging_level="CRITICAL")
        assert redis_client.xlen(wire.STREAM_KEY) == number
    assert not witnesses(os.getpid())


@pytest.mark.parametrize("kind", ["Worker", "SpawnWorker"])
def test_a_worker_that_is_killed_with_its_horse(redis_client: redis.Redis, valkey_url: str, kind: str) -> None:
    """The witness writes what became of the job, and goes."""
    Queue(connection=redis_client).enqueue(jobs.die_in_a_call, valkey_url)
    with running(valkey_url, f"jobdoctor.{kind}") as worker:
        horse = int(until(lambda: redis_client.get("about-to-die")))
        until(lambda: redis_client.info("clients")["blocked_clients"])
        (witness,) = witnesses(worker.pid)
        time.sleep(0.2)
        worker.kill()
        worker.wait()
        assert alive(witness)
        assert alive(horse)  # as with RQ's own workers
        assert redis_client.xlen(wire.STREAM_KEY) == 0
        os.kill(horse, signal.SIGKILL)
        until(lambda: not alive(witness))
    (execution,) = executions(redis_client)
    assert execution.outcome == "killed"
    assert execution.death is not None
    assert execution.death.cause == "lost-worker"
    assert execution.in_flight is not None
    assert execution.groups[execution.in_flight.group].operation == "BLPOP"
    assert execution.samples
    assert any("its worker died" in text for text in execution.not_captured)
    assert sum(part.ns for part in execution.ledger) == execution.wall_ns


def test_a_job_that_outlives_its_worker(redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path) -> None:
    release = tmp_path / "release"
    job = Queue(connection=redis_client).enqueue(jobs.wait_for_file, str(tmp_path / "started"), str(release))
    with running(valkey_url) as worker:
        until((tmp_path / "started").exists)
        (witness,) = witnesses(worker.pid)
        worker.kill()
        worker.wait()
        release.touch()
        until(lambda: not alive(witness))
    assert job.return_value() == "released"
    (execution,) = executions(redis_client)
    assert execution.outcome == "finished"
    assert execution.death is None
    assert any("its worker died" in text for text in execution.not_captured)


def test_a_killed_simple_worker(redis_client: redis.Redis, valkey_url: str) -> None:
    Queue(connection=redis_client).enqueue(jobs.die_in_a_call, valkey_url)
    with running(valkey_url, "jobdoctor.SimpleWorker") as worker:
        until(lambda: redis_client.get("about-to-die") and redis_client.info("clients")["blocked_clients"])
        (witness,) = witnesses(worker.pid)
        time.sleep(1)  # long enough to be looked at
        worker.kill()
        worker.wait()
        until(lambda: not alive(witness))
    (execution,) = executions(redis_client)
    assert execution.outcome == "killed"
    assert execution.death is not None
    assert execution.death.cause == "lost-worker"
    assert "BLPOP" in execution.death.in_flight
    assert len(execution.samples) > 3


def test_an_idle_worker_that_is_killed(redis_client: redis.Redis, valkey_url: str) -> None:
    with running(valkey_url) as worker:
        (witness,) = witnesses(worker.pid)
        worker.kill()
        worker.wait()
        until(lambda: not alive(witness))
    assert executions(redis_client) == []


def test_it_samples_the_queues(redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path) -> None:
    """How deep all of them are, how old the oldest job is, who listens; while its worker works and while it is idle."""
    often = "__import__('jobdoctor.rq.queue_observation').rq.queue_observation.__dict__.update(EVERY_S=0.2)"
    queue, other = (Queue(name, connection=redis_client) for name in ("default", "other"))
    started, release = tmp_path / "started", tmp_path / "release"

    def newest(name: str) -> Any:
        entries = redis_client.xrevrange(wire.SAMPLES_KEY, count=1)
        sample = wire.decode_sample(entries[0][1]) if entries else None
        return next((each for each in sample.queues if each.queue == name), None) if sample else None

    with running(valkey_url, f"({often} or jobdoctor.Worker)"):
        queue.enqueue(jobs.wait_for_file, str(started), str(release))
        until(started.exists)
        waiting = [queue.enqueue(jobs.nothing) for _ in range(3)]
        unheard = other.enqueue(jobs.nothing)
        other.enqueue_in(timedelta(hours=1), jobs.nothing)
        seen = until(lambda: (found := newest("default")) and found.depth == 3 and found)
        assert (seen.started, seen.workers) == (1, 1)
        assert waiting[0].enqueued_at is not None
        assert seen.oldest_at_ns == pytest.approx(waiting[0].enqueued_at.timestamp() * 1e9, abs=1e3)
        seen = until(lambda: (found := newest("other")) and found.scheduled and found)
        assert (seen.depth, seen.workers) == (1, 0)
        assert unheard.enqueued_at is not None
        assert seen.oldest_at_ns == pytest.approx(unheard.enqueued_at.timestamp() * 1e9, abs=1e3)
        release.touch()
        until(lambda: redis_client.xlen(wire.STREAM_KEY) == 4)
        until(lambda: newest("default").depth == 0)
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store, StreamReader(store, valkey_url) as reader:
        assert reader.collect_samples() >= 2
        depths = store.depths(0, time.time_ns())
        assert max(point.depth for point in depths["default"]) == 3
        assert {point.workers for point in depths["other"]} == {0}


def test_a_witness_that_is_killed_again_and_again(
    redis_client: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs do not notice, and no execution is missing or there twice."""
    chosen = random.Random(7)
    queue = Queue(connection=redis_client)
    often = "__import__('jobdoctor.rq.witness_link').rq.witness_link.__dict__.update(STARTS_WITHIN_S=0)"
    with running(valkey_url, f"({often} or jobdoctor.Worker)") as worker:
        for _ in range(8):
            found = [queue.enqueue(jobs.add, 1, 2) for _ in range(10)]
            time.sleep(chosen.uniform(0.0, 0.3))
            for pid in witnesses(worker.pid):
                os.kill(pid, signal.SIGKILL)
            until(lambda found=found: all(job.is_finished for job in found))  # type: ignore[misc]
        assert worker.poll() is None
        worker.terminate()
        assert worker.wait(20) == 0
    entries = [fields for _, fields in redis_client.xrange(wire.STREAM_KEY)]
    recorded = executions(redis_client)
    lost = sum(wire.lost(fields) for fields in entries)
    assert len({each.id for each in recorded}) == len(recorded)
    assert len(recorded) + lost == 80
    assert len(recorded) >= 72
    assert {each.outcome for each in recorded} == {"finished"}


def test_a_witness_that_hangs(redis_client: redis.Redis, valkey_url: str) -> None:
    """The jobs run on, first with what memory there is and then without; nothing is told twice."""
    queue = Queue(connection=redis_client)
    with running(valkey_url) as worker:
        (witness,) = witnesses(worker.pid)
        os.kill(witness, signal.SIGSTOP)
        try:
            found = [queue.enqueue(jobs.add, 1, 2) for _ in range(MEMORIES + 5)]
            until(lambda: all(job.is_finished for job in found))
            assert redis_client.xlen(wire.STREAM_KEY) == 0
        finally:
            os.kill(witness, signal.SIGCONT)
        until(lambda: redis_client.xlen(wire.STREAM_KEY) == MEMORIES + 5)
    recorded = executions(redis_client)
    assert [bool(each.phases and "body" in {phase.name for phase in each.phases}) for each in recorded] == [
        *([True] * MEMORIES), *([False] * 5),
    ]  # fmt: skip
    assert all("no memory free" in " ".join(each.not_captured) for each in recorded[MEMORIES:])


def test_random_deaths_of_horses(redis_client: redis.Redis, valkey_url: str) -> None:
    chosen = random.Random(11)
    queue = Queue(connection=redis_client)
    found: list[Job] = []
    with running(valkey_url) as worker:
        for _ in range(12):
            found.append(queue.enqueue(jobs.spin_for, 0.2))
            until(lambda: len(_children(worker.pid)) == 2)
            time.sleep(chosen.uniform(0.0, 0.25))
            for pid in _children(worker.pid) - set(witnesses(worker.pid)):
                os.kill(pid, signal.SIGKILL)
            until(lambda: found[-1].get_status(refresh=True) in {"finished", "failed"})
        until(lambda: redis_client.xlen(wire.STREAM_KEY) == 12)
    recorded = {each.job_id: each for each in executions(redis_client)}
    for job in found:
        execution = recorded[job.id]
        assert execution.outcome == {"finished": "finished", "failed": "killed"}[job.get_status()]
        assert (execution.death is not None) == (execution.outcome == "killed" or bool(execution.death))
        assert sum(part.ns for part in execution.ledger) == execution.wall_ns


def _children(worker: int) -> set[int]:
    return {int(pid) for pid in pathlib.Path(f"/proc/{worker}/task/{worker}/children").read_text().split()}


def test_a_server_that_comes_back_gets_what_waited(redis_client: redis.Redis, valkey_url: str) -> None:
    """Without another job: the witness tries again by itself."""
    redis_client.set(wire.STREAM_KEY, "not a stream")
    with running(valkey_url):
        job = Queue(connection=redis_client).enqueue(jobs.add, 1, 2)
        until(lambda: job.is_finished)
        time.sleep(0.5)
        redis_client.delete(wire.STREAM_KEY)
        until(lambda: redis_client.exists(wire.STREAM_KEY), 10)
    assert len(executions(redis_client)) == 1


def test_large_data_reaches_the_witness(redis_client: redis.Redis) -> None:
    for size in (10_000, 40_000, 5_000_000):
        redis_client.flushdb()
        job = Queue(connection=redis_client).enqueue(jobs.length, b"x" * size)
        work(RECORDING["fork"], redis_client)
        (execution,) = executions(redis_client)
        assert job.return_value() == size
        assert execution.payload is not None
        assert execution.payload.raw_bytes == len(job.data)
        assert execution.payload.nodes[0].bytes >= size
        assert execution.not_captured == []


def test_profiles_are_the_fleets(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first execution is profiled once, and not by the next worker again."""
    decided = witness_link.WitnessLink.wants_profile

    def when_ready(self: witness_link.WitnessLink, job: str) -> bool:
        self._wait(select.POLLIN, 20)
        self._receive()
        return decided(self, job)

    monkeypatch.setattr(witness_link.WitnessLink, "wants_profile", when_ready)
    profiled: list[bool] = []
    for _ in range(3):
        Queue(connection=redis_client).enqueue(jobs.spin_for, 0.05)
        work(RECORDING["fork"], redis_client)
        profiled.append(executions(redis_client)[-1].profile is not None)
    assert profiled == [True, False, False]
    (key,) = redis_client.keys("jobdoctor:profiles:*")
    assert redis_client.ttl(key) > 0
    assert int(redis_client.hget(key, "executions:tests.integration.jobs.spin_for") or 0) == 3


def test_a_packet_that_does_not_fit_waits() -> None:
    """The worker does not stop for a witness that reads nothing; what is open is bounded."""
    link = witness_link.WitnessLink(None, "w", [], [], lambda line, setting: time.sleep(60))
    link.start()
    try:
        from tests.rq.packets import begun, ended

        began = time.monotonic()
        for _ in range(200):
            number = link.next_number()
            link.announce(begun(number, b"x" * 15_000))
            link.begin(number, 1)
            link.end(ended(number))
        assert time.monotonic() - began < 5
        assert len(link._open) == witness_link.OPEN
        assert link.lost == 200 - witness_link.OPEN
    finally:
        link.close(patience_s=0.1)
    assert not link.pid
