"""partial-write: an execution that failed had committed part of its writes already.

## What it looks for

Executions that failed after a COMMIT with writes before it (or after writes that commit by themselves), while those
that succeed write more than that. A status that is set first and again at the end ("processing", "done") is a guard
and not counted, nor is a log. Grave are writes that add up when a retry makes them again: an INSERT,
`points = points + 1`.

## Why it costs time

The data is left half done until somebody notices: the money is booked, the order is not. A retry makes the first part
again, so that the job cannot be retried with safety; without a retry, somebody mends it by hand.

## What to do

Put what belongs together into one transaction, and calls to others before it (or after it, in a job of their own).
Where the job must be cut in steps, make each one harmless to repeat: a unique key with `ON CONFLICT DO NOTHING`, or a
status for each step that is looked at first.

## When it is a false alarm

When the job is made of steps on purpose, and the next attempt looks where the last one ended.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jobdoctor import fingerprint
from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.attempts import FAILING, error_words
from jobdoctor.diagnosis.measure import words_count
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, SpanGroup

#: A write as several executions have it in common: target, statement.
_Write = tuple[str, str]

_RELATIVE = re.compile(
    r"(?:\b|\")(?P<column>\w+)\"?\s*=\s*\(?\s*(?:[\w\"]+\.)?\"?(?P=column)\"?\s*[-+*/|]", re.IGNORECASE
)
_UPSERT = re.compile(r"\bON\s+(CONFLICT|DUPLICATE\s+KEY)\b|\bINSERT\s+(OR\s+)?IGNORE\b|\bOR\s+REPLACE\b", re.IGNORECASE)
#: Tables that say what was tried, which is true of a failed attempt as well.
_LOGS = re.compile(r"(^|[_.])(logs?|audits?|history|attempts?|runs?|events?|heartbeats?|locks?)$", re.IGNORECASE)
_COMMITS = frozenset({"COMMIT", "END"})


@dataclass(frozen=True)
class _Partial:
    """A failed execution, what it had committed, and what others wrote after that."""

    execution: Execution
    committed: Counter[_Write]
    missing: tuple[_Write, ...]


class PartialWrite(Rule):
    """JD506."""

    code = "JD506"
    name = "partial-write"
    step = "locks"
    kind = "lock"
    needs = ("sql",)
    related_to = ("JD406",)

    min_warning = Limit(
        2, "executions", "failed executions with a part committed, from which it is a warning", "own: once is a chance"
    )
    most_of = Limit(
        0.5, "times", "mean number of a write in successful executions from which it belongs to the job",
        "own: what every second one writes",
    )  # fmt: skip

    def check(self, history: JobHistory) -> Iterable[Finding]:
        failed = sum(number for name, number in history.outcomes.items() if name in FAILING)
        if not failed:
            return
        bad = [execution for execution in history.executions if execution.outcome in FAILING]
        good = [execution for execution in history.executions if execution.outcome == "finished"]
        if not bad:
            raise NotChecked(f"{failed} executions failed, but none of them is kept in detail: look at a newer window")
        usual = {write: number / len(good) for write, number in _all_writes(good).items()} if good else {}
        alone = _committing_alone(good)
        committed = [(execution, each) for execution in bad if (each := _committed(execution, alone))]
        if not good:
            if any(_written(execution) for execution in bad):
                raise NotChecked("No execution succeeded, so that nobody can say what a whole one writes")
            return
        guards = _guards(good)
        found = []
        for execution, each in committed:
            part = Counter({write: number for write, number in each.items() if write not in guards and write in usual})
            missing = tuple(
                write for write, number in usual.items() if number >= self.limits.most_of and not each.get(write)
            )
            if part and missing and not all(write in guards for write in missing):
                found.append(_Partial(execution, part, missing))
        if found:
            yield self._finding(history, found, len(bad))

    def _finding(self, history: JobHistory, found: Sequence[_Partial], failed: int) -> Finding:
        groups = [_group(each.execution, write) for each in found for write in each.committed]
        adding = [group for group in groups if _adds_up(group)]
        lead = max(adding or groups, key=lambda group: group.count)
        grave = bool(adding) and len(found) >= self.limits.min_warning
        again = {each.execution.job_id for each in found}
        repeated = sum(
            execution.job_id in again and execution.attempt > 1 and execution.outcome == "finished"
            and any(_same(group, lead) for group in execution.groups)
            for execution in history.executions
        )  # fmt: skip
        missing = Counter(write for each in found for write in each.missing)
        others = ", ".join(dict.fromkeys(_table(statement) for (_, statement), _ in missing.most_common(3)))
        errors = Counter(
            error_words(each.execution.exception.type_name if each.execution.exception else each.execution.outcome)
            for each in found
        )
        lost = sum(each.execution.run_ns for each in found) / measure.NS_PER_MS / len(history.executions)
        table = _table(lead.fingerprint)
        return self.finding(
            severity="warning" if grave else "info",
            confidence=0.85 if repeated else 0.75 if grave else 0.5,
            title=(
                f"{len(found)} of {failed} failed executions had committed writes of {table}, "
                f"but none of {others}"
                + (f"; {repeated} {'retry' if repeated == 1 else 'retries'} made them again" if repeated else "")
            ),
            cost_ms=lost,
            saving=(0.0, 0.0, lost),
            text=(
                f"Write {table} (at {lead.callsite or 'an unknown line'}) and {others} in one transaction, with the "
                f"calls that can fail before it; or make each step harmless to repeat"
            ),
            snippet=_snippet(lead),
            callsite=lead.callsite,
            calls=lead.count,
            evidence=[
                Evidence(
                    "lock",
                    f"They failed with {errors.most_common(1)[0][0]} after "
                    f"{words_count(found[0].committed.total())} committed writes; executions that succeed also write "
                    f"{others}",
                    {
                        "target": lead.target,
                        "callsite": lead.callsite,
                        "executions": len(found),
                        "failed": failed,
                        "retries_that_wrote_again": repeated,
                        "committed": {statement: n for (_, statement), n in found[0].committed.most_common(5)},
                        "missing": [statement for (_, statement), _ in missing.most_common(5)],
                        "errors": dict(errors.most_common(5)),
                    },
                ),
                measure.execution_evidence(found[0].execution, "One that left a part"),
            ],
        )


def _written(execution: Execution) -> list[SpanGroup]:
    """Its writes to databases that changed something."""
    return [
        group
        for group in execution.groups
        if group.channel == "sql" and group.effect == "write" and group.rows != 0 and group.count > group.errors
        and not _LOGS.search(_table(group.fingerprint))
    ]  # fmt: skip


def _all_writes(executions: Sequence[Execution]) -> Counter[_Write]:
    found: Counter[_Write] = Counter()
    for execution in executions:
        for group in _written(execution):
            found[group.target, group.fingerprint] += group.count - group.errors
    return found


def _committing_alone(good: Sequence[Execution]) -> set[str]:
    """Databases at which writes commit by themselves: successful executions write there and never commit."""
    committing = {g.target for e in good for g in e.groups if g.channel == "sql" and g.operation.upper() in _COMMITS}
    return {group.target for execution in good for group in _written(execution)} - committing


def _committed(execution: Execution, alone: set[str]) -> Counter[_Write]:
    """The writes of a failed execution that were committed before it failed, by its log of calls."""
    writes = {id(group): (group.target, group.fingerprint) for group in _written(execution)}
    found: Counter[_Write] = Counter()
    pending: dict[str, list[_Write]] = {}
    for span in sorted(execution.spans, key=lambda span: span.start_ns):
        group = execution.groups[span.group]
        if group.channel != "sql" or span.error:
            continue
        operation = group.operation.upper()
        if id(group) in writes:
            if group.target in alone:
                found[writes[id(group)]] += 1
            else:
                pending.setdefault(group.target, []).append(writes[id(group)])
        elif operation in _COMMITS:
            found.update(pending.pop(group.target, []))
        elif operation == "ROLLBACK":
            pending.pop(group.target, None)
    return found


def _guards(good: Sequence[Execution]) -> set[_Write]:
    """Writes of a row that is written again at the end: a status ("processing", "done"), the record of a run."""
    found: set[_Write] = set()
    for execution in good:
        written = _written(execution)
        for group in written:
            table = _table(group.fingerprint)
            later = [
                other
                for other in written
                if _table(other.fingerprint) == table
                and other.operation.upper() == "UPDATE"
                and not _RELATIVE.search(other.fingerprint)
                and other.last_end_ns > group.last_end_ns
            ]
            twice = group.operation.upper() == "UPDATE" and group.count == 2 and not _RELATIVE.search(group.fingerprint)
            if twice or (later and group.count == 1 and not _RELATIVE.search(group.fingerprint)):
                found.add((group.target, group.fingerprint))
    return found


def _group(execution: Execution, write: _Write) -> SpanGroup:
    return next(group for group in _written(execution) if (group.target, group.fingerprint) == write)


def _same(group: SpanGroup, other: SpanGroup) -> bool:
    return (group.target, group.fingerprint) == (other.target, other.fingerprint)


def _adds_up(group: SpanGroup) -> bool:
    """True for a write that is not the same when it is made twice."""
    if _UPSERT.search(group.fingerprint):
        return False
    operation = group.operation.upper()
    return operation == "INSERT" or (operation == "UPDATE" and _RELATIVE.search(group.fingerprint) is not None)


def _table(statement: str) -> str:
    return next(iter(fingerprint.sql(statement).tables), "a table")


def _snippet(lead: SpanGroup) -> str:
    head = f"# {lead.callsite}: what can fail first, then all writes together\nanswer = call_the_others(...)\n"
    if lead.library == "django":
        return f"{head}with transaction.atomic():\n    ...  # every write of the job"
    if lead.library == "sqlalchemy":
        return f"{head}with Session(engine) as session, session.begin():\n    ...  # every write of the job"
    if lead.library == "asyncpg":
        return f"{head}async with connection.transaction():\n    ...  # every write of the job"
    return f"{head}with connection:  # one commit at the end, none in between\n    ...  # every write of the job"
