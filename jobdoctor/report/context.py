"""All that a report says, as data. Renderers word it; tests assert on it.

Durations are in ms for each execution unless a name says otherwise; shares are between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from jobdoctor._version import __version__
from jobdoctor.model import (
    AROUND_PARTS,
    LEDGER_PARTS,
    STEP_TITLES,
    STEPS,
    Check,
    Death,
    Diagnosis,
    Execution,
    Finding,
    LedgerPart,
    LockWait,
    Payload,
    Quantiles,
    Severity,
    Status,
    TraceRow,
    Verdict,
)
from jobdoctor.report.calls import CallTable, call_table
from jobdoctor.report.distribution import Distribution, distribution
from jobdoctor.report.profile_tree import ProfileTree, profile_tree
from jobdoctor.report.queue_wait import QueueWait, queue_wait
from jobdoctor.report.source import Source, read_source
from jobdoctor.report.timeline import Timeline, Usage, timeline, usage

SHOWN_EXEMPLARS = 15
SHOWN_LOCKS = 20
SHOWN_ERRORS = 12
SHOWN_TRIGGERS = 12
#: Main findings on the report's first screen.
TOP_FINDINGS = 3
#: When the run is a smaller share of the wall time than this, it gets a bar of its own.
ZOOM_BELOW_SHARE = 0.4

#: What a reader reads for the ledger's part names.
PART_TITLES = {
    "queue_wait": "queue wait",
    "dispatch": "dispatch",
    "fork": "fork",
    "deserialize": "unpickling",
    "import": "imports",
    "cpu": "CPU",
    "cpu_wait": "waiting for CPU",
    "sql": "SQL",
    "redis": "Redis",
    "http": "HTTP",
    "file": "files",
    "lock": "locks",
    "pool": "connection pool",
    "sleep": "sleep",
    "subprocess": "subprocess",
    "gc": "garbage collection",
    "other_wait": "other waits",
    "callback": "callbacks",
    "result": "result",
    "persist": "saving to Redis",
    "reap": "reap",
    "unexplained": "unexplained",
}


class LedgerEntry(Struct, frozen=True):
    """``name`` is one of the model's LEDGER_PARTS; ``share`` is of the wall time."""

    name: str
    title: str
    detail: str
    ms: float
    share: float
    around: bool


class Ledger(Struct, frozen=True):
    """``entries`` has one line for each part and detail, in the model's order; ``bar`` one for each part.

    ``run_bar`` has the parts without the queue wait, as shares of the run, where the wait is so long that the bar
    shows nothing else; it is empty otherwise.
    """

    wall_ms: float
    entries: list[LedgerEntry]
    bar: list[LedgerEntry]
    run_ms: float
    run_bar: list[LedgerEntry]
    inside_ms: float
    around_ms: float
    unexplained_share: float


class FindingView(Struct, frozen=True):
    finding: Finding
    anchor: str
    saving_share: float  # of the wall time, the middle of the range
    source: Source | None
    related: list[FindingView]


class StepView(Struct, frozen=True):
    step: str
    number: int
    title: str
    checks: list[Check]
    findings: list[FindingView]
    counts: dict[Status, int]

    @property
    def severity(self) -> Severity | None:
        """The gravest of its findings."""
        graves = {view.finding.severity for view in self.findings}
        order: tuple[Severity, ...] = ("critical", "warning", "info")
        return next((severity for severity in order if severity in graves), None)

    @property
    def status(self) -> Status:
        """The most telling status of its checks."""
        if self.counts.get("found"):
            return "found"
        if self.counts.get("crashed"):
            return "crashed"
        # One rule that could not look does not hide that the others did; most of them do.
        return "clear" if self.counts.get("clear", 0) > self.counts.get("not_checked", 0) else "not_checked"


class LockRow(Struct, frozen=True):
    kind: str
    target: str
    statement: str
    blocking_statement: str
    blocking_job: str
    waits: int
    total_ms: float  # over all executions looked at
    max_ms: float


