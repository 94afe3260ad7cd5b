"""The executions that a report lists one by one, and why each of them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from jobdoctor.model import Death, Execution

SHOWN_EXEMPLARS = 15


class Exemplar(Struct, frozen=True):
    execution_id: str
    job_id: str
    why: str  # "slowest", "killed", "failed", "newest", "profiled"
    outcome: str
    at_ns: int
    wait_ms: float
    run_ms: float
    attempt: int
    worker: str
    error: str
    death: Death | None
    peak_rss_bytes: int


def exemplars(executions: Sequence[Execution]) -> list[Exemplar]:
    """Deaths and failures first, then the slowest; each says why it stands here."""
    newest = executions[0].id if executions else ""
    slowest = max(executions, key=lambda execution: execution.run_ns).id if executions else ""

    def why(execution: Execution) -> str:
        if execution.outcome != "finished":
            return execution.outcome
        if execution.id == slowest:
            return "slowest"
        if execution.profile:
            return "profiled"
        return "newest" if execution.id == newest else "slow"

    def rank(execution: Execution) -> tuple[int, int]:
        return ({"killed": 0, "timeout": 1, "failed": 2}.get(execution.outcome, 3), -execution.run_ns)

    ordered = sorted(executions, key=rank)
    bad = [execution for execution in ordered if execution.outcome != "finished"]
    good = [execution for execution in ordered if execution.outcome == "finished"]
    # Never only failures: the slowest success is what the durations are about.
    room = SHOWN_EXEMPLARS - min(len(good), 5)
    chosen = [*bad[:room], *good][:SHOWN_EXEMPLARS]
    return [
        Exemplar(
            execution_id=execution.id,
            job_id=execution.job_id,
            why=why(execution),
            outcome=execution.outcome,
            at_ns=execution.dequeued_at_ns,
            wait_ms=execution.wait_ns / 1e6,
            run_ms=execution.run_ns / 1e6,
            attempt=execution.attempt,
            worker=execution.worker,
            error=execution.exception.type_name if execution.exception else "",
            death=execution.death,
            peak_rss_bytes=max(
                execution.rusage.max_rss_bytes if execution.rusage else 0,
                max((sample.rss_bytes for sample in execution.samples), default=0),
            ),
        )
        for execution in chosen
    ]
