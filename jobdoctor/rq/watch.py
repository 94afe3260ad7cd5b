"""One execution as the worker sees it: from the dequeue, through the horse's life, to the entry on the stream."""

from __future__ import annotations

import os
import time
from typing import Any

from msgspec.structs import replace
from rq.job import Job, JobStatus

from jobdoctor.capture import recording, stack_profile
from jobdoctor.capture.assemble import ExecutionFacts, Observation, assemble
from jobdoctor.capture.foreign import foreign
from jobdoctor.capture.payload import BUDGET_S, Measurement
from jobdoctor.capture.sampler import Sampler, rusage_of, wait_and_sample
from jobdoctor.model import LockWait, Outcome, ProbeStatus, Profile, ResultInfo, RetryPolicy, Rusage, WorkerKind
from jobdoctor.rq import facts as rq_facts
from jobdoctor.rq.guard import Guard
from jobdoctor.rq.names import UNDESERIALIZABLE, serializer_name
from jobdoctor.rq.probing import probe_statuses
from jobdoctor.rq.recording_state import WorkerState

#: Seconds of CPU spent on the payload in one tick: the horse may end meanwhile and should not wait to be reaped.
_SLICE_S = 0.002
#: After the horse has ended, for what is left of the payload.
_REST_S = 0.010
#: Data smaller than this is stored as it is: RQ's compression saves nothing worth asking the server for.
_WIRE_BYTES = 512


