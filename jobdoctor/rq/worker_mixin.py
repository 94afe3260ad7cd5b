"""``WorkerMixin`` records every job that a worker runs. ``class Worker(WorkerMixin, rq.Worker): pass`` is all it takes.

Each method below is a step of RQ's worker. It notes something, and calls RQ's own with whatever RQ passed (signatures
differ between RQ's versions). What fails on our side ends in a :class:`~jobdoctor.rq.guard.Guard`: RQ goes on as if we
were not there. ``JOBDOCTOR_DISABLE=1`` in the worker's environment turns everything off.

RQ calls these methods in two processes. In the worker ``_taken`` is set while a job is being executed; in the process
that runs the job (the work horse, or a SimpleWorker itself) ``_horse`` is. A third process, the witness, does the rest
(``jobdoctor.rq.witness``).
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import rq.worker
from rq.job import Job

from jobdoctor.capture import crash_log, exits
from jobdoctor.capture.recorder import Recorder
from jobdoctor.model import WorkerKind
from jobdoctor.rq import ptracer, slo_worker, stamps
from jobdoctor.rq.guard import Guard
from jobdoctor.rq.horse import SPAWN_VARIABLE, Horse, from_environment, spawn_value
from jobdoctor.rq.probing import install_probes, probe_statuses, tell_witness
from jobdoctor.rq.recording_state import WorkerState
from jobdoctor.rq.taken import TakenJob, own_cpu_ns

if TYPE_CHECKING:
    _Base = rq.worker.Worker
else:
    _Base = object

DISABLE_VARIABLE = "JOBDOCTOR_DISABLE"
_SPAWN_WORKER: type | None = getattr(rq.worker, "SpawnWorker", None)
#: A dequeue noted longer ago than this belongs to another job.
_DEQUEUE_NS = 5_000_000_000


def disabled() -> bool:
    """Whether the environment switches recording off."""
    return os.environ.get(DISABLE_VARIABLE, "") not in {"", "0"}


def _direct_faults(taken: TakenJob, guard: Guard) -> None:
    """A fault of native code in the process that runs the job is written where the witness looks for it."""
    with guard("crash log"):
        log = taken.state.crash_logs[taken.memory_index]
        if log is not None:
            crash_log.direct(log.descriptor)


class WorkerMixin(_Base):
    """Records every execution of the worker class it is mixed into (before RQ's class, in the bases)."""

    _taken: TakenJob | None = None
    _horse: Horse | None = None
    _recording_state: WorkerState | None = None
    _dequeued_ns: int = 0
    _forced_to_stop: bool = False
    _promises: slo_worker.Promises | None = None

    # ------------------------------------------------------------------------------------------------------ the worker

    def bootstrap(self, *args: Any, **kwargs: Any) -> Any:
        if disabled():
            return super().bootstrap(*args, **kwargs)
        guard = Guard()
        with guard("bootstrap"):
            self._prepare(guard)  # before RQ starts a thread
        with guard("promises"):
            self._promises = slo_worker.promises_of(self)
        try:
            return super().bootstrap(*args, **kwargs)
        except BaseException:
            self._close_recording()
            raise

    def teardown(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().teardown(*args, **kwargs)  # type: ignore[no-untyped-call]
        finally:
            self._close_recording()

    def _prepare(self, guard: Guard) -> WorkerState:
        """What a worker process needs once."""
        state = self._recording_state
        if state is not None and state.pid == os.getpid():
            with guard("probes"):
                probe_statuses()  # asked here, so that each horse need not
            return state
        with guard("probes"):
            install_probes()
        with guard("stamps"):
            stamps.install()
        with guard("deaths"):
            exits.install()
            crash_log.prepare()
        spawns = _SPAWN_WORKER is not None and isinstance(self, _SPAWN_WORKER)
        with guard("probes"):
            tell_witness()
        state = self._recording_state = WorkerState(self, spawns=spawns)
        return state

    def _close_recording(self) -> None:
        """The witness writes what is left, before the worker ends."""
        state = self._recording_state
        if state is not None and state.pid == os.getpid():
            self._recording_state = None
            with Guard()("close"):
                state.close()

    def dequeue_job_and_maintain_ttl(self, *args: Any, **kwargs: Any) -> Any:
        dequeue = super().dequeue_job_and_maintain_ttl
        return dequeue(*args, **kwargs) if self._promises is None else self._promises.dequeue(dequeue, *args, **kwargs)

    def reorder_queues(self, *args: Any, **kwargs: Any) -> Any:
        self._dequeued_ns = time.perf_counter_ns()  # RQ's first step after it took a job
        return super().reorder_queues(*args, **kwargs)

    def execute_job(self, job: Job, queue: Any, *args: Any, **kwargs: Any) -> Any:
        if disabled() or self._taken is not None:
            return super().execute_job(job, queue, *args, **kwargs)
        guard = Guard()
        with guard("execute_job"):
            self._taken = self._take(job, queue, guard)
        try:
            return super().execute_job(job, queue, *args, **kwargs)
        finally:
            taken, self._taken = self._taken, None
            # In a process that RQ's fork left behind (os._exit was replaced, say) there is nothing to report.
            if taken is not None and os.getpid() == taken.state.pid:
                self._finish(taken)

    def _take(self, job: Job, queue: Any, guard: Guard) -> TakenJob:
        now = time.perf_counter_ns()
        state = self._prepare(guard)
        kind: WorkerKind = "spawn" if state.spawns else "simple"  # until it forks
        noted, self._dequeued_ns = self._dequeued_ns, 0
        return TakenJob(
            self,
            job,
            queue,
            state,
            guard,
            kind=kind,
            dequeued_ns=noted if 0 <= now - noted < _DEQUEUE_NS else now,
        )

    def _finish(self, taken: TakenJob) -> None:
        """Interrupted by a signal's exception, it finishes first."""
        try:
            with taken.guard("finish"):
                taken.ended()
        except BaseException:
            with taken.guard("finish"):
                taken.ended()
            raise
        taken.state.log_problems()

    def prepare_execution(self, *args: Any, **kwargs: Any) -> Any:
        execution = super().prepare_execution(*args, **kwargs)
        taken = self._taken
        if taken is not None:
            with taken.guard("prepare_execution"):
                taken.identify(execution.id)
        return execution

    def fork_work_horse(self, *args: Any, **kwargs: Any) -> Any:
        taken = self._taken
        if taken is None:
            return super().fork_work_horse(*args, **kwargs)
        with taken.guard("fork_work_horse"):
            if taken.kind != "spawn":
                taken.kind = "fork"
                if taken.memory is not None:
                    _direct_faults(taken, taken.guard)  # here: the horse inherits it, and pays nothing
                taken.saddle()
            elif taken.memory is not None and taken.memory.path is not None:
                os.environ[SPAWN_VARIABLE] = spawn_value(
                    taken.memory.path, taken.profile_path, taken.state.link.pid, taken.id
                )
            elif taken.memory is not None:
                taken.guard.problems.append(f"Calls and phases: {taken.memory.fallback}")
            taken.announce()
        taken.forked_ns = time.perf_counter_ns()
        try:
            return super().fork_work_horse(*args, **kwargs)
        finally:
            if taken.kind == "spawn":
                os.environ.pop(SPAWN_VARIABLE, None)
            taken.forked_done_ns = time.perf_counter_ns()
            if self.horse_pid and os.getpid() == taken.state.pid:
                with taken.guard("fork_work_horse"):
                    taken.begun(self.horse_pid)

    def wait_for_horse(self, *args: Any, **kwargs: Any) -> Any:
        reaped = super().wait_for_horse(*args, **kwargs)
        taken = self._taken
        if taken is not None and reaped and reaped[0]:
            taken.reaped = reaped
            taken.exited_ns = time.perf_counter_ns()
        return reaped

    def request_force_stop(self, *args: Any, **kwargs: Any) -> Any:
        self._forced_to_stop = True  # told twice to stop, RQ takes its horse down with it
        try:
            return super().request_force_stop(*args, **kwargs)
        finally:
            self._forced_to_stop = False

    def kill_horse(self, *args: Any, **kwargs: Any) -> Any:
        taken = self._taken
        if taken is not None:
            with taken.guard("kill_horse"):
                if self._stopped_job_id == taken.job.id:
                    taken.killed_by_us = "stopped"
                elif not args and not kwargs:
                    taken.killed_by_us = "shutdown" if self._forced_to_stop else "timeout"
        return super().kill_horse(*args, **kwargs)

    def handle_work_horse_killed(self, *args: Any, **kwargs: Any) -> Any:
        taken = self._taken
        if taken is not None:
            taken.outcome = "killed"
        return super().handle_work_horse_killed(*args, **kwargs)  # type: ignore[no-untyped-call]

    # ------------------------------------------------------------------------------------------------------- the horse

    def main_work_horse(self, *args: Any, **kwargs: Any) -> Any:
        guard = self._taken.guard if self._taken is not None else Guard()
        with guard("main_work_horse"):
            self._horse = self._start_horse(guard)
        return super().main_work_horse(*args, **kwargs)

    def _start_horse(self, guard: Guard) -> Horse | None:
        taken = self._taken
        if taken is not None:  # forked
            horse = taken.horse
            if horse is not None and taken.state.names_witness:
                with guard("witness"):
                    ptracer.allow(taken.state.link.pid)
        elif disabled():
            return None
        else:
            horse = from_environment(guard)
            if horse is not None:
                with guard("probes"):
                    install_probes()
                stamps.install()
                with guard("deaths"):
                    exits.install()
        return horse if horse is not None and horse.begin() else None

    def perform_job(self, job: Job, *args: Any, **kwargs: Any) -> Any:
        horse, taken = self._horse, self._taken
        if horse is not None:  # a work horse
            with horse.guard("perform_job"):
                horse.shadow(job)
            try:
                return super().perform_job(job, *args, **kwargs)
            finally:
                horse.restore(job)
                with horse.guard("perform_job"):
                    horse.report()
        if taken is None or taken.kind != "simple":
            return super().perform_job(job, *args, **kwargs)
        own: Horse | None = None
        cpu_ns = 0
        with taken.guard("perform_job"):
            ptracer.allow(taken.state.link.pid)
            taken.begun(os.getpid())
            if taken.memory is not None:
                _direct_faults(taken, taken.guard)
                own = Horse(Recorder(taken.memory.buffer), taken.id, taken.guard, taken.profile_path)
                cpu_ns = own_cpu_ns()
                if own.begin():
                    self._horse = own
                    own.shadow(job)
        try:
            return super().perform_job(job, *args, **kwargs)
        finally:
            if own is not None and self._horse is own:
                self._horse = None
                own.restore(job)
                with taken.guard("perform_job"):
                    own.report()
                    own.end()
                    taken.own_cpu_ns = own_cpu_ns() - cpu_ns

    def handle_execution_ended(self, job: Job, *args: Any, **kwargs: Any) -> Any:
        result = super().handle_execution_ended(job, *args, **kwargs)
        horse = self._horse
        if horse is not None:
            with horse.guard("handle_execution_ended"):
                horse.ended(job)
        return result

    def handle_exception(self, job: Job, *exc_info: Any) -> Any:
        horse = self._horse
        if horse is not None:
            with horse.guard("handle_exception"):
                horse.raised(exc_info[1], exc_info[2])
        return super().handle_exception(job, *exc_info)

    def handle_job_success(self, job: Job, *args: Any, **kwargs: Any) -> Any:
        horse = self._horse
        if horse is None:
            return super().handle_job_success(job, *args, **kwargs)
        original = job.serializer
        with horse.guard("handle_job_success"):
            horse.mark("persist")
            job.serializer = horse.measured(job)
        try:
            result = super().handle_job_success(job, *args, **kwargs)
        finally:
            job.serializer = original
        with horse.guard("handle_job_success"):
            if not horse.result_noted:
                horse.result(job._result, None)
            horse.decided("finished")
        return result

    def handle_job_retry(self, job: Job, queue: Any, retry: Any, *args: Any, **kwargs: Any) -> Any:
        horse = self._horse
        if horse is not None:
            with horse.guard("handle_job_retry"):
                horse.mark("persist")
                done = job.number_of_retries or 0
                horse.decided(
                    "failed" if done and done >= retry.max else "retried",
                    max_retries=retry.max,
                    retries_left=max(0, retry.max - done),
                    intervals_s=[int(interval) for interval in retry.intervals],
                )
        return super().handle_job_retry(job, queue, retry, *args, **kwargs)

    def handle_job_failure(self, job: Job, *args: Any, **kwargs: Any) -> Any:
        horse, taken = self._horse, self._taken
        if horse is not None:
            with horse.guard("handle_job_failure"):
                horse.mark("persist")
                retries = bool(job.retries_left and job.retries_left > 0)
                horse.decided("timeout" if horse.timed_out else "retried" if retries else "failed")
                if retries and horse.max_retries is not None and stamps.max_retries(job) is None:
                    stamps.remember_max_retries(job, horse.max_retries)  # RQ saves the meta with the retry
            return super().handle_job_failure(job, *args, **kwargs)
        if taken is None:
            return super().handle_job_failure(job, *args, **kwargs)
        if self._stopped_job_id == job.id:
            taken.outcome = "stopped"
        with stamps.only_users_meta(job):
            return super().handle_job_failure(job, *args, **kwargs)
