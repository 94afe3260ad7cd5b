"""n-plus-one-query: many queries of one shape from one line, each with other parameters.

## What it looks for

SELECTs of one shape, issued one by one from one line of the job, at least `calls` times in an execution, with
different parameters. There is no time window: a slow loop counts as much as a fast one. The loop is confirmed by the
query whose rows it follows, by the ORM relationship that loaded lazily, or by counts that grow with the input from
execution to execution.

## Why it costs time

Each query pays a round trip to the database, its parsing and planning, and the ORM's own work around it. 400 queries
of 1 ms are 400 ms; one query for the same 400 rows takes a few. And the number grows with the data.

## What to do

Load all rows at once, before the loop: `selectinload()` (or `joinedload()`) for a relationship, `WHERE id IN (...)`
or `= ANY(...)` for a lookup, a join for two tables. Take chunks of about 500 when there are very many.

## When it is a false alarm

When each query decides what the next one asks for (walking a tree: look at a recursive query), or when the rows of
all would not fit in memory (take chunks). Queries over `IN` lists, paging by `LIMIT`, scans that fetch many rows with
each call, and the same query with the same parameters (repeated-query) do not count here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jobdoctor import fingerprint
from jobdoctor.diagnosis import measure, round_trips
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Finding, JobHistory, SpanGroup

_IN_LIST = re.compile(r"\bIN \(\?\+\)|\bany\s?\(\s?\(?\s?\?|\[\?\+\]", re.IGNORECASE)
_PAGED = re.compile(r"\boffset \?|\bfetch (?:first|next) ", re.IGNORECASE)
_LIMITED = re.compile(r"\blimit \?", re.IGNORECASE)
_SKIPS_LOCKED = re.compile(r"\bskip locked\b", re.IGNORECASE)

#: An IN list this short beside a comparison is a condition ("status IN (?, ?)"), not a chunk.
_CHUNK_ITEMS = 10


class NPlusOneQuery(TimeRule):
    """JD401."""

    code = "JD401"
    name = "n-plus-one-query"
    step = "batching"
    kind = "batch"
    needs = ("sql",)
    related_to = ("JD404", "JD205")

    calls = Limit(
        10,
        "calls",
        "queries of one shape from one line, for each execution",
        "own: Sentry, Scout and perf-sentinel take 5; a job's healthy loop over a handful of things reaches that",
    )
    distinct = Limit(
        5, "parameter sets", "different parameters for each execution", "perf-sentinel: 5 distinct parameters"
    )
    distinct_share = Limit(
        0.2, "share", "different parameters among the calls; below it, it is a repeated query", "own"
    )
    rows_per_call = Limit(
        100, "rows", "rows fetched by each call from which it is a scan in chunks, not a lookup", "own"
    )
    batch_size = Limit(
        500, "items", "values that one IN query takes", "SQLAlchemy's selectinload() sends 500 keys with each query"
    )
    least_ms = round_trips.LEAST_MS

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        whole = measure.body_ms(executions)
        for calls in measure.merge_calls(executions, "sql", where=is_lookup):
            if calls.count < self.limits.calls or not self._varies(calls) or self._scans(calls):
                continue
            saving = self._saving(calls)
            if saving[1] >= self.limits.least_ms:
                yield self._describe(calls, saving, whole)

    def _saving(self, calls: Calls) -> tuple[float, float, float]:
        """That of the queries themselves, and of the library's CPU between them."""
        low, mid, high = measure.batching_saving(calls.count, calls.total_ms, calls.fastest_ms, self.limits.batch_size)
        likely, most = round_trips.library_ms(calls)
        return (low, mid + likely, high + most)

    def _varies(self, calls: Calls) -> bool:
        if not calls.distinct:  # the probe saw no parameters: different ones are possible where the shape has any
            return "?" in calls.first.fingerprint
        least = max(self.limits.distinct, self.limits.distinct_share * calls.count)
        return calls.distinct >= least

    def _scans(self, calls: Calls) -> bool:
        """Whether each call fetches a chunk: paging, a keyset scan, or many rows."""
        if calls.first.relationship:  # a lazy load asks for one object's rows, however many those are
            return False
        rows = calls.rows_per_call
        shape = calls.first.fingerprint
        if _PAGED.search(shape):
            return True
        if _LIMITED.search(shape) and re.search(r"[<>]=? \?|[<>]=?\?", shape):
            return rows is None or rows > 1.5
        return rows is not None and rows >= self.limits.rows_per_call

    def _describe(self, calls: Calls, saving: tuple[float, float, float], whole: float) -> Finding:
        first = calls.first
        execution = calls.largest_execution
        feeding = round_trips.feeding_query(calls, execution)
        growth = round_trips.growth(calls)
        confidence = 0.84 + 0.06 * (feeding is not None) + 0.08 * bool(first.relationship) + 0.05 * growth.proven
        severity = self.severity(saving[1], whole, calls=calls.count, grows=growth.proven)
        if not calls.distinct:
            confidence -= 0.25
        evidence = [
            measure.calls_evidence(
                f"{words_count(calls.count)} queries with {words_count(calls.distinct)} different parameter sets take "
                f"{words_ms(calls.total_ms)} of {words_ms(whole)} in the job",
                [calls],
            )
        ]
        between = round_trips.between_ms(calls)
        if between >= self.limits.least_ms:
            evidence.append(
                Evidence(
                    "fact",
                    f"{words_ms(between)} more are CPU between them: an ORM's work around each query, or the job's own",
                    {"between_ms": round(between, 3)},
                )
            )
        if feeding is not None:
            evidence.append(
                Evidence(
                    "fact",
                    f"One call for each of the {words_count(feeding.rows or 0)} rows that {feeding.callsite} fetched: "
                    f"{round_trips.shortened(feeding.fingerprint)}",
                    {"callsite": feeding.callsite, "rows": feeding.rows, "fingerprint": feeding.fingerprint},
                )
            )
        if growth.proven:
            evidence.append(Evidence("series", growth.text, {"calls": calls.counts()}))
        evidence.append(measure.execution_evidence(execution, "Most queries of this shape"))
        if measure.mostly_concurrent(calls):
            severity, confidence = "info", confidence - 0.2
            evidence.append(
                Evidence("fact", "Most of these calls ran beside one another: the database pays, less the job")
            )
        text, snippet = _cure(first)
        what = f"loading {first.relationship} one by one" if first.relationship else "of one shape"
        return self.finding(
            severity=severity,
            confidence=confidence,
            title=f"{words_count(calls.count)} queries {what} from {first.callsite or 'an unknown line'}",
            cost_ms=max(calls.total_ms, saving[1]),
            saving=saving,
            text=text,
            snippet=snippet,
            callsite=first.callsite,
            calls=round(calls.count),
            evidence=evidence,
        )


