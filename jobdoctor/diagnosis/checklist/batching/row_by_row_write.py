"""row-by-row-write: INSERT, UPDATE or DELETE one row at a time from one line.

## What it looks for

Writes of one shape from one line, at least `calls` in an execution, that each carry one row: no `executemany`, no
multi-row VALUES, and about one row affected by each.

## Why it costs time

Each statement pays a round trip, and outside a transaction a flush to disk as well. A database takes a thousand rows
in one statement in little more time than ten single ones.

## What to do

Collect the rows and write them together: `session.execute(insert(Model), rows)`, `executemany`, `COPY`, one
`UPDATE ... FROM (VALUES ...)`, `DELETE ... WHERE id = ANY(...)`; in chunks of about 1,000, each in one transaction.

## When it is a false alarm

When each row must be seen by others at once (progress that people watch, a claim on a piece of work), or when the
next row depends on what the database returned for the last.
"""

from __future__ import annotations

from collections.abc import Iterator

from jobdoctor import fingerprint
from jobdoctor.diagnosis import measure, round_trips
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Finding, JobHistory, SpanGroup

_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "UPSERT"})


class RowByRowWrite(TimeRule):
    """JD405."""

    code = "JD405"
    name = "row-by-row-write"
    step = "batching"
    kind = "batch"
    needs = ("sql",)
    related_to = ("JD406", "JD501", "JD504", "JD205")

    calls = Limit(
        10, "calls", "single-row writes of one shape from one line, for each execution", "own: as for queries"
    )
    rows_per_call = Limit(1.5, "rows", "rows affected by each call above which it is not row by row", "own")
    batch_size = Limit(
        1_000, "rows", "rows that one statement takes", "SQLAlchemy's insertmanyvalues takes 1,000 rows with each"
    )
    least_ms = round_trips.LEAST_MS

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        whole = measure.body_ms(executions)
        for calls in measure.merge_calls(executions, "sql", where=_loops_in_driver):
            if calls.per_execution(lambda group: group.items) >= self.limits.calls:
                saving = (0.25 * calls.total_ms, 0.75 * calls.total_ms, calls.total_ms)
                if saving[1] >= self.limits.least_ms:
                    yield self._describe(calls, saving, whole)
        for calls in measure.merge_calls(executions, "sql", where=_single_row):
            if calls.unbatched < self.limits.calls:
                continue
            rows = calls.rows_per_call
            if rows is not None and rows > self.limits.rows_per_call:
                continue
            low, mid, high = measure.batching_saving(
                calls.count, calls.total_ms, calls.fastest_ms, self.limits.batch_size
            )
            likely, most = round_trips.library_ms(calls)
            if mid + likely >= self.limits.least_ms:
                yield self._describe(calls, (low, mid + likely, high + most), whole)

    def _describe(self, calls: Calls, saving: tuple[float, float, float], whole: float) -> Finding:
        first = calls.first
        growth = round_trips.growth(calls)
        in_driver = _loops_in_driver(first)
        count = calls.per_execution(lambda group: group.items) if in_driver else calls.count
        severity = self.severity(saving[1], whole, calls=count, grows=growth.proven)
        evidence = [
            measure.calls_evidence(
                f"{words_count(count)} writes of one row each take {words_ms(calls.total_ms)} of "
                f"{words_ms(whole)} in the job",
                [calls],
            )
        ]
        if in_driver:
            evidence.append(Evidence("fact", "psycopg2's executemany() is a loop: one round trip for each row"))
        if growth.proven:
            evidence.append(Evidence("series", growth.text, {"calls": calls.counts()}))
        if measure.mostly_concurrent(calls):
            severity = "info"
            evidence.append(
                Evidence("fact", "Most of these calls ran beside one another: the database pays, less the job")
            )
        evidence.append(measure.execution_evidence(calls.largest_execution, "Most writes"))
        tables = ", ".join(fingerprint.sql(first.fingerprint).tables) or "one table"
        return self.finding(
            severity=severity,
            confidence=0.88 + 0.07 * growth.proven,
            title=f"{words_count(count)} {first.operation.upper()}s of {tables} from "
            f"{first.callsite or 'an unknown line'}, one row at a time",
            cost_ms=max(calls.total_ms, saving[1]),
            saving=saving,
            text="Collect the rows and write them together. One statement takes about 1,000 rows in little more time "
            "than it takes a few single ones.",
            snippet=_snippet(first, tables),
            callsite=first.callsite,
            calls=round(count),
            evidence=evidence,
        )


def _loops_in_driver(group: SpanGroup) -> bool:
    """Whether a batch is one for the caller only: psycopg2 sends each row of ``executemany()`` by itself. Such
    calls have items without being batches, as those of ``execute_values()`` are."""
    many = group.items >= 2 * group.count and group.batched <= 0.5 * group.count
    return group.library == "psycopg2" and group.operation.upper() in _WRITES and many


def _single_row(group: SpanGroup) -> bool:
    return group.operation.upper() in _WRITES and group.batched <= 0.5 * group.count and not _loops_in_driver(group)


def _snippet(group: SpanGroup, table: str) -> str:
    shape = round_trips.shortened(group.fingerprint)
    verb = group.operation.upper()
    head = f"# {group.callsite}: collect, then once for all\n"
    if verb == "DELETE":
        column = round_trips.bare_name(round_trips.looked_up_column(group.fingerprint)) or "id"
        values = round_trips.plural(column)
        return f"{head}# {round_trips.in_query(shape, f'IN (all {values})')}"
    if group.library == "sqlalchemy":
        statement = "insert" if verb == "INSERT" else "update"
        return (
            f"{head}# {shape}\n"
            f"session.execute({statement}(Model), rows)  # Model of {table}; rows: a list of dicts"
            f"{'' if verb == 'INSERT' else ', each with the primary key'}"
        )
    if group.library == "psycopg2":
        statement = shape.replace("(?+)", "%s").replace("?", "%s")
        if verb == "INSERT":
            return f'{head}psycopg2.extras.execute_values(cursor, """{statement}""", rows)  # VALUES %s takes all rows'
        return f'{head}psycopg2.extras.execute_batch(cursor, """{statement}""", rows)'
    if group.library == "asyncpg":
        statement = round_trips.numbered(shape.replace("(?+)", "(?, ...)"))
        return f'{head}await connection.executemany("""{statement}""", rows)'
    statement = shape.replace("?", "%s") if group.library.startswith("psycopg") else shape
    statement = statement.replace("(%s+)", "(%s, ...)").replace("(?+)", "(?, ...)")
    return f'{head}cursor.executemany("""{statement}""", rows)'
