"""Puts together what three sides know of an execution: RQ (``ExecutionFacts``), the parent that watched the horse
(``Observation``) and the horse itself (``Recording``)."""

from __future__ import annotations

from msgspec import Struct, field

from jobdoctor.model import (
    ExceptionInfo,
    LockWait,
    Outcome,
    Payload,
    Phase,
    ProbeStatus,
    Profile,
    ResultInfo,
    RetryPolicy,
    Rusage,
    Sample,
    Trigger,
    WorkerKind,
)


class ExecutionFacts(Struct):
    """What RQ knows of the execution. Filled by ``rq/``; instants are epoch ns, times end in their unit."""

    id: str  # unique for ever: job id and RQ's execution id (or the dequeue time)
    job_id: str
    job: str
    queue: str
    worker: str
    worker_kind: WorkerKind
    outcome: Outcome
    created_at_ns: int = 0  # 0: not known, the enqueue time is taken
    enqueued_at_ns: int = 0  # of this attempt; 0: not known, no queue wait is claimed
    attempt: int = 1
    scheduled: bool = False
    worker_queues: list[str] = field(default_factory=list)
    queue_depth: int | None = None
    host: str = ""
    pid: int = 0
    rq_version: str = ""
    timeout_s: float | None = None
    failure_ttl_s: int | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    slo_ms: float | None = None
    trigger: Trigger | None = None
    result: ResultInfo | None = None  # a "result" note of the horse is preferred; ``ttl_s`` is taken from here
    exception: ExceptionInfo | None = None  # an "exception" note of the horse is preferred


class Observation(Struct):
    """What the parent saw. Instants are nanoseconds of the performance counter (``time.perf_counter_ns``), as in the
    recording; 0 means not seen. For a SimpleWorker there is no fork: leave ``forked_ns`` and ``horse_pid`` 0, and give
    the CPU in ``own_cpu_ns``."""

    epoch_ns: int  # one instant on both clocks: time.time_ns()
    perf_ns: int  # and time.perf_counter_ns()
    dequeued_ns: int  # the job was taken off the queue
    reaped_ns: int  # the parent is done with the execution
    forked_ns: int = 0  # just before the fork (or the spawn)
    forked_done_ns: int = 0  # the fork returned in the parent; 0: not measured
    exited_ns: int = 0  # wait4 returned: the horse is gone
    horse_pid: int = 0
    samples: list[Sample] = field(default_factory=list)  # ``at_ns`` of the performance counter
    sampler_missing: str = ""  # why there are no samples, when there should be
    rusage: Rusage | None = None
    wait_status: int | None = None  # of os.wait4
    own_cpu_ns: int | None = None  # SimpleWorker and record(): CPU of the process over the execution
    killed_by_us: str = ""  # "timeout" or "stopped", when the parent killed the horse itself
    payload: Payload | None = None
    profile: Profile | None = None
    locks: list[LockWait] = field(default_factory=list)  # of the lock observer; ``start_ns`` of the performance counter
    probes: list[ProbeStatus] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)  # measured in the parent, on the performance counter
    overhead_ns: int = 0  # the parent's own cost for this execution
    not_captured: list[str] = field(default_factory=list)
