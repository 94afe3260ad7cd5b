"""Who enqueues the job, and what it enqueues itself."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from jobdoctor.model import JobHistory, SpanGroup

SHOWN_TRIGGERS = 12


class TriggerRow(Struct, frozen=True):
    kind: str
    callsite: str
    parent_job: str
    executions: int


class EnqueuedRow(Struct, frozen=True):
    """A job that this one enqueues from one line. ``count`` is the mean for each execution looked at."""

    job: str
    callsite: str
    count: float
    back: bool  # it, or what it is, enqueues this job as well: a circle


class Triggers(Struct, frozen=True):
    rows: list[TriggerRow]
    executions: int
    hashed: int  # executions whose arguments could be hashed
    distinct_args: int
    enqueued: list[EnqueuedRow]


def triggers(history: JobHistory) -> Triggers:
    """Triggers from the trace, so of every execution; what is enqueued from the executions kept in detail."""
    counts: dict[tuple[str, str, str], int] = {}
    for row in history.trace:
        key = (row.trigger_kind or "unknown", row.trigger_callsite, row.parent_job)
        counts[key] = counts.get(key, 0) + 1
    # A retry has the arguments of the attempt before it: only first attempts can be duplicates.
    hashes = [row.args_hash for row in history.trace if row.args_hash and row.attempt == 1]
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_TRIGGERS]
    return Triggers(
        [TriggerRow(*key, number) for key, number in ranked],
        len(history.trace),
        len(hashes),
        len(set(hashes)),
        _enqueued(history),
    )


def _enqueued(history: JobHistory) -> list[EnqueuedRow]:
    executions = history.executions
    calls: dict[tuple[str, str], list[SpanGroup]] = {}
    for execution in executions:
        for group in execution.groups:
            if group.channel == "enqueue" and group.fingerprint:
                calls.setdefault((group.fingerprint, group.callsite), []).append(group)
    parents = {row.parent_job for row in history.trace if row.parent_job} | {history.job}
    rows = [
        EnqueuedRow(job, callsite, _count(groups) / len(executions), job in parents)
        for (job, callsite), groups in calls.items()
    ]
    return sorted(rows, key=lambda row: (-row.count, row.job, row.callsite))[:SHOWN_TRIGGERS]


def _count(groups: Sequence[SpanGroup]) -> int:
    """Jobs enqueued: many at once count as many."""
    return sum(max(group.count, group.items) for group in groups)
