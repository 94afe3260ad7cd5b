"""Waits for locks by whoever held them, so that a job's report can say whom it holds up."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, or_, select

from jobdoctor.model import BlockedWait, Execution, TraceRow
from jobdoctor.store import tables, trace

#: Waits kept for one execution, and looked at for one report.
MAX_WAITS = 50
MAX_BLOCKED = 2_000


def values(new: dict[str, Execution], rows: dict[str, TraceRow]) -> list[dict[str, Any]]:
    """The rows of the table for new executions and their trace rows, both by execution id."""
    return [
        {
            "execution_id": execution_id,
            "number": number,
            "job": rows[execution_id].job,
            "kind": wait.kind,
            "statement": wait.statement or wait.target,
            "blocking_statement": wait.blocking_statement,
            "backend": trace.key(wait.blocking_backend),
            "blocking_job": trace.key(wait.blocking_job),
            "at_ns": execution.dequeued_at_ns + wait.start_ns,
            "waited_ns": wait.waited_ns,
        }
        for execution_id, execution in new.items()
        for number, wait in enumerate(execution.locks[:MAX_WAITS])
        if wait.blocking_backend or wait.blocking_job
    ]


def of_blocker(connection: Connection, job: str, since_ns: int, until_ns: int) -> list[BlockedWait]:
    """Waits that began in this window and that a session of this job caused, the newest first."""
    waits, held = tables.lock_waits, tables.sessions
    caused = (
        select(held.c.execution_id)
        .where(
            held.c.backend == waits.c.backend,
            held.c.from_ns <= waits.c.at_ns + waits.c.waited_ns,
            held.c.to_ns >= waits.c.at_ns,
            held.c.execution_id != waits.c.execution_id,
            held.c.job == job,
        )
        .exists()
    )
    query = (
        select(waits.c.job, waits.c.kind, waits.c.statement, waits.c.blocking_statement, waits.c.waited_ns)
        .where(
            waits.c.at_ns >= since_ns,
            waits.c.at_ns <= until_ns,
            or_(waits.c.blocking_job == job, (waits.c.blocking_job == "") & caused),
        )
        .order_by(waits.c.at_ns.desc())
        .limit(MAX_BLOCKED)
    )
    return [BlockedWait(*record) for record in connection.execute(query)]


def prune(connection: Connection, before_ns: int) -> None:
    """Forget what began before this instant."""
    connection.execute(delete(tables.lock_waits).where(tables.lock_waits.c.at_ns < before_ns))
