"""A job that this worker took, in its own process: the few things that its witness cannot see for itself."""

from __future__ import annotations

import os
import time
from typing import Any

from rq.job import Job

from jobdoctor.capture.memory import Memory
from jobdoctor.model import Outcome, WorkerKind
from jobdoctor.rq import stamps
from jobdoctor.rq.facts import SCHEDULED_GAP_NS, attempt, epoch_ns
from jobdoctor.rq.guard import Guard
from jobdoctor.rq.horse import Horse
from jobdoctor.rq.messages import Begun, Ended
from jobdoctor.rq.names import job_name, serializer_name
from jobdoctor.rq.recording_state import WorkerState
from jobdoctor.rq.route import released_by, route


class TakenJob:
    """One execution. Every method may fail without harm: callers guard them."""

    def __init__(
        self,
        worker: Any,
        job: Job,
        queue: Any,
        state: WorkerState,
        guard: Guard,
        *,
        kind: WorkerKind,
        dequeued_ns: int,
    ) -> None:
        self.epoch_ns, self.perf_ns = time.time_ns(), time.perf_counter_ns()
        self.worker = worker
        self.job = job
        self.queue = queue
        self.state = state
        self.guard = guard
        self.kind: WorkerKind = kind
        self.dequeued_ns = dequeued_ns
        self.id = f"{job.id}:{self.epoch_ns:x}"
        self.name = job_name(job)
        self.forked_ns = self.forked_done_ns = self.exited_ns = 0
        self.reaped: tuple[Any, Any, Any] = (None, None, None)
        self.killed_by_us = ""
        self.outcome: Outcome | None = None
        self.own_cpu_ns: int | None = None
        self.profile_path = ""
        self.horse: Horse | None = None  # what the fork is to be
        self.number = state.link.next_number()
        self.memory_index = state.link.take_memory() if self.number else -1
        if self.number and state.link.wants_profile(self.name):
            from jobdoctor.capture import stack_profile  # rarely

            self.profile_path = stack_profile.profile_path()
        self.overhead_ns = time.perf_counter_ns() - self.perf_ns
        self._announced = self._told = self._ended = False

    @property
    def memory(self) -> Memory | None:
        """Where the job's process records; None when nothing was free."""
        return self.state.memories[self.memory_index] if self.memory_index >= 0 else None

    def saddle(self) -> None:
        """The fork comes next: what it needs is made ready here, where its memory is not yet a copy."""
        if self.memory_index >= 0:
            self.horse = self.state.horses[self.memory_index].adopt(self.id, self.guard, self.profile_path)

    def identify(self, rq_execution_id: str) -> None:
        """The execution's id, unique for ever."""
        self.id = f"{self.job.id}:{rq_execution_id}"

    def announce(self) -> None:
        """It is about to begin: all there is to know about it is put into words. Does nothing the second time."""
        if self._announced or not self.number:
            return
        began = time.perf_counter_ns()
        self._announced = True
        job, queue = self.job, self.queue
        data = job.__dict__.get("_data")
        number, began_with = attempt(job)
        created, enqueued = epoch_ns(job.created_at), epoch_ns(job.enqueued_at)
        waited = bool(created and enqueued and enqueued - created > SCHEDULED_GAP_NS)
        delayed = number > 1 and any(job.retry_intervals or ())
        came = route(job, number, enqueued - created if created and enqueued else None)
        self.state.link.announce(
            Begun(
                number=self.number,
                memory=self.memory_index,
                execution_id=self.id,
                kind=self.kind,
                epoch_ns=self.epoch_ns,
                perf_ns=self.perf_ns,
                dequeued_ns=self.dequeued_ns,
                job_id=job.id,
                job_key=str(job.key),
                job=self.name,
                queue=queue.name,
                queue_key=str(queue.key),
                serializer=serializer_name(job.serializer),
                data=data if isinstance(data, bytes) else b"",
                data_bytes=len(data) if isinstance(data, bytes) else -1,
                profile_path=self.profile_path,
                attempt=number,
                max_retries=began_with,
                retries_left=job.retries_left,
                intervals_s=[int(interval) for interval in job.retry_intervals or ()],
                created_at_ns=created,
                enqueued_at_ns=enqueued,
                scheduled=(waited and number == 1) or delayed,
                route=came,
                depends_on=released_by(job, came),
                timeout_s=float(job.timeout) if job.timeout is not None and job.timeout > 0 else None,
                failure_ttl_s=job.failure_ttl,
                result_ttl_s=job.get_result_ttl(self.worker.default_result_ttl),
                trigger=stamps.read(job, scheduled=waited and number == 1),
            )
        )
        self.overhead_ns += time.perf_counter_ns() - began

    def begun(self, pid: int) -> None:
        """Its process runs: the witness is told."""
        if self._told or not self.number:
            return
        self.announce()
        self._told = True
        self.state.link.begin(self.number, pid, self.forked_ns, self.forked_done_ns)

    def ended(self) -> None:
        """The worker is done with it. Does nothing the second time."""
        if self._ended or not self.number:
            return
        reaped_ns = time.perf_counter_ns()
        if not self._told:  # it came to no process: the fork failed
            self.begun(os.getpid())
        pid, status, usage = self.reaped
        self.state.link.end(
            Ended(
                number=self.number,
                reaped_ns=reaped_ns,
                exited_ns=self.exited_ns,
                status=status if pid else None,
                rusage=list(usage) if pid and usage is not None else [],
                outcome=self.outcome or "",
                killed_by_us=self.killed_by_us,
                own_cpu_ns=self.own_cpu_ns,
                overhead_ns=self.overhead_ns,
                problems=list(self.guard.problems),
            )
        )
        self._ended = True


def own_cpu_ns() -> int:
    """CPU of this process so far."""
    times = os.times()
    return int((times.user + times.system) * 1e9)
