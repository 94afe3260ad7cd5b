"""Puts together what three sides know of an execution: RQ (``ExecutionFacts``), the parent that watched the horse
(``Observation``) and the horse itself (``Recording``)."""

from __future__ import annotations

import hashlib
import platform
from itertools import pairwise
from typing import Any, TypeVar

from msgspec import Struct, ValidationError, convert, field
from msgspec.structs import replace

from jobdoctor.capture import crash_log, ledger
from jobdoctor.capture.cgroup import MemoryFacts
from jobdoctor.capture.death import Circumstances, certificate, timeout_raised
from jobdoctor.capture.last_stack import SeenStack, frames_of
from jobdoctor.capture.ledger import LedgerInputs
from jobdoctor.capture.recording import Recording
from jobdoctor.model import (
    DatabaseSession,
    Death,
    ExceptionInfo,
    Execution,
    FileIO,
    ImportCost,
    LockWait,
    Outcome,
    Payload,
    Phase,
    ProbeStatus,
    Profile,
    ResultInfo,
    RetryPolicy,
    Route,
    Rusage,
    Sample,
    Span,
    SpanGroup,
    StackFrame,
    Trigger,
    WorkerKind,
)

#: What a LockWait of the observer or of a probe is about when the wait is inside a database call.
_DATABASE_LOCKS = frozenset({"row", "table", "advisory", "sqlite"})

_Fact = TypeVar("_Fact", bound=Struct)


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
    route: Route = "unknown"
    depends_on: list[str] = field(default_factory=list)
    worker_queues: list[str] = field(default_factory=list)
    queue_depth: int | None = None
    host: str = ""
    pid: int = 0
    rq_version: str = ""
    timeout_s: float | None = None
    failure_ttl_s: int | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    slo_ms: float | None = None
    demoted_from: str = ""
    demoted_at_ns: int = 0
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
    memory: MemoryFacts | None = None  # ``MemoryWatch.facts()`` after the reap
    last_stack: SeenStack | None = None  # what ``LastStack`` saw last
    limits: dict[str, int] = field(default_factory=dict)  # of the horse: ``LastStack.limits``
    crash: str = ""  # ``CrashLog.text()``
    own_cpu_ns: int | None = None  # SimpleWorker and record(): CPU of the process over the execution
    killed_by_us: str = ""  # "timeout" or "stopped", when the parent killed the horse itself
    lost_worker: bool = False  # the parent died while the job ran: nobody has waited for the horse
    payload: Payload | None = None
    profile: Profile | None = None
    locks: list[LockWait] = field(default_factory=list)  # of the lock observer; ``start_ns`` of the performance counter
    probes: list[ProbeStatus] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)  # measured in the parent, on the performance counter
    overhead_ns: int = 0  # the parent's own cost for this execution
    not_captured: list[str] = field(default_factory=list)


class _Clock:
    """Positions on the performance counter, as ns since the dequeue, kept within the run."""

    def __init__(self, observation: Observation) -> None:
        self.zero = observation.dequeued_ns
        self.run = max(0, observation.reaped_ns - observation.dequeued_ns)

    def at(self, perf_ns: int) -> int:
        return min(max(0, perf_ns - self.zero), self.run)