def is_lookup(group: SpanGroup) -> bool:
    """A query from a table that could have been asked for many values at once."""
    if group.operation.upper() not in ("SELECT", "WITH") or group.effect == "write":
        return False
    shape = fingerprint.sql(group.fingerprint)
    if not shape.tables or _SKIPS_LOCKED.search(group.fingerprint):
        return False
    return not carries_many(group)


def carries_many(group: SpanGroup) -> bool:
    """Whether the calls ask for many values at once already: a chunked ``IN (...)``."""
    if not _IN_LIST.search(group.fingerprint):
        return group.batched > 0.5 * group.count
    if group.batched and round_trips.looked_up_column(group.fingerprint):
        return group.items / group.batched >= _CHUNK_ITEMS
    return True


def _cure(group: SpanGroup) -> tuple[str, str]:
    if group.relationship and group.library == "django":
        return _django_cure(group)
    if group.relationship:
        model, _, attribute = group.relationship.rpartition(".")
        model = model.rpartition(".")[2] or "Model"
        many = round_trips.plural(model.lower())
        return (
            f"Load {group.relationship} with the rows that need it. The loop's lazy loads become one more query, "
            "whatever the number of rows.",
            f"# where the {many} are loaded for {group.callsite}\n"
            "from sqlalchemy.orm import selectinload\n\n"
            f"{many} = session.scalars(select({model}).options(selectinload({model}.{attribute}))).all()",
        )
    column = round_trips.bare_name(round_trips.looked_up_column(group.fingerprint))
    text = (
        "Load them in one query before the loop. Collect the values first, ask for all of them with IN or a join "
        "(in chunks of about 500 when there are very many), and look the rows up in a dict."
    )
    if not column:
        return text, f"# {group.callsite} repeats:\n# {round_trips.shortened(group.fingerprint)}"
    return text, _in_snippet(group, column)


