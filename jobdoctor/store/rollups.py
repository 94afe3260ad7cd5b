"""Rollups: counts and quantile sketches of each job, queue and minute, mergeable into longer stretches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, select, tuple_, update

from jobdoctor.model import Bucket, TraceRow
from jobdoctor.store import tables
from jobdoctor.store.sketch import Sketch

MINUTE_NS = 60 * 1_000_000_000
HOUR_NS = 60 * MINUTE_NS

#: Steps that buckets are made of, and how many of them a history has at most: as many as a picture can show.
_STEPS = tuple(minutes * MINUTE_NS for minutes in (1, 5, 15, 60, 360, 1_440, 10_080))
_MAX_BUCKETS = 400

#: How long minutes stay minutes: a report reads one row for each of them, and its pictures show hours from there on.
MINUTES_FOR_NS = 24 * HOUR_NS

#: Keys asked for in one query: SQLite before 3.32 takes 999 variables.
_KEYS_AT_ONCE = 300

Key = tuple[str, int, str]  # job, start of the minute, queue


class Rollup:
    """Counts and sketches of one stretch."""

    __slots__ = ("outcomes", "run", "wait")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(tables.OUTCOMES, 0)
        self.wait = Sketch()
        self.run = Sketch()

    @property
    def executions(self) -> int:
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        """Executions that did not do their work: failed, retried, timed out or killed."""
        return sum(self.outcomes[name] for name in ("failed", "retried", "timeout", "killed"))

    def count(self, row: TraceRow) -> None:
        self.outcomes[row.outcome] += 1
        self.wait.add(max(0, row.dequeued_at_ns - row.enqueued_at_ns) / 1e6)
        self.run.add(max(0, row.reaped_at_ns - row.dequeued_at_ns) / 1e6)

    def merge(self, other: Rollup) -> None:
        for name, count in other.outcomes.items():
            self.outcomes[name] += count
        self.wait.merge(other.wait)
        self.run.merge(other.run)

    def values(self, key: Key) -> dict[str, Any]:
        job, at_ns, queue = key
        return {
            "job": job,
            "at_ns": at_ns,
            "queue": queue,
            "executions": self.executions,
            **self.outcomes,
            "wait": self.wait.to_bytes(),
            "run": self.run.to_bytes(),
        }

    @classmethod
    def of(cls, record: Row[Any]) -> Rollup:
        self = cls()
        for name in tables.OUTCOMES:
            self.outcomes[name] = getattr(record, name)
        self.wait = Sketch.from_bytes(record.wait)
        self.run = Sketch.from_bytes(record.run)
        return self


def of_rows(rows: Iterable[TraceRow]) -> dict[Key, Rollup]:
    """The rows' rollups, by the minute in which they ended."""
    found: dict[Key, Rollup] = {}
    for row in rows:
        key = (row.job, row.reaped_at_ns // MINUTE_NS * MINUTE_NS, row.queue)
        if key not in found:
            found[key] = Rollup()
        found[key].count(row)
    return found


def merge_in(connection: Connection, added: dict[Key, Rollup]) -> None:
    """Add to the stored rollups. The caller is the only writer."""
    table = tables.rollups
    identity = tuple_(table.c.job, table.c.at_ns, table.c.queue)
    keys = sorted(added)
    stored: set[Key] = set()
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        for record in connection.execute(select(table).where(identity.in_(keys[start : start + _KEYS_AT_ONCE]))):
            key = (record.job, record.at_ns, record.queue)
            stored.add(key)
            added[key].merge(Rollup.of(record))
    new = [added[key].values(key) for key in keys if key not in stored]
    if new:
        connection.execute(table.insert(), new)
    changed = [{f"new_{name}": value for name, value in added[key].values(key).items()} for key in sorted(stored)]
    if changed:
        names = [column.name for column in table.columns if not column.primary_key]
        connection.execute(
            update(table)
            .where(
                and_(
                    table.c.job == bindparam("new_job"),
                    table.c.at_ns == bindparam("new_at_ns"),
                    table.c.queue == bindparam("new_queue"),
                )
            )
            .values({name: bindparam(f"new_{name}") for name in names}),
            changed,
        )


def read(connection: Connection, job: str, since_ns: int, until_ns: int) -> tuple[Rollup, list[Bucket]]:
    """Everything of the job in the window, and the same in steps, oldest first."""
    table = tables.rollups
    records = connection.execute(
        select(table)
        .where(table.c.job == job, table.c.at_ns >= since_ns, table.c.at_ns <= until_ns)
        .order_by(table.c.at_ns)
    ).all()
    whole = Rollup()
    if not records:
        return whole, []
    length_ns = records[-1].at_ns - records[0].at_ns
    step_ns = next((step for step in _STEPS if length_ns // step < _MAX_BUCKETS), _STEPS[-1])
    steps: dict[tuple[int, str], Rollup] = {}
    for record in records:
        key = (record.at_ns // step_ns * step_ns, record.queue)
        if key in steps:
            steps[key].merge(Rollup.of(record))
        else:
            steps[key] = Rollup.of(record)
    buckets: list[Bucket] = []
    for (at_ns, queue), part in steps.items():
        whole.merge(part)
        buckets.append(Bucket(at_ns, queue, part.executions, part.failed, part.wait.quantiles(), part.run.quantiles()))
    return whole, buckets


def coarsen(connection: Connection, before_ns: int) -> None:
    """Merge the minutes of each whole hour that ended before ``before_ns`` into the hour's first. The caller is the
    only writer; what is already an hour, or the only minute of one, keeps its place or moves to it.
    """
    table = tables.rollups
    before_ns = before_ns // HOUR_NS * HOUR_NS
    old = and_(table.c.at_ns < before_ns, table.c.at_ns % HOUR_NS != 0)
    hours: dict[Key, Rollup] = {}
    for record in connection.execute(select(table).where(old)):
        key = (record.job, record.at_ns // HOUR_NS * HOUR_NS, record.queue)
        if key not in hours:
            hours[key] = Rollup()
        hours[key].merge(Rollup.of(record))
    if hours:
        connection.execute(delete(table).where(old))
        merge_in(connection, hours)


def of_one(rows: Iterable[TraceRow]) -> Rollup:
    """The rows in one rollup: for one job id's attempts, which stored rollups do not tell apart."""
    whole = Rollup()
    for row in rows:
        whole.count(row)
    return whole
