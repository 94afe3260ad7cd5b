"""One execution as the witness sees it: from the packet that says it runs, through the horse's life, to its entry on
the stream."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from resource import struct_rusage
from typing import Any, NamedTuple

from msgspec.structs import replace

from jobdoctor.capture import recording, stack_profile
from jobdoctor.capture.assemble import ExecutionFacts, Observation, assemble
from jobdoctor.capture.cgroup import MemoryWatch
from jobdoctor.capture.crash_log import CrashLog
from jobdoctor.capture.last_stack import LastStack
from jobdoctor.capture.lock_observer import LockObserver
from jobdoctor.capture.payload import BUDGET_S, Measurement
from jobdoctor.capture.sampler import NO_PROC, Sampler, inherited_bytes, rusage_of
from jobdoctor.model import (
    Execution,
    LockWait,
    Outcome,
    Payload,
    ProbeStatus,
    Profile,
    ResultInfo,
    RetryPolicy,
    Rusage,
    Sample,
)
from jobdoctor.rq.guard import Guard
from jobdoctor.rq.messages import UNDESERIALIZABLE, Begun, Ended
from jobdoctor.rq.slo_record import PromiseRecord

#: A horse is looked at from so long after its fork on, when it is still there.
FIRST_LOOK_NS = 15_000_000
#: Seconds of CPU spent on the payload between two samples.
_SLICE_S = 0.002
#: Data smaller than this is stored as it is: RQ's compression saves nothing worth asking the server for.
_WIRE_BYTES = 512
#: An execution shorter than this may be over before the witness comes to look at it.
_UNSEEN_NS = 2_000_000_000
_HOST = socket.gethostname()

#: RQ's words for how a job stands, in ours.
_OUTCOMES: dict[str, Outcome] = {
    "failed": "failed",
    "scheduled": "retried",
    "queued": "retried",
    "stopped": "stopped",
}


class Surroundings(NamedTuple):
    """What all executions of a worker have in common."""

    connection: Any
    worker: str
    queues: list[str]
    worker_pid: int
    promises: PromiseRecord
    observer: LockObserver
    memory: MemoryWatch
    rq_version: str
    probes: Sequence[ProbeStatus]  # as they were when the witness was forked
    stranger: bool  # the witness is no fork of the worker any more
    thread: int  # then: where the worker has the state of the thread that forks horses, see ``capture.outside_stack``


class ExecutionWatch:
    """What is seen of one execution. Whatever fails is said in the recording."""

    def __init__(
        self,
        begun: Begun,
        data: bytes,
        buffer: Any,
        crash_log: CrashLog | None,
        around: Surroundings,
        *,
        ask: bool,
    ) -> None:
        self.begun = begun
        self.buffer = buffer  # None: there was no memory free
        self.crash_log = crash_log
        self.around = around
        self.guard = Guard()
        self.missing: list[str] = []
        self.sampler: Sampler | None = None
        self.depth: int | None = None
        self.moved_from = ("", 0)
        self.exempt = False
        if begun.kind == "spawn":
            self.last_stack = LastStack(begun.pid, spawned=True)
        else:
            parent = around.worker_pid if begun.kind == "fork" else 0
            self.last_stack = LastStack(begun.pid, spawned=around.stranger, thread=around.thread, parent=parent)
        self.baseline_rss_bytes = 0
        self._wire_bytes: int | None = None
        self._last_tick_ns = 0
        #: A job that is over within this is not looked at. Processes that are not forked change at once.
        self._first_tick_ns = begun.forked_done_ns + FIRST_LOOK_NS if begun.kind == "fork" else 0
        self._looked = False
        self.measurement: Measurement | None = None
        with self.guard("memory"):
            around.memory.renew()
        with self.guard("locks"):
            around.observer.begin()
        if len(data) == begun.data_bytes:
            self.measurement = Measurement(data, serializer=begun.serializer)
        self.job = begun.job
        self._may_ask = ask
        if not ask:
            self.missing.append("Depth of the queue: the server gave no answer")
        if self.job == UNDESERIALIZABLE:
            self.missing.append("Name of the job: its data cannot be read by its serializer")

    def _begin(self) -> None:
        """What is done before the first look, or, where there was none, at the end."""
        self._looked = True
        begun = self.begun
        with self.guard("samples"):
            if begun.kind == "fork":
                self.baseline_rss_bytes = inherited_bytes(self.around.worker_pid)
        if self._may_ask:
            with self.guard("queue depth"):
                self._ask()

    def _ask(self) -> None:
        """One question to the server: how deep the queue is now, and how large the job's data is there."""
        begun, connection = self.begun, self.around.connection
        if begun.data_bytes >= _WIRE_BYTES:
            with connection.pipeline(transaction=False) as pipeline:
                pipeline.llen(begun.queue_key)
                pipeline.hstrlen(begun.job_key, "data")
                self.depth, wire = pipeline.execute()
            self._wire_bytes = wire or None  # 0: the job is gone already
        else:
            self.depth = connection.llen(begun.queue_key)
        self.moved_from = self.around.promises.moved_from(begun)

    # -- while it runs

    def due_s(self) -> float:
        """Seconds until the next look at the horse."""
        if not self._looked:
            return max(0.0, (self._first_tick_ns - time.perf_counter_ns()) / 1e9)
        if self.sampler is None:
            return 1.0
        since = (time.perf_counter_ns() - self._last_tick_ns) / 1e9
        return max(0.0, self.sampler.interval_s() - since)

    def tick(self) -> None:
        """Looks at the horse, and works a little on the payload."""
        self._last_tick_ns = time.perf_counter_ns()
        if not self._looked:
            with self.guard("samples"):
                self.sampler = Sampler(self.begun.pid)
                self.baseline_rss_bytes = self.sampler.baseline_rss_bytes
            self._begin()
        with self.guard("watching"):
            sample = self.sampler.sample() if self.sampler is not None else None
            if sample is not None:
                since_ns = sample.at_ns - (self.begun.forked_ns or self.begun.dequeued_ns)
                self.last_stack.tick(since_ns, sample.rss_bytes)
            if self.buffer is not None:
                self.around.observer.tick(self.buffer)
            if self.measurement is not None and not self.measurement.done:
                self.measurement.step(_SLICE_S)

    # -- the end

    def finish(self, ended: Ended | None) -> Execution:
        """The execution, with all that is known. ``ended`` None: the worker died, and the horse is gone, too."""
        gone_ns = time.perf_counter_ns()
        if ended is None:
            ended = Ended(self.begun.number, gone_ns, gone_ns, None, [], "", "", None, 0, [])
            lost_worker = True
        else:
            lost_worker = False
        if not self._looked:
            self._begin()
        with self.guard("payload"):
            if self.measurement is not None and not self.measurement.done:
                self.measurement.step(BUDGET_S)
        recorded: recording.Recording | None = None
        with self.guard("recording"):
            if self.buffer is not None:
                recorded = recording.read(self.buffer)
        facts = self._facts()
        with self.guard("outcome"):
            self._decide(facts, ended, recorded, lost_worker)
        with self.guard("slo"):
            self.exempt = self.around.promises.tell(facts, recorded, self.moved_from)
        execution = assemble(facts, self._observation(ended, recorded, lost_worker), recorded)
        if self.sampler is not None:
            self.sampler.close()
        self.last_stack.close()
        return execution

    def _facts(self) -> ExecutionFacts:
        begun = self.begun
        return ExecutionFacts(
            id=begun.execution_id,
            job_id=begun.job_id,
            job=self.job,
            queue=begun.queue,
            worker=self.around.worker,
            worker_kind=begun.kind,
            outcome="finished",
            created_at_ns=begun.created_at_ns,
            enqueued_at_ns=begun.enqueued_at_ns,
            attempt=begun.attempt,
            scheduled=begun.scheduled,
            route="moved" if self._was_moved() else begun.route,
            depends_on=begun.depends_on,
            worker_queues=self.around.queues,
            queue_depth=self.depth,
            host=_HOST,
            pid=self.around.worker_pid,
            rq_version=self.around.rq_version,
            timeout_s=begun.timeout_s,
            failure_ttl_s=begun.failure_ttl_s,
            retry=RetryPolicy(begun.max_retries, begun.retries_left, begun.intervals_s),
            trigger=begun.trigger,
            result=ResultInfo("", ttl_s=begun.result_ttl_s),
        )

    def _was_moved(self) -> bool:
        """Whether it came to this queue by anti-clogging (noted in whole ms), and not by a retry after that."""
        queue, at_ns = self.moved_from
        return bool(queue) and at_ns + 1_000_000 > self.begun.enqueued_at_ns

    def _decide(
        self, facts: ExecutionFacts, ended: Ended, recorded: recording.Recording | None, lost_worker: bool
    ) -> None:
        notes = recorded.facts("outcome") if recorded is not None else []
        note: dict[str, Any] = notes[-1] if notes else {}
        if "max_retries" in note:
            facts.retry = RetryPolicy(note["max_retries"], note.get("retries_left"), list(note["intervals_s"]))
        if ended.outcome:
            facts.outcome = _outcome(ended.outcome)
        elif note:
            facts.outcome = _outcome(note["outcome"])
        elif ended.status or lost_worker or _left_early(recorded):
            facts.outcome = "killed"
        else:
            # The horse left no word (it was not ours): RQ's status of the job says how it ended.
            status = self.around.connection.hget(self.begun.job_key, "status")
            status = status.decode() if isinstance(status, bytes) else status
            facts.outcome = _OUTCOMES.get(status or "", "finished")
        if recorded is None or not recorded.facts("result"):
            facts.result = None

    def _observation(self, ended: Ended, recorded: recording.Recording | None, lost_worker: bool) -> Observation:
        begun = self.begun
        overhead_ns = ended.overhead_ns
        for note in recorded.facts("overhead") if recorded is not None else []:
            overhead_ns += note["ns"]
        probes: list[ProbeStatus] = []
        with self.guard("probes"):
            probes = _probes(self.around.probes, recorded)
        locks: list[LockWait] = []
        with self.guard("locks"):
            locks = self.around.observer.end(recorded)
        rusage: Rusage | None = None
        with self.guard("rusage"):
            if ended.rusage:
                rusage = rusage_of(struct_rusage(ended.rusage), self.baseline_rss_bytes)
        profile: Profile | None = None
        with self.guard("profile"):
            if begun.profile_path:
                profile = stack_profile.load(begun.profile_path)
        samples = self.sampler.samples if self.sampler is not None else []
        return Observation(
            epoch_ns=begun.epoch_ns,
            perf_ns=begun.perf_ns,
            dequeued_ns=begun.dequeued_ns,
            reaped_ns=ended.reaped_ns,
            forked_ns=begun.forked_ns,
            forked_done_ns=begun.forked_done_ns,
            exited_ns=ended.exited_ns,
            horse_pid=begun.pid if begun.kind != "simple" else 0,
            samples=_from_zero(samples) if begun.kind == "simple" else samples,
            sampler_missing=self._unsampled(ended.reaped_ns - begun.dequeued_ns),
            rusage=rusage,
            wait_status=ended.status,
            memory=self.around.memory.facts() if ended.status else None,
            last_stack=self.last_stack.seen,
            limits=self.last_stack.limits,
            crash=self._crash(died=bool(ended.status) or lost_worker),
            own_cpu_ns=ended.own_cpu_ns,
            killed_by_us=ended.killed_by_us,
            lost_worker=lost_worker,
            payload=self._payload(),
            profile=profile,
            probes=probes,
            locks=locks,
            overhead_ns=overhead_ns,
            not_captured=[
                *ended.problems,
                *self._not_captured(ended, recorded),
                *(self.sampler.gaps if self.sampler is not None else []),
                *self.guard.problems,
            ],
        )

    def _crash(self, *, died: bool) -> str:
        """What faulthandler wrote as the horse died; the file is then made ready for the next one."""
        if not died or self.crash_log is None:
            return ""
        text = self.crash_log.text()
        if text:
            self.crash_log.clear()
        return text

    def _payload(self) -> Payload | None:
        payload: Payload | None = None
        if self.measurement is not None:
            payload = self.measurement.result()
        elif self.begun.data_bytes >= 0:
            payload = Payload(
                self.begun.data_bytes,
                serializer=self.begun.serializer,
                not_measured="only its size: the data was too large to be copied, or the witness was started anew",
            )
        if payload is not None and self._wire_bytes is not None:
            payload = replace(payload, wire_bytes=self._wire_bytes)
        return payload

    def _unsampled(self, run_ns: int) -> str:
        if self.sampler is None:
            return ""  # what failed is in the guard's problems
        if not self.sampler.samples and run_ns < _UNSEEN_NS and not self.sampler.missing.startswith(NO_PROC):
            return ""  # it was gone before the first look
        return self.sampler.missing

    def _not_captured(self, ended: Ended, recorded: recording.Recording | None) -> list[str]:
        found = list(self.missing)
        if self.around.observer.problem:
            found.append(self.around.observer.problem)
        if recorded is not None and not recorded.phases:
            found.append("Calls and phases: the job's process did not load jobdoctor (a horse of plain RQ)")
        if self.last_stack.missing and ended.status:
            found.append(f"The last stack of the job: {self.last_stack.missing}")
        if self.buffer is None:
            found.append("Calls and phases: the witness was busy with earlier executions and had no memory free")
        return found