class ExecutionWatch:
    """The parent's side. Every method may fail without harm: callers guard them."""

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
        self.recorder = state.recorder
        self.guard = guard
        self.kind: WorkerKind = kind
        self.facts: ExecutionFacts = rq_facts.gather(worker, job, queue, kind, state.slos_ms)
        self.dequeued_ns = dequeued_ns
        self.identify(f"{self.epoch_ns:x}")
        self.forked_ns = self.forked_done_ns = self.exited_ns = 0
        self.horse_pid = 0
        self.sampler: Sampler | None = None
        self.sampler_missing = ""
        self.rusage: Rusage | None = None
        self.wait_status: int | None = None
        self.killed_by_us = ""
        self.outcome: Outcome | None = None
        self.own_cpu_ns: int | None = None
        self.overhead_ns = 0
        self.profile_path = ""
        with guard("locks"):
            state.observer.begin()
        with guard("profile"):
            if state.profiles.choose(self.facts.job):
                self.profile_path = stack_profile.profile_path()
        self.sent = False
        self._asked = False
        self._wire_bytes: int | None = None
        data = job.__dict__.get("_data")
        self._data = data if isinstance(data, bytes) else None
        self.measurement: Measurement | None = None
        if self._data is not None:
            self.measurement = Measurement(self._data, serializer=serializer_name(job.serializer))
        if self.facts.job == UNDESERIALIZABLE:
            guard.problems.append("Name of the job: its data cannot be read by its serializer")
        self.overhead_ns += time.perf_counter_ns() - self.perf_ns

    def identify(self, rq_execution_id: str) -> None:
        """The execution's id, unique for ever."""
        self.facts.id = f"{self.job.id}:{rq_execution_id}"

    # -- while the horse runs

    def forking(self) -> None:
        self.forked_ns = time.perf_counter_ns()

    def forked(self, horse_pid: int) -> None:
        self.forked_done_ns = time.perf_counter_ns()
        self.horse_pid = horse_pid

    def wait(self, pid: int) -> tuple[Any, Any, Any]:
        """What RQ's ``wait_for_horse`` does, and samples meanwhile."""
        if self.sampler is None or self.sampler.pid != pid:
            self.sampler = Sampler(pid)
        try:
            done = wait_and_sample(pid, self.sampler, self._tick)
        except ChildProcessError:
            return None, None, None
        self.reaped(*done)
        return done

    def reaped(self, pid: Any, status: Any, usage: Any) -> None:
        """The horse is gone."""
        if not pid:
            return
        self.exited_ns = time.perf_counter_ns()
        self.wait_status = status
        baseline = self.sampler.baseline_rss_bytes if self.sampler is not None else 0
        if usage is not None:
            with self.guard("rusage"):
                self.rusage = rusage_of(usage, baseline)

    def _tick(self, _elapsed_ns: int) -> None:
        """Work of the parent while it has nothing else to do."""
        began = time.perf_counter_ns()
        with self.guard("waiting"):
            self.state.observer.tick(self.recorder.buffer)
            if not self._asked:
                self._asked = True
                self._ask()
            elif self.measurement is not None and not self.measurement.done:
                self.measurement.step(_SLICE_S)
        self.overhead_ns += time.perf_counter_ns() - began

    def _ask(self) -> None:
        """One question to the server: how deep the queue is now, and how large the job's data is there."""
        if self._data is not None and len(self._data) >= _WIRE_BYTES:
            with self.worker.connection.pipeline(transaction=False) as pipeline:
                pipeline.llen(self.queue.key)
                pipeline.hstrlen(self.job.key, "data")
                depth, wire = pipeline.execute()
            self._wire_bytes = wire or None  # 0: the job is gone already
        else:
            depth = self.worker.connection.llen(self.queue.key)
        self.facts.queue_depth = depth

    # -- the end

    def finish(self) -> None:
        """Assembles what is known and sends it. Interrupted by a signal's exception, it finishes first."""
        reaped_ns = time.perf_counter_ns()
        try:
            self._finish(reaped_ns)
        except BaseException as error:
            if not foreign(error):
                raise
            if not self.sent:
                with self.guard("finish"):
                    self._finish(reaped_ns)
            raise
        finally:
            if self.sampler is not None:
                self.sampler.close()

    def _finish(self, reaped_ns: int) -> None:
        with self.guard("queue depth"):
            if not self._asked:
                self._asked = True
                self._ask()
        with self.guard("payload"):
            if self.measurement is not None and not self.measurement.done:
                self.measurement.step(BUDGET_S if self.kind == "simple" else _REST_S)
        recorded: recording.Recording | None = None
        with self.guard("recording"):
            recorded = recording.read(self.recorder.buffer)
        with self.guard("outcome"):
            self._decide(recorded)
        observation = self._observation(recorded, reaped_ns)
        execution = assemble(self.facts, observation, recorded)
        self.sent = True
        if not self.state.writer.write(execution):
            self.guard.say("stream", ConnectionError(self.state.writer.problem))

    def _decide(self, recorded: recording.Recording | None) -> None:
        notes = recorded.facts("outcome") if recorded is not None else []
        note: dict[str, Any] = notes[-1] if notes else {}
        if "max_retries" in note:
            self.facts.retry = RetryPolicy(note["max_retries"], note.get("retries_left"), list(note["intervals_s"]))
        if self.outcome is not None:
            self.facts.outcome = self.outcome
        elif note:
            self.facts.outcome = note["outcome"]
        elif self.wait_status:
            self.facts.outcome = "killed"
        else:
            self._ask_outcome()
        if recorded is None or not recorded.facts("result"):
            self.facts.result = None
        elif self.facts.result is not None:
            self.facts.result = ResultInfo("", ttl_s=self.facts.result.ttl_s)

    def _ask_outcome(self) -> None:
        """The horse left no word (it was not ours): RQ's status of the job says how it ended."""
        status = self.job.get_status()
        if status == JobStatus.FAILED:
            self.facts.outcome = "failed"
        elif status in {JobStatus.SCHEDULED, JobStatus.QUEUED}:
            self.facts.outcome = "retried"
        elif status == JobStatus.STOPPED:
            self.facts.outcome = "stopped"

    def _observation(self, recorded: recording.Recording | None, reaped_ns: int) -> Observation:
        payload = self.measurement.result() if self.measurement is not None else None
        if payload is not None and self._wire_bytes is not None:
            payload = replace(payload, wire_bytes=self._wire_bytes)
        profile: Profile | None = None
        with self.guard("profile"):
            if self.profile_path:
                profile = stack_profile.load(self.profile_path)
            self.state.profiles.report(
                self.facts.job, reaped_ns - self.dequeued_ns, self._cpu_ns(), profiled=bool(self.profile_path)
            )
        for note in recorded.facts("overhead") if recorded is not None else []:
            self.overhead_ns += note["ns"]
        probes: list[ProbeStatus] = []
        with self.guard("probes"):
            probes = _probes(recorded)
        locks: list[LockWait] = []
        with self.guard("locks"):
            locks = self.state.observer.end(recorded)
        missing = list(self.guard.problems)
        if self.state.observer.problem:
            missing.append(self.state.observer.problem)
        if recorded is not None and not recorded.phases:
            missing.append("Calls and phases: the job's process did not load jobdoctor (a horse of plain RQ)")
        return Observation(
            epoch_ns=self.epoch_ns,
            perf_ns=self.perf_ns,
            dequeued_ns=self.dequeued_ns,
            reaped_ns=reaped_ns,
            forked_ns=self.forked_ns,
            forked_done_ns=self.forked_done_ns,
            exited_ns=self.exited_ns,
            horse_pid=self.horse_pid,
            samples=self.sampler.samples if self.sampler is not None else [],
            sampler_missing=self.sampler.missing if self.sampler is not None else self.sampler_missing,
            rusage=self.rusage,
            wait_status=self.wait_status,
            oom_kills=self.sampler.oom_kills() if self.sampler is not None and self.wait_status else 0,
            own_cpu_ns=self.own_cpu_ns,
            killed_by_us=self.killed_by_us,
            payload=payload,
            profile=profile,
            probes=probes,
            locks=locks,
            overhead_ns=self.overhead_ns,
            not_captured=missing,
        )

    def _cpu_ns(self) -> int:
        if self.rusage is not None:
            return self.rusage.user_ns + self.rusage.system_ns
        return self.own_cpu_ns or 0


def _probes(recorded: recording.Recording | None) -> list[ProbeStatus]:
    """The parent's probes, with what came to life in the horse."""
    found = {(status.channel, status.library): status for status in probe_statuses()}
    for note in recorded.facts("probe") if recorded is not None else []:
        found[(note["channel"], note["library"])] = ProbeStatus(**note)
    return list(found.values())


def own_cpu_ns() -> int:
    """CPU of this process so far."""
    times = os.times()
    return int((times.user + times.system) * 1e9)
