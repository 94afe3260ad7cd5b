"""Samples of the queues: in and out of the database, and how many are kept."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, select

from jobdoctor.model import QueueSample, QueuesSample
from jobdoctor.store import tables, trace

#: Rows (a queue at a moment) kept at most: a day of ten queues. Older ones than the trace's go with it.
MAX_ROWS = 100_000

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


def prune(connection: Connection, before_ns: int) -> None:
    """Throws away what is older, or too much. The caller is the only writer."""
    table = tables.queue_samples
    oldest = connection.execute(
        select(table.c.at_ns).order_by(table.c.at_ns.desc()).offset(MAX_ROWS - 1).limit(1)
    ).scalar()
    before_ns = max(before_ns, int(oldest or 0))
    connection.execute(delete(table).where(table.c.at_ns < before_ns))
    connection.execute(delete(tables.pool_samples).where(tables.pool_samples.c.at_ns < before_ns))
