"""jobdoctor: is the slowness inside the job, or in the system around it?

Everything public is resolved on first use, so that importing jobdoctor in a web process or a worker stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jobdoctor._version import __version__

if TYPE_CHECKING:
    from jobdoctor.capture.record import record as record
    from jobdoctor.promises import ToBeDone as ToBeDone
    from jobdoctor.promises import slo as slo
    from jobdoctor.rq import RandomWorker as RandomWorker
    from jobdoctor.rq import RoundRobinWorker as RoundRobinWorker
    from jobdoctor.rq import SimpleWorker as SimpleWorker
    from jobdoctor.rq import SLOQueue as SLOQueue
    from jobdoctor.rq import SpawnWorker as SpawnWorker
    from jobdoctor.rq import Worker as Worker
    from jobdoctor.rq import enqueue as enqueue
    from jobdoctor.rq import stamp_enqueues as stamp_enqueues

_PUBLIC = {
    "record": "jobdoctor.capture.record",
    "slo": "jobdoctor.promises",
    "ToBeDone": "jobdoctor.promises",
    "SLOQueue": "jobdoctor.rq",
    "enqueue": "jobdoctor.rq",
    "Worker": "jobdoctor.rq",
    "SimpleWorker": "jobdoctor.rq",
    "SpawnWorker": "jobdoctor.rq",
    "RoundRobinWorker": "jobdoctor.rq",
    "RandomWorker": "jobdoctor.rq",
    "stamp_enqueues": "jobdoctor.rq",
}

__all__ = [
    "RandomWorker",
    "RoundRobinWorker",
    "SLOQueue",
    "SimpleWorker",
    "SpawnWorker",
    "ToBeDone",
    "Worker",
    "__version__",
    "enqueue",
    "record",
    "slo",
    "stamp_enqueues",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jobdoctor' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
