"""Histories made of traffic: rows of a first-come-first-served queue, and the executions that belong to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.model import (
    Diagnosis,
    ExceptionInfo,
    Execution,
    JobHistory,
    Payload,
    RetryPolicy,
    TraceRow,
    Trigger,
)
from tests.builders import MS, make_execution, make_history, quantiles
from tests.queueing.traces import row, served

MAIL = "app.tasks.send_mail"
REPORT = "app.tasks.build_report"

__all__ = ["MAIL", "REPORT", "attempts", "diagnosed", "history_of", "policy", "row", "served"]


def history_of(job: str, rows: Sequence[TraceRow], **fields: Any) -> JobHistory:
    """The history of ``job`` in this traffic; an execution with details for each of its newest 50 rows."""
    own = [each for each in rows if each.job == job]
    details = fields.pop("execution", {})
    executions = [_execution(each, details) for each in own[-50:]]
    defaults: dict[str, Any] = {
        "from_ns": min(each.enqueued_at_ns for each in rows),
        "to_ns": max(each.reaped_at_ns for each in rows),
        "executions_total": len(own),
        "outcomes": dict(Counter(each.outcome for each in own)),
        "wait_ms": quantiles([(each.dequeued_at_ns - each.enqueued_at_ns) / MS for each in own]),
        "run_ms": quantiles([(each.reaped_at_ns - each.dequeued_at_ns) / MS for each in own]),
        "trace": sorted(own, key=lambda each: each.enqueued_at_ns),
        "neighbours": sorted(rows, key=lambda each: each.enqueued_at_ns),
    }
    return make_history(executions, **{**defaults, **fields})


def _execution(each: TraceRow, fields: dict[str, Any]) -> Execution:
    execution = make_execution(
        wait_ms=max(0, each.dequeued_at_ns - each.enqueued_at_ns) / MS,
        run_ms=max(0, each.reaped_at_ns - each.dequeued_at_ns) / MS,
        ledger={"other_wait": max(0, each.reaped_at_ns - each.dequeued_at_ns) / MS},
    )
    error = None
    if each.error_type:
        status = next((int(word) for word in each.error_digest.split("-") if word.isdigit()), None)
        error = ExceptionInfo(each.error_type, callsite="app/tasks.py:12", digest=each.error_digest, status=status)
    return replace(
        execution,
        **{
            "id": each.execution_id,
            "job_id": each.job_id,
            "job": each.job,
            "queue": each.queue,
            "worker": each.worker,
            "outcome": each.outcome,
            "attempt": each.attempt,
            "created_at_ns": each.created_at_ns,
            "enqueued_at_ns": each.enqueued_at_ns,
            "dequeued_at_ns": each.dequeued_at_ns,
            "reaped_at_ns": each.reaped_at_ns,
            "worker_queues": each.worker_queues,
            "payload": Payload(raw_bytes=100, args_hash=each.args_hash),
            "exception": error,
            "trigger": Trigger(kind=each.trigger_kind or "code", callsite=each.trigger_callsite),
            **fields,
        },
    )


def attempts(
    job_id: str,
    outcomes: Iterable[str],
    *,
    at: float = 0.0,
    pauses: Sequence[float] = (0.0,),
    run: float = 0.05,
    error: str = "requests.exceptions.HTTPError",
    digest: str = "http-503",
    job: str = MAIL,
    **fields: Any,
) -> list[TraceRow]:
    """The attempts of one enqueue, each put back after its pause (s); the last pause repeats, as RQ's does."""
    rows = []
    begin = at
    for number, outcome in enumerate(outcomes):
        failed = outcome != "finished"
        rows.append(
            row(
                job, begin, begin, begin + run,
                job_id=job_id, execution_id=f"{job_id}:{number + 1}", attempt=number + 1, outcome=outcome,
                error_type=error if failed else "", error_digest=digest if failed else "", **fields,
            )
        )  # fmt: skip
        begin += run + pauses[min(number, len(pauses) - 1)]
    return rows


def policy(*intervals: int, most: int = 3) -> dict[str, Any]:
    """Fields of executions that were enqueued with ``Retry(max=most, interval=intervals)``."""
    return {"retry": RetryPolicy(max_retries=most, intervals_s=list(intervals))}


def diagnosed(job: str, rows: Sequence[TraceRow], **fields: Any) -> Diagnosis:
    """What the whole checklist says of a job in this traffic."""
    return diagnose(history_of(job, rows, **fields))
