"""Where the time went: the ledger as its table and as its bars.

Durations are in ms for each execution; shares are between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from jobdoctor.model import AROUND_PARTS, LEDGER_PARTS, LedgerPart

#: When the run is a smaller share of the wall time than this, it gets a bar of its own.
ZOOM_BELOW_SHARE = 0.4


#: What a reader reads for the ledger's part names.
PART_TITLES = {
    "queue_wait": "queue wait",
    "dispatch": "dispatch",
    "fork": "fork",
    "deserialize": "unpickling",
    "import": "imports",
    "cpu": "CPU",
    "cpu_wait": "waiting for CPU",
    "sql": "SQL",
    "redis": "Redis",
    "http": "HTTP",
    "file": "files",
    "lock": "locks",
    "pool": "connection pool",
    "sleep": "sleep",
    "subprocess": "subprocess",
    "gc": "garbage collection",
    "other_wait": "other waits",
    "callback": "callbacks",
    "result": "result",
    "persist": "saving to Redis",
    "reap": "reap",
    "unexplained": "unexplained",
}


class LedgerEntry(Struct, frozen=True):
    """``name`` is one of the model's LEDGER_PARTS; ``share`` is of the wall time."""

    name: str
    title: str
    detail: str
    ms: float
    share: float
    around: bool


class Ledger(Struct, frozen=True):
    """``entries`` has one line for each part and detail, in the model's order; ``bar`` one for each part.

    ``run_bar`` has the parts without the queue wait, as shares of the run, where the wait is so long that the bar
    shows nothing else; it is empty otherwise.
    """

    wall_ms: float
    entries: list[LedgerEntry]
    bar: list[LedgerEntry]
    run_ms: float
    run_bar: list[LedgerEntry]
    inside_ms: float
    around_ms: float
    unexplained_share: float


def ledger_view(parts: Sequence[LedgerPart]) -> Ledger:
    """The ledger for a table and for bars, in the order of the model."""
    wall_ns = sum(part.ns for part in parts)
    order = {name: position for position, name in enumerate(LEDGER_PARTS)}

    def entry(name: str, detail: str, ns: int) -> LedgerEntry:
        return LedgerEntry(
            name, PART_TITLES.get(name, name), detail, ns / 1e6, ns / wall_ns if wall_ns else 0.0, name in AROUND_PARTS
        )

    entries = [entry(part.name, part.detail, part.ns) for part in parts if part.ns > 0]
    entries.sort(key=lambda one: (order.get(one.name, len(order)), -one.ms))
    sums: dict[str, int] = {}
    for part in sorted(parts, key=lambda part: order.get(part.name, len(order))):
        sums[part.name] = sums.get(part.name, 0) + part.ns
    bar = [entry(name, "", ns) for name, ns in sums.items() if ns > 0]
    around_ns = sum(ns for name, ns in sums.items() if name in AROUND_PARTS)
    unexplained_ns = sums.get("unexplained", 0)
    run_ns = wall_ns - sums.get("queue_wait", 0)
    of_run = [replace(one, share=one.ms * 1e6 / max(1, run_ns)) for one in bar if one.name != "queue_wait"]
    return Ledger(
        wall_ms=wall_ns / 1e6,
        entries=entries,
        bar=bar,
        run_ms=run_ns / 1e6,
        run_bar=of_run if run_ns < wall_ns * ZOOM_BELOW_SHARE else [],
        inside_ms=(wall_ns - around_ns - unexplained_ns) / 1e6,
        around_ms=around_ns / 1e6,
        unexplained_share=unexplained_ns / wall_ns if wall_ns else 0.0,
    )
