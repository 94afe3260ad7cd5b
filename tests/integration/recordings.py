"""Reading what workers wrote to the stream, and running workers of all kinds."""

from __future__ import annotations

from typing import Any

import redis
import rq
import rq.worker

import jobdoctor
from jobdoctor import wire
from jobdoctor.model import Execution

PLAIN = {"fork": rq.worker.Worker, "simple": rq.worker.SimpleWorker, "spawn": rq.worker.SpawnWorker}
RECORDING = {"fork": jobdoctor.Worker, "simple": jobdoctor.SimpleWorker, "spawn": jobdoctor.SpawnWorker}


def executions(client: redis.Redis) -> list[Execution]:
    """All recordings on the stream, oldest first."""
    return [wire.decode(fields) for _, fields in client.xrange(wire.STREAM_KEY)]


def work(worker_class: Any, client: redis.Redis, *queues: str, **options: Any) -> Any:
    """Runs a worker until its queues are empty."""
    worker = worker_class(list(queues) or ["default"], connection=client, **options)
    worker.work(burst=True, logging_level="CRITICAL")
    return worker


def record(client: redis.Redis, *args: Any, kind: str = "fork", **kwargs: Any) -> Execution:
    """Enqueues one job, runs it, and gives its (only) recording."""
    rq.Queue(connection=client).enqueue(*args, **kwargs)
    work(RECORDING[kind], client)
    found = executions(client)
    assert len(found) == 1, [each.outcome for each in found]
    return found[0]
