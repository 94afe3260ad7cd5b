"""Samples of the queues: in and out of the database, and how many are kept."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, select

from jobdoctor.model import DepthPoint, QueueSample, QueuesSample
from jobdoctor.store import tables, trace

#: Rows (a queue at a moment) kept at most: a day of ten queues. Older ones than the trace's go with it.
MAX_ROWS = 100_000

#: Nanoseconds that one sample stands for: the next one comes 10 s later, or a little after that.
_STANDS_FOR_NS = 15_000_000_000
#: Slots of a course, at most, and the shortest one.
_SLOTS, _SLOT_NS = 60, 10_000_000_000

_json = msgspec.json.Encoder()
_names = msgspec.json.Decoder(list[str])


def newest_ns(connection: Connection) -> int:
    """The moment of the newest sample; 0 without any."""
    return int(connection.execute(select(func.max(tables.queue_samples.c.at_ns))).scalar() or 0)


def rows(samples: list[QueuesSample]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The samples as rows of the two tables."""
    queues = [
        {
            "at_ns": sample.at_ns,
            "queue": trace.key(queue.queue),
            "depth": queue.depth,
            "oldest_at_ns": queue.oldest_at_ns,
            "started": queue.started,
            "scheduled": queue.scheduled,
            "deferred": queue.deferred,
            "workers": queue.workers,
        }
        for sample in samples
        for queue in sample.queues
    ]
    pools = [
        {"at_ns": sample.at_ns, "queues": trace.key(_json.encode(queues).decode()), "workers": number}
        for sample in samples
        for queues, number in sample.pools
    ]
    return queues, pools


def read(connection: Connection, since_ns: int) -> list[QueuesSample]:
    """The samples since then, oldest first."""
    queues, pools = tables.queue_samples, tables.pool_samples
    by_moment: dict[int, QueuesSample] = {}
    for record in connection.execute(
        select(queues).where(queues.c.at_ns >= since_ns).order_by(queues.c.at_ns, queues.c.queue)
    ):
        sample = by_moment.setdefault(record.at_ns, QueuesSample(record.at_ns, [], []))
        sample.queues.append(
            QueueSample(
                record.queue, record.depth, record.oldest_at_ns, record.started, record.scheduled, record.deferred,
                record.workers,
            )
        )  # fmt: skip
    for record in connection.execute(select(pools).where(pools.c.at_ns >= since_ns).order_by(pools.c.at_ns)):
        if record.at_ns in by_moment:
            try:
                by_moment[record.at_ns].pools.append((_names.decode(record.queues), record.workers))
            except msgspec.DecodeError:
                continue  # a list longer than a key
    return list(by_moment.values())


def course(
    connection: Connection, since_ns: int, until_ns: int, queues: Sequence[str] | None = None
) -> dict[str, list[DepthPoint]]:
    """Each queue (of these) over time, in at most 60 slots of 10 s or more from the first sample on; slots without one
    are left out."""
    table = tables.queue_samples
    first_ns = connection.execute(select(func.min(table.c.at_ns)).where(table.c.at_ns >= since_ns)).scalar()
    since_ns = max(since_ns, int(first_ns or 0))
    where = [table.c.at_ns >= since_ns, table.c.at_ns <= until_ns]
    if queues is not None:
        where.append(table.c.queue.in_([trace.key(name) for name in queues]))
    slot_ns = max(_SLOT_NS, -(-(until_ns - since_ns + 1) // _SLOTS))
    number = ((table.c.at_ns - since_ns) // slot_ns).label("number")
    query = (
        select(
            table.c.queue,
            number,
            func.max(table.c.depth),
            func.max(table.c.at_ns - table.c.oldest_at_ns),
            func.min(table.c.workers),
        )
        .where(*where)
        .group_by(table.c.queue, number)
        .order_by(table.c.queue, number)
    )
    found: dict[str, list[DepthPoint]] = {}
    for name, slot, depth, oldest_ns, workers in connection.execute(query):
        oldest_s = None if oldest_ns is None else max(0, oldest_ns) / 1e9
        found.setdefault(name, []).append(DepthPoint(since_ns + int(slot) * slot_ns, depth, oldest_s, workers))
    return found


def suspended(connection: Connection, since_ns: int, until_ns: int) -> list[tuple[int, int]]:
    """From when to when all workers were suspended, as far as samples tell: each stands for the time to the next."""
    at = tables.suspensions.c.at_ns
    instants = list(connection.execute(select(at).where(at >= since_ns, at <= until_ns).order_by(at)).scalars())
    breaks = [place for place, (one, next_) in enumerate(pairwise(instants), 1) if next_ - one > _STANDS_FOR_NS]
    stretches = zip([0, *breaks], [*breaks, len(instants)], strict=True) if instants else ()
    return [(instants[start], instants[end - 1] + _STANDS_FOR_NS) for start, end in stretches]


def prune(connection: Connection, before_ns: int) -> None:
    """Throws away what is older, or too much. The caller is the only writer."""
    table = tables.queue_samples
    oldest = connection.execute(
        select(table.c.at_ns).order_by(table.c.at_ns.desc()).offset(MAX_ROWS - 1).limit(1)
    ).scalar()
    before_ns = max(before_ns, int(oldest or 0))
    connection.execute(delete(table).where(table.c.at_ns < before_ns))
    connection.execute(delete(tables.pool_samples).where(tables.pool_samples.c.at_ns < before_ns))
    connection.execute(delete(tables.suspensions).where(tables.suspensions.c.at_ns < before_ns))
