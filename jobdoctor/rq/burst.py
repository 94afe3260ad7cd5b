"""Runs one job through a real worker of ours, in burst mode, on a queue of its own, and gives its recordings back."""

from __future__ import annotations

import logging
import signal
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from msgspec import Struct
from redis import Redis
from rq import Queue
from rq.job import Job

from jobdoctor import wire
from jobdoctor.errors import StreamError
from jobdoctor.model import Execution
from jobdoctor.rq import workers
from jobdoctor.rq.inline import decoration, options_of

#: How the job's process is made: see RQ's workers.
Kind = Literal["fork", "simple", "spawn"]
KINDS: tuple[Kind, ...] = ("fork", "simple", "spawn")

_CLASSES = {"fork": "Worker", "simple": "SimpleWorker", "spawn": "SpawnWorker"}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
#: The witness writes the last recording before it ends; on a machine that is short of processors it may be late.
_PATIENCE_S = 30.0


#: What RQ gives for a result that it could not serialise, from a job that it calls finished.
NOT_STORED = "Unserializable return value"


class Worked(Struct):
    """``executions`` are the job's attempts, oldest first. ``failure`` is RQ's text of the exception."""

    executions: list[Execution]
    finished: bool
    value: Any
    failure: str


def work(
    connection: Redis, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], kind: Kind = "fork"
) -> Worked:
    """Enqueues a call of ``function`` and runs a worker until the queue is empty. What we put on the server is taken
    away again. StreamError when the worker leaves no recording."""
    settings = decoration(function)
    own = settings.queue if settings is not None else None
    serializer = own.serializer if isinstance(own, Queue) else None
    queue = Queue(f"jobdoctor-{uuid.uuid4().hex}", connection=connection, serializer=serializer)
    options = options_of(settings) if settings is not None else {}
    job = queue.create_job(function, args=tuple(args), kwargs=dict(kwargs), **options)
    try:
        queue.enqueue_job(job)
        worker_class: Any = getattr(workers, _CLASSES[kind])
        with _signals_kept(), _log_kept():
            worker = worker_class([queue], connection=connection, serializer=serializer)
            worker.work(burst=True, logging_level="CRITICAL")
        executions = _recordings(connection, job.id)
        if not executions:
            raise StreamError("the worker left no recording of the job", "look at what it logged")
        job.refresh()  # type: ignore[no-untyped-call]
        result = job.latest_result()
        finished = job.is_finished
        return Worked(
            executions,
            finished,
            job.return_value() if finished else None,
            "" if finished or result is None else str(result.exc_string or ""),
        )
    finally:
        _remove(queue, job)


def _recordings(connection: Redis, job_id: str) -> list[Execution]:
    """What the stream holds of the job; it is taken off the stream."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        found = []
        entries: Any = connection.xrange(wire.STREAM_KEY)
        for entry, fields in entries:
            try:
                execution = wire.decode(fields)
            except wire.UnreadableEntryError:
                continue
            if execution.job_id == job_id:
                found.append(execution)
                connection.xdel(wire.STREAM_KEY, entry)
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def _remove(queue: Queue, job: Job) -> None:
    job.delete(delete_dependents=False)
    queue.delete(delete_jobs=True)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """A worker takes the signals of its process, and the timer that a test runner may have set."""
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    began = time.monotonic()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - began)), interval)


@contextmanager
def _log_kept() -> Iterator[None]:
    """RQ gives its logger a handler and a level for good."""
    log = logging.getLogger("rq.worker")
    handlers, level = list(log.handlers), log.level
    try:
        yield
    finally:
        log.handlers[:] = handlers
        log.setLevel(level)
