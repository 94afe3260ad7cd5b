"""Traces for tests: rows by hand, and a first-come-first-served queue that computes when each job is taken."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

from jobdoctor.model import TraceRow
from tests.builders import EPOCH_NS, SECOND


def row(job: str, enqueued_s: float, dequeued_s: float, reaped_s: float, **fields: Any) -> TraceRow:
    """A row at seconds after EPOCH_NS, taken by ``worker-1`` from ``default``."""

    def instant(seconds: float) -> int:
        return EPOCH_NS + round(seconds * SECOND)

    defaults: dict[str, Any] = {
        "execution_id": f"{job}-{enqueued_s}-{dequeued_s}-{fields.get('worker', '')}",
        "job_id": f"{job}-{enqueued_s}-{dequeued_s}-{fields.get('worker', '')}",
        "job": job,
        "queue": "default",
        "worker": "worker-1",
        "outcome": "finished",
        "created_at_ns": instant(enqueued_s),
        "enqueued_at_ns": instant(enqueued_s),
        "dequeued_at_ns": instant(dequeued_s),
        "reaped_at_ns": instant(reaped_s),
        "worker_queues": ["default"],
        "route": "straight",
    }
    return TraceRow(**{**defaults, **fields})


def served(arrivals: Iterable[tuple[float, str, float]], workers: int = 1, **fields: Any) -> list[TraceRow]:
    """Rows of (arrival s, job, service s) served first come, first served by so many workers."""
    free = [(0.0, f"worker-{number + 1}") for number in range(workers)]
    rows = []
    for number, (at, job, service) in enumerate(sorted(arrivals)):
        free_at, worker = heapq.heappop(free)
        start = max(at, free_at)
        rows.append(row(job, at, start, start + service, **{"worker": worker, "job_id": f"{job}-{number}", **fields}))
        heapq.heappush(free, (start + service, worker))
    return rows
