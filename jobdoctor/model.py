"""The nouns: what one execution recorded, what a job's history holds, and what a diagnosis says.

Everything here is data: immutable msgspec structs that serialise to msgpack (on the stream, in the store) and to JSON
(in reports). This module imports nobody.

Units are in the names: ``_ns`` and ``_ms`` for durations, ``_bytes`` for sizes. Instants are nanoseconds since the Unix
epoch and end in ``_at_ns``; positions within an execution are nanoseconds since its ``dequeued_at_ns`` and are called
``start_ns`` / ``end_ns``.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field

# --------------------------------------------------------------------------------------------------------------- words

#: Where the time of a span went. One word for one kind of resource, whatever the library.
Channel = Literal["sql", "redis", "http", "file", "lock", "pool", "sleep", "subprocess", "mail", "enqueue"]

#: What a call does to the world. ``transaction`` is COMMIT, ROLLBACK and the like; ``unknown`` is said, not guessed.
Effect = Literal["read", "write", "transaction", "lock", "none", "unknown"]

WorkerKind = Literal["fork", "spawn", "simple", "inline"]

#: ``timeout`` is RQ's JobTimeoutException; ``killed`` means that the horse died; ``retried`` failed with attempts left.
Outcome = Literal["finished", "failed", "retried", "timeout", "killed", "stopped"]

#: How a job came to its queue. ``straight``: by being enqueued; ``scheduled``: for later (or created, and enqueued
#: later); ``deferred``: until its dependencies were done; ``rate-limited``: held by its limit; ``retried`` and
#: ``repeated``: after its own execution before; ``requeued``: by hand, after one; ``moved``: by anti-clogging, to the
#: slowest queue.
Route = Literal[
    "straight", "scheduled", "deferred", "rate-limited", "retried", "repeated", "requeued", "moved", "unknown"
]

#: Names of the ledger's parts (DESIGN 2.2). They are disjoint and add up to the wall time from enqueue to reap.
LEDGER_PARTS = (
    "queue_wait", "dispatch", "fork", "deserialize", "import", "cpu", "cpu_wait", "sql", "redis", "http", "file",
    "lock", "pool", "sleep", "subprocess", "gc", "other_wait", "callback", "result", "persist", "reap", "unexplained",
)  # fmt: skip

#: The parts that are not the job's own: the system around it.
AROUND_PARTS = frozenset({"queue_wait", "dispatch", "fork", "cpu_wait", "persist", "reap"})

STEPS = ("payload", "external", "internals", "batching", "locks", "retries", "queue", "trigger")

STEP_TITLES = {
    "payload": "Payload",
    "external": "External calls",
    "internals": "Internals",
    "batching": "Batching",
    "locks": "Locks",
    "retries": "Retries",
    "queue": "Queue",
    "trigger": "Trigger",
}

Severity = Literal["critical", "warning", "info"]
Where = Literal["inside", "around"]
VerdictWhere = Literal["inside", "around", "both", "none", "unknown"]
Status = Literal["found", "clear", "not_checked", "crashed"]
RecommendationKind = Literal[
    "payload", "batch", "cache", "isolate", "extract", "optimize", "lock", "retry", "queue", "delete", "schedule",
    "timeout", "memory", "config",
]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- execution


class PayloadNode(Struct, frozen=True, omit_defaults=True):
    """One argument, or a part of one: its path, type and serialised size. Never its value."""

    path: str  # "args[0]", "kwargs['order'].items"
    type_name: str  # "bytes", "app.models.Order", "datetime.datetime"
    bytes: int  # serialised bytes of this node with all below it
    items: int = 0  # elements, for containers
    rich: bool = False  # not a JSON-like primitive or a container of them


class Payload(Struct, frozen=True, omit_defaults=True):
    """The job's serialised data, measured outside the horse."""

    raw_bytes: int
    wire_bytes: int | None = None  # as Redis holds it (zlib); None when not measured
    serializer: str = "pickle"
    args_hash: str = ""  # blake2b of function and arguments, 16 hex digits; empty when not computable
    nodes: list[PayloadNode] = field(default_factory=list)  # largest first, bounded
    not_measured: str | None = None  # why ``nodes`` is empty or partial