def _django_cure(group: SpanGroup) -> tuple[str, str]:
    """A row's own key is what a foreign key asks for, another column what the rows that point at it have."""
    model, _, attribute = group.relationship.rpartition(".")
    many = round_trips.plural(model.lower())
    if group.load_strategy == "deferred":
        return (
            f"{group.relationship} is left out where the {many} are loaded, by defer() or only(), and then asked for "
            "one by one. Load it with them.",
            f"# where the {many} are loaded for {group.callsite}\n"
            f'{many} = {model}.objects.all()  # without defer("{attribute}"), or with it in only(...)',
        )
    one = round_trips.bare_name(round_trips.looked_up_column(group.fingerprint)) == "id"
    load = "select_related" if one else "prefetch_related"
    text = f"Load {group.relationship} with the rows that need it, by {load}(). "
    if one:
        text += "The loop's lazy loads become a join."
    else:
        text += (
            "The loop's lazy loads become one more query, whatever the number of rows. What is filtered in the loop "
            "needs a Prefetch() with that filter."
        )
    return text, (f'# where the {many} are loaded for {group.callsite}\n{many} = {model}.objects.{load}("{attribute}")')


def _in_snippet(group: SpanGroup, column: str) -> str:
    values = round_trips.plural(column)
    shape = round_trips.shortened(group.fingerprint)
    lookup = f"by_{column} = {{row.{column}: row for row in rows}}"
    if group.library == "sqlalchemy":
        tables = fingerprint.sql(group.fingerprint).tables
        table = round_trips.bare_name(tables[0]) if tables else "table"
        return (
            f"# before the loop that reaches {group.callsite}\n"
            f"rows = session.execute(select({table}).where({table}.c.{column}.in_({values}))).all()\n{lookup}"
        )
    if group.library == "django":
        tables = fingerprint.sql(group.fingerprint).tables
        model = round_trips.bare_name(tables[0]).rpartition("_")[2].title() if tables else "Model"
        return (
            f"# before the loop that reaches {group.callsite}\n"
            f"rows = {model}.objects.filter({column}__in={values})\n{lookup}"
        )
    if group.library.startswith("psycopg"):
        statement = round_trips.in_query(shape, "= ANY(%s)").replace("?", "%s")
        return (
            f"# before the loop that reaches {group.callsite}\n"
            f'rows = connection.execute("""{statement}""", [{values}]).fetchall()\n{lookup}'
        )
    if group.library == "asyncpg":
        statement = round_trips.numbered(round_trips.in_query(shape, "= ANY(?)"))
        return (
            f"# before the loop that reaches {group.callsite}\n"
            f'rows = await connection.fetch("""{statement}""", {values})\n{lookup}'
        )
    statement = round_trips.in_query(shape, "IN ({marks})")
    return (
        f"# before the loop that reaches {group.callsite}\n"
        f'marks = ", ".join("?" for _ in {values})\n'
        f'rows = connection.execute(f"""{statement}""", {values}).fetchall()\n{lookup}'
    )
