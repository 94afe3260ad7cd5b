"""What a worker asks when it has taken a job from a promise queue: may it run here, or is it moved to the slowest one?

Asked for jobs of promise queues only (``within_30_seconds``), by one round trip, and once a second for a job that may
run. RQ has done nothing with the job yet: it is out of its queue (in RQ's intermediate queue, when the worker listens
to a single one), still *queued*, and in no registry. The script moves it, or leaves everything as it is, in one atomic
step; see ``slo_state``. A moved job keeps its id, arguments, meta, dependencies and dependents, group, retries,
timeout, callbacks and the instant at which it was enqueued; in the slowest queue it is put by that instant among the
last 32.

Not moved, and so run at once: jobs with a ``ttl`` (they could expire while they wait), rate-limited ones (they would
hold their slot while they wait), ones that repeat (all repetitions would stay there), exempt ones, ones that were moved
before, and all while no worker listens to the slowest queue. And whenever the server refuses the script.

What this cannot mend is RQ's own: a worker with several queues that is killed (SIGKILL) between BLPOP and the moment in
which it registers the execution takes the job with it. The question makes that gap longer by its round trip.
"""

from __future__ import annotations

import os
import time
from typing import Any

import redis
import rq.exceptions
import rq.worker
from rq.job import Job
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from jobdoctor.config import Settings
from jobdoctor.promises import SLOWEST_QUEUE, SLOWEST_S, seconds_of_queue
from jobdoctor.rq.guard import Guard
from jobdoctor.rq.names import job_name
from jobdoctor.rq.slo_state import LIMITS, MARK, TAKE_SCRIPT, state_key
from jobdoctor.words import duration

#: After a lost answer the server is asked again after this long, then twice as long, as RQ does when it dequeues.
_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 60.0
#: A worker that was told that a job's kind may run asks about it again after this long.
_MAY_RUN_S = 1.0
_BUSY = "busy"  # rq.worker.WorkerStatus.BUSY
#: RQ 2 has it elsewhere.
StopRequested: type[Exception] = getattr(rq.exceptions, "StopRequested", None) or getattr(rq.worker, "StopRequested")  # noqa: B009


class SloGate:
    """One for each worker that minds the promises."""

    def __init__(self, worker: Any, settings: Settings) -> None:
        self._worker = worker
        self._exempt = frozenset(settings.slo_exempt)
        self._script = worker.connection.register_script(TAKE_SCRIPT)
        self._promised: dict[str, bool] = {}  # by queue: faster than the slowest
        self._moving: set[str] = set()  # jobs whose moves were logged
        self._may_run: dict[str, float] = {}  # jobs that may run without a question, until when

    def moved(self, job: Job, queue: Any) -> bool:
        """Whether the job is now in the slowest queue, and not to be run here."""
        name: str = queue.name
        promised = self._promised.get(name)
        if promised is None:
            within = seconds_of_queue(name)
            promised = self._promised[name] = within is not None and within < SLOWEST_S
        if not promised:
            return False
        with Guard()("slo"):
            return self._ask(job, queue)
        return False

    def _ask(self, job: Job, queue: Any) -> bool:
        if getattr(job, "rate_limit_key", None) or getattr(job, "repeats_left", None):
            return False
        called = job_name(job)
        if "." not in called or called in self._exempt:  # without one, its name could not be read
            return False
        worker = self._worker
        now_s = time.monotonic()
        if self._may_run.get(called, 0.0) > now_s:
            return False
        token = f"{worker.name}.{os.getpid()}.{time.perf_counter_ns():x}"
        now_ms = time.time_ns() // 1_000_000
        mark = f"{queue.name}|{now_ms}|{token}"
        # A signal that comes while RQ is idle ends the worker by an exception, and the job that it has just taken with
        # it. While it is busy, the signal is remembered.
        before, worker._state = worker._state, _BUSY
        try:
            answer = self._answer(job, queue, called, now_ms, mark)
        finally:
            worker._state = before
        if answer[0] == 0:
            self._returned(called, queue, now_s)
        if answer[0] != 1:
            return False
        self._say(job, queue, called, answer)
        if worker._stop_requested:
            raise StopRequested
        return True

    def _returned(self, called: str, queue: Any, now_s: float) -> None:
        if len(self._may_run) > 1_000:
            self._may_run.clear()
        self._may_run[called] = now_s + _MAY_RUN_S
        if called in self._moving:
            self._moving.discard(called)
            self._worker.log.info("jobdoctor: %s runs in %s again", called, queue.name)

    def _answer(self, job: Job, queue: Any, called: str, now_ms: int, mark: str) -> list[Any]:
        prefix = type(queue).redis_queue_namespace_prefix
        keys = [
            state_key(called),
            job.key,
            f"{prefix}{SLOWEST_QUEUE}",
            f"{queue.key}:intermediate",
            type(queue).redis_queues_keys,
            WORKERS_BY_QUEUE_KEY % SLOWEST_QUEUE,
            f"{queue.key}:intermediate:first_seen:{job.id}",
        ]
        arguments = [
            now_ms, LIMITS.window_ms, job.id, SLOWEST_QUEUE, mark, int(self._in_between()), LIMITS.look_back,
            type(job).redis_job_namespace_prefix,
        ]  # fmt: skip
        try:
            return list(self._script(keys=keys, args=arguments))
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError):
            return [1, 0, 0, "0", 0] if self._was_moved(job, mark) else [0]

    def _in_between(self) -> bool:
        """Whether RQ keeps what it takes in an intermediate queue: with a single queue, and a server that can."""
        worker = self._worker
        return len(worker._ordered_queues) == 1 and worker.get_redis_server_version() >= (6, 2, 0)

    def _was_moved(self, job: Job, mark: str) -> bool:
        """The answer was lost: the job may have been moved. Without the server nothing can be run either, so it is
        asked until it answers; what it then says is final, also for a script that is still on its way."""
        pause_s = _PAUSE_S
        while not self._worker._stop_requested:
            try:
                connection = job.connection
                if not connection.exists(job.key) or connection.hsetnx(job.key, MARK, f"|{mark}"):
                    return False
                found = connection.hget(job.key, MARK)
                return bool((found.decode() if isinstance(found, bytes) else found) == mark)
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError):
                time.sleep(pause_s)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
        raise StopRequested

    def _say(self, job: Job, queue: Any, called: str, answer: list[Any]) -> None:
        log = self._worker.log
        first = called not in self._moving
        if len(self._moving) < 1_000:
            self._moving.add(called)
        samples, late = int(answer[1]), int(answer[2])
        if first and samples:
            promised = duration(float(answer[3]))
            log.warning(
                "jobdoctor: %s keeps a worker busy for longer than the %s that it promises (%d of %d runs): its jobs "
                "are moved from %s to %s, until it is faster",
                called, promised, late, samples, queue.name, SLOWEST_QUEUE,
            )  # fmt: skip
        log.info("jobdoctor: %s (%s) moved from %s to %s", called, job.id, queue.name, SLOWEST_QUEUE)
