"""Enqueueing by promise: each job goes to the queue of what ``@jobdoctor.slo`` promises for it."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Iterable
from datetime import datetime as Datetime  # noqa: N812 -- RQ names a parameter datetime
from datetime import timedelta
from typing import Any

from rq import get_current_job
from rq.job import Job
from rq.queue import EnqueueData, Queue

from jobdoctor import config, promises
from jobdoctor.errors import ConfigError

#: Clients made for ``enqueue``, by process and URL.
_clients: dict[tuple[int, str], Any] = {}


class SLOQueue:
    """Enqueues as :class:`rq.Queue` does, with all of its options, and chooses the queue itself.

    Functions without a promise go to the slowest queue, ``within_24_hours``, or to that of ``default`` (a duration, as
    in :func:`jobdoctor.slo`). Without a connection, a job's own server is used within a job, and elsewhere the one that
    the settings and the variables of ``rq`` name. Further options are those of ``rq.Queue``.
    """

    def __init__(
        self, connection: Any = None, *, default: Any = None, queue_class: type[Queue] = Queue, **options: Any
    ) -> None:
        if "name" in options:
            raise ConfigError("an SLOQueue has no name", "leave it out: each job goes to the queue of its promise")
        self.connection = connection if connection is not None else _connection()
        self.default_queue = promises.SLOWEST_QUEUE if default is None else _queue_within(default)
        self._queue_class = queue_class
        self._options = options
        self._queues: dict[str, Queue] = {}

    # -- choosing

    def queue_for(self, function: Any) -> Queue:
        """The queue of a job function (or of its dotted name, which is imported to see what it promises)."""
        promise = promises.promise_of(_resolved(function) if isinstance(function, str) else function)
        return self._queue(self.default_queue if promise is None else promise.queue)

    def queue_within(self, within: Any) -> Queue:
        """The queue of a duration, for what is not declared on the function."""
        return self._queue(_queue_within(within))

    def _queue(self, name: str) -> Queue:
        found = self._queues.get(name)
        if found is None:
            found = self._queues[name] = self._queue_class(name, connection=self.connection, **self._options)
        return found

    # -- enqueueing, as rq.Queue does it

    def enqueue(self, f: Any, *args: Any, **kwargs: Any) -> Job:
        """``rq.Queue.enqueue``, in the queue of the function's promise."""
        return self.queue_for(f).enqueue(f, *args, **kwargs)

    def enqueue_call(self, func: Any, *args: Any, **kwargs: Any) -> Job:
        """``rq.Queue.enqueue_call``."""
        return self.queue_for(func).enqueue_call(func, *args, **kwargs)

    def enqueue_at(self, datetime: Datetime, f: Any, *args: Any, **kwargs: Any) -> Job:
        """``rq.Queue.enqueue_at``: the promise counts from then on. A worker with a scheduler is needed."""
        return self.queue_for(f).enqueue_at(datetime, f, *args, **kwargs)  # type: ignore[no-any-return]

    def enqueue_in(self, time_delta: timedelta, func: Any, *args: Any, **kwargs: Any) -> Job:
        """``rq.Queue.enqueue_in``."""
        return self.queue_for(func).enqueue_in(time_delta, func, *args, **kwargs)

    def enqueue_job(self, job: Job, **options: Any) -> Job:
        """``rq.Queue.enqueue_job``, for a job that was made by ``Job.create``."""
        return self.queue_for(job.func).enqueue_job(job, **options)

    prepare_data = staticmethod(Queue.prepare_data)

    def enqueue_many(self, job_datas: Iterable[EnqueueData], pipeline: Any = None, **options: Any) -> list[Job]:
        """``rq.Queue.enqueue_many``: one round for each promise among them. The jobs come in the order given."""
        datas = [data if data.job_id else data._replace(job_id=str(uuid.uuid4())) for data in job_datas]
        ids = [str(data.job_id) for data in datas]
        twice = next((each for each in ids if ids.count(each) > 1), None) if len(set(ids)) < len(ids) else None
        if twice is not None:
            raise ValueError(f"Job ID {twice!r} appears more than once in enqueue_many()")
        jobs: dict[str, Job] = {}
        # What others may depend on is there first, whatever its queue.
        for dependent in (False, True):
            rounds: dict[str, list[EnqueueData]] = {}
            for data in datas:
                if bool(data.depends_on) is dependent:
                    rounds.setdefault(self.queue_for(data.func).name, []).append(data)
            for name, of_queue in rounds.items():
                made = self._queue(name).enqueue_many(of_queue, pipeline=pipeline, **options)
                jobs.update((job.id, job) for job in made)
        return [jobs[each] for each in ids]


def enqueue(function: Any, *args: Any, **kwargs: Any) -> Job:
    """Puts a job in the queue of its function's promise. Takes every option of ``rq.Queue.enqueue``.

    The server is that of :class:`SLOQueue` without a connection: make one of your own for another.
    """
    return SLOQueue().enqueue(function, *args, **kwargs)


def _connection() -> Any:
    job = get_current_job()
    if job is not None:
        return job.connection
    url = config.load().redis_url
    key = (os.getpid(), url)
    found = _clients.get(key)
    if found is None:
        import redis

        _clients.clear()  # those of the process that forked this one are not for us
        found = _clients[key] = redis.Redis.from_url(url)
    return found


def _queue_within(within: Any) -> str:
    return promises.queue_name(promises.seconds(within))


def _resolved(name: str) -> Any:
    """What a dotted name stands for: a function, or a method of a class. ConfigError when it cannot be imported."""
    way_out = "pass the function itself, or say SLOQueue().queue_within('30s').enqueue(...)"
    module_name, _, attribute = name.rpartition(".")
    attributes = [attribute]
    problem: Exception | None = None
    while module_name:
        try:
            found: Any = importlib.import_module(module_name)
            for attribute in attributes:
                found = getattr(found, attribute)
            return found
        except Exception as error:
            problem = error
            if not isinstance(error, ModuleNotFoundError) or not module_name.startswith(str(error.name)):
                break
        module_name, _, attribute = module_name.rpartition(".")
        attributes.insert(0, attribute)
    said = f": {type(problem).__name__}: {problem}" if problem is not None else ""
    raise ConfigError(f"what {name!r} promises is not known, it cannot be imported here{said}", way_out) from problem