def assemble(facts: ExecutionFacts, observation: Observation, recording: Recording | None) -> Execution:
    """The execution, with its ledger. ``recording`` None: the horse's own recording was not possible at all."""
    clock = _Clock(observation)
    dequeued_at_ns = observation.epoch_ns + observation.dequeued_ns - observation.perf_ns
    enqueued_at_ns = facts.enqueued_at_ns or dequeued_at_ns
    # Another machine's clock may run ahead of ours: no wait is then claimed, and the order of instants is kept.
    enqueued_at_ns = min(enqueued_at_ns, dequeued_at_ns)
    missing = list(observation.not_captured)
    if observation.lost_worker:
        missing.append("The end of the job's process: its worker died while the job ran, and nobody waited for it")
    if observation.sampler_missing:
        missing.append(f"CPU and memory over time: {observation.sampler_missing}")
    if recording is None:
        missing.append("Calls, phases and callsites: the recording of the job's process could not be read")
    else:
        missing += _missing(recording)
    phases = _phases(observation, recording, clock)
    groups = [_moved(group, clock) for group in recording.groups] if recording else []
    locks = _locks(observation, recording, clock, groups)
    samples = [replace(sample, at_ns=clock.at(sample.at_ns)) for sample in observation.samples]
    in_flight = _in_flight(recording, clock, observation)
    parts = ledger.build(
        LedgerInputs(
            queue_wait_ns=dequeued_at_ns - enqueued_at_ns,
            run_ns=clock.run,
            forked_ns=clock.at(observation.forked_ns) if observation.forked_ns else None,
            exited_ns=clock.at(observation.exited_ns) if observation.exited_ns else None,
            phases=[phase for phase in phases if phase.name not in ("dispatch", "fork", "reap")],
            samples=samples,
            **_body(recording, observation, clock, groups, locks),
        )
    )
    exception = _fact(recording, "exception", ExceptionInfo) or facts.exception
    if exception is not None and not exception.digest:
        text = "\0".join((exception.type_name, exception.message_shape, exception.callsite))
        exception = replace(exception, digest=hashlib.blake2b(text.encode(), digest_size=8).hexdigest())
    result = _fact(recording, "result", ResultInfo) or facts.result
    if result is not None and facts.result is not None and result.ttl_s is None:
        result = replace(result, ttl_s=facts.result.ttl_s)
    return Execution(
        id=facts.id,
        job_id=facts.job_id,
        job=facts.job,
        queue=facts.queue,
        worker=facts.worker,
        worker_kind=facts.worker_kind,
        outcome=facts.outcome,
        created_at_ns=min(facts.created_at_ns or enqueued_at_ns, enqueued_at_ns),
        enqueued_at_ns=enqueued_at_ns,
        dequeued_at_ns=dequeued_at_ns,
        reaped_at_ns=dequeued_at_ns + clock.run,
        attempt=facts.attempt,
        scheduled=facts.scheduled,
        route=facts.route,
        depends_on=facts.depends_on,
        worker_queues=facts.worker_queues,
        queue_depth=facts.queue_depth,
        host=facts.host,
        pid=facts.pid,
        horse_pid=observation.horse_pid,
        rq_version=facts.rq_version,
        python_version=platform.python_version(),
        timeout_s=facts.timeout_s,
        failure_ttl_s=facts.failure_ttl_s,
        retry=facts.retry,
        slo_ms=facts.slo_ms,
        demoted_from=facts.demoted_from,
        demoted_at_ns=facts.demoted_at_ns,
        payload=observation.payload,
        result=result,
        exception=exception,
        death=_death(facts, observation, recording, exception, groups),
        trigger=facts.trigger,
        phases=phases,
        ledger=parts,
        groups=groups,
        spans=[_moved_span(span, clock) for span in recording.spans] if recording else [],
        spans_dropped=recording.spans_dropped if recording else 0,
        in_flight=in_flight,
        locks=locks,
        sessions=_sessions(recording, clock, groups),
        imports=_facts(recording, "import", ImportCost),
        gc_ns=recording.gc_ns if recording else 0,
        gc_count=recording.gc_count if recording else 0,
        gc_full_ns=recording.gc_full_ns if recording else 0,
        gc_full_count=recording.gc_full_count if recording else None,
        samples=samples,
        rusage=observation.rusage,
        file_io=_fact(recording, "file_io", FileIO),
        profile=observation.profile,
        probes=observation.probes or _facts(recording, "probe", ProbeStatus),
        overhead_ns=observation.overhead_ns + (recording.overhead_ns if recording else 0),
        truncated=recording.truncated if recording else False,
        not_captured=missing,
    )


# --------------------------------------------------------------------------------------------------------------- parts


def _fact(recording: Recording | None, kind: str, struct: type[_Fact]) -> _Fact | None:
    found = _facts(recording, kind, struct)
    return found[-1] if found else None


def _facts(recording: Recording | None, kind: str, struct: type[_Fact]) -> list[_Fact]:
    """The notes of a kind as structs; a note that does not fit is left out, keys that the struct does not know too."""
    if recording is None:
        return []
    found: list[_Fact] = []
    notes = recording.facts(kind)
    if not notes:
        return found
    known = struct.__struct_fields__
    for note in notes:
        try:
            found.append(convert({key: value for key, value in note.items() if key in known}, struct))
        except ValidationError:
            pass
    return found


def _missing(recording: Recording) -> list[str]:
    missing = [str(note["text"]) for note in recording.facts("missing") if note.get("text")]
    if recording.notes_dropped:
        missing.append(f"{recording.notes_dropped} notes of the horse: there was no room for them")
    if recording.suppressed:
        missing.append("A recording inside this one: the outer one has its calls")
    return missing


