"""Who occupied the workers while jobs waited: each job kind's share of the wait, by exact interval overlap.

While a job waits, each instant belongs in equal parts to the workers that listen to its queue and are present; the
part of a busy worker goes to the kind it is running, the part of an idle one to ``idle_ns``. Instants at which no
listening worker is present go to ``unseen_ns``. So the parts add up to the wait.

One sweep over the sorted starts and ends: O((n + waits) log n), plus the workers running at each arrival.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from msgspec import Struct

from jobdoctor.model import TraceRow
from jobdoctor.queueing.workers import SeenWorker, seen_workers


class Occupant(Struct, frozen=True):
    """One job kind's part in the waits, in nanoseconds summed over them."""

    job: str
    overlap_ns: float
    #: Of ``overlap_ns``: by executions already under way when the waiting job arrived. Going first in the queue would
    #: not have avoided this part; it would have avoided the rest.
    residual_ns: float
    executions: int  # that overlapped a wait


class WaitShares(Struct, frozen=True):
    """The waits looked at, and to whom their time belongs."""

    waits: int
    waited_ns: int
    idle_ns: float  # a listening worker was present and free
    unseen_ns: float  # no listening worker was present
    occupants: list[Occupant]  # largest part first
    workers: int  # that listen to the queues waited in

    def share(self, jobs: Iterable[str]) -> float:
        """The part of the wait that belongs to these kinds, 0 to 1."""
        return self.overlap_ns(jobs) / self.waited_ns if self.waited_ns else 0.0

    def overlap_ns(self, jobs: Iterable[str]) -> float:
        wanted = set(jobs)
        return sum(occupant.overlap_ns for occupant in self.occupants if occupant.job in wanted)

    def residual_ns(self, jobs: Iterable[str]) -> float:
        wanted = set(jobs)
        return sum(occupant.residual_ns for occupant in self.occupants if occupant.job in wanted)


def wait_shares(waits: Sequence[TraceRow], rows: Sequence[TraceRow]) -> WaitShares:
    """The shares of the queue waits of ``waits``, given all recorded executions ``rows`` of the workers around."""
    overlap: dict[str, float] = {}
    residual: dict[str, float] = {}
    executions: dict[str, int] = {}
    idle = unseen = 0.0
    listening: set[str] = set()
    by_queue: dict[str, list[TraceRow]] = {}
    for row in waits:
        by_queue.setdefault(row.queue, []).append(row)
    for queue, waiting in sorted(by_queue.items()):
        workers = seen_workers(rows, queue)
        listening.update(worker.name for worker in workers)
        sweep = _Sweep(workers)
        sweep.run(waiting)
        idle += sweep.idle
        unseen += sweep.unseen
        for job, value in sweep.overlap.items():
            overlap[job] = overlap.get(job, 0.0) + value
            residual[job] = residual.get(job, 0.0) + sweep.residual.get(job, 0.0)
            executions[job] = executions.get(job, 0) + sweep.executions[job]
    occupants = [Occupant(job, value, residual[job], executions[job]) for job, value in overlap.items()]
    return WaitShares(
        waits=len(waits),
        waited_ns=sum(max(0, row.dequeued_at_ns - row.enqueued_at_ns) for row in waits),
        idle_ns=idle,
        unseen_ns=unseen,
        occupants=sorted(occupants, key=lambda occupant: (-occupant.overlap_ns, occupant.job)),
        workers=len(listening),
    )


class _WorkerShareClock:
    """The integral over time of 1 / (workers present): what one worker's instant counts in a wait."""

    def __init__(self, workers: Sequence[SeenWorker]) -> None:
        changes: dict[int, int] = {}
        for worker in workers:
            changes[worker.first_ns] = changes.get(worker.first_ns, 0) + 1
            changes[worker.last_ns] = changes.get(worker.last_ns, 0) - 1
        self._times: list[int] = []
        self._values: list[float] = []
        self._present: list[int] = []
        value, present, last = 0.0, 0, 0
        for at, change in sorted(changes.items()):
            value += (at - last) / present if present else 0.0
            present += change
            last = at
            self._times.append(at)
            self._values.append(value)
            self._present.append(present)

    def at(self, at_ns: int) -> float:
        index = bisect_right(self._times, at_ns) - 1
        if index < 0:
            return 0.0
        present = self._present[index]
        return self._values[index] + ((at_ns - self._times[index]) / present if present else 0.0)


#: Kinds of event, in the order in which they are taken at one instant: who ends goes before who begins, and a wait
#: begins before an execution does, so that an execution starting at that very instant is not "already under way".
_RUN_END, _WAIT_END, _LEAVE, _JOIN, _WAIT, _RUN = range(6)


class _Sweep:
    """One pass over a queue's events in time order."""

    def __init__(self, workers: Sequence[SeenWorker]) -> None:
        self.workers = workers
        self.overlap: dict[str, float] = {}
        self.residual: dict[str, float] = {}
        self.executions: dict[str, int] = {}
        self.idle = 0.0
        self.unseen = 0.0

    def run(self, waits: Sequence[TraceRow]) -> None:
        clock = _WorkerShareClock(self.workers)
        waiting = present = 0
        waited = 0.0  # integral of waiting / present: what each busy worker's time has counted so far
        covered = 0.0  # integral of waiting while a worker was present
        last = 0
        running: dict[int, tuple[str, int, float]] = {}  # worker -> job, end, ``waited`` at its start
        for at, kind, index, until, job in self._events(waits):
            elapsed = at - last
            last = at
            if waiting and elapsed:
                if present:
                    waited += waiting * elapsed / present
                    covered += waiting * elapsed
                else:
                    self.unseen += waiting * elapsed
            if kind == _WAIT:
                waiting += 1
                counted = clock.at(at)
                for other, end, _ in running.values():
                    part = clock.at(min(until, end)) - counted
                    self.residual[other] = self.residual.get(other, 0.0) + part
            elif kind == _WAIT_END:
                waiting -= 1
            elif kind == _RUN:
                running[index] = (job, until, waited)
            elif kind == _RUN_END:
                _, _, at_start = running.pop(index)
                if waited > at_start:
                    self.overlap[job] = self.overlap.get(job, 0.0) + waited - at_start
                    self.executions[job] = self.executions.get(job, 0) + 1
            elif kind == _JOIN:
                present += 1
            else:
                present -= 1
        self.idle = max(0.0, covered - sum(self.overlap.values()))

    def _events(self, waits: Sequence[TraceRow]) -> list[tuple[int, int, int, int, str]]:
        """(instant, kind, worker, instant of the end, job), sorted. Empty stretches are left out."""
        events: list[tuple[int, int, int, int, str]] = []
        for row in waits:
            if row.dequeued_at_ns > row.enqueued_at_ns:
                events.append((row.enqueued_at_ns, _WAIT, -1, row.dequeued_at_ns, ""))
                events.append((row.dequeued_at_ns, _WAIT_END, -1, 0, ""))
        for index, worker in enumerate(self.workers):
            if worker.last_ns > worker.first_ns:
                events.append((worker.first_ns, _JOIN, index, 0, ""))
                events.append((worker.last_ns, _LEAVE, index, 0, ""))
            for busy in worker.busy:
                if busy.end_ns > busy.start_ns:
                    events.append((busy.start_ns, _RUN, index, busy.end_ns, busy.job))
                    events.append((busy.end_ns, _RUN_END, index, 0, busy.job))
        events.sort()
        return events
