"""RQ's worker classes, recording. Importable by name, so that SpawnWorker can pickle them."""

from __future__ import annotations

import rq.worker

from jobdoctor.rq.worker_mixin import WorkerMixin


class Worker(WorkerMixin, rq.worker.Worker):
    """``rq.Worker`` that records every job."""


class SimpleWorker(WorkerMixin, rq.worker.SimpleWorker):
    """``rq.SimpleWorker`` that records every job: in its own process, so without memory and CPU over time."""


class RoundRobinWorker(WorkerMixin, rq.worker.RoundRobinWorker):
    """``rq.worker.RoundRobinWorker`` that records every job."""


class RandomWorker(WorkerMixin, rq.worker.RandomWorker):
    """``rq.worker.RandomWorker`` that records every job."""


if hasattr(rq.worker, "SpawnWorker"):

    class SpawnWorker(WorkerMixin, rq.worker.SpawnWorker):
        """``rq.worker.SpawnWorker`` that records every job."""