def _moved(group: SpanGroup, clock: _Clock) -> SpanGroup:
    if not group.count:
        return group
    return replace(group, first_start_ns=clock.at(group.first_start_ns), last_end_ns=clock.at(group.last_end_ns))


def _moved_span(span: Span, clock: _Clock) -> Span:
    return replace(span, start_ns=clock.at(span.start_ns))


def _gone_ns(observation: Observation) -> int:
    """When the job's process was gone, or else when the parent was done with it."""
    return observation.exited_ns or observation.reaped_ns


def _in_flight(recording: Recording | None, clock: _Clock, observation: Observation) -> Span | None:
    if recording is None or recording.in_flight is None:
        return None
    span = recording.in_flight
    end = clock.at(_gone_ns(observation))
    start = clock.at(span.start_ns)
    return replace(span, start_ns=start, duration_ns=max(0, end - start))


def _phases(observation: Observation, recording: Recording | None, clock: _Clock) -> list[Phase]:
    """The horse's phases, closed, between what the parent knows: dispatch, fork and reap."""
    found = [
        Phase(phase.name, clock.at(phase.start_ns), clock.at(phase.end_ns or _gone_ns(observation)))
        for phase in (recording.phases if recording else [])
    ]
    known = {phase.name for phase in observation.phases}
    found += [Phase(phase.name, clock.at(phase.start_ns), clock.at(phase.end_ns)) for phase in observation.phases]
    first = min((phase.start_ns for phase in found), default=None)
    if observation.forked_ns:
        forked = clock.at(observation.forked_ns)
        if "dispatch" not in known:
            found.append(Phase("dispatch", 0, forked))
        if "fork" not in known and first is not None and first > forked:
            found.append(Phase("fork", forked, first))
    if observation.exited_ns and "reap" not in known:
        found.append(Phase("reap", clock.at(observation.exited_ns), clock.run))
    return sorted(found, key=lambda phase: (phase.start_ns, phase.end_ns))


def _locks(
    observation: Observation, recording: Recording | None, clock: _Clock, groups: list[SpanGroup]
) -> list[LockWait]:
    found = []
    known: set[tuple[str, int]] = set()
    # The observer's first: of what a probe has noted as well, it may know who held the lock.
    for wait in (*observation.locks, *_facts(recording, "lock", LockWait)):
        if wait.start_ns and (wait.kind, wait.start_ns) in known:
            continue
        known.add((wait.kind, wait.start_ns))
        group = wait.group
        if group < 0:
            group = _group_of(wait, groups)
        found.append(replace(wait, start_ns=clock.at(wait.start_ns) if wait.start_ns else 0, group=group))
    return found


def _group_of(wait: LockWait, groups: list[SpanGroup]) -> int:
    """The group that waited: the one with the statement, or with the lock's name; -1 when it is not clear."""
    if wait.kind in _DATABASE_LOCKS:
        fitting = [
            index
            for index, group in enumerate(groups)
            if group.channel == "sql" and wait.statement and group.fingerprint == wait.statement
        ]
    else:
        fitting = [
            index
            for index, group in enumerate(groups)
            if group.channel == "lock" and wait.target and wait.target in (group.target, group.fingerprint)
        ]
    return max(fitting, key=lambda index: groups[index].max_ns, default=-1)


def _sessions(recording: Recording | None, clock: _Clock, groups: list[SpanGroup]) -> list[DatabaseSession]:
    found: dict[str, DatabaseSession] = {}
    for group in groups:
        # SQLite's locks are the process's own.
        if recording is not None and group.target.startswith("sqlite:///") and ":memory:" not in group.target:
            backend = f"{group.target}#{recording.pid}"
            start, end = group.first_start_ns, group.last_end_ns
            if backend in found:
                start, end = min(start, found[backend].start_ns), max(end, found[backend].end_ns)
            found[backend] = DatabaseSession(backend, start, end)
    for session in _facts(recording, "session", DatabaseSession):
        start = clock.at(session.start_ns) if session.start_ns else 0
        end = clock.at(session.end_ns) if session.end_ns else clock.run
        known = found.get(session.backend)
        if known is not None:
            start, end = min(start, known.start_ns), max(end, known.end_ns)
        found[session.backend] = DatabaseSession(session.backend, start, end)
    return list(found.values())