class ErrorRow(Struct, frozen=True):
    type_name: str
    message_shape: str
    callsite: str
    status: int | None
    executions: int  # among those looked at


class Attempts(Struct, frozen=True):
    """Retries in the window: from the trace, so of every execution and not of the exemplars only."""

    by_attempt: list[tuple[int, int]]
    jobs: int
    executions: int
    failures: int
    max_retries: int | None
    intervals_s: list[int]
    errors: list[ErrorRow]


class TriggerRow(Struct, frozen=True):
    kind: str
    callsite: str
    parent_job: str
    executions: int


class Triggers(Struct, frozen=True):
    rows: list[TriggerRow]
    executions: int
    hashed: int  # executions whose arguments could be hashed
    distinct_args: int


class Exemplar(Struct, frozen=True):
    execution_id: str
    job_id: str
    why: str  # "slowest", "killed", "failed", "newest", "profiled"
    outcome: str
    at_ns: int
    wait_ms: float
    run_ms: float
    attempt: int
    worker: str
    error: str
    death: Death | None
    peak_rss_bytes: int


class ProbeRow(Struct, frozen=True):
    """``reasons`` say why a library's probe failed."""

    channel: str
    status: str
    libraries: list[str]
    reasons: list[str]


class Capture(Struct, frozen=True):
    probes: list[ProbeRow]
    overhead_ms: float | None  # mean for each execution
    overhead_share: float | None  # of the run time
    truncated: bool
    spans_dropped: int
    not_captured: list[tuple[str, int]]  # sentence, executions
    looked_at: int
    total: int
    lost: int
    worker_kinds: list[str]
    rq_versions: list[str]
    python_versions: list[str]


class ReportContext(Struct, frozen=True):
    job: str
    version: str
    from_ns: int
    to_ns: int
    executions: int
    looked_at: int
    outcomes: list[tuple[str, int]]
    failures: int
    verdict: Verdict
    wait_ms: Quantiles
    run_ms: Quantiles
    slo_ms: float | None
    saving_ms: float  # of the main findings above info together, at most the wall time
    ledger: Ledger
    findings: list[FindingView]  # main ones, best first, related ones below them
    top: list[FindingView]
    steps: list[StepView]
    calls: CallTable
    payload: Payload | None
    locks: list[LockRow]
    attempts: Attempts
    queue: QueueWait
    triggers: Triggers
    profile: ProfileTree | None
    timeline: Timeline | None
    usage: Usage | None
    wait_distribution: Distribution | None
    run_distribution: Distribution | None
    exemplars: list[Exemplar]
    capture: Capture
    marks: list[tuple[int, str]]

    @property
    def checks(self) -> dict[Status, int]:
        """How many checks of the whole list have each status."""
        counts: dict[Status, int] = {"found": 0, "clear": 0, "not_checked": 0, "crashed": 0}
        for step in self.steps:
            for status, number in step.counts.items():
                counts[status] += number
        return counts


