"""Attempts, retries and their errors, from the trace."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from jobdoctor.model import Diagnosis

SHOWN_ERRORS = 12
SHOWN_ATTEMPTS = 12


class ErrorRow(Struct, frozen=True):
    type_name: str
    message_shape: str
    callsite: str
    status: int | None
    executions: int  # among those looked at


class AttemptRow(Struct, frozen=True):
    attempt: int
    executions: int
    finished: int


class Attempts(Struct, frozen=True):
    """Retries in the window: from the trace, so of every execution and not of the exemplars only."""

    rows: list[AttemptRow]
    jobs: int
    executions: int
    failures: int
    max_retries: int | None
    intervals_s: list[int]
    errors: list[ErrorRow]


def attempts(diagnosis: Diagnosis) -> Attempts:
    """Attempts of the whole window; errors of the executions kept with details."""
    history = diagnosis.history
    executions = Counter(row.attempt for row in history.trace)
    finished = Counter(row.attempt for row in history.trace if row.outcome == "finished")
    errors: dict[tuple[str, str, str, int | None], int] = {}
    for execution in history.executions:
        raised = execution.exception
        if raised:
            key = (raised.type_name, raised.message_shape, raised.callsite, raised.status)
            errors[key] = errors.get(key, 0) + 1
    policies = [execution.retry for execution in history.executions if execution.retry.max_retries is not None]
    ranked = sorted(errors.items(), key=lambda item: -item[1])[:SHOWN_ERRORS]
    return Attempts(
        rows=[AttemptRow(attempt, number, finished[attempt]) for attempt, number in sorted(executions.items())][
            :SHOWN_ATTEMPTS
        ],
        jobs=len({row.job_id for row in history.trace}),
        executions=len(history.trace),
        failures=sum(row.outcome != "finished" for row in history.trace),
        max_retries=policies[0].max_retries if policies else None,
        intervals_s=policies[0].intervals_s if policies else [],
        errors=[ErrorRow(*key, number) for key, number in ranked],
    )
