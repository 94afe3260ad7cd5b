"""The store: what collectors write and readers ask."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Table, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from jobdoctor import wire
from jobdoctor.config import Retention
from jobdoctor.errors import StoreError, UnknownJobError
from jobdoctor.model import (
    BlockedWait,
    DepthPoint,
    Execution,
    JobHistory,
    Mark,
    Prediction,
    QueuesSample,
    TraceRow,
)
from jobdoctor.near import meant
from jobdoctor.store import exemplars, lock_waits, predictions, queue_samples, rollups, sessions, tables, trace, traffic
from jobdoctor.store.database import Database

#: Ids remembered against a second delivery. An entry can come again only while it is on the stream, which holds a
#: fiftieth of that by default.
SEEN_IDS = 500_000

#: Jobs that an error message names.
_NAMED_JOBS = 8

_DAY_NS = 86_400 * 1_000_000_000
_FOREVER_NS = 2**62
_IDS_AT_ONCE = 500


class Loss(NamedTuple):
    """Recordings that did not arrive. ``id`` makes the second delivery of the same news harmless."""

    id: str
    source: str  # "worker" (could not write), "unreadable" (entry of another version, or garbage)
    lost: int


class Added(NamedTuple):
    """What came of adding a batch."""

    new: int
    repeated: int  # had been added before


class Store:
    """Executions, condensed: rollups for all of them, trace rows for a while, full detail for a few.

    Opening touches nothing: the database is made when something is first added. Safe for several processes at once.
    Errors are StoreError, in one line; UnavailableStoreError when trying again later may help.
    """

    def __init__(self, database: Database, retention: Retention) -> None:
        self._database = database
        self.retention = retention

    @classmethod
    def open(cls, url: str, retention: Retention | None = None) -> Store:
        """The store at an SQLAlchemy URL. StoreError for a URL that means nothing or a driver that is missing."""
        return cls(Database(url), retention or Retention())

    @property
    def where(self) -> str:
        """The store as messages name it: a file, or a URL without its password."""
        return self._database.where

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def reconnect(self) -> None:
        """Forget every connection, after the database went away."""
        self._database.forget()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------------- writing

    def add(self, executions: Sequence[Execution], lost: int = 0, *, losses: Sequence[Loss] = ()) -> Added:
        """Add executions in one transaction; those whose id was added before change nothing.

        ``lost`` counts recordings that never arrived; ``losses`` does the same once for each id.
        """
        by_id = {trace.key(execution.id): execution for execution in executions}
        now_ns = time.time_ns()
        with self._database.writing() as connection:
            new_ids = self._unseen(connection, sorted(by_id), now_ns)
            new = {execution_id: by_id[execution_id] for execution_id in by_id if execution_id in new_ids}
            if new:
                self._add_new(connection, new, now_ns)
            counts: dict[str, int] = {"told": lost} if lost else {}
            news = {f"lost:{loss.id}": loss for loss in losses if loss.lost > 0}
            for loss_id in self._unseen(connection, sorted(news), now_ns):
                counts[news[loss_id].source] = counts.get(news[loss_id].source, 0) + news[loss_id].lost
            for source, count in counts.items():
                self._add_loss(connection, source, count, now_ns)
        return Added(len(new), len(executions) - len(new))

    def set_lost(self, source: str, total: int) -> int:
        """Raise the losses of a source to a total that only grows (entries trimmed from a stream); what was added."""
        with self._database.writing() as connection:
            known = connection.execute(
                select(func.sum(tables.losses.c.lost)).where(tables.losses.c.source == trace.key(source))
            ).scalar()
            more = total - int(known or 0)
            if more > 0:
                self._add_loss(connection, source, more, time.time_ns())
            return max(0, more)

    def add_mark(self, kind: Literal["deploy", "incident"], label: str, at_ns: int | None = None) -> Mark:
        """Mark a deploy or an incident; the same mark again changes nothing."""
        mark = Mark(kind, trace.key(label), time.time_ns() if at_ns is None else at_ns)
        with self._database.writing() as connection:
            self._insert_missing(
                connection, tables.marks, [{"kind": mark.kind, "label": mark.label, "at_ns": mark.at_ns}]
            )
        return mark

    def remember(self, made: Sequence[Prediction]) -> None:
        """Keep what findings promised, for the report after the next deploy."""
        if made:
            with self._database.writing() as connection:
                predictions.remember(connection, made)

    def add_samples(self, samples: Sequence[QueuesSample]) -> None:
        """Add samples of the queues; those of a moment that is known change nothing."""
        if samples:
            queues, pools = queue_samples.rows(list(samples))
            with self._database.writing() as connection:
                self._insert_missing(connection, tables.queue_samples, queues)
                self._insert_missing(connection, tables.pool_samples, pools)
                self._insert_missing(
                    connection, tables.suspensions, [{"at_ns": sample.at_ns} for sample in samples if sample.suspended]
                )

    def prune(self, retention: Retention | None = None, *, now_ns: int | None = None) -> None:
        """Throw away what is older or more than the retention allows, and make hours of old minutes."""
        kept = retention or self.retention
        now_ns = time.time_ns() if now_ns is None else now_ns
        since_ns = now_ns - kept.trace_days * _DAY_NS
        rows, seen, held = tables.trace, tables.seen, tables.sessions
        with self._database.writing() as connection:
            oldest_row = _nth_newest(connection, rows, "reaped_at_ns", kept.trace_rows)
            since_row_ns = max(since_ns, oldest_row)
            connection.execute(delete(rows).where(rows.c.reaped_at_ns < since_row_ns))
            connection.execute(delete(held).where(held.c.to_ns < since_row_ns))
            lock_waits.prune(connection, since_row_ns)
            oldest_seen = _nth_newest(connection, seen, "added_at_ns", SEEN_IDS)
            connection.execute(delete(seen).where(seen.c.added_at_ns < max(since_ns, oldest_seen)))
            queue_samples.prune(connection, since_ns)
            rollups.coarsen(connection, now_ns - rollups.MINUTES_FOR_NS)
            forgotten_ns = now_ns - kept.rollup_days * _DAY_NS
            connection.execute(delete(tables.rollups).where(tables.rollups.c.at_ns < forgotten_ns))
            connection.execute(delete(tables.jobs).where(tables.jobs.c.last_at_ns < forgotten_ns))
            connection.execute(delete(tables.exemplars).where(tables.exemplars.c.job.not_in(select(tables.jobs.c.job))))
            connection.execute(delete(tables.losses).where(tables.losses.c.at_ns < forgotten_ns))
            connection.execute(delete(tables.marks).where(tables.marks.c.at_ns < forgotten_ns))
            connection.execute(delete(tables.predictions).where(tables.predictions.c.at_ns < forgotten_ns))
            old = select(tables.exemplars.c.job).where(tables.exemplars.c.reaped_at_ns < since_ns).distinct()
            for job in connection.execute(old).scalars().all():
                candidates = self._candidates(connection, [job])[job]
                keep = exemplars.chosen(candidates, kept, remembered_since_ns=since_ns)
                _drop_exemplars(connection, [one.execution_id for one in candidates if one.execution_id not in keep])

    def _add_new(self, connection: Connection, new: dict[str, Execution], now_ns: int) -> None:
        rows = {execution_id: trace.row_of(execution) for execution_id, execution in new.items()}
        rollups.merge_in(connection, rollups.of_rows(rows.values()))
        self._insert_missing(connection, tables.trace, [trace.values(row) for row in rows.values()])
        self._insert_missing(connection, tables.sessions, sessions.values(new, rows))
        self._insert_missing(connection, tables.lock_waits, lock_waits.values(new, rows))
        self._count_jobs(connection, rows.values())
        self._choose_exemplars(connection, new, rows, now_ns)

    def _unseen(self, connection: Connection, ids: list[str], now_ns: int) -> set[str]:
        """Those of the ids that are new; they are not from now on."""
        table = tables.seen
        known: set[str] = set()
        for start in range(0, len(ids), _IDS_AT_ONCE):
            chunk = ids[start : start + _IDS_AT_ONCE]
            known.update(connection.execute(select(table.c.id).where(table.c.id.in_(chunk))).scalars())
        unseen = [one for one in ids if one not in known]
        if unseen:
            connection.execute(table.insert(), [{"id": one, "added_at_ns": now_ns} for one in unseen])
        return set(unseen)

    def _count_jobs(self, connection: Connection, rows: Iterable[TraceRow]) -> None:
        table = tables.jobs
        by_job: dict[str, list[TraceRow]] = {}
        for row in rows:
            by_job.setdefault(row.job, []).append(row)
        for job, own in by_job.items():
            first = min(row.enqueued_at_ns for row in own)
            last = max(row.reaped_at_ns for row in own)
            known = connection.execute(select(table).where(table.c.job == job)).first()
            if known is None:
                connection.execute(
                    table.insert(), {"job": job, "executions": len(own), "first_at_ns": first, "last_at_ns": last}
                )
                continue
            connection.execute(
                update(table)
                .where(table.c.job == job)
                .values(
                    executions=known.executions + len(own),
                    first_at_ns=min(known.first_at_ns, first),
                    last_at_ns=max(known.last_at_ns, last),
                )
            )

    def _candidates(self, connection: Connection, jobs: Iterable[str]) -> dict[str, list[exemplars.Candidate]]:
        table = tables.exemplars
        found: dict[str, list[exemplars.Candidate]] = {}
        for job in jobs:
            records = connection.execute(
                select(
                    table.c.execution_id, table.c.reaped_at_ns, table.c.run_ns, table.c.outcome, table.c.profiled
                ).where(table.c.job == job)
            )
            found[job] = [exemplars.Candidate(*record) for record in records]
        return found

    def _choose_exemplars(
        self, connection: Connection, new: dict[str, Execution], rows: dict[str, TraceRow], now_ns: int
    ) -> None:
        since_ns = now_ns - self.retention.trace_days * _DAY_NS
        stored = self._candidates(connection, sorted({row.job for row in rows.values()}))
        added: list[dict[str, Any]] = []
        for job, before in stored.items():
            candidates = before + [
                exemplars.Candidate(
                    execution_id,
                    row.reaped_at_ns,
                    new[execution_id].run_ns,
                    row.outcome,
                    new[execution_id].profile is not None,
                )
                for execution_id, row in rows.items()
                if row.job == job
            ]
            keep = exemplars.chosen(candidates, self.retention, remembered_since_ns=since_ns)
            _drop_exemplars(connection, [one.execution_id for one in before if one.execution_id not in keep])
            added += [
                {
                    **one._asdict(),
                    "job": job,
                    "job_id": rows[one.execution_id].job_id,
                    "packed": wire.pack(new[one.execution_id]),
                }
                for one in candidates[len(before) :]
                if one.execution_id in keep
            ]
        self._insert_missing(connection, tables.exemplars, added)

    def _add_loss(self, connection: Connection, source: str, count: int, now_ns: int) -> None:
        table = tables.losses
        source, at_ns = trace.key(source), now_ns // rollups.MINUTE_NS * rollups.MINUTE_NS
        self._insert_missing(connection, table, [{"source": source, "at_ns": at_ns, "lost": 0}])
        connection.execute(
            update(table).where(table.c.source == source, table.c.at_ns == at_ns).values(lost=table.c.lost + count)
        )

    def _insert_missing(self, connection: Connection, table: Table, values: list[dict[str, Any]]) -> None:
        if values:
            dialect = postgresql if self._database.postgres else sqlite
            connection.execute(dialect.insert(table).on_conflict_do_nothing(), values)

    # ------------------------------------------------------------------------------------------------------- reading

    def is_empty(self) -> bool:
        """Whether nothing was ever added. StoreError only when the database cannot be read at all."""
        if not self._database.exists():
            return True
        with self._database.reading() as connection:
            return connection.execute(select(tables.jobs.c.job).limit(1)).first() is None

    def jobs(self, since: int | None = None) -> list[str]:
        """Dotted names of the jobs seen (``since``: that ran since this instant), sorted."""
        with self._database.reading() as connection:
            query = select(tables.jobs.c.job).where(tables.jobs.c.last_at_ns >= (since or 0))
            return sorted(connection.execute(query).scalars())

    def find(self, job_or_id: str) -> tuple[str, str | None]:
        """What is meant: (job, None) for a dotted name or the end of one, (job, job id) for a job or execution id.

        UnknownJobError, with the jobs seen, for anything else.
        """
        wanted = trace.key(job_or_id)
        with self._database.reading() as connection:
            names = list(connection.execute(select(tables.jobs.c.job)).scalars())
            if wanted in names:
                return wanted, None
            for table in (tables.trace, tables.exemplars):
                for column in (table.c.job_id, table.c.execution_id):
                    record = connection.execute(select(table.c.job, table.c.job_id).where(column == wanted)).first()
                    if record:
                        return record.job, record.job_id
        ends = [name for name in names if name.endswith(f".{wanted}")]
        if len(ends) == 1:
            return ends[0], None
        if ends:
            raise UnknownJobError(
                f"{job_or_id} is the end of {len(ends)} jobs in {self.where}", f"give one of {_listed(sorted(ends))}"
            )
        raise self._unknown(job_or_id, names)

    def execution(self, execution_id: str) -> Execution:
        """One execution in full; UnknownJobError when it is not among those kept."""
        table = tables.exemplars
        with self._database.reading() as connection:
            packed = connection.execute(
                select(table.c.packed).where(table.c.execution_id == trace.key(execution_id))
            ).scalar()
            if packed is None:
                raise UnknownJobError(
                    f"execution {execution_id} is not kept in full in {self.where}",
                    "the newest, slowest, failed, killed and profiled of each job are",
                )
            found = self._unpacked([packed])
            return sessions.resolved(connection, found)[0]

    def history(
        self, job: str, since: int | None = None, until: int | None = None, *, job_id: str | None = None
    ) -> JobHistory:
        """All that is known of a job, for a diagnosis. ``since`` and ``until``: ns since the epoch, of when executions
        ended, the first rounded down to its minute. ``job_id``: only the attempts of this one.

        UnknownJobError when there is nothing of it in the window.
        """
        since_ns = (since or 0) // rollups.MINUTE_NS * rollups.MINUTE_NS
        until_ns = _FOREVER_NS if until is None else until
        with self._database.reading() as connection:
            known = connection.execute(select(tables.jobs).where(tables.jobs.c.job == job)).first()
            if known is None:
                raise self._unknown(job, list(connection.execute(select(tables.jobs.c.job)).scalars()))
            rows = trace.of_job(connection, job, since_ns, until_ns)
            executions = self._executions(connection, job, job_id, since_ns, until_ns)
            if job_id is None:
                whole, buckets = rollups.read(connection, job, since_ns, until_ns)
            else:
                rows = [row for row in rows if row.job_id == job_id]
                rows = rows or trace.oldest_first([trace.row_of(execution) for execution in executions])
                whole, buckets = rollups.of_one(rows), []
            if not whole.executions:
                what = f"job id {job_id}" if job_id else repr(job)
                raise UnknownJobError(
                    f"nothing of {what} in this window of {self.where}", "give an earlier --since, or leave it out"
                )
            details: list[TraceRow | Execution] = [*rows, *executions]
            from_ns = min([one.enqueued_at_ns for one in details], default=_FOREVER_NS)
            if buckets and buckets[0].at_ns < from_ns:  # rows of the beginning are gone, or it is within that minute
                from_ns = max(buckets[0].at_ns, known.first_at_ns)
            to_ns = max([one.reaped_at_ns for one in details], default=0)
            if buckets:
                to_ns = max(to_ns, buckets[-1].at_ns)
            ran_on = sorted({row.queue for row in rows}) if job_id is None else []
            return JobHistory(
                job=job,
                from_ns=max(from_ns, since_ns),
                to_ns=min(to_ns, until_ns),
                executions_total=whole.executions,
                outcomes={name: count for name, count in whole.outcomes.items() if count},
                wait_ms=whole.wait.quantiles(),
                run_ms=whole.run.quantiles(),
                executions=executions,
                trace=rows,
                neighbours=trace.neighbours(connection, job, since_ns, until_ns),
                buckets=buckets,
                marks=self._marks(connection, from_ns, until_ns),
                slo_ms=next((one.slo_ms for one in executions if one.slo_ms is not None), None),
                lost=self._lost(connection, since_ns, until_ns),
                predictions=predictions.of_job(connection, job) if job_id is None else [],
                depths=self._depths(connection, max(from_ns, since_ns), until_ns, ran_on) if ran_on else {},
                blocked=self._blocked(connection, job, since_ns, until_ns) if job_id is None else [],
                suspended=self._suspended(connection, max(from_ns, since_ns), until_ns),
            )

    def traffic(self, since: int | None = None) -> tuple[list[TraceRow], dict[str, float]]:
        """The newest rows of all jobs that ended since this instant, oldest first, and the promises of jobs in ms."""
        with self._database.reading() as connection:
            return traffic.rows(connection, since or 0), traffic.slos_ms(connection)

    def samples(self, since: int | None = None) -> list[QueuesSample]:
        """Samples of the queues since this instant, oldest first."""
        with self._database.reading() as connection:
            if not self._database.has(connection, tables.queue_samples):
                return []
            return queue_samples.read(connection, since or 0)

    def depths(self, since: int, until: int) -> dict[str, list[DepthPoint]]:
        """Each queue over time, from its samples."""
        with self._database.reading() as connection:
            return self._depths(connection, since, until, None)

    def newest_sample_ns(self) -> int:
        """The moment of the newest sample; 0 without any."""
        if not self._database.exists():
            return 0
        with self._database.reading() as connection:
            if not self._database.has(connection, tables.queue_samples):
                return 0
            return queue_samples.newest_ns(connection)

    def _depths(
        self, connection: Connection, since_ns: int, until_ns: int, queues: Sequence[str] | None
    ) -> dict[str, list[DepthPoint]]:
        if not self._database.has(connection, tables.queue_samples):
            return {}
        until_ns = min(until_ns, queue_samples.newest_ns(connection))
        return queue_samples.course(connection, since_ns, until_ns, queues) if until_ns >= since_ns else {}

    def _blocked(self, connection: Connection, job: str, since_ns: int, until_ns: int) -> list[BlockedWait]:
        if not self._database.has(connection, tables.lock_waits):
            return []
        return lock_waits.of_blocker(connection, job, since_ns, until_ns)

    def _suspended(self, connection: Connection, since_ns: int, until_ns: int) -> list[tuple[int, int]]:
        if not self._database.has(connection, tables.suspensions):
            return []
        return queue_samples.suspended(connection, since_ns, until_ns)

    def _executions(
        self, connection: Connection, job: str, job_id: str | None, since_ns: int, until_ns: int
    ) -> list[Execution]:
        table = tables.exemplars
        query = (
            select(table.c.packed)
            .where(table.c.job == job, table.c.reaped_at_ns >= since_ns, table.c.reaped_at_ns <= until_ns)
            .order_by(table.c.reaped_at_ns.desc(), table.c.execution_id)
        )
        if job_id is not None:
            query = query.where(table.c.job_id == job_id)
        return sessions.resolved(connection, self._unpacked(connection.execute(query).scalars().all()))

    def _unpacked(self, packed: Iterable[bytes]) -> list[Execution]:
        try:
            return [wire.unpack(one) for one in packed]
        except wire.UnreadableEntryError as error:
            raise StoreError(f"an execution in {self.where} is damaged: {error}", "choose another --store") from error

    def _marks(self, connection: Connection, from_ns: int, until_ns: int) -> list[Mark]:
        """Marks of the window, and the last one before it: what was running when it began."""
        table = tables.marks
        columns = select(table.c.kind, table.c.label, table.c.at_ns)
        before = connection.execute(
            columns.where(table.c.at_ns < from_ns).order_by(table.c.at_ns.desc()).limit(1)
        ).all()
        within = connection.execute(
            columns.where(table.c.at_ns >= from_ns, table.c.at_ns <= until_ns).order_by(table.c.at_ns)
        ).all()
        return [Mark(record.kind, record.label, record.at_ns) for record in [*before, *within]]

    def _lost(self, connection: Connection, since_ns: int, until_ns: int) -> int:
        table = tables.losses
        query = select(func.sum(table.c.lost)).where(table.c.at_ns >= since_ns, table.c.at_ns <= until_ns)
        return int(connection.execute(query).scalar() or 0)

    def _unknown(self, job: str, names: list[str]) -> UnknownJobError:
        what = f"no recordings of {job!r} in {self.where}"
        if not names:
            return UnknownJobError(f"{what}, which is empty", "run `jobdoctor run` first")
        seen = f"jobs seen: {_listed(sorted(names))}"
        close = meant(job, names)
        if close:
            return UnknownJobError(what, f"{close} {seen}")
        return UnknownJobError(f"{what}; {seen}", "give one of them, or run `jobdoctor run` first")


def _listed(names: list[str]) -> str:
    rest = len(names) - _NAMED_JOBS
    return ", ".join(names[:_NAMED_JOBS]) + (f" and {rest} more" if rest > 0 else "")


def _drop_exemplars(connection: Connection, ids: list[str]) -> None:
    table = tables.exemplars
    for start in range(0, len(ids), _IDS_AT_ONCE):
        connection.execute(delete(table).where(table.c.execution_id.in_(ids[start : start + _IDS_AT_ONCE])))


def _nth_newest(connection: Connection, table: Table, column: str, number: int) -> int:
    """The instant of the number-th newest row: older ones are too many. 0 when there are not so many."""
    at = connection.execute(
        select(table.c[column]).order_by(table.c[column].desc()).offset(number - 1).limit(1)
    ).scalar()
    return int(at or 0)
