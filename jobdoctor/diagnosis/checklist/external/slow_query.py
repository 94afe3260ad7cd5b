"""slow-query: a statement that is slow by itself.

## What it looks for

SELECT, INSERT, UPDATE and DELETE statements of one shape that take `call_ms` or more each, in most executions, and are
run at most `few_calls` times. What they waited for locks, the connect before them and the client's own work are not
counted. Many quick statements are other rules' (see batching), and so is a statement that carries many rows, or gives
or writes thousands of them as quickly as rows can be had.

## Why it costs time

The job waits, with a worker, a connection and often a transaction held open, while the database reads through rows
that an index would have spared it, sorts on disk, or computes what a smaller query would not need.

## What to do

Look at its plan: `EXPLAIN (ANALYZE, BUFFERS)`. A sequential scan that throws most rows away wants an index on the
columns that WHERE and JOIN compare; a function around a column hides its index; a join of everything with everything
wants a condition. What cannot be faster can be computed ahead, into a table or a materialized view.

## When it is a false alarm

When the statement is a report over the whole table that runs rarely, and nobody waits for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jobdoctor import fingerprint
from jobdoctor.diagnosis import measure, round_trips
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms, words_share
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, Severity, SpanGroup

_STATEMENTS = frozenset({"SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "VALUES"})
#: A statement that waits because it was asked to, or for somebody: no plan makes it faster.
_WAITS = re.compile(r"\bpg_(?:try_)?advisory|\bget_lock\s*\(|\bfor (?:no key )?(?:update|share)\b", re.IGNORECASE)
_COLUMN = re.compile(r"([\w.\"`\[\]]+)\s*(?:=|<>|!=|[<>]=?|\bLIKE\b|\bILIKE\b|\bIN\b|\bBETWEEN\b)", re.IGNORECASE)


class SlowQuery(TimeRule):
    """JD206."""

    code = "JD206"
    name = "slow-query"
    step = "external"
    kind = "optimize"
    needs = ("sql",)
    related_to = ("JD501", "JD404", "JD401")

    call_ms = Limit(
        100,
        "ms",
        "mean time of one statement, without lock waits",
        "own: 100 to 1,000 times an indexed lookup; MySQL's and PostgreSQL's logs are usually set to 100 ms to 1 s",
    )
    grave_ms = Limit(
        500, "ms", "mean time of one statement from which it is a warning whatever its share", "Sentry: 500 ms"
    )
    least_share = Limit(
        0.25,
        "share",
        "share of the job's time below which a statement quicker than grave_ms is never more than info",
        "own: a quarter of the job",
    )
    many_rows = Limit(
        1_000, "rows", "rows that one run gives from which much of its time is theirs", "own: 1,000 rows take 1 to 5 ms"
    )
    read_row_us = Limit(
        20, "us", "time for each row read below which many_rows are their transfer, no plan's fault",
        "measured: PostgreSQL sends, and psycopg takes, 300,000 rows a second and more, 3 us each; busy machines less",
    )  # fmt: skip
    written_row_us = Limit(
        100, "us", "time for each row written below which many_rows are the work itself",
        "measured: INSERT ... SELECT into a table with two indexes takes 10 to 15 us for each row",
    )  # fmt: skip
    few_calls = Limit(10, "calls", "runs for each execution from which their number is the illness", "as JD401")
    most_executions = Limit(
        0.6, "share", "executions in which it must be that slow", "own: one slow run is the database's bad moment"
    )

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        whole = measure.body_ms(executions)
        for calls in measure.merge_calls(executions, "sql", where=_is_judged):
            if self._is_slow(calls) and not self._is_bulk(calls):
                yield self._describe(calls, executions, whole)

    def _is_slow(self, calls: Calls) -> bool:
        made = len(calls.groups)
        count = sum(group.count for group in calls.groups) / made
        slow = sum(_own_ms(group, owner) >= self.limits.call_ms for group, owner in _pairs(calls))
        return count < self.limits.few_calls and slow >= max(1.0, self.limits.most_executions * made)

    def _is_bulk(self, calls: Calls) -> bool:
        """Whether the time is that of the rows it gives or writes: many, and each as quick as rows are."""
        rows = calls.rows_per_call
        if rows is None or rows < self.limits.many_rows:
            return False
        each = measure.quantile([_own_ms(group, owner) for group, owner in _pairs(calls)], 0.5)
        writes = calls.first.effect == "write"
        return 1_000 * each / rows < (self.limits.written_row_us if writes else self.limits.read_row_us)

    def _saving(self, calls: Calls, cost: float) -> tuple[float, float, float]:
        """(low, mid, high) in ms. Nobody knows what a plan gives before it is there: from a quarter to all.

        A statement that takes long for few rows reads what it does not give: with the right plan it takes an indexed
        lookup's time, a ms or so. What gives many rows has to read and send them: half of it is a guess.
        """
        many = self._gives_many(calls)
        return measure.give_or_take(0.0 if many else 0.25 * cost, (0.5 if many else 0.85) * cost, cost)

    def _gives_many(self, calls: Calls) -> bool:
        rows = calls.rows_per_call
        return rows is not None and rows >= self.limits.many_rows

    def _describe(self, calls: Calls, executions: list[Execution], whole: float) -> Finding:
        first = calls.first
        each = measure.quantile([_own_ms(group, owner) for group, owner in _pairs(calls)], 0.5)
        cost = sum(_own_ms(group, owner) * group.count for group, owner in _pairs(calls)) / len(executions)
        saving = self._saving(calls, cost)
        part = measure.share(cost, whole)
        severity: Severity = self.severity(saving[1], whole)
        if each < self.limits.grave_ms and part < self.limits.least_share:
            severity = "info"
        elif each >= self.limits.grave_ms and severity == "info":
            severity = "warning"
        rows = calls.rows_per_call
        many = self._gives_many(calls)
        evidence = [
            measure.calls_evidence(
                f"{words_ms(each)} for each run, {words_ms(cost)} of {words_ms(whole)} in the job: "
                f"{round_trips.shortened(first.fingerprint)}",
                [calls],
            )
        ]
        if rows is not None:
            evidence.append(
                Evidence(
                    "fact",
                    f"It gives {words_count(rows)} {'row' if round(rows) == 1 else 'rows'}"
                    + (", which takes time of its own" if many else ": what it reads for them, its plan tells"),
                    {"rows": round(rows, 2)},
                )
            )
        evidence.append(measure.execution_evidence(calls.largest_execution, "Slowest"))
        columns = compared_columns(first.fingerprint)
        index = f"Look for an index on {', '.join(columns)}" if columns else "Look whether it can read less"
        return self.finding(
            severity=severity,
            confidence=0.85 if len(calls.groups) >= 3 else 0.7,
            title=f"{_named(first)} takes {words_ms(each)} ({words_share(part)} of the job) at "
            f"{first.callsite or 'an unknown line'}",
            cost_ms=cost,
            saving=saving,
            text=f"Look at the statement's plan. {index}; what cannot be faster can be computed ahead of the job",
            snippet=_snippet(first, columns),
            callsite=first.callsite,
            calls=max(1, round(calls.count)),
            evidence=evidence,
        )


def _pairs(calls: Calls) -> Iterator[tuple[SpanGroup, Execution]]:
    return zip(calls.groups, calls.owners, strict=True)


def _is_judged(group: SpanGroup) -> bool:
    if group.operation.upper() not in _STATEMENTS or group.effect in ("lock", "transaction"):
        return False
    return not _WAITS.search(group.fingerprint) and 2 * group.batched <= group.count


def _own_ms(group: SpanGroup, owner: Execution) -> float:
    """Mean time of a run: without what is known to be a wait for a lock, and without the client's own CPU where the
    database is another process."""
    index = next((number for number, each in enumerate(owner.groups) if each is group), -1)
    waited = sum(wait.waited_ns for wait in owner.locks if wait.group == index and index >= 0)
    inside = 0 if group.target.startswith("sqlite:") else group.cpu_ns
    own = group.total_ns - max(group.blocked_ns, waited) - inside
    if 2 * group.concurrent > group.count:
        own = min(own, measure.stretch_ns(group))
    return max(0, own) / group.count / measure.NS_PER_MS


def _named(group: SpanGroup) -> str:
    """ "SELECT from orders, customers"."""
    tables = [round_trips.bare_name(table) for table in fingerprint.sql(group.fingerprint).tables[:3]]
    return f"One {group.operation.upper()}" + (f" of {', '.join(tables)}" if tables else "")


def compared_columns(statement: str) -> list[str]:
    """The columns that WHERE and JOIN compare, in the statement's order, at most three: where an index may help."""
    found: list[str] = []
    for clause in re.split(r"\b(?:where|on)\b", statement, flags=re.IGNORECASE)[1:]:
        part = re.split(r"\b(?:group by|order by|limit|having|returning|union)\b", clause, flags=re.IGNORECASE)[0]
        for match in _COLUMN.finditer(part):
            column = match.group(1).replace('"', "").replace("`", "")
            if re.fullmatch(r"[A-Za-z_][\w.]*", column) and column.upper() not in ("NOT", "AND", "OR"):
                found.append(column)
    return list(dict.fromkeys(found))[:3]


def _snippet(group: SpanGroup, columns: list[str]) -> str:
    statement = round_trips.shortened(group.fingerprint)
    explain = "EXPLAIN QUERY PLAN" if group.target.startswith("sqlite:") else "EXPLAIN (ANALYZE, BUFFERS)"
    if group.target.startswith("mysql"):
        explain = "EXPLAIN ANALYZE"
    text = f"-- {group.callsite}: its plan first, with real values for each ?\n{explain} {statement};"
    tables = fingerprint.sql(group.fingerprint).tables
    if columns and len(tables) == 1:
        table = round_trips.bare_name(tables[0])
        names = ", ".join(round_trips.bare_name(column) for column in columns)
        text += f"\n\n-- where it scans the table\nCREATE INDEX ON {table} ({names});"
        if not group.target.startswith("postgresql"):
            text = text.replace("INDEX ON", f"INDEX {table}_{round_trips.bare_name(columns[0])} ON")
    return text
