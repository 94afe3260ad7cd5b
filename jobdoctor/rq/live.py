"""A look into a live Redis, for ``jobdoctor queues``: queues, workers, what stands in line and what runs. Read-only.

Of a long queue a sample is looked at: those that are next, and some all the way back. So 200,000 jobs cost as much as
200 do. Names come from the jobs' data when it is small, and else from RQ's description of the call; neither arguments
nor descriptions are kept.
"""

from __future__ import annotations

import zlib
from typing import Any

import redis
from msgspec import Struct
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry

from jobdoctor.errors import StreamError
from jobdoctor.rq import queue_state
from jobdoctor.rq.messages import UNDESERIALIZABLE
from jobdoctor.rq.names import name_of_data
from jobdoctor.rq.queue_state import PREFIX, QueuesState, instant_ns

#: Jobs looked at: the next ones of each queue, as many more spread over the rest, and of all queues together.
NEXT = 60
SPREAD = 40
MOST_SAMPLED = 1_000
#: A job's data up to this size is read for its name.
_SMALL_BYTES = 8 * 1024
_UNPACKED_BYTES = 64 * 1024


class InLine(Struct, frozen=True):
    """What stands in a queue, in its order: the names of those that are next, and of a sample of those behind."""

    next: list[str]
    behind: list[str]


class Running(Struct, frozen=True):
    """What a worker runs."""

    job: str
    since_ns: int  # 0: not known
    timeout_s: float | None


class LiveQueues(Struct, frozen=True):
    state: QueuesState
    in_line: dict[str, InLine]  # by queue
    running: dict[str, Running]  # by worker


def connect(url: str) -> Any:
    """A client that gives up soon. StreamError for what is no URL."""
    try:
        return redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=10, retry=Retry(NoBackoff(), 0))
    except ValueError as error:
        # The URL itself is not said: it may hold a password.
        raise StreamError(f"--url is no Redis URL: {error}", "write it like redis://localhost:6379/0") from None


def look(connection: Any) -> LiveQueues:
    """The state, and what stands in line. StreamError when the server does not answer, or refuses."""
    try:
        state = queue_state.read(connection)
        return LiveQueues(state, _lines(connection, state), _running(connection, state))
    except AuthenticationError as error:
        raise StreamError(f"the server refuses to let us in ({_line(error)})", "correct --url") from None
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError):
        raise StreamError("no server answers", "start it, or give its --url") from None
    except RedisError as error:
        raise StreamError(f"the queues cannot be read ({_line(error)})", "correct --url") from None


def _lines(connection: Any, state: QueuesState) -> dict[str, InLine]:
    filled = [queue for queue in state.queues if queue.depth]
    each = max(4, MOST_SAMPLED // max(1, len(filled)))
    near, far = min(NEXT, each * 6 // 10), min(SPREAD, each * 4 // 10)
    with connection.pipeline(transaction=False) as pipeline:
        for queue in filled:
            key = f"{PREFIX}:queue:{queue.name}"
            pipeline.lrange(key, 0, near - 1)
            for place in _places(queue.depth, near, far):
                pipeline.lindex(key, place)
        told = iter(pipeline.execute(raise_on_error=False))
    ids: dict[str, tuple[list[str], list[str]]] = {}
    for queue in filled:
        first = next(told)
        rest = [next(told) for _ in _places(queue.depth, near, far)]
        ids[queue.name] = _texts(first if isinstance(first, list) else []), _texts(rest)
    names = _names(connection, [job_id for of_queue in ids.values() for part in of_queue for job_id in part])
    return {
        name: InLine(*([names.get(job_id, UNDESERIALIZABLE) for job_id in part] for part in of_queue))
        for name, of_queue in ids.items()
    }


def _texts(values: list[Any]) -> list[str]:
    return [value.decode("utf-8", "replace") for value in values if isinstance(value, bytes)]


def _places(depth: int, near: int, far: int) -> list[int]:
    """Places behind the first ``near``, evenly spread."""
    left = depth - near
    return [near + index * left // far for index in range(far)] if left > far else list(range(near, max(near, depth)))


def _running(connection: Any, state: QueuesState) -> dict[str, Running]:
    busy = {worker.name: worker.current_job_id for worker in state.workers if worker.current_job_id}
    names = _names(connection, list(busy.values()))
    with connection.pipeline(transaction=False) as pipeline:
        for job_id in busy.values():
            pipeline.hmget(f"{PREFIX}:job:{job_id}", "started_at", "timeout")
        told = pipeline.execute(raise_on_error=False)
    found = {}
    for (worker, job_id), values in zip(busy.items(), told, strict=True):
        if isinstance(values, list) and job_id in names:
            timeout = values[1]
            found[worker] = Running(
                names[job_id], instant_ns(values[0]), float(timeout) if timeout and timeout.isdigit() else None
            )
    return found


def _names(connection: Any, job_ids: list[str]) -> dict[str, str]:
    """The dotted names of these jobs; of jobs that are gone nothing."""
    with connection.pipeline(transaction=False) as pipeline:
        for job_id in job_ids:
            pipeline.hget(f"{PREFIX}:job:{job_id}", "description")
            pipeline.hstrlen(f"{PREFIX}:job:{job_id}", "data")
        told = pipeline.execute(raise_on_error=False)
    described = {job_id: told[2 * index] for index, job_id in enumerate(job_ids)}
    sizes = {job_id: told[2 * index + 1] for index, job_id in enumerate(job_ids)}
    small = [job_id for job_id, size in sizes.items() if isinstance(size, int) and 0 < size <= _SMALL_BYTES]
    with connection.pipeline(transaction=False) as pipeline:
        for job_id in small:
            pipeline.hget(f"{PREFIX}:job:{job_id}", "data")
        data = dict(zip(small, pipeline.execute(raise_on_error=False), strict=True))
    names: dict[str, str] = {}
    for job_id, size in sizes.items():
        if not isinstance(size, int) or not size:
            continue
        text = described[job_id]
        description = text.decode("utf-8", "replace") if isinstance(text, bytes) else ""
        names[job_id] = _name(data.get(job_id), description)
    return names


def _name(data: Any, description: str) -> str:
    raw = b""
    if isinstance(data, bytes):
        try:
            raw = zlib.decompressobj().decompress(data, _UNPACKED_BYTES)
        except zlib.error:
            raw = data
    serializer = "json" if raw[:1] in (b"[", b"{") else "pickle"
    return name_of_data(raw, serializer, description)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
