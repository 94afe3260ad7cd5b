"""deadlock: transactions that lock one another out: deadlocks, serialization failures, "database is locked".

## What it looks for

Statements of the job, or executions of it, that ended in one of the errors by which a database gives a transaction up
for another one: a deadlock, a serialization failure, a lock that was not to be had in time, SQLite's "database is
locked". Errors that the job caught and got over count as well. Two of them are enough.

## Why it costs time

The victim loses all that its transaction did, after a wait: PostgreSQL looks for deadlocks only after a second, MySQL
waits for a lock up to 50 seconds, SQLite for as long as its busy timeout. Then the work is done again, or is not.

## What to do

Take locks in one order everywhere: sort by primary key before updating rows one by one, or lock all of them with one
`SELECT ... ORDER BY id FOR UPDATE`. Keep transactions short, with nothing but statements in them. Retry the whole
transaction, not the statement, after a short random pause. SQLite: `journal_mode=WAL`, a busy timeout, and
`BEGIN IMMEDIATE` for transactions that write.

## When it is a false alarm

When optimistic locking is the plan: serialization failures that are retried at once and are few are its price.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from jobdoctor import words
from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, SpanGroup

#: Names of the drivers' exceptions (psycopg, psycopg2, asyncpg), which say by themselves what happened.
_NAMES = {
    "DeadlockDetected": "deadlock",
    "DeadlockDetectedError": "deadlock",
    "TransactionRollback": "deadlock",
    "SerializationFailure": "serialization",
    "SerializationError": "serialization",
    "LockNotAvailable": "timeout",
    "LockNotAvailableError": "timeout",
}
#: What the messages of the others say: PostgreSQL, MySQL 1213 and 1205, Oracle ORA-00060, SQL Server 1205, SQLite.
_MESSAGES = (
    (re.compile(r"deadlock", re.IGNORECASE), "deadlock"),
    (re.compile(r"could not serialize|serialization failure", re.IGNORECASE), "serialization"),
    (re.compile(r"database (table |schema )?is locked", re.IGNORECASE), "sqlite"),
    (re.compile(r"lock wait timeout exceeded|lock timeout", re.IGNORECASE), "timeout"),
)
_TITLES = {
    "deadlock": "deadlocks",
    "serialization": "serialization failures",
    "sqlite": '"database is locked" errors',
    "timeout": "lock timeouts",
}


@dataclass
class _Met:
    """Errors of one kind, over the executions looked at."""

    errors: int = 0
    executions: list[Execution] = field(default_factory=list)
    failed: list[Execution] = field(default_factory=list)
    groups: list[SpanGroup] = field(default_factory=list)
    lost_ns: int = 0


class Deadlock(TimeRule):
    """JD504."""

    code = "JD504"
    name = "deadlock"
    step = "locks"
    kind = "lock"
    needs = ("sql",)

    min_errors = Limit(2, "errors", "errors below which the rule is silent", "own: one in a while is a database's life")
    warning_share = Limit(
        0.02, "share", "share of the executions that met one, from which it is a warning however short the wait",
        "alerts of the field: 2% failing",
    )  # fmt: skip
    critical_share = Limit(
        0.1, "share", "share of the executions that failed with one, from which it is critical",
        "own: a tenth of the work is not done, or done again",
    )  # fmt: skip

    def check(self, history: JobHistory) -> Iterable[Finding]:
        met: dict[str, _Met] = {}
        waits = _statements_that_wait(history)
        for execution in history.executions:
            for kind, one in _of(execution, waits).items():
                merged = met.setdefault(kind, _Met())
                merged.errors += one.errors
                merged.executions.append(execution)
                merged.failed += one.failed
                merged.groups += one.groups
                merged.lost_ns += one.lost_ns
        for kind, one in sorted(met.items(), key=lambda item: -item[1].lost_ns):
            if one.errors >= self.limits.min_errors:
                yield self._finding(history, kind, one)

    def _finding(self, history: JobHistory, kind: str, met: _Met) -> Finding:
        looked_at = len(history.executions)
        lead = max(met.groups, key=lambda group: group.errors, default=None)
        # Those that were not given up waited as long, until the others were.
        others = _waited_ns(history, met, lead.fingerprint) if lead is not None and kind == "deadlock" else 0
        cost = (met.lost_ns + others) / looked_at / measure.NS_PER_MS
        failure = next((each.exception for each in met.failed if each.exception and each.exception.callsite), None)
        callsite = lead.callsite if lead is not None else failure.callsite if failure is not None else ""
        share = len(met.executions) / looked_at
        severity = self.severity(cost, measure.run_ms(history.executions))
        if severity == "info" and share >= self.limits.warning_share:
            severity = "warning"
        if len(met.failed) >= max(self.limits.min_errors, self.limits.critical_share * looked_at):
            severity = "critical"
        tables = Counter(group.fingerprint for group in met.groups)
        text, snippet = _advice(kind, callsite, lead)
        return self.finding(
            severity=severity,
            confidence=0.95,
            title=(
                f"{words.number(met.errors)} {_TITLES[kind]} in {len(met.executions)} of {looked_at} executions"
                + (f", {len(met.failed)} of which failed" if met.failed else ", all got over")
            ),
            cost_ms=cost,
            saving=(cost / 2, cost * 0.9, cost),
            text=text,
            snippet=snippet,
            callsite=callsite,
            calls=round(met.errors / looked_at),
            evidence=[
                Evidence(
                    "lock",
                    f"{words.duration(cost * looked_at)} lost in {looked_at} executions: waiting for the verdict, and "
                    f"work of executions that ended with it",
                    {
                        "kind": kind,
                        "errors": met.errors,
                        "executions": len(met.executions),
                        "failed": len(met.failed),
                        "statements": dict(tables.most_common(3)),
                        "target": lead.target if lead is not None else "",
                        "callsite": callsite,
                    },
                ),
                measure.execution_evidence(met.executions[0], "One that met it"),
            ],
        )


def _statements_that_wait(history: JobHistory) -> set[tuple[str, str]]:
    """(target, shape) of the writes that executions were seen to wait with, for another session's row."""
    return {
        (execution.groups[wait.group].target, execution.groups[wait.group].fingerprint)
        for execution in history.executions
        for wait in execution.locks
        if wait.kind == "row" and 0 <= wait.group < len(execution.groups)
    }


