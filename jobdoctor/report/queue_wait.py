"""Who was ahead: what the workers ran while executions of this job waited in the queue."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from msgspec import Struct

from jobdoctor.model import JobHistory, TraceRow

#: Newest rows looked at: enough for a stable picture, bounded for a busy week.
MAX_ROWS = 5_000
SHOWN_JOBS = 12


class Ahead(Struct, frozen=True):
    """A job that held the worker while this one waited. ``wait_ms`` is the mean for each execution."""

    job: str
    executions: int
    wait_ms: float
    share: float  # of the queue wait


class QueueWait(Struct, frozen=True):
    """The queue wait by who was ahead. ``other_ms``: the worker that took it was idle, or ran what was not recorded."""

    rows: list[Ahead]
    wait_ms: float
    other_ms: float
    looked_at: int
    queues: list[tuple[str, int]]
    depth: float | None  # jobs left in the queue when one was taken, mean


def queue_wait(history: JobHistory) -> QueueWait:
    """Attribute each wait to what ran on the worker that ended it, in the time between enqueue and dequeue."""
    own = history.trace[-MAX_ROWS:]
    blamed: dict[str, int] = {}
    executions: dict[str, set[str]] = {}
    total = sum(max(0, row.dequeued_at_ns - row.enqueued_at_ns) for row in own)
    for _, ahead, overlap_ns in overlaps(history):
        blamed[ahead.job] = blamed.get(ahead.job, 0) + overlap_ns
        executions.setdefault(ahead.job, set()).add(ahead.execution_id)
    looked_at = len(own)
    ranked = sorted(blamed.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_JOBS]
    queues: dict[str, int] = {}
    for row in own:
        queues[row.queue] = queues.get(row.queue, 0) + 1
    depths = [row.queue_depth for row in own if row.queue_depth is not None]
    per_execution = 1e6 * max(1, looked_at)
    return QueueWait(
        rows=[
            Ahead(job, len(executions[job]), ns / per_execution, min(1.0, ns / total) if total else 0.0)
            for job, ns in ranked
        ],
        wait_ms=total / per_execution,
        other_ms=max(0, total - sum(ns for _, ns in ranked)) / per_execution,
        looked_at=looked_at,
        queues=sorted(queues.items(), key=lambda item: -item[1]),
        depth=sum(depths) / len(depths) if depths else None,
    )


def overlaps(history: JobHistory) -> Iterator[tuple[TraceRow, TraceRow, int]]:
    """Each execution that waited, each that its worker ran meanwhile, and for how long (ns) of that wait."""
    by_worker: dict[str, list[TraceRow]] = {}
    for row in history.neighbours:
        by_worker.setdefault(row.worker, []).append(row)
    starts: dict[str, list[int]] = {}
    for worker, rows in by_worker.items():
        rows.sort(key=lambda row: row.dequeued_at_ns)
        starts[worker] = [row.dequeued_at_ns for row in rows]
    for row in history.trace[-MAX_ROWS:]:
        rows = by_worker.get(row.worker, [])
        index = bisect_right(starts.get(row.worker, []), row.dequeued_at_ns) - 1
        # A worker runs one job at a time: walk back until one ended before this one was enqueued.
        while index >= 0:
            ahead = rows[index]
            index -= 1
            if ahead.execution_id == row.execution_id:
                continue
            if ahead.reaped_at_ns <= row.enqueued_at_ns:
                break
            overlap = min(ahead.reaped_at_ns, row.dequeued_at_ns) - max(ahead.dequeued_at_ns, row.enqueued_at_ns)
            if overlap > 0:
                yield row, ahead, overlap