def build_context(diagnosis: Diagnosis, source_root: Path | None = None) -> ReportContext:
    """Everything a report shows. ``source_root``: read the user's lines around callsites below this directory."""
    history = diagnosis.history
    executions = history.executions
    ledger = _ledger(diagnosis.ledger)
    findings = _findings(diagnosis.findings, ledger.wall_ms, source_root)
    waits = [max(0, row.dequeued_at_ns - row.enqueued_at_ns) / 1e6 for row in history.trace]
    runs = [max(0, row.reaped_at_ns - row.dequeued_at_ns) / 1e6 for row in history.trace]
    return ReportContext(
        job=history.job,
        version=__version__,
        from_ns=history.from_ns,
        to_ns=history.to_ns,
        executions=history.executions_total,
        looked_at=len(executions),
        outcomes=sorted(history.outcomes.items(), key=lambda item: (-item[1], item[0])),
        failures=sum(number for outcome, number in history.outcomes.items() if outcome != "finished"),
        verdict=diagnosis.verdict,
        wait_ms=history.wait_ms,
        run_ms=history.run_ms,
        slo_ms=history.slo_ms,
        saving_ms=min(
            ledger.wall_ms, sum(view.finding.saving_ms.mid for view in findings if view.finding.severity != "info")
        ),
        ledger=ledger,
        findings=findings,
        top=[view for view in findings if view.finding.severity != "info"][:TOP_FINDINGS] or findings[:1],
        steps=_steps(diagnosis.checklist, findings),
        calls=call_table(executions),
        payload=_payload(executions),
        locks=_locks(executions),
        attempts=_attempts(diagnosis),
        queue=queue_wait(history),
        triggers=_triggers(history.trace),
        profile=profile_tree(executions),
        timeline=timeline(executions),
        usage=usage(executions),
        wait_distribution=distribution(waits or [execution.wait_ns / 1e6 for execution in executions]),
        run_distribution=distribution(runs or [execution.run_ns / 1e6 for execution in executions]),
        exemplars=_exemplars(executions),
        capture=_capture(diagnosis),
        marks=[(mark.at_ns, f"{mark.kind} {mark.label}") for mark in history.marks],
    )


def _ledger(parts: Sequence[LedgerPart]) -> Ledger:
    wall_ns = sum(part.ns for part in parts)
    order = {name: position for position, name in enumerate(LEDGER_PARTS)}

    def entry(name: str, detail: str, ns: int) -> LedgerEntry:
        return LedgerEntry(
            name, PART_TITLES.get(name, name), detail, ns / 1e6, ns / wall_ns if wall_ns else 0.0, name in AROUND_PARTS
        )

    entries = [entry(part.name, part.detail, part.ns) for part in parts if part.ns > 0]
    entries.sort(key=lambda one: (order.get(one.name, len(order)), -one.ms))
    sums: dict[str, int] = {}
    for part in sorted(parts, key=lambda part: order.get(part.name, len(order))):
        sums[part.name] = sums.get(part.name, 0) + part.ns
    bar = [entry(name, "", ns) for name, ns in sums.items() if ns > 0]
    around_ns = sum(ns for name, ns in sums.items() if name in AROUND_PARTS)
    unexplained_ns = sums.get("unexplained", 0)
    run_ns = wall_ns - sums.get("queue_wait", 0)
    of_run = [replace(one, share=one.ms * 1e6 / max(1, run_ns)) for one in bar if one.name != "queue_wait"]
    return Ledger(
        wall_ms=wall_ns / 1e6,
        entries=entries,
        bar=bar,
        run_ms=run_ns / 1e6,
        run_bar=of_run if run_ns < wall_ns * ZOOM_BELOW_SHARE else [],
        inside_ms=(wall_ns - around_ns - unexplained_ns) / 1e6,
        around_ms=around_ns / 1e6,
        unexplained_share=unexplained_ns / wall_ns if wall_ns else 0.0,
    )


def _findings(findings: Sequence[Finding], wall_ms: float, root: Path | None) -> list[FindingView]:
    """Main findings with the related ones below them; a related one whose main is not here stands by itself."""
    anchors: dict[str, int] = {}

    def view(finding: Finding, related: list[FindingView]) -> FindingView:
        anchors[finding.code] = anchors.get(finding.code, 0) + 1
        number = anchors[finding.code]
        return FindingView(
            finding=finding,
            anchor=finding.code if number == 1 else f"{finding.code}-{number}",
            saving_share=min(1.0, finding.saving_ms.mid / wall_ms) if wall_ms else 0.0,
            source=read_source(root, finding.callsite) if root and finding.callsite else None,
            related=related,
        )

    mains = [finding for finding in findings if finding.part_of is None]
    below: dict[int, list[Finding]] = {}
    alone: list[Finding] = []
    for finding in findings:
        if finding.part_of is None:
            continue
        of_code = [index for index, main in enumerate(mains) if main.code == finding.part_of]
        same_line = [index for index in of_code if mains[index].callsite == finding.callsite]
        if of_code:
            below.setdefault((same_line or of_code)[0], []).append(finding)
        else:
            alone.append(finding)
    views = [view(main, [view(one, []) for one in below.get(index, [])]) for index, main in enumerate(mains)]
    return views + [view(finding, []) for finding in alone]


