"""Runs a function in this process as a worker would: from its serialised arguments to its serialised result.

Nothing is sent to a server, and nobody but the caller handles what the function raises.
"""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import blake2b
from typing import Any

import redis
from msgspec import Struct
from msgspec.structs import replace
from rq import Queue
from rq.decorators import job as decorator
from rq.job import Job
from rq.timeouts import JobTimeoutException, TimerDeathPenalty
from rq.version import VERSION

from jobdoctor.capture import recorder
from jobdoctor.capture.payload import Measurement
from jobdoctor.capture.record import Recorded
from jobdoctor.errors import ConfigError
from jobdoctor.model import Execution, ResultInfo, RetryPolicy
from jobdoctor.rq import stamps
from jobdoctor.rq.names import dotted, job_name, serializer_name


class Ran(Struct):
    """What came of a run. ``execution`` is None when another recording was active; ``data`` and ``result_data`` are as
    the serializer wrote them, the latter None when nothing was returned to be written."""

    job: str
    execution: Execution | None
    value: Any
    error: BaseException | None
    data: bytes
    result_data: bytes | None
    serializer: str


def run(
    function: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    connection: Any = None,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    profile: bool = False,
) -> Ran:
    """Runs ``function`` once. What it raises is in ``error``, what cannot be serialised raises as RQ raises it.

    A function decorated with RQ's ``@job`` has its queue's serializer, and its timeout. ``connection`` is what the job
    finds at ``get_current_job().connection``. ``around`` is entered in the thread that runs the job, from before its
    arguments are unpickled until after its result is serialised. ``profile`` runs pyinstrument, too.
    """
    if "<locals>" in getattr(function, "__qualname__", ""):
        raise ConfigError(
            f"a worker cannot import {function.__qualname__}: it is defined inside a function",
            "define it in a module, or record the code with jobdoctor.record()",
        )
    job = _job(function, args, kwargs or {}, connection)
    data = job.data
    job.data = data  # RQ forgets what it was made of: the arguments come out of the serialised form
    stamps.install()
    recorded = Recorded(job_name(job), profile=profile)
    outcome = _Outcome()

    def perform() -> None:
        _perform(job, recorded, outcome, around)

    if _loop_is_running():  # a coroutine function gets a loop of its own, as in a worker
        thread = threading.Thread(target=perform, name="jobdoctor-job")
        thread.start()
        thread.join()
    else:
        perform()
    if outcome.failure is not None:
        raise outcome.failure
    execution = recorded.execution
    if execution is not None:
        execution = _completed(execution, job, data, outcome)
    return Ran(
        recorded.name, execution, outcome.value, outcome.error, data, outcome.result, serializer_name(job.serializer)
    )


class _Outcome:
    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.failure: BaseException | None = None  # ours to raise: it is not the job's
        self.result: bytes | None = None


def _perform(
    job: Job, recorded: Recorded, outcome: _Outcome, around: Callable[[], AbstractContextManager[Any]]
) -> None:
    try:
        with recorded, around():
            recorded.phase("deserialize")
            job.args  # noqa: B018 -- unpickles
            recorded.phase("import")
            found = job.func
            rec = recorder.current
            if rec is not None:
                rec.home = found
            recorded.phase("body")
            try:
                with _timeout(job):
                    outcome.value = job.perform()
            except BaseException as error:
                outcome.error = error
                raise
            finally:
                recorded.phase("result")
            outcome.result = _serialised(job, outcome.value)
    except BaseException as error:
        if outcome.error is None:
            outcome.failure = error


def _serialised(job: Job, value: Any) -> bytes | None:
    if job.result_ttl == 0:
        return None
    try:
        data = job.serializer.dumps(value)
    except Exception as error:
        error.add_note(
            f"{job.func_name} returned a {type(value).__name__}, which a worker cannot store; return plain data, an id "
            "or nothing"
        )
        raise
    return data if isinstance(data, bytes) else None


@contextmanager
def _timeout(job: Job) -> Any:
    """The job's own timeout. By a timer: RQ's alarm would take the one that a test runner has set."""
    if not isinstance(job.timeout, (int, float)) or job.timeout <= 0:
        yield
        return
    with TimerDeathPenalty(job.timeout, JobTimeoutException, job_id=job.id):  # type: ignore[no-untyped-call]
        yield


def _job(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], connection: Any) -> Job:
    """The job as a queue would create it; nothing is sent."""
    settings = decoration(function)
    if settings is None:
        return Queue("default", connection=connection or redis.Redis()).create_job(
            function, args=tuple(args), kwargs=dict(kwargs)
        )
    queue: Any = settings.queue
    if isinstance(queue, str):
        queue = settings.queue_class(queue, connection=connection or settings.connection or redis.Redis())
    job: Job = queue.create_job(function, args=tuple(args), kwargs=dict(kwargs), **options_of(settings))
    return job


def decoration(function: Any) -> decorator | None:
    """The ``@job`` that decorates a function; None when there is none. RQ keeps it in the closure of ``enqueue``."""
    for name in ("enqueue", "delay"):
        for cell in getattr(getattr(function, name, None), "__closure__", None) or ():
            try:
                if isinstance(cell.cell_contents, decorator):
                    return cell.cell_contents
            except ValueError:  # an empty cell
                continue
    return None


def options_of(settings: decorator) -> dict[str, Any]:
    """What a decorated function's jobs are created with, as ``Queue.create_job`` takes it."""
    return {
        name: getattr(settings, name)
        for name in ("timeout", "result_ttl", "failure_ttl", "meta", "retry")
        if getattr(settings, name) is not None
    }


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _completed(execution: Execution, job: Job, data: bytes, outcome: _Outcome) -> Execution:
    """With what the queue and the worker would know."""
    measurement = Measurement(data, serializer=serializer_name(job.serializer))
    while not measurement.step(1.0):
        pass
    result = None
    if outcome.error is None:
        written = outcome.result
        result = ResultInfo(
            type_name=dotted(type(outcome.value)),
            bytes=None if written is None else len(written),
            digest="" if written is None else blake2b(written, digest_size=8).hexdigest(),
            ttl_s=job.result_ttl,
        )
    retry = RetryPolicy()
    if job.retries_left is not None:
        retry = RetryPolicy(job.retries_left, job.retries_left, [int(each) for each in job.retry_intervals or ()])
    timeout = job.timeout if isinstance(job.timeout, (int, float)) else Queue.DEFAULT_TIMEOUT
    return replace(
        execution,
        job_id=job.id,
        queue=job.origin,
        rq_version=VERSION,
        timeout_s=float(timeout),
        failure_ttl_s=job.failure_ttl,
        retry=retry,
        payload=replace(measurement.result(), wire_bytes=len(zlib.compress(data))),
        result=result,
    )
