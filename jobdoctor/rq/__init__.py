"""All that knows RQ: recording worker classes and trigger stamps. Resolved on first use: importing this is free."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobdoctor.rq.slo_queue import SLOQueue as SLOQueue
    from jobdoctor.rq.slo_queue import enqueue as enqueue
    from jobdoctor.rq.stamps import stamp_enqueues as stamp_enqueues
    from jobdoctor.rq.worker_mixin import WorkerMixin as WorkerMixin
    from jobdoctor.rq.workers import RandomWorker as RandomWorker
    from jobdoctor.rq.workers import RoundRobinWorker as RoundRobinWorker
    from jobdoctor.rq.workers import SimpleWorker as SimpleWorker
    from jobdoctor.rq.workers import SpawnWorker as SpawnWorker
    from jobdoctor.rq.workers import Worker as Worker

_PUBLIC = {
    "RandomWorker": "jobdoctor.rq.workers",
    "RoundRobinWorker": "jobdoctor.rq.workers",
    "SLOQueue": "jobdoctor.rq.slo_queue",
    "SimpleWorker": "jobdoctor.rq.workers",
    "SpawnWorker": "jobdoctor.rq.workers",
    "Worker": "jobdoctor.rq.workers",
    "WorkerMixin": "jobdoctor.rq.worker_mixin",
    "enqueue": "jobdoctor.rq.slo_queue",
    "stamp_enqueues": "jobdoctor.rq.stamps",
}

__all__ = [
    "RandomWorker",
    "RoundRobinWorker",
    "SLOQueue",
    "SimpleWorker",
    "SpawnWorker",
    "Worker",
    "WorkerMixin",
    "enqueue",
    "stamp_enqueues",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