class ResultInfo(Struct, frozen=True, omit_defaults=True):
    """The return value, as serialised for Redis. Never its value."""

    type_name: str
    bytes: int | None = None
    digest: str = ""  # blake2b of the serialised bytes, 16 hex digits
    ttl_s: int | None = None  # -1 keeps for ever, 0 throws away


class Trigger(Struct, frozen=True, omit_defaults=True):
    """Who enqueued the job: the stamp of the enqueue side, or what could be learnt without it."""

    kind: str = "unknown"  # "code", "job", "request", "scheduler", "cron", "unknown"
    callsite: str = ""  # "app/views.py:88", the first application frame that enqueued
    function: str = ""
    parent_job: str = ""  # dotted name of the job that enqueued this one
    parent_job_id: str = ""
    parent_execution_id: str = ""
    request: str = ""  # "POST /orders/{}"
    traceparent: str = ""
    pid: int = 0
    host: str = ""


class RetryPolicy(Struct, frozen=True, omit_defaults=True):
    """What RQ does when the job fails. ``max_retries`` None: no Retry was given."""

    max_retries: int | None = None
    retries_left: int | None = None
    intervals_s: list[int] = field(default_factory=list)


class ExceptionInfo(Struct, frozen=True, omit_defaults=True):
    """How a failed execution ended. The message is stored with its literals removed."""

    type_name: str  # "requests.exceptions.HTTPError"
    message_shape: str = ""
    callsite: str = ""  # the last application frame
    status: int | None = None  # HTTP status, SQLSTATE class and the like when the exception carries one
    digest: str = ""  # hash of type, shape and callsite: the same error again has the same digest


class SpanGroup(Struct, frozen=True, omit_defaults=True):
    """All calls of one shape from one line: counts are exact for any number of calls.

    The identity is (channel, operation, fingerprint, target, callsite, relationship). Times are of the call as the job
    saw it; ``cpu_ns`` is the client-side CPU within it, estimated from a sample of the calls.
    """

    channel: Channel
    operation: str  # "SELECT", "GET", "HGET", "acquire", "checkout"
    fingerprint: str  # normalised shape: no literals, no query values
    target: str = ""  # "postgresql://db:5432/app", "https://api.example.com", "redis://localhost:6379/0"
    library: str = ""  # "sqlalchemy", "psycopg", "sqlite3", "http.client", "httpx", "redis", "threading", ...
    effect: Effect = "unknown"
    callsite: str = ""  # "app/tasks.py:41": first application frame, relative to the project when it can be
    function: str = ""  # qualified name of the function at the callsite
    stack: list[str] = field(default_factory=list)  # application frames, innermost first: "app/repo.py:12 fetch"
    relationship: str = ""  # "Order.items", when an ORM's lazy load made the call
    #: How the ORM came to load it: "select" (on first access), "deferred" (a column left out), "dynamic" (a collection
    #: that is a query: SQLAlchemy's dynamic relationships, Django's related managers).
    load_strategy: str = ""

    count: int = 0
    total_ns: int = 0
    min_ns: int = 0
    max_ns: int = 0
    cpu_ns: int = 0
    first_start_ns: int = 0
    last_end_ns: int = 0
    errors: int = 0
    error_types: dict[str, int] = field(default_factory=dict)

    distinct: int = 0  # distinct parameter sets seen (0: none were given)
    distinct_capped: bool = False  # true: at least ``distinct``
    rows: int | None = None  # fetched, or affected for writes; None: not known
    max_rows: int | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    batched: int = 0  # calls that carried many items: executemany, pipelines, multi-key commands
    items: int = 0  # parameter sets, commands or keys in those calls
    in_transaction: int = 0  # calls begun while a database transaction was open in the same thread
    concurrent: int = 0  # calls begun while another call of this execution was in flight
    no_timeout: int = 0  # calls made without any timeout
    new_connections: int = 0
    statuses: dict[str, int] = field(default_factory=dict)  # HTTP: {"200": 40, "503": 2}
    idempotency_keys: int = 0  # HTTP calls that carried an Idempotency-Key
    blocked_ns: int = 0  # of ``total_ns``: known to be blocked by another session, thread or process


class Span(Struct, frozen=True, omit_defaults=True):
    """One call, from the bounded log."""

    group: int  # index into Execution.groups
    start_ns: int
    duration_ns: int
    thread: int = 0  # small number, 0 is the thread that runs the job
    params: int = 0  # hash of the parameters within this execution, 0 when none
    error: bool = False
    rows: int | None = None
    in_transaction: bool = False


