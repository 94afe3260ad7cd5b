"""``WorkerMixin`` records every job that a worker runs. ``class Worker(WorkerMixin, rq.Worker): pass`` is all it takes.

Each method below is a step of RQ's worker. It notes something, and calls RQ's own with whatever RQ passed (signatures
differ between RQ's versions). What fails on our side ends in a :class:`~jobdoctor.rq.guard.Guard`: RQ goes on as if we
were not there. ``JOBDOCTOR_DISABLE=1`` in the worker's environment turns everything off.

RQ calls these methods in two processes. In the worker ``_watch`` is set while a job is being executed; in the process
that runs the job (the work horse, or a SimpleWorker itself) ``_horse`` is.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import rq.worker
from rq.job import Job

from jobdoctor.model import WorkerKind
from jobdoctor.rq import stamps
from jobdoctor.rq.guard import Guard
from jobdoctor.rq.horse import SPAWN_VARIABLE, Horse, from_environment, spawn_value
from jobdoctor.rq.probing import install_probes
from jobdoctor.rq.recording_state import WorkerState
from jobdoctor.rq.watch import ExecutionWatch, own_cpu_ns

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


class WorkerMixin(_Base):
    """Records every execution of the worker class it is mixed into (before RQ's class, in the bases)."""

    _watch: ExecutionWatch | None = None
    _horse: Horse | None = None
    _recording_state: WorkerState | None = None
    _dequeued_ns: int = 0

    # ------------------------------------------------------------------------------------------------------ the worker

    def bootstrap(self, *args: Any, **kwargs: Any) -> Any:
        if not disabled():
            guard = Guard()
            with guard("bootstrap"):
                self._prepare(guard)  # before the first job, which would pay for it
        return super().bootstrap(*args, **kwargs)

    def _prepare(self, guard: Guard) -> WorkerState:
        """What a worker process needs once."""
        state = self._recording_state
        if state is None or state.pid != os.getpid():
            spawns = _SPAWN_WORKER is not None and isinstance(self, _SPAWN_WORKER)
            state = self._recording_state = WorkerState(self.connection, spawns=spawns)
        with guard("probes"):
            install_probes()
        with guard("stamps"):
            stamps.install()
        return state

    def reorder_queues(self, *args: Any, **kwargs: Any) -> Any:
        self._dequeued_ns = time.perf_counter_ns()  # RQ's first step after it took a job
        return super().reorder_queues(*args, **kwargs)

    def execute_job(self, job: Job, queue: Any, *args: Any, **kwargs: Any) -> Any:
        if disabled() or self._watch is not None:
            return super().execute_job(job, queue, *args, **kwargs)
        guard = Guard()
        with guard("execute_job"):
            self._watch = self._start_watch(job, queue, guard)
        try:
            return super().execute_job(job, queue, *args, **kwargs)
        finally:
            watch, self._watch = self._watch, None
            # In a process that RQ's fork left behind (os._exit was replaced, say) there is nothing to report.
            if watch is not None and self._recording_state is not None and os.getpid() == self._recording_state.pid:
                with guard("finish"):
                    watch.finish()

    def _start_watch(self, job: Job, queue: Any, guard: Guard) -> ExecutionWatch:
        now = time.perf_counter_ns()
        state = self._prepare(guard)
        state.recorder.reset()
        kind: WorkerKind = "spawn" if state.spawns else "simple"  # until it forks
        noted, self._dequeued_ns = self._dequeued_ns, 0
        return ExecutionWatch(
            self,
            job,
            queue,
            state,
            guard,
            kind=kind,
            dequeued_ns=noted if 0 <= now - noted < _DEQUEUE_NS else now,
        )

    def prepare_execution(self, *args: Any, **kwargs: Any) -> Any:
        execution = super().prepare_execution(*args, **kwargs)
        watch = self._watch
        if watch is not None:
            with watch.guard("prepare_execution"):
                watch.identify(execution.id)
        return execution

    def fork_work_horse(self, *args: Any, **kwargs: Any) -> Any:
        watch, state = self._watch, self._recording_state
        if watch is None or state is None:
            return super().fork_work_horse(*args, **kwargs)
        with watch.guard("fork_work_horse"):
            if watch.kind != "spawn":
                watch.kind = watch.facts.worker_kind = "fork"
            elif state.memory.path is not None:
                os.environ[SPAWN_VARIABLE] = spawn_value(
                    state.memory.path, watch.profile_path, watch.facts.id, watch.facts.job
                )
            else:
                watch.guard.problems.append(f"Calls and phases: {state.memory.fallback}")
            watch.forking()
        try:
            return super().fork_work_horse(*args, **kwargs)
        finally:
            os.environ.pop(SPAWN_VARIABLE, None)
            with watch.guard("fork_work_horse"):
                watch.forked(self.horse_pid)

    def wait_for_horse(self, *args: Any, **kwargs: Any) -> Any:
        watch = self._watch
        wait = super().wait_for_horse
        if watch is None or not self.horse_pid:
            return wait(*args, **kwargs)
        if not getattr(wait, "__module__", "").startswith("rq."):
            # Somebody's own way of waiting: it stays in charge, and there are no samples.
            watch.sampler_missing = f"{type(self).__name__} waits for its horse in its own way"
            result = wait(*args, **kwargs)
            with watch.guard("wait_for_horse"):
                watch.reaped(*result)
            return result
        return watch.wait(self.horse_pid)

    def kill_horse(self, *args: Any, **kwargs: Any) -> Any:
        watch = self._watch
        if watch is not None:
            with watch.guard("kill_horse"):
                if self._stopped_job_id == watch.job.id:
                    watch.killed_by_us = "stopped"
                elif not args and not kwargs and not getattr(self, "_shutdown_requested_date", None):
                    watch.killed_by_us = "timeout"
        return super().kill_horse(*args, **kwargs)

    def handle_work_horse_killed(self, *args: Any, **kwargs: Any) -> Any:
        watch = self._watch
        if watch is not None:
            watch.outcome = "killed"
        return super().handle_work_horse_killed(*args, **kwargs)  # type: ignore[no-untyped-call]

    # ------------------------------------------------------------------------------------------------------- the horse

    def main_work_horse(self, *args: Any, **kwargs: Any) -> Any:
        guard = self._watch.guard if self._watch is not None else Guard()
        with guard("main_work_horse"):
            self._horse = self._start_horse(guard)
        return super().main_work_horse(*args, **kwargs)

    def _start_horse(self, guard: Guard) -> Horse | None:
        watch = self._watch
        if watch is not None:  # forked
            horse: Horse | None = Horse(watch.recorder, watch.facts.id, watch.facts.job, guard, watch.profile_path)
        elif disabled():
            return None
        else:
            horse = from_environment(guard)
            if horse is not None:
                with guard("probes"):
                    install_probes()
                stamps.install()
        return horse if horse is not None and horse.begin() else None

    def perform_job(self, job: Job, *args: Any, **kwargs: Any) -> Any:
        horse, watch = self._horse, self._watch
        if horse is not None:  # a work horse
            with horse.guard("perform_job"):
                horse.shadow(job)
            try:
                return super().perform_job(job, *args, **kwargs)
            finally:
                horse.restore(job)
                with horse.guard("perform_job"):
                    horse.report()
        if watch is None or watch.kind != "simple":
            return super().perform_job(job, *args, **kwargs)
        own: Horse | None = None
        cpu_ns = 0
        with watch.guard("perform_job"):
            own = Horse(watch.recorder, watch.facts.id, watch.facts.job, watch.guard, watch.profile_path)
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
                with watch.guard("perform_job"):
                    own.report()
                    own.end()
                    watch.own_cpu_ns = own_cpu_ns() - cpu_ns

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
        horse, watch = self._horse, self._watch
        if horse is not None:
            with horse.guard("handle_job_failure"):
                horse.mark("persist")
                retries = bool(job.retries_left and job.retries_left > 0)
                horse.decided("timeout" if horse.timed_out else "retried" if retries else "failed")
                if retries and horse.max_retries is not None and stamps.max_retries(job) is None:
                    stamps.remember_max_retries(job, horse.max_retries)  # RQ saves the meta with the retry
            return super().handle_job_failure(job, *args, **kwargs)
        if watch is None:
            return super().handle_job_failure(job, *args, **kwargs)
        if self._stopped_job_id == job.id:
            watch.outcome = "stopped"
        with stamps.only_users_meta(job):
            return super().handle_job_failure(job, *args, **kwargs)
