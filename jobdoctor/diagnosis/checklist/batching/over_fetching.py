"""over-fetching: far more rows fetched than the job can use, by a query without a bound.

## What it looks for

A SELECT without LIMIT, GROUP BY or an IN list that returns `rows` or more at once, in a job that then does next to
nothing with each of them: it writes, sends and returns far less than it read, and computes too little for each row.
Adding up, counting or looking for a few rows in Python looks like that.

## Why it costs time

Each row is read, sent, decoded and, with an ORM, made an object, some 10 to 50 us of CPU; the database would have
added them up in less than one. The table grows, and with it the run and its memory, until a limit ends both.

## What to do

Let the database do it: `func.sum`, `func.count`, `GROUP BY`, `EXISTS`, a WHERE for what the job picks out, only the
columns that are needed. Where every row is needed, go through them in bounded chunks (`yield_per`, `iterator()`,
pages by key).

## When it is a false alarm

When the job computes from all the rows what SQL cannot express: a model that is fitted, a schedule that is planned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from jobdoctor import fingerprint
from jobdoctor.diagnosis import measure, round_trips
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, SpanGroup

#: What bounds a result: the number of rows, the groups or the values asked for.
_BOUNDED = re.compile(
    r"\b(LIMIT|FETCH\s+(FIRST|NEXT)|TOP\s*\(?\s*[\d?]|GROUP\s+BY|IN\s*\(\s*[?%]|ANY\s*\()", re.IGNORECASE
)
_READS = frozenset({"SELECT", "WITH"})
_WRITES = frozenset({"write", "unknown"})


class OverFetching(TimeRule):
    """JD408."""

    code = "JD408"
    name = "over-fetching"
    step = "batching"
    kind = "batch"
    needs = ("sql",)
    related_to = ("JD206", "JD404")

    rows = Limit(
        2_000, "rows", "rows of one call from which a result is large",
        "own: twice the 1,000 rows that SQLAlchemy and Django take at once; nobody looks at more than some hundred",
    )  # fmt: skip
    used_share = Limit(
        0.05, "share", "rows written on, for each row read, from which they count as used", "own: one in twenty"
    )
    used_bytes = Limit(
        4, "bytes", "bytes written, sent or returned for each row read, from which the rows count as used",
        "own: a number and its separator",
    )  # fmt: skip
    worked_us = Limit(
        100, "us", "own CPU for each row from which the job works on it",
        "own: SQLAlchemy makes an object of a row in 15 to 40 us on the reference machine",
    )  # fmt: skip
    least_ms = Limit(2, "ms", "time below which nothing is said", "own: 2,000 rows of a local SQLite")

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        whole = measure.body_ms(executions)
        large = [
            calls
            for calls in measure.merge_calls(executions, "sql", where=_unbounded)
            if (calls.rows_per_call or 0) >= self.limits.rows
        ]
        read = sum(calls.rows or 0 for calls in large)
        if not large or self._used(executions, read):
            return
        own_ms = measure.ledger_ms(executions, "cpu", detail="") + measure.ledger_ms(executions, "gc")
        if 1_000 * own_ms >= self.limits.worked_us * read:
            return
        for calls in large:
            # The rest of its own CPU is what it makes of the rows: decoding them, objects, adding up.
            made_ms = own_ms * (calls.rows or 0) / read
            if calls.total_ms + made_ms >= self.limits.least_ms:
                yield self._describe(calls, made_ms, whole, executions)

    def _used(self, executions: Sequence[Execution], rows: float) -> bool:
        """True when what leaves the job is as much as rows could make."""
        items = measure.mean(sum(_items_out(group) for group in execution.groups) for execution in executions)
        sent = measure.mean(_bytes_out(execution) for execution in executions)
        return items >= self.limits.used_share * rows or sent >= self.limits.used_bytes * rows

    def _describe(self, calls: Calls, made_ms: float, whole: float, executions: Sequence[Execution]) -> Finding:
        first, rows = calls.first, calls.rows or 0
        cost = calls.total_ms + measure.with_waits(executions, made_ms)
        # The database still reads the rows, and some of the CPU is not for them.
        made = measure.with_waits(executions, made_ms)
        saving = (0.4 * made_ms, 0.8 * made + 0.2 * calls.total_ms, made + 0.9 * calls.total_ms)
        tables = ", ".join(fingerprint.sql(first.fingerprint).tables) or "a table"
        evidence = [
            measure.calls_evidence(
                f"{words_count(rows)} rows read in {words_ms(calls.total_ms)}, and {words_ms(made_ms)} of CPU for them "
                f"in the job, {words_ms(whole)} as a whole",
                [calls],
            ),
            Evidence(
                "fact",
                f"What it wrote, sent and returned instead: "
                f"{measure.words_bytes(measure.mean(_bytes_out(e) for e in executions))} (items: "
                f"{words_count(measure.mean(sum(_items_out(g) for g in e.groups) for e in executions))})",
            ),
            measure.execution_evidence(calls.largest_execution, "Most time in it"),
        ]
        return self.finding(
            severity=self.severity(saving[1], whole),
            confidence=0.8,
            title=f"{words_count(rows)} rows of {tables} fetched at {first.callsite or 'an unknown line'}, "
            f"and next to nothing done with each",
            cost_ms=cost,
            saving=saving,
            text="Let the database add up, count or pick out, and fetch its answer. Where all rows are needed, read "
            "them in bounded chunks",
            snippet=_snippet(first, tables),
            callsite=first.callsite,
            calls=round(calls.count),
            evidence=evidence,
        )


def _unbounded(group: SpanGroup) -> bool:
    return (
        group.effect != "write"
        and group.operation.upper() in _READS
        and bool(group.rows)
        and not group.batched
        and len(group.fingerprint) < fingerprint.MAX_CHARS  # of a longer one the end is not known
        and _BOUNDED.search(group.fingerprint) is None
    )


def _items_out(group: SpanGroup) -> int:
    """Things that calls wrote, sent or put in a queue; requests and processes count, for they may carry any."""
    if group.channel in ("lock", "pool", "sleep") or (group.channel == "sql" and group.effect not in _WRITES):
        return 0
    if group.channel == "redis" and group.effect not in _WRITES:
        return 0
    return max(group.count, group.items)


def _bytes_out(execution: Execution) -> int:
    sent = sum(group.sent_bytes for group in execution.groups if group.channel != "redis" or group.effect in _WRITES)
    written = execution.file_io.written_bytes if execution.file_io is not None else 0
    returned = (execution.result.bytes or 0) if execution.result is not None else 0
    return max(sent, written) + returned


def _snippet(group: SpanGroup, table: str) -> str:
    shape = round_trips.shortened(group.fingerprint)
    rest = re.search(r"\bFROM\b.*", shape, re.IGNORECASE | re.DOTALL)
    if group.library == "sqlalchemy":
        return (
            f"# {group.callsite}, instead of {shape}\n"
            f"total = session.scalar(select(func.sum(Model.value)))  # Model of {table}; with the WHERE of before\n"
            f"# all rows needed:\nfor row in session.execute(query.execution_options(yield_per=500)): ..."
        )
    source = rest.group() if rest else f"FROM {table}"
    return f"# {group.callsite}, instead of {shape}\nSELECT sum(...), count(*) {source}"
