"""The workers a trace shows: when each was seen, which queues it listens to, and what it was busy with."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from jobdoctor.model import TraceRow


class Busy(Struct, frozen=True):
    """A stretch in which a worker ran one execution, from dequeue to reap (ns since the epoch)."""

    start_ns: int
    end_ns: int
    job: str


class SeenWorker(Struct, frozen=True):
    """A worker as its executions show it. Before its first dequeue and after its last reap nothing is known of it."""

    name: str
    queues: frozenset[str]  # those it listens to, and those it took a job from
    busy: list[Busy]  # by time, not overlapping

    @property
    def first_ns(self) -> int:
        return self.busy[0].start_ns

    @property
    def last_ns(self) -> int:
        return self.busy[-1].end_ns


def seen_workers(rows: Iterable[TraceRow], queue: str | None = None) -> list[SeenWorker]:
    """Workers by name; with ``queue``, only those that listen to it.

    A worker runs one job at a time: where clocks make two executions of one worker overlap, the later one starts when
    the earlier one ends.
    """
    taken: dict[str, list[TraceRow]] = {}
    for row in rows:
        taken.setdefault(row.worker, []).append(row)
    workers = []
    for name, of_worker in sorted(taken.items()):
        # Rows of one worker mostly share their list.
        lists = {id(row.worker_queues): row.worker_queues for row in of_worker}.values()
        queues = frozenset({row.queue for row in of_worker}.union(*lists))
        if queue is not None and queue not in queues:
            continue
        busy: list[Busy] = []
        free_at_ns = 0
        for row in sorted(of_worker, key=lambda row: (row.dequeued_at_ns, row.reaped_at_ns)):
            start_ns = max(row.dequeued_at_ns, free_at_ns)
            end_ns = max(start_ns, row.reaped_at_ns)
            busy.append(Busy(start_ns, end_ns, row.job))
            free_at_ns = end_ns
        workers.append(SeenWorker(name, queues, busy))
    return workers


def busy_ns(workers: Iterable[SeenWorker], from_ns: int, to_ns: int) -> int:
    """Worker time spent on executions between two instants, over all workers."""
    return sum(
        max(0, min(busy.end_ns, to_ns) - max(busy.start_ns, from_ns)) for worker in workers for busy in worker.busy
    )


def present_ns(workers: Iterable[SeenWorker], from_ns: int, to_ns: int) -> int:
    """Worker time there was between two instants: each worker counts from its first dequeue to its last reap."""
    return sum(max(0, min(worker.last_ns, to_ns) - max(worker.first_ns, from_ns)) for worker in workers)
