"""Which promise queues a worker of `jobdoctor run --slo` listens to, those included that come to be while it works."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rq import worker_registration
from rq.queue import Queue

from jobdoctor.errors import ConfigError
from jobdoctor.promises import SLOWEST_QUEUE, in_order, place_among, seconds, seconds_of_queue
from jobdoctor.rq.guard import Guard
from jobdoctor.rq.slo_state import VARIABLE

_ALL = "all"
#: Promises up to this have workers of their own among several.
RESERVED_WITHIN = "30s"
#: A queue of a new promise is listened to after this long at most.
LOOK_S = 5


def reserved(workers: int) -> int:
    """How many of N workers listen to the fast queues only: a quarter, and one of two or three."""
    return max(1, workers // 4) if workers > 1 else 0


def names(connection: Any, within: str | None = None, others: Sequence[str] = ()) -> list[str]:
    """The promise queues in order, fastest first: the predefined ones and those that exist. Other queues come before
    the slowest one. With ``within``, only queues of promises up to that. ConfigError when that leaves none."""
    prefix = len(Queue.redis_queue_namespace_prefix)
    existing = [_text(key)[prefix:] for key in connection.smembers(Queue.redis_queues_keys)]
    return _among([*existing, *others], within, [each for each in others if seconds_of_queue(each) is None])


def _among(known: Iterable[str], within: str | None, others: Sequence[str]) -> list[str]:
    ordered = in_order(known)
    if within is None:
        place = ordered.index(SLOWEST_QUEUE)
        return [*ordered[:place], *others, *ordered[place:]]
    longest = seconds(within)
    found = [name for name in ordered if (seconds_of_queue(name) or 0.0) <= longest]
    if not found:
        raise ConfigError(f"no queue promises less than {within}", f"the fastest is {ordered[0]}")
    return found


def announce(within: str | None) -> None:
    """For the worker that this process becomes."""
    os.environ[VARIABLE] = within or _ALL


class Listening:
    """Lets a worker look for new promise queues now and then."""

    def __init__(self, worker: Any) -> None:
        said = os.environ[VARIABLE]
        self._worker = worker
        self._within = None if said == _ALL else said
        self._looked = 0.0

    def dequeue(self, original: Callable[..., Any], timeout: int | None, max_idle_time: int | None, **more: Any) -> Any:
        """RQ's own step, in pieces of some seconds, with a look between them."""
        begun = time.monotonic()
        while True:
            self._look()
            if timeout is None:
                return original(timeout, max_idle_time, **more)
            piece = LOOK_S
            if max_idle_time is not None:
                piece = max(1, min(piece, round(max_idle_time - (time.monotonic() - begun))))
            taken = original(min(timeout, piece), piece, **more)
            idle_s = time.monotonic() - begun
            if taken is not None or (max_idle_time is not None and idle_s >= max_idle_time):
                return taken

    def _look(self) -> None:
        if time.monotonic() - self._looked < LOOK_S and self._looked:
            return
        self._looked = time.monotonic()
        with Guard()("promise queues"):
            listened = set(self._worker.queue_names())
            new = [name for name in names(self._worker.connection, self._within) if name not in listened]
            if new:
                self._listen(new)

    def _listen(self, new: list[str]) -> None:
        worker = self._worker
        for name in new:
            queue = worker.queue_class(
                name=name,
                connection=worker.connection,
                job_class=worker.job_class,
                serializer=worker.serializer,
                death_penalty_class=worker.death_penalty_class,
            )
            for queues in (worker.queues, worker._ordered_queues):  # where the order is another one, any place will do
                queues.insert(place_among([other.name for other in queues], name), queue)
            worker.log.info("jobdoctor: listening to %s, too", name)
        worker_registration.register(worker)
        worker.connection.hset(worker.key, "queues", ",".join(worker.queue_names()))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