def _steps(checklist: Sequence[Check], findings: Sequence[FindingView]) -> list[StepView]:
    flat = [one for view in findings for one in (view, *view.related)]
    steps = []
    for number, step in enumerate(STEPS, 1):
        checks = [check for check in checklist if check.step == step]
        counts: dict[Status, int] = {}
        for check in checks:
            counts[check.status] = counts.get(check.status, 0) + 1
        mine = [view for view in flat if view.finding.step == step]
        steps.append(StepView(step, number, STEP_TITLES[step], checks, mine, counts))
    return steps


def _payload(executions: Sequence[Execution]) -> Payload | None:
    payloads = [execution.payload for execution in executions if execution.payload]
    return max(payloads, key=lambda payload: (bool(payload.nodes), payload.raw_bytes)) if payloads else None


def _locks(executions: Sequence[Execution]) -> list[LockRow]:
    merged: dict[tuple[str, str, str, str, str], list[LockWait]] = {}
    for execution in executions:
        for wait in execution.locks:
            key = (wait.kind, wait.target, wait.statement, wait.blocking_statement, wait.blocking_job)
            merged.setdefault(key, []).append(wait)
    rows = [
        LockRow(*key, len(waits), sum(one.waited_ns for one in waits) / 1e6, max(one.waited_ns for one in waits) / 1e6)
        for key, waits in merged.items()
    ]
    return sorted(rows, key=lambda row: -row.total_ms)[:SHOWN_LOCKS]


def _attempts(diagnosis: Diagnosis) -> Attempts:
    history = diagnosis.history
    by_attempt: dict[int, int] = {}
    for row in history.trace:
        by_attempt[row.attempt] = by_attempt.get(row.attempt, 0) + 1
    errors: dict[tuple[str, str, str, int | None], int] = {}
    for execution in history.executions:
        raised = execution.exception
        if raised:
            key = (raised.type_name, raised.message_shape, raised.callsite, raised.status)
            errors[key] = errors.get(key, 0) + 1
    policies = [execution.retry for execution in history.executions if execution.retry.max_retries is not None]
    ranked = sorted(errors.items(), key=lambda item: -item[1])[:SHOWN_ERRORS]
    return Attempts(
        by_attempt=sorted(by_attempt.items()),
        jobs=len({row.job_id for row in history.trace}),
        executions=len(history.trace),
        failures=sum(row.outcome != "finished" for row in history.trace),
        max_retries=policies[0].max_retries if policies else None,
        intervals_s=policies[0].intervals_s if policies else [],
        errors=[ErrorRow(*key, number) for key, number in ranked],
    )


def _triggers(trace: Sequence[TraceRow]) -> Triggers:
    counts: dict[tuple[str, str, str], int] = {}
    for row in trace:
        key = (row.trigger_kind or "unknown", row.trigger_callsite, row.parent_job)
        counts[key] = counts.get(key, 0) + 1
    # A retry has the arguments of the attempt before it: only first attempts can be duplicates.
    hashes = [row.args_hash for row in trace if row.args_hash and row.attempt == 1]
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_TRIGGERS]
    return Triggers([TriggerRow(*key, number) for key, number in ranked], len(trace), len(hashes), len(set(hashes)))


