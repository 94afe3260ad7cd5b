"""commit-per-row: a commit for each item of a loop.

## What it looks for

At least `commits` commits from one line in an execution, with at most `writes_per_commit` rows written for each. Django
and asyncpg commit every write by itself that runs outside of a transaction: there a write is a commit too.

## Why it costs time

A commit waits until the database has flushed its log to disk: a fraction of a millisecond on a laptop's SSD, several
milliseconds on networked disks and with synchronous replicas. An ORM then loads its objects again as well.

## What to do

Commit once at the end, or once for each chunk of some hundred items. Where an item's failure must not lose the others,
use a savepoint for each (`session.begin_nested()`), or commit a chunk and record how far the job came.

## When it is a false alarm

When each item has an effect outside the database that must not be repeated (a payment, a mail): then a commit for each
is right. The rule sees calls that write elsewhere beside the commits, and says so with severity info.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure, round_trips
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, SpanGroup


class CommitPerRow(TimeRule):
    """JD406."""

    code = "JD406"
    name = "commit-per-row"
    step = "batching"
    kind = "batch"
    needs = ("sql",)
    related_to = ("JD405", "JD501", "JD205")

    commits = Limit(10, "calls", "commits from one line, for each execution", "own: as for queries")
    writes_per_commit = Limit(
        5, "rows", "rows written for each commit above which commits are by chunk", "own: one item may be a few rows"
    )
    writes_per_commit_least = Limit(
        0.5, "rows", "rows written for each commit below which commits end reads only", "own"
    )
    batch_size = Limit(500, "items", "items that one commit takes", "own: chunks that lose little when they fail")
    least_ms = round_trips.LEAST_MS

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        whole = measure.body_ms(executions)
        for calls in measure.merge_calls(executions, "sql", where=_is_commit, by=_line):
            if calls.count < self.limits.commits:
                continue
            commits = sum(each.count for each in _commits_of(calls, executions))
            writes = _written(calls.first.target, executions)
            per_commit = writes / commits
            if not self.limits.writes_per_commit_least <= per_commit <= self.limits.writes_per_commit:
                continue
            plain_ms = _plain_ms(calls, executions)
            low, mid, high = measure.batching_saving(
                calls.count,
                max(0.0, calls.total_ms - calls.count * plain_ms),
                max(0.0, calls.fastest_ms - plain_ms),
                self.limits.batch_size,
            )
            likely, most = round_trips.library_ms(calls) if not plain_ms else (0.0, 0.0)
            if mid + likely >= self.limits.least_ms:
                yield self._describe(calls, per_commit, (low, mid + likely, high + most), whole, executions)

    def _describe(
        self,
        calls: Calls,
        per_commit: float,
        saving: tuple[float, float, float],
        whole: float,
        executions: Sequence[Execution],
    ) -> Finding:
        first = calls.first
        what = "writes that commit by themselves" if _commits_alone(first) else "commits"
        growth = round_trips.growth(calls)
        severity = self.severity(saving[1], whole, calls=calls.count, grows=growth.proven)
        confidence = 0.85 + 0.07 * growth.proven
        evidence = [
            measure.calls_evidence(
                f"{words_count(calls.count)} {what} for {words_count(per_commit)} written rows each take "
                f"{words_ms(calls.total_ms)} of {words_ms(whole)} in the job",
                [calls],
            )
        ]
        outside = _outside_effects(executions)
        if outside >= 0.5 * calls.count:
            severity, confidence = "info", 0.5
            evidence.append(
                Evidence(
                    "fact",
                    f"{words_count(outside)} calls write outside the database: when each belongs to an item, "
                    "a commit for each item may be what keeps a retry from repeating them",
                )
            )
        if growth.proven:
            evidence.append(Evidence("series", growth.text, {"calls": calls.counts()}))
        evidence.append(measure.execution_evidence(calls.largest_execution, "Most commits"))
        return self.finding(
            severity=severity,
            confidence=confidence,
            title=f"{words_count(calls.count)} {what} from {first.callsite or 'an unknown line'}, "
            f"one for each {'row' if per_commit < 1.5 else f'{words_count(per_commit)} rows'}",
            cost_ms=max(calls.total_ms, saving[1]),
            saving=saving,
            text="Commit once for all, or once for each chunk. A savepoint for each item keeps one failure from losing "
            "the others." + (_BY_ITSELF if _commits_alone(first) else ""),
            snippet=_snippet(first),
            callsite=first.callsite,
            calls=round(calls.count),
            evidence=evidence,
        )


#: Libraries that open no transaction unless they are told to: a write outside of one is committed with it.
_COMMITTING = frozenset({"django", "asyncpg"})
_BY_ITSELF = " Outside of a transaction each write is one, which the database flushes to disk before it answers."


def _commits_alone(group: SpanGroup) -> bool:
    return group.effect == "write" and group.library in _COMMITTING and not group.in_transaction


def _is_commit(group: SpanGroup) -> bool:
    return _commits_alone(group) or (group.effect == "transaction" and group.operation.upper() in ("COMMIT", "END"))


def _plain_ms(calls: Calls, executions: Sequence[Execution]) -> float:
    """Of a write that commits by itself: what it takes without the commit, by the fastest query of the database or by
    half of the fastest write. A commit by itself is nothing else."""
    if not _commits_alone(calls.first):
        return 0.0
    target = calls.first.target
    reads = measure.merge_calls(
        executions, "sql", where=lambda group: group.effect == "read" and group.target == target
    )
    return min([calls.fastest_ms / 2, *(each.fastest_ms for each in reads)])


def _line(group: SpanGroup) -> tuple[str, ...]:
    return (group.target, group.callsite)


def _commits_of(calls: Calls, executions: Sequence[Execution]) -> list[Calls]:
    target = calls.first.target
    return measure.merge_calls(executions, "sql", where=lambda group: _is_commit(group) and group.target == target)


def _written(target: str, executions: Sequence[Execution]) -> float:
    """Rows written to a database for each execution: those of batches, else one for each call."""
    writes = measure.merge_calls(
        executions, "sql", where=lambda group: group.effect == "write" and group.target == target
    )
    return sum(
        each.per_execution(lambda group: max(group.count - group.batched + group.items, group.rows or 0))
        for each in writes
    )


def _outside_effects(executions: Sequence[Execution]) -> float:
    """Calls for each execution that change something outside the database and could be repeated by a retry."""
    calls = measure.merge_calls(
        executions,
        "http",
        "mail",
        where=lambda group: group.channel == "mail" or group.operation.upper() in ("POST", "PUT", "PATCH", "DELETE"),
    )
    return sum(each.count for each in calls)


def _snippet(group: SpanGroup) -> str:
    if group.library == "django":
        return (
            f"# instead of the save in the loop at {group.callsite}\n"
            "for chunk in itertools.batched(items, 500):  # Python 3.12+\n"
            "    with transaction.atomic():\n"
            "        for item in chunk:\n"
            "            item.save()  # or once: Model.objects.bulk_update(chunk, [...])"
        )
    if group.library == "asyncpg":
        return (
            f"# around the loop at {group.callsite}\n"
            "async with connection.transaction():\n"
            "    for item in items:\n"
            "        ..."
        )
    if group.library == "sqlalchemy":
        return (
            f"# instead of the commit in the loop at {group.callsite}\n"
            "for chunk in itertools.batched(items, 500):  # Python 3.12+\n"
            "    with session.begin():\n"
            "        for item in chunk:\n"
            "            ..."
        )
    return (
        f"# instead of the commit in the loop at {group.callsite}\n"
        "for number, item in enumerate(items, 1):\n"
        "    ...\n"
        "    if number % 500 == 0:\n"
        "        connection.commit()\n"
        "connection.commit()"
    )
