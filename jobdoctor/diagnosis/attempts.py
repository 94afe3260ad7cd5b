"""Attempts of one enqueue, put together again from the trace: the first execution of a job id and its retries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from jobdoctor.model import ExceptionInfo, JobHistory, TraceRow

#: Outcomes of an execution that did not do its work. ``stopped`` is a person's wish and counts as neither.
FAILING = frozenset({"failed", "retried", "timeout", "killed"})

#: What to say of errors whose type tells little, or that are none.
_ERRORS = {
    "killed": "a killed work horse",
    "timeout": "a timeout",
    "failed": "an error that was not recorded",
    "rq.exceptions.DeserializationError": "arguments that cannot be unpickled where the worker runs",
}


def error_words(error: str) -> str:
    """The dotted type of an exception, or an outcome that comes without one, for a sentence."""
    return _ERRORS.get(error, error.rpartition(".")[2])


@dataclass(frozen=True)
class Chain:
    """The attempts of one enqueue, oldest first. The beginning may lie before the window."""

    rows: tuple[TraceRow, ...]

    @property
    def last(self) -> TraceRow:
        return self.rows[-1]

    @property
    def succeeded(self) -> bool:
        return self.last.outcome == "finished"

    @property
    def failures(self) -> tuple[TraceRow, ...]:
        return tuple(row for row in self.rows if row.outcome in FAILING)

    @property
    def retries(self) -> tuple[TraceRow, ...]:
        """Attempts after the first."""
        return tuple(row for row in self.rows if row.attempt > 1)

    def gaps_ns(self) -> list[tuple[TraceRow, TraceRow, int]]:
        """(failed attempt, the next one, from the end of the one until the other was put in the queue)."""
        return [
            (before, after, max(0, after.enqueued_at_ns - before.reaped_at_ns))
            for before, after in pairwise(self.rows)
            if before.outcome in FAILING and after.attempt > before.attempt
        ]


def chains(rows: Iterable[TraceRow]) -> list[Chain]:
    """Attempts by job id. A job id that is used again (a cron job's) begins a new chain when its count starts anew."""
    by_id: dict[str, list[TraceRow]] = {}
    for row in rows:
        by_id.setdefault(row.job_id, []).append(row)
    found: list[Chain] = []
    for of_id in by_id.values():
        if len(of_id) == 1:  # nearly all are
            found.append(Chain((of_id[0],)))
            continue
        members: list[TraceRow] = []
        for row in sorted(of_id, key=lambda row: (row.dequeued_at_ns, row.attempt)):
            if members and (row.attempt <= members[-1].attempt or members[-1].outcome == "finished"):
                found.append(Chain(tuple(members)))
                members = []
            members.append(row)
        found.append(Chain(tuple(members)))
    return sorted(found, key=lambda chain: (chain.rows[0].dequeued_at_ns, chain.rows[0].job_id))


def busy_ms(rows: Sequence[TraceRow]) -> float:
    """Worker time of these executions, summed."""
    return sum(max(0, row.reaped_at_ns - row.dequeued_at_ns) for row in rows) / 1e6


def exceptions_by_digest(history: JobHistory) -> dict[str, ExceptionInfo]:
    """What is known of each error from the executions kept with details."""
    return {
        execution.exception.digest: execution.exception
        for execution in history.executions
        if execution.exception is not None and execution.exception.digest
    }