def _body(
    recording: Recording | None,
    observation: Observation,
    clock: _Clock,
    groups: list[SpanGroup],
    locks: list[LockWait],
) -> dict[str, Any]:
    """What the ledger needs of the body."""
    in_flight = _in_flight(recording, clock, observation)
    total_cpu_ns = _total_cpu_ns(observation)
    if recording is None:
        return {"body_cpu_ns": total_cpu_ns, "body_runqueue_ns": _delay(observation.samples)}
    channel_ns = dict(recording.channel_ns)
    marks = recording.marks
    in_body = not marks or marks[-1].name == "body"
    if recording.in_flight_group is not None and in_body:
        # Killed inside a call: the time since the last transition is that call's.
        channel = recording.in_flight_group.channel
        channel_ns[channel] = channel_ns.get(channel, 0) + max(0, _gone_ns(observation) - recording.last_ns)
    everywhere = {
        channel: sum(spent.get(channel, 0) for spent in recording.phase_channel_ns.values())
        for channel in recording.channel_cpu_ns
    }
    channel_cpu_ns = {
        channel: ns * recording.channel_ns.get(channel, 0) // everywhere[channel]
        for channel, ns in recording.channel_cpu_ns.items()
        if everywhere[channel] > 0
    }
    targets: dict[str, dict[str, int]] = {}
    for group in groups:
        weights = targets.setdefault(group.channel, {})
        weights[group.target] = weights.get(group.target, 0) + max(1, group.total_ns)
    if recording.in_flight is not None and recording.in_flight_group is not None:
        group = recording.in_flight_group
        weights = targets.setdefault(group.channel, {})
        lasted = max(1, _gone_ns(observation) - recording.in_flight.start_ns)
        weights[group.target] = weights.get(group.target, 0) + lasted
    blocked_ns: dict[str, int] = {}
    for group in groups:
        if group.channel == "sql" and group.blocked_ns:
            blocked_ns[group.target] = blocked_ns.get(group.target, 0) + group.blocked_ns
    observed: dict[str, int] = {}
    for wait in locks:
        if wait.kind in _DATABASE_LOCKS:
            target = groups[wait.group].target if wait.group >= 0 else wait.target
            observed[target] = observed.get(target, 0) + wait.waited_ns
    for target, ns in observed.items():
        blocked_ns[target] = max(ns, blocked_ns.get(target, 0))
    body_cpu_ns, body_runqueue_ns = _body_cpu(recording, observation, total_cpu_ns)
    return {
        "channel_ns": channel_ns,
        "channel_cpu_ns": channel_cpu_ns,
        "targets": targets,
        "blocked_ns": blocked_ns,
        "body_cpu_ns": body_cpu_ns,
        "threads_cpu_ns": _threads_cpu_ns(observation.samples),
        "body_runqueue_ns": body_runqueue_ns,
        "gc_ns": recording.gc_body_ns,
        "import_ns": sum(each.total_ns for each in _facts(recording, "import", ImportCost) if _in_body(each)),
        "import_runqueue_ns": sum(
            max(0, following.runqueue_ns - mark.runqueue_ns)
            for mark, following in pairwise(marks)
            if mark.name == "import"
        ),
        "busy": _busy(recording, clock, in_flight),
    }


def _busy(recording: Recording, clock: _Clock, in_flight: Span | None) -> list[tuple[int, int]]:
    """When probes saw calls; from where the log of calls is full, up to the last of them, it cannot be told when."""
    busy = [(clock.at(span.start_ns), clock.at(span.start_ns + span.duration_ns)) for span in recording.spans]
    if in_flight is not None:
        busy.append((in_flight.start_ns, in_flight.start_ns + in_flight.duration_ns))
    if recording.spans_dropped and busy:
        last = max((group.last_end_ns for group in recording.groups), default=0)
        busy.append((max(start for start, _ in busy), clock.at(last)))
    return busy


def _in_body(imported: ImportCost) -> bool:
    """Whether an import by itself (not one made by another) ran inside the job function."""
    return imported.in_body and not imported.depth


def _total_cpu_ns(observation: Observation) -> int | None:
    """CPU of the job's whole process, from the best source there is."""
    if observation.rusage is not None:
        return observation.rusage.user_ns + observation.rusage.system_ns
    if observation.own_cpu_ns is not None:
        return observation.own_cpu_ns
    if observation.samples:
        return observation.samples[-1].cpu_ns - observation.samples[0].cpu_ns
    return None


