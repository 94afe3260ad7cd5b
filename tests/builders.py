"""Builders of model objects for tests: a healthy default, with only what the test is about spelt out."""

from __future__ import annotations

import itertools
from typing import Any

from msgspec.structs import replace

from jobdoctor.model import (
    Execution,
    JobHistory,
    LedgerPart,
    Payload,
    Phase,
    ProbeStatus,
    Quantiles,
    SpanGroup,
    TraceRow,
    Trigger,
)

MS = 1_000_000
SECOND = 1_000 * MS
#: 2026-01-01T00:00:00Z
EPOCH_NS = 1_767_225_600 * SECOND

_numbers = itertools.count(1)

ACTIVE_PROBES = [
    ProbeStatus(channel, library, "active")
    for channel, library in [
        ("sql", "sqlalchemy"),
        ("sql", "psycopg"),
        ("sql", "sqlite3"),
        ("redis", "redis"),
        ("http", "http.client"),
        ("http", "httpx"),
        ("lock", "threading"),
        ("lock", "fcntl"),
        ("lock", "redis"),
        ("pool", "sqlalchemy"),
        ("sleep", "time"),
        ("file", "io"),
        ("subprocess", "subprocess"),
        ("enqueue", "rq"),
    ]
]


def make_group(channel: str = "sql", **fields: Any) -> SpanGroup:
    """A group of calls. ``ms`` gives the total; count 1 by default."""
    total_ns = int(fields.pop("ms", 1.0) * MS)
    count = fields.get("count", 1)
    defaults: dict[str, Any] = {
        "channel": channel,
        "operation": {"sql": "SELECT", "http": "GET", "redis": "GET"}.get(channel, "call"),
        "fingerprint": {
            "sql": "SELECT * FROM orders WHERE id = ?",
            "http": "GET http://api.test/orders/{}",
            "redis": "GET order:{}",
        }.get(channel, channel),
        "target": {"sql": "postgresql://db/app", "http": "http://api.test", "redis": "redis://localhost:6379/0"}.get(
            channel, ""
        ),
        "library": {"sql": "psycopg", "http": "http.client", "redis": "redis"}.get(channel, ""),
        "effect": "read",
        "callsite": "app/tasks.py:41",
        "function": "sync_orders",
        "stack": ["app/tasks.py:41 sync_orders"],
        "count": count,
        "total_ns": total_ns,
        "min_ns": total_ns // max(1, count),
        "max_ns": total_ns // max(1, count),
        "last_end_ns": total_ns,
        "distinct": count,
    }
    return SpanGroup(**{**defaults, **fields})


def make_execution(
    *,
    wait_ms: float = 5.0,
    run_ms: float = 100.0,
    at_ms: float = 0.0,
    ledger: dict[str, float] | None = None,
    **fields: Any,
) -> Execution:
    """An execution enqueued ``at_ms`` after EPOCH_NS. ``ledger``: ms by part name, the remainder is ``unexplained``."""
    number = next(_numbers)
    enqueued = EPOCH_NS + int(at_ms * MS)
    dequeued = enqueued + int(wait_ms * MS)
    reaped = dequeued + int(run_ms * MS)
    parts = {"queue_wait": wait_ms, **(ledger if ledger is not None else {"cpu": run_ms})}
    rest = wait_ms + run_ms - sum(parts.values())
    if rest > 0:
        parts["unexplained"] = parts.get("unexplained", 0.0) + rest
    defaults: dict[str, Any] = {
        "id": f"execution-{number}",
        "job_id": f"job-{number}",
        "job": "app.tasks.sync_orders",
        "queue": "default",
        "worker": "worker-1",
        "worker_kind": "fork",
        "outcome": "finished",
        "created_at_ns": enqueued,
        "enqueued_at_ns": enqueued,
        "dequeued_at_ns": dequeued,
        "reaped_at_ns": reaped,
        "route": "straight",
        "worker_queues": ["default"],
        "timeout_s": 180.0,
        "payload": Payload(raw_bytes=120, wire_bytes=110, args_hash=f"{number:016x}"),
        "trigger": Trigger(kind="code", callsite="app/views.py:88", function="checkout"),
        "phases": [Phase("body", int(1 * MS), int((run_ms - 1) * MS) if run_ms > 2 else int(run_ms * MS))],
        "ledger": [LedgerPart(name, "", int(ms * MS)) for name, ms in parts.items()],
        "probes": ACTIVE_PROBES,
    }
    return Execution(**{**defaults, **fields})


def make_row(execution: Execution, **fields: Any) -> TraceRow:
    """The trace row of an execution."""
    row = TraceRow(
        execution_id=execution.id,
        job_id=execution.job_id,
        job=execution.job,
        queue=execution.queue,
        worker=execution.worker,
        outcome=execution.outcome,
        created_at_ns=execution.created_at_ns,
        enqueued_at_ns=execution.enqueued_at_ns,
        dequeued_at_ns=execution.dequeued_at_ns,
        reaped_at_ns=execution.reaped_at_ns,
        attempt=execution.attempt,
        args_hash=execution.payload.args_hash if execution.payload else "",
        result_digest=execution.result.digest if execution.result else "",
        error_digest=execution.exception.digest if execution.exception else "",
        error_type=execution.exception.type_name if execution.exception else "",
        trigger_kind=execution.trigger.kind if execution.trigger else "",
        trigger_callsite=execution.trigger.callsite if execution.trigger else "",
        parent_job=execution.trigger.parent_job if execution.trigger else "",
        parent_execution_id=execution.trigger.parent_execution_id if execution.trigger else "",
        worker_queues=execution.worker_queues,
        queue_depth=execution.queue_depth,
        route=execution.route,
        depends_on=execution.depends_on,
    )
    return replace(row, **fields) if fields else row


def quantiles(values: list[float]) -> Quantiles:
    """Exact quantiles of a few values (nearest rank)."""
    if not values:
        return Quantiles()
    ordered = sorted(values)

    def rank(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return Quantiles(rank(0.5), rank(0.95), rank(0.99), sum(ordered) / len(ordered), ordered[-1], len(ordered))


def make_history(
    executions: list[Execution] | None = None, *, others: list[Execution] | None = None, **fields: Any
) -> JobHistory:
    """The history of the first execution's job; ``others`` are executions of other jobs, for ``neighbours``."""
    if executions is None:
        executions = [make_execution(at_ms=1_000 * index) for index in range(10)]
    outcomes: dict[str, int] = {}
    for execution in executions:
        outcomes[execution.outcome] = outcomes.get(execution.outcome, 0) + 1
    everything = sorted([*executions, *(others or [])], key=lambda execution: execution.enqueued_at_ns)
    defaults: dict[str, Any] = {
        "job": executions[0].job,
        "from_ns": min(execution.enqueued_at_ns for execution in everything),
        "to_ns": max(execution.reaped_at_ns for execution in everything),
        "executions_total": len(executions),
        "outcomes": outcomes,
        "wait_ms": quantiles([execution.wait_ns / MS for execution in executions]),
        "run_ms": quantiles([execution.run_ns / MS for execution in executions]),
        "executions": sorted(executions, key=lambda execution: -execution.reaped_at_ns),
        "trace": [make_row(execution) for execution in everything if execution.job == executions[0].job],
        "neighbours": [make_row(execution) for execution in everything],
    }
    return JobHistory(**{**defaults, **fields})