def _left_early(recorded: recording.Recording | None) -> bool:
    """Whether the horse left in the middle of the job: by ``os._exit(0)``, which RQ takes for the job's end."""
    return bool(recorded is not None and recorded.phases and recorded.phases[-1].name in ("import", "body"))


def _outcome(word: str) -> Outcome:
    known: tuple[Outcome, ...] = ("finished", "failed", "retried", "timeout", "killed", "stopped")
    return next((outcome for outcome in known if outcome == word), "finished")


def _from_zero(samples: list[Sample]) -> list[Sample]:
    """Of a process that lives on: what it used since the first sample."""
    if not samples:
        return samples
    first = samples[0]
    return [
        replace(
            sample,
            cpu_ns=sample.cpu_ns - first.cpu_ns,
            runqueue_ns=sample.runqueue_ns - first.runqueue_ns,
            read_bytes=sample.read_bytes - first.read_bytes,
            written_bytes=sample.written_bytes - first.written_bytes,
            threads_runqueue_ns=max(0, sample.threads_runqueue_ns - first.threads_runqueue_ns),
            thread_cpu_ns=max(0, sample.thread_cpu_ns - first.thread_cpu_ns),
        )
        for sample in samples
    ]


def _probes(known: Sequence[ProbeStatus], recorded: recording.Recording | None) -> list[ProbeStatus]:
    """The worker's probes, with what came to life since."""
    found = {(status.channel, status.library): status for status in known}
    for note in recorded.facts("probe") if recorded is not None else []:
        found[(note["channel"], note["library"])] = ProbeStatus(**note)
    return list(found.values())


def horse_descriptor(pid: int) -> int:
    """A descriptor that is readable when the process is gone; -1 when it is gone already, or the kernel has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1