class LockWait(Struct, frozen=True, omit_defaults=True):
    """A wait on a lock that somebody held, with the holder when it could be found."""

    kind: str  # "row", "table", "advisory", "sqlite", "redis", "file", "thread"
    target: str  # database URL, lock name (literals removed), file name
    waited_ns: int
    start_ns: int = 0
    group: int = -1  # index into Execution.groups, -1 when not known
    statement: str = ""  # fingerprint of what waited
    blocking_statement: str = ""
    blocking_backend: str = ""  # "postgresql://db:5432/app#4711": server and backend process
    blocking_application: str = ""
    blocking_execution_id: str = ""
    blocking_job: str = ""


class BlockedWait(Struct, frozen=True):
    """A wait of some job on a lock that another one held: that one's side of a :class:`LockWait`."""

    job: str  # who waited
    kind: str
    statement: str  # what waited: a fingerprint, or the lock's name
    blocking_statement: str
    waited_ns: int


class Phase(Struct, frozen=True):
    """A stretch of an execution, in order.

    Names: dispatch, fork, setup, deserialize, import, body, callback, result, persist, reap.
    """

    name: str
    start_ns: int
    end_ns: int


class Sample(Struct, frozen=True, array_like=True):
    """A reading of the horse from outside. Cumulative, except ``rss_bytes`` and ``wait``."""

    at_ns: int
    cpu_ns: int  # user + system
    rss_bytes: int
    runqueue_ns: int  # runnable, not running (schedstat)
    wait: str = ""  # what it was blocked in: "futex", "socket", "sleep", "disk", "child", "running", ""
    read_bytes: int = 0
    written_bytes: int = 0
    threads_runqueue_ns: int = 0  # runnable, not running: the threads beside the main one, summed
    thread_cpu_ns: int = 0  # of ``cpu_ns``: the main thread's; 0: not known


class Rusage(Struct, frozen=True, omit_defaults=True):
    """What the kernel says of the whole horse, also of a killed one (``os.wait4``)."""

    user_ns: int = 0
    system_ns: int = 0
    max_rss_bytes: int = 0
    baseline_rss_bytes: int = 0  # inherited at the fork: subtract it for the job's own
    major_faults: int = 0
    minor_faults: int = 0
    voluntary_switches: int = 0
    involuntary_switches: int = 0
    block_reads: int = 0
    block_writes: int = 0


class FileIO(Struct, frozen=True, omit_defaults=True):
    """What the job function read and wrote through read() and write(), as the kernel counts it: files, pipes, sockets
    under TLS; not plain sockets. Of all threads of the process."""

    read_calls: int = 0
    write_calls: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


class StackFrame(Struct, frozen=True, array_like=True):
    """A line of code on a stack."""

    callsite: str  # "app/img.py:40"
    function: str
    application: bool  # neither a library's nor the standard library's


#: What ended an execution. ``memory-limit`` is a MemoryError under a limit of the process and ``file-limit`` an OSError
#: under RLIMIT_FSIZE (the process lived on); ``cpu-limit`` is SIGXCPU; ``shutdown`` a worker that was told twice to
#: stop; ``exit`` a process that left without RQ; ``segfault`` any fault of native code (SIGSEGV, SIGBUS, SIGILL,
#: SIGFPE, SIGABRT). ``timeout`` without a signal is RQ's exception.
DEATH_CAUSES = (
    "oom", "timeout", "signal", "stopped", "shutdown", "segfault", "exit", "memory-limit", "cpu-limit", "file-limit",
    "lost-worker", "unknown",
)  # fmt: skip


