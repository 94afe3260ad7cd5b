"""Rows of every job in a window, and what was promised for each: what a replay needs of the store."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from jobdoctor import wire
from jobdoctor.model import TraceRow
from jobdoctor.store import tables, trace

#: Rows of a window at most, the newest: as many as the store keeps by default.
MAX_ROWS = 200_000


def rows(connection: Connection, since_ns: int, most: int = MAX_ROWS) -> list[TraceRow]:
    """The newest rows of executions that ended since then, oldest first. What came by no queue (``jobdoctor.record``)
    is no traffic of one."""
    table = tables.trace
    newest = table.c.reaped_at_ns.desc()
    queued = table.c.reaped_at_ns >= since_ns, table.c.queue != ""
    query = trace.selected(connection).where(*queued).order_by(newest).limit(most)
    return trace.oldest_first(trace.rows(connection.execute(query)))


def slos_ms(connection: Connection) -> dict[str, float]:
    """What each job promised when it was last recorded in full."""
    table = tables.exemplars
    newest = select(table.c.job, func.max(table.c.reaped_at_ns).label("at")).group_by(table.c.job).subquery()
    query = select(table.c.job, table.c.packed).join(
        newest, (table.c.job == newest.c.job) & (table.c.reaped_at_ns == newest.c.at)
    )
    found: dict[str, float] = {}
    for record in connection.execute(query):
        try:
            slo_ms = wire.unpack(record.packed).slo_ms
        except wire.UnreadableEntryError:
            continue  # the report of that job says so
        if slo_ms is not None:
            found[record.job] = slo_ms
    return found
