"""The calls of a job: groups of one shape and line, merged over the executions that were looked at."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from jobdoctor import words
from jobdoctor.model import Execution, SpanGroup

#: Rows shown; what is left out is counted. A reader does not act on the fiftieth shape.
SHOWN_CALLS = 40


class CallRow(Struct, frozen=True):
    """Calls of one shape from one line. ``count`` and ``total_ms`` are means for each execution looked at."""

    channel: str
    operation: str
    fingerprint: str
    target: str
    library: str
    callsite: str
    function: str
    relationship: str
    count: float
    distinct: float
    total_ms: float
    min_ms: float  # of one call, as the next two
    mean_ms: float
    max_ms: float
    errors: int
    received_bytes: int
    share: float  # of the mean run time
    flags: list[str]  # what is odd about it, in words


class CallTable(Struct, frozen=True):
    rows: list[CallRow]
    left_out: int  # shapes
    left_out_ms: float


def call_table(executions: Sequence[Execution]) -> CallTable:
    """The calls, costliest first."""
    merged: dict[tuple[str, ...], list[SpanGroup]] = {}
    for execution in executions:
        for group in execution.groups:
            key = (group.channel, group.operation, group.fingerprint, group.target, group.callsite, group.relationship)
            merged.setdefault(key, []).append(group)
    run_ns = sum(execution.run_ns for execution in executions)
    rows = [_row(groups, len(executions), run_ns) for groups in merged.values()]
    rows.sort(key=lambda row: (-row.total_ms, -row.count, row.fingerprint, row.callsite))
    rest = rows[SHOWN_CALLS:]
    return CallTable(rows[:SHOWN_CALLS], len(rest), sum(row.total_ms for row in rest))


def _row(groups: list[SpanGroup], executions: int, run_ns: int) -> CallRow:
    first = groups[0]
    calls = sum(group.count for group in groups)
    total_ns = sum(group.total_ns for group in groups)
    return CallRow(
        channel=first.channel,
        operation=first.operation,
        fingerprint=first.fingerprint,
        target=first.target,
        library=first.library,
        callsite=first.callsite,
        function=first.function,
        relationship=first.relationship,
        count=calls / executions,
        distinct=sum(group.distinct for group in groups) / executions,
        total_ms=total_ns / executions / 1e6,
        mean_ms=total_ns / max(1, calls) / 1e6,
        min_ms=min((group.min_ns for group in groups if group.count), default=0) / 1e6,
        max_ms=max(group.max_ns for group in groups) / 1e6,
        errors=sum(group.errors for group in groups),
        received_bytes=round(sum(group.received_bytes for group in groups) / executions),
        share=total_ns / run_ns if run_ns else 0.0,
        flags=_flags(groups, calls),
    )


def _flags(groups: list[SpanGroup], calls: int) -> list[str]:
    told = (
        ("without a timeout", sum(group.no_timeout for group in groups)),
        ("in a transaction", sum(group.in_transaction for group in groups)),
        ("on a new connection", sum(group.new_connections for group in groups)),
        ("in batches", sum(group.batched for group in groups)),
    )
    return [
        f"{what if number >= calls else f'{words.share(number / calls)} {what}'}" for what, number in told if number
    ]