def _exemplars(executions: Sequence[Execution]) -> list[Exemplar]:
    """Deaths and failures first, then the slowest; each says why it stands here."""
    newest = executions[0].id if executions else ""
    slowest = max(executions, key=lambda execution: execution.run_ns).id if executions else ""

    def why(execution: Execution) -> str:
        if execution.outcome != "finished":
            return execution.outcome
        if execution.id == slowest:
            return "slowest"
        if execution.profile:
            return "profiled"
        return "newest" if execution.id == newest else "slow"

    def rank(execution: Execution) -> tuple[int, int]:
        return ({"killed": 0, "timeout": 1, "failed": 2}.get(execution.outcome, 3), -execution.run_ns)

    ordered = sorted(executions, key=rank)
    bad = [execution for execution in ordered if execution.outcome != "finished"]
    good = [execution for execution in ordered if execution.outcome == "finished"]
    # Never only failures: the slowest success is what the durations are about.
    room = SHOWN_EXEMPLARS - min(len(good), 5)
    chosen = [*bad[:room], *good][:SHOWN_EXEMPLARS]
    return [
        Exemplar(
            execution_id=execution.id,
            job_id=execution.job_id,
            why=why(execution),
            outcome=execution.outcome,
            at_ns=execution.dequeued_at_ns,
            wait_ms=execution.wait_ns / 1e6,
            run_ms=execution.run_ns / 1e6,
            attempt=execution.attempt,
            worker=execution.worker,
            error=execution.exception.type_name if execution.exception else "",
            death=execution.death,
            peak_rss_bytes=max(
                execution.rusage.max_rss_bytes if execution.rusage else 0,
                max((sample.rss_bytes for sample in execution.samples), default=0),
            ),
        )
        for execution in chosen
    ]


def probe_rows(executions: Iterable[Execution]) -> list[ProbeRow]:
    """One row for each channel: failed when any library's probe failed, else active when any was, else absent."""
    statuses: dict[str, set[str]] = {}
    libraries: dict[str, set[str]] = {}
    reasons: dict[str, set[str]] = {}
    for execution in executions:
        for probe in execution.probes:
            statuses.setdefault(probe.channel, set()).add(probe.status)
            if probe.status == "active":
                libraries.setdefault(probe.channel, set()).add(probe.library)
            if probe.status == "failed":
                reasons.setdefault(probe.channel, set()).add(f"{probe.library}: {probe.reason or 'no reason given'}")
    return [
        ProbeRow(
            channel,
            next(status for status in ("failed", "active", "absent") if status in seen),
            sorted(libraries.get(channel, ())),
            sorted(reasons.get(channel, ())),
        )
        for channel, seen in sorted(statuses.items())
    ]


def mean_overhead_ms(executions: Sequence[Execution]) -> float | None:
    """jobdoctor's own cost for each execution; None when nothing was looked at."""
    if not executions:
        return None
    return sum(execution.overhead_ns for execution in executions) / len(executions) / 1e6


def _capture(diagnosis: Diagnosis) -> Capture:
    history = diagnosis.history
    executions = history.executions
    missing: dict[str, int] = {}
    for execution in executions:
        for sentence in dict.fromkeys(execution.not_captured):
            missing[sentence] = missing.get(sentence, 0) + 1
    overhead = mean_overhead_ms(executions)
    run_ms = sum(execution.run_ns for execution in executions) / 1e6 / len(executions) if executions else 0.0
    return Capture(
        probes=probe_rows(executions),
        overhead_ms=overhead,
        overhead_share=overhead / run_ms if overhead is not None and run_ms else None,
        truncated=any(execution.truncated for execution in executions),
        spans_dropped=sum(execution.spans_dropped for execution in executions),
        not_captured=sorted(missing.items(), key=lambda item: (-item[1], item[0])),
        looked_at=len(executions),
        total=history.executions_total,
        lost=history.lost,
        worker_kinds=sorted({execution.worker_kind for execution in executions}),
        rq_versions=sorted({execution.rq_version for execution in executions if execution.rq_version}),
        python_versions=sorted({execution.python_version for execution in executions if execution.python_version}),
    )