class Death(Struct, frozen=True, omit_defaults=True):
    """How the horse died, when it did not end by itself; or what cut the job, while the horse lived on (``signal`` 0
    and no ``exit_code``: RQ's timeout, a memory limit)."""

    signal: int = 0
    exit_code: int | None = None
    cause: str = "unknown"  # one of DEATH_CAUSES
    last_rss_bytes: int = 0
    in_flight: str = ""  # the call it was in, in words
    suspect: str = ""  # one sentence: who or what ended it, and what it was doing
    certain: bool = False  # false: the cause is inferred
    peak_rss_bytes: int = 0
    limit: str = ""  # the limit it met: "cgroup", "machine", "RLIMIT_AS", "RLIMIT_CPU", ...
    limit_value: int = 0  # in bytes, or in seconds for RLIMIT_CPU
    oom_kills: int | None = None  # the out-of-memory killer's victims in its control group meanwhile; None: not known
    stack: list[StackFrame] = field(default_factory=list)  # last known, of the job's thread, innermost first
    #: "fault" and "exit" (noted as it died), "observed" (from outside), "exception", "call" (of the call in flight).
    stack_source: str = ""
    stack_age_ns: int = 0  # how long before the end it was seen
    stack_held_ns: int = 0  # how long the application had been at that line then, as far as it was looked at
    threads: list[list[StackFrame]] = field(default_factory=list)  # of other threads, bounded


class LedgerPart(Struct, frozen=True):
    """``detail`` names the target, channel or job; parts of one name may stand several times."""

    name: str
    detail: str
    ns: int


class ImportCost(Struct, frozen=True):
    """A module imported in the horse; ``self_ns`` is without the imports below it."""

    module: str
    total_ns: int
    self_ns: int
    depth: int = 0
    in_body: bool = False  # imported while the job function ran, not before it
    application: bool = False  # lies where the application's code does: neither a library nor the standard library


class ProbeStatus(Struct, frozen=True, omit_defaults=True):
    """Whether calls of one channel through one library were seen. ``absent``: the library was never imported."""

    channel: str
    library: str
    status: Literal["active", "absent", "failed"]
    reason: str = ""


class Profile(Struct, frozen=True, omit_defaults=True):
    """A pyinstrument profile as a weighted call tree: frames are (function, file:line), children by index."""

    interval_ms: float
    samples: int
    duration_ns: int
    frames: list[ProfileFrame] = field(default_factory=list)


class ProfileFrame(Struct, frozen=True, array_like=True):
    parent: int  # index of the caller, -1 at the root; a parent always stands before its children
    function: str
    callsite: str  # "app/tasks.py:41"
    ns: int  # with everything below
    application: bool  # not the standard library, not site-packages


class DatabaseSession(Struct, frozen=True, omit_defaults=True):
    """A database connection the execution used, so that a blocking session can be traced back to its job."""

    backend: str  # "postgresql://db:5432/app#4711"
    start_ns: int = 0
    end_ns: int = 0


class Execution(Struct, frozen=True, omit_defaults=True):
    """One attempt of one job, from enqueue to reap. What could not be captured is in ``not_captured``."""

    id: str  # unique for ever: job id and RQ's execution id (or the dequeue time)
    job_id: str
    job: str  # dotted function name
    queue: str
    worker: str
    worker_kind: WorkerKind
    outcome: Outcome

    created_at_ns: int  # the true start: ``enqueued_at`` is rewritten by retries and rate limits
    enqueued_at_ns: int  # of this attempt
    dequeued_at_ns: int
    reaped_at_ns: int

    attempt: int = 1
    scheduled: bool = False  # waited in a registry (scheduled, deferred, retry delay) before it was put in the queue
    route: Route = "unknown"
    depends_on: list[str] = field(default_factory=list)  # job ids that a deferred one waited for
    worker_queues: list[str] = field(default_factory=list)  # in the worker's order of listening
    queue_depth: int | None = None  # jobs left in the queue when this one was taken
    host: str = ""
    pid: int = 0
    horse_pid: int = 0
    rq_version: str = ""
    python_version: str = ""

    timeout_s: float | None = None
    failure_ttl_s: int | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    slo_ms: float | None = None
    demoted_from: str = ""  # the queue out of which anti-clogging had moved the job before this execution
    demoted_at_ns: int = 0

    payload: Payload | None = None
    result: ResultInfo | None = None
    exception: ExceptionInfo | None = None
    death: Death | None = None
    trigger: Trigger | None = None

    phases: list[Phase] = field(default_factory=list)
    ledger: list[LedgerPart] = field(default_factory=list)
    groups: list[SpanGroup] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    spans_dropped: int = 0
    in_flight: Span | None = None  # the call that was running when the recording ended
    locks: list[LockWait] = field(default_factory=list)
    sessions: list[DatabaseSession] = field(default_factory=list)
    imports: list[ImportCost] = field(default_factory=list)
    gc_ns: int = 0
    gc_count: int = 0
    gc_full_ns: int = 0  # of these: collections that looked at every object, not at young ones only
    gc_full_count: int | None = None  # None: not told apart

    samples: list[Sample] = field(default_factory=list)
    rusage: Rusage | None = None
    file_io: FileIO | None = None  # None: not counted (the horse was killed, or the kernel does not say)
    profile: Profile | None = None

    probes: list[ProbeStatus] = field(default_factory=list)
    overhead_ns: int = 0  # jobdoctor's own cost in the horse and in the worker, estimated
    truncated: bool = False
    not_captured: list[str] = field(default_factory=list)  # sentences: what is missing, and why

    @property
    def wait_ns(self) -> int:
        """Queue wait of this attempt, from being put in the queue to being taken."""
        return max(0, self.dequeued_at_ns - self.enqueued_at_ns)

    @property
    def run_ns(self) -> int:
        """How long the worker was busy with it, from dequeue to reap."""
        return max(0, self.reaped_at_ns - self.dequeued_at_ns)

    @property
    def wall_ns(self) -> int:
        """Sojourn time of this attempt, from enqueue to reap: what the ledger adds up to."""
        return self.wait_ns + self.run_ns

    @property
    def body_ns(self) -> int:
        """Time inside the job function itself; 0 when it was never entered."""
        return sum(phase.end_ns - phase.start_ns for phase in self.phases if phase.name == "body")

    def ledger_ns(self, *names: str) -> int:
        """Sum of the ledger's parts with these names."""
        return sum(part.ns for part in self.ledger if part.name in names)

    def probe_active(self, channel: str) -> bool:
        """True when calls of the channel could have been seen (a library that was never imported makes no calls)."""
        return not any(probe.channel == channel and probe.status == "failed" for probe in self.probes)