def _of(execution: Execution, waits: set[tuple[str, str]]) -> dict[str, _Met]:
    """What one execution met, by kind; ``waits`` are statements that stood in a line for rows."""
    found: dict[str, _Met] = {}
    error = execution.exception
    said = _kind(error.type_name, error.message_shape) if error is not None else None
    sqlite = any(wait.kind == "sqlite" for wait in execution.locks)
    for group in execution.groups:
        if group.channel != "sql" or not group.errors:
            continue
        for name, number in group.error_types.items():
            kind = _kind(name, "")
            if kind is None and group.target.startswith("sqlite") and sqlite and group.blocked_ns:
                kind = "sqlite"  # OperationalError says nothing; that it waited for the file's lock does
            if kind is None and _is_mysqls(group, name) and (group.target, group.fingerprint) in waits:
                # InnoDB ends the one that closes a circle at once, and says so with a number: nobody noted that. But
                # what fails in a transaction and waits for rows elsewhere, failed for them.
                kind = "deadlock"
            if kind is None and said is not None and number == group.errors == 1:
                kind = said  # a type that says nothing: the message that ended the execution does
            if kind is not None:
                met = found.setdefault(kind, _Met())
                met.errors += number
                met.groups.append(group)
                met.lost_ns += min(group.total_ns, max(group.blocked_ns, number * group.max_ns))
    if said is not None:
        met = found.setdefault(said, _Met())
        met.errors = max(1, met.errors)
        met.failed.append(execution)
        met.lost_ns = max(met.lost_ns, execution.run_ns)
    return found


def _is_mysqls(group: SpanGroup, error: str) -> bool:
    """Whether MySQL's drivers mean a deadlock or a lost connection by it: in a transaction."""
    return group.target.startswith("mysql") and error.endswith("OperationalError") and group.in_transaction > 0


def _waited_ns(history: JobHistory, met: _Met, statement: str) -> int:
    """Lock waits of this statement in executions that met no error."""
    gave_up = {execution.id for execution in met.executions}
    return sum(
        wait.waited_ns
        for execution in history.executions
        if execution.id not in gave_up
        for wait in execution.locks
        if wait.statement == statement
    )


def _kind(type_name: str, message: str) -> str | None:
    named = _NAMES.get(type_name.rpartition(".")[2])
    if named is not None:
        return named
    return next((kind for pattern, kind in _MESSAGES if pattern.search(message)), None)


def _advice(kind: str, callsite: str, lead: SpanGroup | None) -> tuple[str, str]:
    at = f" at {callsite}" if callsite else ""
    statement = f" ({lead.fingerprint[:80]})" if lead is not None else ""
    if kind == "sqlite":
        return (
            f"Let SQLite's writers wait for one another, and briefly: write-ahead log, a busy timeout, and BEGIN "
            f"IMMEDIATE where a transaction{at} writes{statement}",
            "connection.execute('PRAGMA journal_mode = WAL')\n"
            "connection.execute('PRAGMA busy_timeout = 5000')\n"
            "connection.execute('BEGIN IMMEDIATE')  # before the first read of a transaction that writes",
        )
    if kind == "serialization":
        return (
            f"Retry the whole transaction{at} after a short random pause, and let it be short{statement}",
            "for attempt in range(3):\n"
            "    try:\n"
            "        with Session(engine) as session, session.begin():\n"
            "            work(session)\n"
            "        break\n"
            "    except OperationalError:\n"
            "        time.sleep(random.uniform(0, 0.05 * 2**attempt))",
        )
    return (
        f"Take the locks in one order everywhere: lock all rows first, by primary key, before they are changed"
        f"{at}{statement}",
        "rows = session.scalars(\n"
        "    select(Row).where(Row.id.in_(ids)).order_by(Row.id).with_for_update()\n"
        ").all()  # every transaction waits here, and none holds what another one waits for",
    )
