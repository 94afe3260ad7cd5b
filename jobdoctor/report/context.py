"""All that a report says, as data. Renderers word it; tests assert on it.

Durations are in ms for each execution unless a name says otherwise; shares are between 0 and 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from jobdoctor._version import __version__
from jobdoctor.model import (
    Diagnosis,
    Execution,
    JobHistory,
    KeptPrediction,
    LockWait,
    Quantiles,
    Status,
    Verdict,
)
from jobdoctor.report.attempts import Attempts, attempts
from jobdoctor.report.calls import CallTable, call_table
from jobdoctor.report.capture import Capture, capture
from jobdoctor.report.deaths import DeathCard, death_cards
from jobdoctor.report.distribution import Distribution, distribution
from jobdoctor.report.exemplars import ExecutionDetail, Exemplar, details, exemplars
from jobdoctor.report.findings import FindingView, StepView, finding_views, step_views
from jobdoctor.report.headline import Headline, headline
from jobdoctor.report.ledger import Ledger, ledger_view
from jobdoctor.report.over_time import OverTime, over_time
from jobdoctor.report.payload import PayloadTree, payload_tree
from jobdoctor.report.pictures import Pictures, pictures
from jobdoctor.report.profile_tree import ProfileTree, profile_tree
from jobdoctor.report.queue_wait import QueueWait, queue_wait
from jobdoctor.report.triage import TriageRow, row_of
from jobdoctor.report.triggers import Triggers, triggers

SHOWN_LOCKS = 20
SHOWN_PREDICTIONS = 8
#: Kinds of failures beside their number.
MOST_FAILURES = 2
#: Main findings on the report's first screen.
TOP_FINDINGS = 3


class LockRow(Struct, frozen=True):
    kind: str
    target: str
    statement: str
    blocking_statement: str
    blocking_job: str
    waits: int
    total_ms: float  # over all executions looked at
    max_ms: float


class BlockedRow(Struct, frozen=True):
    """Another job that waited for locks of this one."""

    job: str
    kind: str
    statement: str  # what waited
    blocking_statement: str
    waits: int
    total_ms: float  # over all that is known


class ReportContext(Struct, frozen=True):
    job: str
    version: str
    from_ns: int
    to_ns: int
    executions: int
    looked_at: int
    outcomes: list[tuple[str, int]]
    failures: int
    failed_with: list[str]  # names of exceptions and ends (``killed``), the most frequent first
    verdict: Verdict
    headline: Headline
    wait_ms: Quantiles
    run_ms: Quantiles
    slo_ms: float | None
    saving_ms: float  # of the main findings above info together, at most the wall time
    ledger: Ledger
    findings: list[FindingView]  # main ones, best first, related ones below them
    top: list[FindingView]
    steps: list[StepView]
    calls: CallTable
    payload: PayloadTree | None
    locks: list[LockRow]
    blocked: list[BlockedRow]
    attempts: Attempts
    queue: QueueWait
    triggers: Triggers
    profile: ProfileTree | None
    over_time: OverTime
    kept: list[KeptPrediction]
    wait_distribution: Distribution | None
    run_distribution: Distribution | None
    deaths: list[DeathCard]
    details: list[ExecutionDetail]
    pictures: Pictures
    exemplars: list[Exemplar]
    capture: Capture
    triage: TriageRow  # over the whole window
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
    ledger = ledger_view(diagnosis.ledger)
    findings = finding_views(diagnosis.findings, ledger.wall_ms, source_root)
    waits = [max(0, row.dequeued_at_ns - row.enqueued_at_ns) / 1e6 for row in history.trace]
    runs = [max(0, row.reaped_at_ns - row.dequeued_at_ns) / 1e6 for row in history.trace]
    shown_in_full = details(executions)
    return ReportContext(
        job=history.job,
        version=__version__,
        from_ns=history.from_ns,
        to_ns=history.to_ns,
        executions=history.executions_total,
        looked_at=len(executions),
        outcomes=sorted(history.outcomes.items(), key=lambda item: (-item[1], item[0])),
        failures=sum(number for outcome, number in history.outcomes.items() if outcome != "finished"),
        failed_with=_failed_with(history),
        verdict=diagnosis.verdict,
        headline=headline(diagnosis.verdict, diagnosis.findings),
        wait_ms=history.wait_ms,
        run_ms=history.run_ms,
        slo_ms=history.slo_ms,
        saving_ms=min(
            ledger.wall_ms, sum(view.finding.saving_ms.mid for view in findings if view.finding.severity != "info")
        ),
        ledger=ledger,
        findings=findings,
        top=[view for view in findings if view.finding.severity != "info"][:TOP_FINDINGS] or findings[:1],
        steps=step_views(diagnosis.checklist, findings),
        calls=call_table(executions),
        payload=payload_tree(executions),
        locks=_locks(executions),
        blocked=_blocked(history),
        attempts=attempts(diagnosis),
        queue=queue_wait(history),
        triggers=triggers(history),
        profile=profile_tree(executions),
        over_time=over_time(diagnosis),
        kept=diagnosis.kept[:SHOWN_PREDICTIONS],
        wait_distribution=distribution(waits or [execution.wait_ns / 1e6 for execution in executions]),
        run_distribution=distribution(runs or [execution.run_ns / 1e6 for execution in executions]),
        deaths=death_cards(executions),
        details=shown_in_full,
        pictures=pictures(history, shown_in_full),
        exemplars=exemplars(executions, shown_in_full),
        capture=capture(diagnosis),
        triage=row_of(diagnosis),
        marks=[(mark.at_ns, f"{mark.kind} {mark.label}") for mark in history.marks],
    )


def _blocked(history: JobHistory) -> list[BlockedRow]:
    merged: dict[tuple[str, str, str, str], list[int]] = {}
    for wait in history.blocked:
        if wait.job != history.job:
            key = (wait.job, wait.kind, wait.statement, wait.blocking_statement)
            merged.setdefault(key, []).append(wait.waited_ns)
    rows = [BlockedRow(*key, len(waits), sum(waits) / 1e6) for key, waits in merged.items()]
    return sorted(rows, key=lambda row: -row.total_ms)[:SHOWN_LOCKS]


def _failed_with(history: JobHistory) -> list[str]:
    ends = Counter(
        row.error_type.rpartition(".")[2] or row.outcome
        for row in history.trace
        if row.error_type or row.outcome in ("killed", "timeout", "stopped")
    )
    return [name for name, _ in ends.most_common(MOST_FAILURES)]


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