# ------------------------------------------------------------------------------------------------------------- history


class TraceRow(Struct, frozen=True, omit_defaults=True):
    """An execution in one line: all that queueing, retries and triggers need. Kept for every execution, for a while."""

    execution_id: str
    job_id: str
    job: str
    queue: str
    worker: str
    outcome: Outcome
    created_at_ns: int
    enqueued_at_ns: int
    dequeued_at_ns: int
    reaped_at_ns: int
    attempt: int = 1
    scheduled: bool = False
    args_hash: str = ""
    result_digest: str = ""
    error_digest: str = ""
    error_type: str = ""
    trigger_kind: str = ""
    trigger_callsite: str = ""
    parent_job: str = ""
    parent_execution_id: str = ""
    writes: int | None = None  # calls with a write effect; None: not all channels were captured
    worker_queues: list[str] = field(default_factory=list)
    queue_depth: int | None = None
    route: Route = "unknown"
    depends_on: list[str] = field(default_factory=list)


class Quantiles(Struct, frozen=True):
    """Milliseconds. ``count`` is how many values stand behind them."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    mean: float = 0.0
    max: float = 0.0
    count: int = 0


class Mark(Struct, frozen=True):
    kind: Literal["deploy", "incident"]
    label: str
    at_ns: int


class Prediction(Struct, frozen=True):
    """What a finding promised, kept so that it can be held against what came of it. Times are ms for each execution.

    ``before_ms`` is the mean run then, or the mean from enqueue to reap for a finding around the job.
    """

    job: str
    code: str
    callsite: str
    title: str
    where: Where
    at_ns: int
    before_ms: float
    low_ms: float
    mid_ms: float
    high_ms: float


class Bucket(Struct, frozen=True):
    """One minute (or a coarser step) of a job on a queue, from the rollups."""

    at_ns: int
    queue: str
    count: int
    failed: int
    wait_ms: Quantiles
    run_ms: Quantiles


class QueueSample(Struct, frozen=True, array_like=True):
    """A queue at one moment."""

    queue: str
    depth: int
    oldest_at_ns: int | None  # when its first job was put in it; None: it was empty, or that is not known
    started: int = 0
    scheduled: int = 0
    deferred: int = 0
    workers: int = 0  # that listened to it


class QueuesSample(Struct, frozen=True, array_like=True):
    """All queues at one moment. ``pools``: lists of queues in the order in which workers listen, and how many do."""

    at_ns: int
    queues: list[QueueSample]
    pools: list[tuple[list[str], int]]
    suspended: bool = False  # all workers were (``rq suspend``)


class DepthPoint(Struct, frozen=True, array_like=True):
    """A queue within a slot of time, from its samples."""

    at_ns: int  # where the slot begins
    depth: int  # the most
    oldest_s: float | None = None  # age of its first job, the most; None: it was empty, or that is not known
    workers: int = 0  # that listened, the fewest


class JobHistory(Struct, frozen=True):
    """All that a diagnosis may look at. Rules are functions of it and of nothing else.

    ``executions`` are the kept details (newest, slowest, failed, killed, profiled), newest first: a sample of
    ``executions_total``, which with ``outcomes`` and the quantiles counts everything in the window.
    ``trace`` has the rows of this job, oldest first; ``neighbours`` those of every job that shared a queue or a worker
    with it, this job's own included, oldest first.
    """

    job: str
    from_ns: int
    to_ns: int
    executions_total: int
    outcomes: dict[str, int]
    wait_ms: Quantiles
    run_ms: Quantiles
    executions: list[Execution]
    trace: list[TraceRow] = field(default_factory=list)
    neighbours: list[TraceRow] = field(default_factory=list)
    buckets: list[Bucket] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    slo_ms: float | None = None
    lost: int = 0  # recordings known to be lost before they reached the store
    predictions: list[Prediction] = field(default_factory=list)  # made before now, oldest first
    blocked: list[BlockedWait] = field(default_factory=list)  # who waited for locks of this job, newest first
    depths: dict[str, list[DepthPoint]] = field(default_factory=dict)  # its queues over the window, oldest first
    suspended: list[tuple[int, int]] = field(default_factory=list)  # from when to when all workers were


# ----------------------------------------------------------------------------------------------------------- diagnosis


class Saving(Struct, frozen=True):
    """Milliseconds given back for each execution, as a range."""

    low: float
    mid: float
    high: float


class Recommendation(Struct, frozen=True):
    kind: RecommendationKind
    text: str
    snippet: str = ""


class Evidence(Struct, frozen=True):
    """A fact behind a finding. ``text`` stands alone; ``data`` is JSON-like, for tables and pictures.

    ``kind`` is one of: "calls" (data: groups), "execution" (data: execution_id), "payload" (data: nodes), "series",
    "trace", "lock", "profile", "retries", "queue", "trigger", "fact".
    """

    kind: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)


class Finding(Struct, frozen=True):
    """A result of a rule. ``cost_ms`` is measured time for each execution (mean over those looked at)."""

    code: str
    name: str
    step: str
    severity: Severity
    confidence: float  # 0 to 1
    where: Where
    title: str
    cost_ms: float
    saving_ms: Saving
    recommendation: Recommendation
    callsite: str = ""
    calls: int = 0  # for each execution, mean, rounded; 0 where calls are not what it is about
    evidence: list[Evidence] = field(default_factory=list)
    part_of: str | None = None


class Check(Struct, frozen=True):
    """One line of the checklist."""

    step: str
    code: str
    name: str
    status: Status
    reason: str | None = None


class Verdict(Struct, frozen=True):
    where: VerdictWhere
    headline: str
    confidence: float


class Change(Struct, frozen=True):
    """A change of a job's run or wait within the window: a step to a new level, or growth all through it."""

    kind: Literal["step", "creep"]
    metric: Literal["run", "wait"]
    quantile: Literal["p50", "p95"]
    at_ns: int  # where the new level begins; of growth, where the window does
    before_ms: float
    after_ms: float
    executions_before: int
    executions_after: int
    mark: Mark | None = None  # the deploy or incident that it came with


class KeptPrediction(Struct, frozen=True):
    """A prediction and what came of it after the deploy that followed."""

    prediction: Prediction
    deploy: Mark
    status: Literal["came true", "more", "less", "not applied", "too early"]
    after_ms: float  # mean since the deploy, as ``before_ms`` is meant; 0 when it is too early
    executions: int  # since the deploy


class Diagnosis(Struct, frozen=True):
    """The outcome of walking the checklist over a history."""

    history: JobHistory
    verdict: Verdict
    checklist: list[Check]
    findings: list[Finding]
    ledger: list[LedgerPart]  # mean of the executions looked at, in ns, DESIGN's order
    changes: list[Change] = field(default_factory=list)  # oldest first
    kept: list[KeptPrediction] = field(default_factory=list)  # newest first