def _threads_cpu_ns(samples: list[Sample]) -> int | None:
    """CPU of the threads beside the main one; None when the samples do not tell them apart."""
    known = [sample for sample in samples if sample.thread_cpu_ns]
    if len(known) < 2:
        return None
    first, last = known[0], known[-1]
    return max(0, last.cpu_ns - first.cpu_ns - (last.thread_cpu_ns - first.thread_cpu_ns))


def _delay(samples: list[Sample]) -> int:
    return max(0, samples[-1].runqueue_ns - samples[0].runqueue_ns) if samples else 0


def _body_cpu(recording: Recording, observation: Observation, total_cpu_ns: int | None) -> tuple[int | None, int]:
    """(CPU, run-queue delay) of the body: between the horse's own marks, and up to the end of the process where the
    last mark is still open."""
    marks = recording.marks
    if not marks:
        return total_cpu_ns, _delay(observation.samples)
    cpu_ns = runqueue_ns = 0
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        if mark.name != "body":
            continue
        if following is not None:
            cpu_ns += max(0, following.cpu_ns - mark.cpu_ns)
            runqueue_ns += max(0, following.runqueue_ns - mark.runqueue_ns)
            continue
        if observation.rusage is not None:
            cpu_ns += max(0, observation.rusage.user_ns + observation.rusage.system_ns - mark.cpu_ns)
        elif observation.samples:
            cpu_ns += max(0, observation.samples[-1].cpu_ns - mark.cpu_ns)
        elif observation.own_cpu_ns is not None:
            cpu_ns += max(0, observation.own_cpu_ns - (mark.cpu_ns - marks[0].cpu_ns))
        else:
            return None, 0
        if observation.samples:
            runqueue_ns += max(0, observation.samples[-1].runqueue_ns - mark.runqueue_ns)
    return cpu_ns, runqueue_ns


# ---------------------------------------------------------------------------------------------------------------- death


def _death(
    facts: ExecutionFacts,
    observation: Observation,
    recording: Recording | None,
    exception: ExceptionInfo | None,
    groups: list[SpanGroup],
) -> Death | None:
    """How the horse died, or what cut the job short; None when it ended by itself."""
    killed_by = observation.killed_by_us
    if observation.lost_worker and facts.outcome == "killed":
        killed_by = "lost-worker"
    if not (observation.wait_status or killed_by or exception is not None or facts.outcome == "killed"):
        return None
    gone = _gone_ns(observation)
    call, call_ns = None, 0
    if recording is not None and recording.in_flight is not None:
        call, call_ns = recording.in_flight_group, max(0, gone - recording.in_flight.start_ns)
    elif recording is not None and facts.outcome == "timeout":
        call, call_ns = _interrupted(recording)
    raised = recording.facts("raised_at")[-1:] if recording is not None else []
    seen = observation.last_stack
    return certificate(
        Circumstances(
            outcome=facts.outcome,
            wait_status=observation.wait_status,
            killed_by=killed_by,
            timeout_s=facts.timeout_s,
            lived_ns=max(0, gone - (observation.forked_ns or observation.dequeued_ns)),
            samples=observation.samples,
            rusage=observation.rusage,
            call=call,
            call_ns=call_ns,
            exception=exception,
            raised=[StackFrame(*frame) for frame in raised[0]["stack"]] if raised else [],
            timeout_was_raised=any(timeout_raised(group.error_types) for group in groups),
            fault=frames_of(crash_log.parse(observation.crash)) if observation.crash else [],
            observed=seen.stack if seen is not None else [],
            observed_age_ns=max(0, gone - seen.seen_ns) if seen is not None else 0,
            observed_held_ns=seen.seen_ns - seen.since_ns if seen is not None else 0,
            threads=seen.threads if seen is not None else [],
            memory=observation.memory,
            limits=raised[0]["limits"] if raised and raised[0].get("limits") else observation.limits,
        )
    )


def _interrupted(recording: Recording) -> tuple[SpanGroup | None, int]:
    """The call that RQ's timeout cut short, and how long it had lasted."""
    struck = [index for index, group in enumerate(recording.groups) if timeout_raised(group.error_types)]
    last: Span | None = None
    for span in recording.spans:
        if span.error and span.group in struck and (last is None or span.start_ns >= last.start_ns):
            last = span
    if last is not None:
        return recording.groups[last.group], last.duration_ns
    if len(struck) != 1:
        return None, 0
    return recording.groups[struck[0]], recording.groups[struck[0]].max_ns
