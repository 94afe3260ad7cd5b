"""What was recorded of queues and jobs: arrivals, waits, service times, occupancy, and where the time before the queue
went.

A job may have been somewhere else before it was put in its queue: scheduled for later, deferred until others were done,
held back by a rate limit, or waiting for its next attempt (``model.Route``). Its true start is its creation; its queue
wait begins where RQ put it in the queue, when it was due, released or to be tried again. The waits of each such group
are told apart: those of jobs that came straight are what somebody who enqueues one may compare with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, get_args

from jobdoctor.model import Route, TraceRow
from jobdoctor.queueing.arrivals import Arrivals, arrivals
from jobdoctor.queueing.bootstrap import quantile
from jobdoctor.queueing.workers import SeenWorker, busy_ns, present_ns, seen_workers

_SECOND_NS = 1_000_000_000


#: After an execution of the same job, and not after its creation.
_AGAIN: frozenset[Route] = frozenset({"retried", "repeated", "requeued"})
_HELD: frozenset[Route] = frozenset({"scheduled", "deferred", "rate-limited"})


class Came(NamedTuple):
    """Executions whose jobs came to the queue in one way. Times in s."""

    executions: int
    wait_p50: float
    wait_p95: float
    #: Before the queue: from creation or, where the job had run before, from the end of that. None: it came straight,
    #: or that is not recorded.
    held_p50: float | None


class Observed(NamedTuple):
    """Executions of a queue or of a job on it. Times in s."""

    executions: int
    arrivals: Arrivals
    wait_p50: float
    wait_p95: float
    service_p50: float
    service_p95: float
    work_s: float  # worker time
    scheduled: int  # first attempts that waited in a registry before the queue: scheduled, deferred or rate-limited
    retried: int  # attempts after the first
    held_p50: float  # from creation to being put in the queue, of the scheduled ones
    routes: dict[Route, Came]  # those that there were, in the model's order


class ObservedQueue(NamedTuple):
    name: str
    whole: Observed
    jobs: dict[str, Observed]  # most worker time first
    workers: list[SeenWorker]  # that listen to it
    utilisation: float  # of those workers, while they were seen

    def share(self, job: str) -> float:
        """The job's part in the worker time spent on this queue."""
        return self.jobs[job].work_s / self.whole.work_s if self.whole.work_s else 0.0


def observe(rows: Sequence[TraceRow]) -> dict[str, ObservedQueue]:
    """By queue."""
    before = _runs_before(rows)
    everyone = seen_workers(rows)
    busy_all = {worker.name: busy_ns([worker], worker.first_ns, worker.last_ns) for worker in everyone}
    by_queue: dict[str, list[TraceRow]] = {}
    for row in rows:
        by_queue.setdefault(row.queue, []).append(row)
    found = {}
    for name, own in sorted(by_queue.items()):
        by_job: dict[str, list[TraceRow]] = {}
        for row in own:
            by_job.setdefault(row.job, []).append(row)
        jobs = {job: observed(of_job, before) for job, of_job in by_job.items()}
        workers = [worker for worker in everyone if name in worker.queues]
        present = sum(worker.last_ns - worker.first_ns for worker in workers)
        busy = sum(busy_all[worker.name] for worker in workers) / present if present else 0.0
        ranked = dict(sorted(jobs.items(), key=lambda item: (-item[1].work_s, item[0])))
        found[name] = ObservedQueue(name, observed(own, before), ranked, workers, busy)
    return found


def busy_share(seen: Sequence[SeenWorker], born_ns: Mapping[str, int], from_ns: int, to_ns: int) -> float | None:
    """Share of their time that workers were busy between two instants. ``born_ns``: those that are there now, and since
    when; of others it is known from their first job to their last. None without any."""
    present = sum(max(0, to_ns - max(from_ns, born)) for born in born_ns.values())
    present += present_ns([worker for worker in seen if worker.name not in born_ns], from_ns, to_ns)
    return min(1.0, busy_ns(seen, from_ns, to_ns) / present) if present else None


def observed(rows: Iterable[TraceRow], before: Mapping[str, int]) -> Observed:
    """These executions, whatever they are. ``before``: when the same job's execution before each (by its id) ended."""
    own = list(rows)
    waits = sorted(max(0, row.dequeued_at_ns - row.enqueued_at_ns) / _SECOND_NS for row in own)
    times = sorted(max(0, row.reaped_at_ns - row.dequeued_at_ns) / _SECOND_NS for row in own)
    held = [row for row in own if row.scheduled and row.attempt == 1]
    return Observed(
        executions=len(own),
        arrivals=arrivals([row.enqueued_at_ns for row in own]),
        wait_p50=quantile(waits, 0.5),
        wait_p95=quantile(waits, 0.95),
        service_p50=quantile(times, 0.5),
        service_p95=quantile(times, 0.95),
        work_s=sum(times),
        scheduled=len(held),
        retried=sum(row.attempt > 1 for row in own),
        held_p50=quantile(sorted(max(0, r.enqueued_at_ns - r.created_at_ns) / _SECOND_NS for r in held), 0.5),
        routes=_by_route(own, before),
    )


def _by_route(rows: Sequence[TraceRow], before: Mapping[str, int]) -> dict[Route, Came]:
    by_route: dict[Route, list[TraceRow]] = {}
    for row in rows:
        by_route.setdefault(row.route, []).append(row)
    found: dict[Route, Came] = {}
    for route in get_args(Route):
        own = by_route.get(route, [])
        if own:
            waits = sorted(max(0, row.dequeued_at_ns - row.enqueued_at_ns) / _SECOND_NS for row in own)
            held = sorted(_held_s(own, before)) if route in _AGAIN | _HELD else []
            found[route] = Came(
                len(own), quantile(waits, 0.5), quantile(waits, 0.95), quantile(held, 0.5) if held else None
            )
    return found


def _held_s(rows: Iterable[TraceRow], before: Mapping[str, int]) -> Iterator[float]:
    for row in rows:
        since_ns = before.get(row.execution_id) if row.route in _AGAIN else row.created_at_ns
        if since_ns is not None:
            yield max(0, row.enqueued_at_ns - since_ns) / _SECOND_NS


def _runs_before(rows: Iterable[TraceRow]) -> dict[str, int]:
    """When the execution of the same job before ended, by execution; of the first ones nothing."""
    found: dict[str, int] = {}
    last: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: row.dequeued_at_ns):
        if row.job_id in last:
            found[row.execution_id] = last[row.job_id]
        last[row.job_id] = row.reaped_at_ns
    return found
