"""The workers under measurement: one process for each arm, each on the queue of its own name."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import redis
from rq import Queue
from rq.job import Job
from rq.results import Result

from benchmarks.arms import Arm, Kind

ROOT = Path(__file__).parent.parent
START_PATIENCE_S = 60.0
JOB_PATIENCE_MS = 30_000


class Bench:
    """What all measurements need: the server, the interpreter of the workers, and a place for what it compiles."""

    def __init__(self, redis_url: str, python: str, compiled: str) -> None:
        self.redis_url = redis_url
        self.python = python
        self.connection = redis.Redis.from_url(redis_url, socket_timeout=2 * JOB_PATIENCE_MS / 1_000)
        # Modules are compiled once, as they are where things are installed, whatever this environment says of it.
        self._environment = {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}

    @contextlib.contextmanager
    def running(self, arms: Sequence[Arm], kind: Kind) -> Iterator[dict[str, int]]:
        """Workers of these arms, ready for work; yields their process ids by the arms' names. An arm that does not
        start ends the benchmark, with its last words."""
        self.connection.delete("rq:workers")  # of those that were ended before they could take leave
        with contextlib.ExitStack() as stack:
            logs = {arm.name: stack.enter_context(tempfile.TemporaryFile()) for arm in arms}
            started = {arm.name: self._start(arm, kind, logs[arm.name]) for arm in arms}
            stack.callback(_end, list(started.values()))
            deadline = time.monotonic() + START_PATIENCE_S
            while self.connection.scard("rq:workers") < len(arms):
                for name, process in started.items():
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"the worker of {name} did not start: {_last_words(logs[name])}")
                time.sleep(0.002)
            yield {name: process.pid for name, process in started.items()}

    def _start(self, arm: Arm, kind: Kind, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.python, *arm.arguments(kind), "--url", self.redis_url, queue_name(arm)],
            env={**os.environ, **self._environment, **arm.environment},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def batch_ms(self, arm: Arm, function: str, size: int) -> float:
        """Milliseconds for each job, over whole cycles: from the first result, of one job more, to the last."""
        queue = Queue(queue_name(arm), connection=self.connection)
        jobs = [queue.enqueue(function) for _ in range(size + 1)]
        return (self._ended_ms(jobs[-1], arm) - self._ended_ms(jobs[0], arm)) / size

    def _ended_ms(self, job: Job, arm: Arm) -> int:
        """When the job's result was written, by the server's clock, in ms: it is in the entry's identifier."""
        key = Result.get_key(job.id)
        if not self.connection.xread({key: "0-0"}, block=JOB_PATIENCE_MS):
            raise SystemExit(f"{job.func_name} has no result from {arm.name}")
        [(identifier, fields)] = self.connection.xrange(key)
        if int(fields[b"type"]) != Result.Type.SUCCESSFUL.value:
            raise SystemExit(f"{job.func_name} failed with {arm.name}:\n{job.exc_info}")
        return int(identifier.partition(b"-")[0])

    def start_ms(self, arms: Sequence[Arm], kind: Kind, times: int) -> dict[str, list[float]]:
        """How long workers take to be ready, in turns; the first turn, which compiles, is not counted."""
        found: dict[str, list[float]] = {arm.name: [] for arm in arms}
        for number in range(times + 1):
            for arm in random.sample(arms, len(arms)):
                begun = time.perf_counter()
                with self.running([arm], kind):
                    if number:
                        found[arm.name].append((time.perf_counter() - begun) * 1_000)
        return found


def queue_name(arm: Arm) -> str:
    """The queue that an arm's worker listens to."""
    return arm.name.replace(",", "").replace(" ", "-")


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        try:
            worker.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
