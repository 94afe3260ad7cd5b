"""Which execution held which database session, and so which job blocked another one's statement."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, select

from jobdoctor.model import Execution, LockWait, TraceRow
from jobdoctor.store import tables, trace

#: Database sessions kept for one execution; more than that is a finding of its own, not a way to find a blocker.
MAX_SESSIONS = 50


def values(new: dict[str, Execution], rows: dict[str, TraceRow]) -> list[dict[str, Any]]:
    """The rows of the table for new executions and their trace rows, both by execution id."""
    return [
        {
            "execution_id": execution_id,
            "number": number,
            "job": rows[execution_id].job,
            "backend": trace.key(session.backend),
            "from_ns": execution.dequeued_at_ns + session.start_ns,
            "to_ns": execution.dequeued_at_ns + session.end_ns if session.end_ns else execution.reaped_at_ns,
        }
        for execution_id, execution in new.items()
        for number, session in enumerate(execution.sessions[:MAX_SESSIONS])
    ]


def resolved(connection: Connection, executions: list[Execution]) -> list[Execution]:
    """The executions with the jobs named that blocked them, where the blocking session is known by now."""
    return [
        replace(execution, locks=[_blamed(connection, execution, lock) for lock in execution.locks])
        if any(lock.blocking_backend and not lock.blocking_job for lock in execution.locks)
        else execution
        for execution in executions
    ]


def _blamed(connection: Connection, execution: Execution, lock: LockWait) -> LockWait:
    if not lock.blocking_backend or lock.blocking_job:
        return lock
    table = tables.sessions
    from_ns = execution.dequeued_at_ns + lock.start_ns
    holder = connection.execute(
        select(table.c.job, table.c.execution_id)
        .where(
            table.c.backend == trace.key(lock.blocking_backend),
            table.c.from_ns <= from_ns + lock.waited_ns,
            table.c.to_ns >= from_ns,
            table.c.execution_id != trace.key(execution.id),
        )
        .order_by(table.c.from_ns.desc())
        .limit(1)
    ).first()
    if holder is None:
        return lock
    return replace(lock, blocking_job=holder.job, blocking_execution_id=holder.execution_id)
