"""database-lock-wait: a statement stood blocked by another session.

## What it looks for

Time in which a statement of the job stood blocked by another session: row locks, table locks, advisory locks, and
SQLite's one writer. The blocking statement is named where the server tells it (MySQL tells users with the privilege
PROCESS, or SELECT on its performance schema; of SQLite the process is known that writes), and the blocking job when
that session belonged to one that was recorded. Statements that do nothing but take a lock (`pg_advisory_lock`,
`LOCK TABLE`, `GET_LOCK`) count with the time they took above an uncontended one, also when nobody was seen holding it.

## Why it costs time

A blocked statement does no work and holds its worker, its connection and every lock it already has, so that waits
chain: the next job waits for this one. More workers make it worse, for they queue at the same row.

## What to do

Shorten the transaction that holds the lock: do slow work (HTTP calls, rendering, sleeping) before it or after its
commit. Touch rows in one order everywhere. Where any free row will do, take it with `FOR UPDATE SKIP LOCKED`. Where
only one run may work at a time, try the advisory lock and put the job back for later instead of standing in line.

## When it is a false alarm

When the wait is the point: a migration, a nightly job that has its window to itself, a deliberate one-at-a-time lock
whose jobs nobody waits for. Raise `min_wait_ms` for such jobs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.contention import (
    Contention,
    above_uncontended_ns,
    call_waits,
    contention_evidence,
    lock_waits,
    longest_first,
)
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Execution, Finding, JobHistory, SpanGroup

KINDS = frozenset({"row", "table", "advisory", "sqlite"})

#: Statements that wait for a lock and do nothing else. The "try" and the releasing ones do not wait.
_ADVISORY = re.compile(r"\bpg_advisory_(?:xact_)?lock(?:_shared)?\b|\bget_lock\b", re.IGNORECASE)
_TABLE = re.compile(r"^\s*LOCK\b", re.IGNORECASE)

_WORDS = {
    "row": "a row lock",
    "table": "a table lock",
    "advisory": "an advisory lock",
    "sqlite": "SQLite's write lock",
}


class DatabaseLockWait(TimeRule):
    code = "JD501"
    name = "database-lock-wait"
    step = "locks"
    kind = "lock"
    related_to = ("JD504",)
    needs = ("sql",)

    min_wait_ms = Limit(
        20,
        "ms",
        "mean blocked time for each execution below which a lock is silent",
        "own: some 50 times an uncontended local statement; PostgreSQL itself logs waits from deadlock_timeout, 1 s",
    )
    min_share = Limit(
        0.05,
        "share",
        "share of the job's run, without waits for a processor, imports and what RQ does around it, below which a lock "
        "is silent",
        "Sentry's M(N+1): 0.05",
    )
    long_wait_ms = Limit(
        1_000,
        "ms",
        "a single wait that is worth saying whatever its share",
        "PostgreSQL: log_lock_waits reports waits longer than deadlock_timeout, 1 s by default",
    )
    uncontended_ms = Limit(
        5, "ms", "a lock statement faster than this met no other session", "own: ten local or one remote round trip"
    )

    def check(self, history: JobHistory) -> Iterable[Finding]:
        executions = measure.typical(history)
        run, undisturbed = measure.run_ms(executions), measure.undisturbed_ms(executions)
        waits = longest_first([*lock_waits(executions, KINDS), *self._unobserved(executions)])
        targets: dict[tuple[str, str], list[Contention]] = {}
        for wait in waits:
            targets.setdefault((wait.kind, wait.target), []).append(wait)
        for (kind, target), found in targets.items():
            waited = sum(wait.mean_ms for wait in found)
            longest = max(wait.longest_ms for wait in found)
            real = waited >= self.limits.min_wait_ms and waited >= self.limits.min_share * undisturbed
            if real or longest >= self.limits.long_wait_ms:
                yield self._finding(history, executions, kind, target, found, min(waited, run))

    def _unobserved(self, executions: Sequence[Execution]) -> list[Contention]:
        """Statements that were blocked, or only take a lock, and have no recorded wait of their own."""
        told = {
            id(execution.groups[wait.group])
            for execution in executions
            for wait in execution.locks
            if 0 <= wait.group < len(execution.groups)
        }

        def waits(group: SpanGroup) -> bool:
            return id(group) not in told and (group.blocked_ns > 0 or _only_locks(group) != "")

        return call_waits(
            executions,
            measure.merge_calls(executions, "sql", where=waits),
            lambda group: above_uncontended_ns(group, self.limits.uncontended_ms),
            lambda group: _only_locks(group) or ("sqlite" if group.target.startswith("sqlite") else "row"),
        )

    def _finding(
        self,
        history: JobHistory,
        executions: Sequence[Execution],
        kind: str,
        target: str,
        found: list[Contention],
        waited: float,
    ) -> Finding:
        run = measure.run_ms(executions)
        main = found[0]
        job, statement, application = next((wait.main_holder for wait in found if wait.holders), ("", "", ""))
        holder = job or application
        title = f"Blocked {measure.words_ms(waited)} an execution on {_WORDS[kind]}"
        if holder:
            title += f" held by {'other executions of this job' if job == history.job else holder}"
        elif statement:
            title += f" held by another session ({_shortened(statement)})"
        affected = {name for wait in found for name in wait.waited_ns}
        text = (
            f"{len(affected)} of {len(executions)} executions waited on {target or 'the database'}, the longest "
            f"{measure.words_ms(max(wait.longest_ms for wait in found))}"
        )
        if main.statement:
            text += f"; what waited: {_shortened(main.statement)}"
        if statement:
            text += f"; what held it: {_shortened(statement)}"
        evidence = [contention_evidence(text, found)]
        worst = max(executions, key=lambda each: sum(wait.waited_ns.get(each.id, 0) for wait in found))
        evidence.append(measure.execution_evidence(worst, "The longest wait"))
        advice, snippet = _advice(kind, mysql=target.startswith("mysql:"), self_blocking=job == history.job)
        return self.finding(
            severity=self.severity(0.9 * waited, run),
            confidence=0.97 if holder or statement else 0.85,
            title=title,
            cost_ms=waited,
            # Whoever does slow work outside of the transaction holds the lock for its statements alone, which is short.
            # Low: half of that work needs the lock.
            saving=(0.5 * waited, 0.9 * waited, waited),
            text=advice,
            snippet=snippet,
            callsite=main.callsite,
            evidence=evidence,
        )


def _only_locks(group: SpanGroup) -> str:
    """The kind of lock that the statement takes when it does nothing else; empty for any other statement."""
    if group.effect != "lock":
        return ""
    if _ADVISORY.search(group.fingerprint):
        return "advisory"
    return "table" if _TABLE.search(group.fingerprint) else ""


def _shortened(statement: str, most: int = 80) -> str:
    return statement if len(statement) <= most else statement[: most - 1] + "…"


_LOCK_TIMEOUT = "LOCAL lock_timeout = '2s'"
#: What a table's lock is in MySQL most often.
_METADATA = (
    ". ALTER TABLE waits for every transaction that has read the table, and everybody else waits behind it: commit "
    "after reading, too"
)


def _advice(kind: str, *, mysql: bool, self_blocking: bool) -> tuple[str, str]:
    if kind == "advisory":
        return (
            "Try the lock and come back later instead of standing in line with a worker. Hold it for the shortest "
            "stretch that needs it",
            "taken = session.scalar(text('SELECT GET_LOCK(:key, 0)'), {'key': key})  # 0: does not wait\n"
            "if not taken:\n"
            "    queue.enqueue_in(timedelta(seconds=5), this_job, *args)\n"
            "    return"
            if mysql
            else "taken = session.scalar(text('SELECT pg_try_advisory_xact_lock(:key)'), {'key': key})\n"
            "if not taken:\n"
            "    queue.enqueue_in(timedelta(seconds=5), this_job, *args)\n"
            "    return",
        )
    if kind == "table":
        return (
            "Take a narrower lock, or take it last: a table lock makes every other writer wait until the commit. "
            f"Give what must lock the table a {'lock_wait_timeout' if mysql else 'lock_timeout'}, so that it gives up "
            f"instead of holding up the line{_METADATA if mysql else ''}",
            "with engine.begin() as connection:\n"
            f'    connection.execute(text("SET {"SESSION lock_wait_timeout = 2" if mysql else _LOCK_TIMEOUT}"))\n'
            "    ...  # only the statements that need the lock",
        )
    if kind == "sqlite":
        return (
            "Keep write transactions short and switch to write-ahead logging: SQLite has one writer at a time. "
            "With many writing workers use PostgreSQL",
            "connection.execute('PRAGMA journal_mode=WAL')\nconnection.execute('PRAGMA busy_timeout=5000')",
        )
    if self_blocking:
        return (
            "Let executions of this job take different rows: skip those that another one holds, and commit before "
            "the slow work. Running more of them at once only makes the line longer",
            "row = session.scalars(\n"
            "    select(Order).where(Order.state == 'new').limit(1).with_for_update(skip_locked=True)\n"
            ").first()",
        )
    return (
        "Shorten the transaction that holds the row: do the slow work before it begins or after it commits, and touch "
        "rows in one order everywhere. Where any free row will do, skip the locked ones",
        "total = api.fetch_total(order_id)          # slow work first, no lock held\n"
        "with session.begin():                      # then lock, write, commit\n"
        "    order = session.get(Order, order_id, with_for_update=True)\n"
        "    order.total = total\n"
        "# or, where any free row will do: .with_for_update(skip_locked=True)",
    )
