"""Trace rows: an execution in one line, and its way in and out of the database."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, Select, literal, or_, select
from sqlalchemy.engine import Result

from jobdoctor.model import Execution, Route, TraceRow
from jobdoctor.store import tables
from jobdoctor.store.database import lacks

_json = msgspec.json.Encoder()
_names = msgspec.json.Decoder(list[str])
_COLUMNS = [tables.trace.c[name] for name in TraceRow.__struct_fields__]
_QUEUES = TraceRow.__struct_fields__.index("worker_queues")
_DEPENDS_ON = TraceRow.__struct_fields__.index("depends_on")
_ROUTE = TraceRow.__struct_fields__.index("route")
_ATTEMPT = TraceRow.__struct_fields__.index("attempt")
_SCHEDULED = TraceRow.__struct_fields__.index("scheduled")

_DEFAULTS = {"route": "", "depends_on": "[]"}

#: Rows of other jobs (and of the job) that a history carries: the newest. More of them change no median, and a report
#: over a million executions is to take less than two seconds (benchmarks/reading.py).
MAX_ROWS = 10_000

#: Channels that can write: when a probe of one failed, nobody can say that an execution wrote nothing.
_WRITING_CHANNELS = frozenset({"sql", "redis", "http", "file", "mail", "subprocess", "enqueue"})


def row_of(execution: Execution) -> TraceRow:
    """The execution's trace row, with texts that any database can hold as keys."""
    payload, result, error, trigger = execution.payload, execution.result, execution.exception, execution.trigger
    return TraceRow(
        execution_id=key(execution.id),
        job_id=key(execution.job_id),
        job=key(execution.job),
        queue=key(execution.queue),
        worker=key(execution.worker),
        outcome=execution.outcome,
        created_at_ns=execution.created_at_ns,
        enqueued_at_ns=execution.enqueued_at_ns,
        dequeued_at_ns=execution.dequeued_at_ns,
        reaped_at_ns=execution.reaped_at_ns,
        attempt=execution.attempt,
        scheduled=execution.scheduled,
        args_hash=key(payload.args_hash) if payload else "",
        result_digest=key(result.digest) if result else "",
        error_digest=key(error.digest) if error else "",
        error_type=key(error.type_name) if error else "",
        trigger_kind=key(trigger.kind) if trigger else "",
        trigger_callsite=key(trigger.callsite) if trigger else "",
        parent_job=key(trigger.parent_job) if trigger else "",
        parent_execution_id=key(trigger.parent_execution_id) if trigger else "",
        writes=_writes(execution),
        worker_queues=[key(name) for name in execution.worker_queues],
        queue_depth=execution.queue_depth,
        route=execution.route,
        depends_on=[key(job_id) for job_id in execution.depends_on],
    )


def key(text: str) -> str:
    """The text as a key: UTF-8, without the NULs that PostgreSQL refuses, and not longer than it can index."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\0", "\ufffd")[: tables.MAX_KEY_CHARACTERS]


def values(row: TraceRow) -> dict[str, Any]:
    """The row as the table's columns."""
    columns = {name: getattr(row, name) for name in row.__struct_fields__}
    columns["worker_queues"] = _json.encode(row.worker_queues).decode()
    columns["depends_on"] = _json.encode(row.depends_on).decode()
    return columns


def selected(connection: Connection) -> Select[Any]:
    """A SELECT of whole rows, in the order that :func:`rows` expects."""
    lacking = lacks(connection)
    if not lacking:
        return select(*_COLUMNS)
    return select(*(literal(_DEFAULTS[one.name]).label(one.name) if one.name in lacking else one for one in _COLUMNS))


def rows(result: Result[Any]) -> list[TraceRow]:
    """The rows of a :func:`selected` query. Rows of one job on one worker share their lists and texts."""
    lists: dict[str, list[str]] = {}
    found: list[TraceRow] = []
    for record in result.all():
        columns = list(record)
        text = columns[_QUEUES]
        if text not in lists:
            lists[text] = _names.decode(text)
        columns[_QUEUES] = lists[text]
        columns[_DEPENDS_ON] = _names.decode(columns[_DEPENDS_ON]) if columns[_DEPENDS_ON] != "[]" else []
        columns[_ROUTE] = columns[_ROUTE] or _earlier(columns[_ATTEMPT], columns[_SCHEDULED])
        found.append(TraceRow(*columns))
    return found


def _earlier(attempt: int, scheduled: bool) -> Route:
    """What a row says that was written before routes were: it had been somewhere, and nobody noted where."""
    return "retried" if attempt > 1 else "unknown" if scheduled else "straight"


def _writes(execution: Execution) -> int | None:
    """Calls with a write effect; None when a channel that can write was not captured, or a call's effect is unknown."""
    if any(probe.status == "failed" and probe.channel in _WRITING_CHANNELS for probe in execution.probes):
        return None
    count = 0
    for group in execution.groups:
        if group.channel in _WRITING_CHANNELS:
            if group.effect == "unknown":
                return None
            if group.effect == "write":
                count += group.count
    return count


def of_job(connection: Connection, job: str, since_ns: int, until_ns: int) -> list[TraceRow]:
    """Rows of the job's executions that ended in the window, at most the newest MAX_ROWS."""
    table = tables.trace
    query = (
        selected(connection)
        .where(table.c.job == job, table.c.reaped_at_ns >= since_ns, table.c.reaped_at_ns <= until_ns)
        .order_by(table.c.reaped_at_ns.desc())
        .limit(MAX_ROWS)
    )
    return oldest_first(rows(connection.execute(query)))


def neighbours(connection: Connection, job: str, since_ns: int, until_ns: int) -> list[TraceRow]:
    """Rows of every job that shared a queue or a worker with the job in the window."""
    table = tables.trace
    window = (table.c.reaped_at_ns >= since_ns, table.c.reaped_at_ns <= until_ns)
    queues = select(table.c.queue).where(table.c.job == job, *window).distinct()
    workers = select(table.c.worker).where(table.c.job == job, *window).distinct()
    query = (
        selected(connection)
        .where(*window, or_(table.c.queue.in_(queues), table.c.worker.in_(workers)))
        .order_by(table.c.reaped_at_ns.desc())
        .limit(MAX_ROWS)
    )
    return oldest_first(rows(connection.execute(query)))


def oldest_first(rows: list[TraceRow]) -> list[TraceRow]:
    """In the order in which they were enqueued, as the model promises; the newest were asked for."""
    return sorted(rows, key=lambda row: (row.enqueued_at_ns, row.execution_id))
