"""What findings promised: kept until the next deploy, and held against what came of it afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, func, insert, inspect, select, update

from jobdoctor.model import Prediction
from jobdoctor.store import tables, trace


def remember(connection: Connection, predictions: Sequence[Prediction]) -> None:
    """Keep them. One that was made since the last deploy is brought up to date; one made before that deploy stays as
    it was, beside the new one. The caller is the only writer."""
    table, marks = tables.predictions, tables.marks
    for made in predictions:
        deployed_ns = connection.execute(
            select(func.max(marks.c.at_ns)).where(marks.c.kind == "deploy", marks.c.at_ns <= made.at_ns)
        ).scalar()
        key = and_(
            table.c.job == trace.key(made.job), table.c.code == made.code, table.c.callsite == trace.key(made.callsite),
            table.c.at_ns > (deployed_ns or 0),
        )  # fmt: skip
        told = {
            "at_ns": made.at_ns,
            "title": trace.key(made.title),
            "side": made.where,
            "before_ms": made.before_ms,
            "low_ms": made.low_ms,
            "mid_ms": made.mid_ms,
            "high_ms": made.high_ms,
        }
        if not connection.execute(update(table).where(key).values(told)).rowcount:
            connection.execute(
                insert(table).values(
                    job=trace.key(made.job),
                    code=made.code,
                    callsite=trace.key(made.callsite),
                    first_at_ns=made.at_ns,
                    **told,
                )
            )


def of_job(connection: Connection, job: str) -> list[Prediction]:
    """Those of a job, oldest first; none in a store that no version with predictions has written."""
    table = tables.predictions
    if not inspect(connection).has_table(table.name):
        return []
    return [
        Prediction(
            job=record.job,
            code=record.code,
            callsite=record.callsite,
            title=record.title,
            where="around" if record.side == "around" else "inside",
            at_ns=record.at_ns,
            before_ms=record.before_ms,
            low_ms=record.low_ms,
            mid_ms=record.mid_ms,
            high_ms=record.high_ms,
        )
        for record in connection.execute(select(table).where(table.c.job == job).order_by(table.c.at_ns, table.c.code))
    ]
