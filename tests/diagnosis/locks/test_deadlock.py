"""JD504: transactions given up for others, by driver and by message; other errors are not."""

from __future__ import annotations

import pytest
from msgspec import structs

from jobdoctor.diagnosis.checklist.batching.row_by_row_write import RowByRowWrite
from jobdoctor.diagnosis.checklist.locks.database_lock_wait import DatabaseLockWait
from jobdoctor.diagnosis.checklist.locks.deadlock import Deadlock
from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.model import ExceptionInfo, Execution, LockWait
from tests.builders import MS, make_execution, make_group, make_history
from tests.diagnosis.asking import ask, only

UPDATE = "UPDATE stock_levels SET on_hand = ? WHERE sku = ?"
DETECTED = "psycopg.errors.DeadlockDetected"


def met(
    error: str = DETECTED, *, errors: int = 1, ms: float = 1_000, run_ms: float = 1_200, **fields: object
) -> Execution:
    group = make_group(
        fingerprint=UPDATE, operation="UPDATE", effect="write", callsite="app/stock.py:9", count=4, ms=ms,
        max_ns=int(ms * MS), errors=errors, error_types={error: errors} if errors else {},
    )  # fmt: skip
    return make_execution(**{"run_ms": run_ms, "groups": [group], **fields})


def failed(type_name: str, message: str, **fields: object) -> Execution:
    error = ExceptionInfo(type_name, message, callsite="app/stock.py:9", digest="x")
    return make_execution(**{"run_ms": 700, "outcome": "failed", "exception": error, **fields})


QUIET = [make_execution(run_ms=200) for _ in range(6)]


def test_fires_on_deadlocks_that_were_got_over() -> None:
    finding = only(ask(Deadlock, [met(), met(), *QUIET]))
    assert finding.title == "2 deadlocks in 2 of 8 executions, all got over"
    assert finding.severity == "critical"
    assert finding.callsite == "app/stock.py:9"
    assert finding.cost_ms == pytest.approx(250)
    assert "order_by(Row.id).with_for_update()" in finding.recommendation.snippet
    assert finding.evidence[0].data["statements"] == {UPDATE: 2}
    assert finding.evidence[1].kind == "execution"


def test_an_execution_that_failed_with_it_lost_all_its_work() -> None:
    message = "(psycopg.errors.DeadlockDetected) deadlock detected"
    finding = only(ask(Deadlock, [failed("sqlalchemy.exc.OperationalError", message) for _ in range(2)] + QUIET[:2]))
    assert finding.title == "2 deadlocks in 2 of 4 executions, 2 of which failed"
    assert finding.cost_ms == pytest.approx(350)


@pytest.mark.parametrize(("quiet", "severity"), [(18, "critical"), (19, "warning")])
def test_work_that_is_lost_is_critical_from_a_tenth_on(quiet: int, severity: str) -> None:
    lost = [failed("psycopg.errors.DeadlockDetected", "", run_ms=1) for _ in range(2)]
    assert only(ask(Deadlock, [*lost, *[make_execution(run_ms=200)] * quiet])).severity == severity


def test_the_lock_waits_and_the_single_writes_of_a_deadlock_are_its_parts() -> None:
    """Two jobs that update the same rows in opposite order, row by row."""
    wait = LockWait("row", "postgresql://db:5432/app", 900 * MS, group=0, statement=UPDATE)
    group = make_group(
        fingerprint=UPDATE, operation="UPDATE", effect="write", callsite="app/stock.py:9", count=25, ms=950, rows=25,
        max_ns=900 * MS, errors=1, error_types={DETECTED: 1},
    )  # fmt: skip
    error = ExceptionInfo(DETECTED, "deadlock detected", callsite="app/stock.py:9", digest="x")
    half = [make_execution(run_ms=1_000, groups=[group], locks=[wait], outcome="failed", exception=error)] * 3
    rest = [make_execution(run_ms=1_000, groups=[structs.replace(group, errors=0, error_types={})], locks=[wait])] * 3
    rules = [Deadlock(), DatabaseLockWait(), RowByRowWrite()]
    findings = diagnose(make_history([*half, *rest]), rules=rules).findings
    assert {finding.code: finding.part_of for finding in findings} == {
        "JD504": None, "JD501": "JD504", "JD405": "JD504",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("type_name", "message", "said"),
    [
        ("psycopg2.errors.DeadlockDetected", "", "deadlocks"),
        ("asyncpg.exceptions.DeadlockDetectedError", "", "deadlocks"),
        ("pymysql.err.OperationalError", "(?, 'Deadlock found when trying to get lock; try restarting')", "deadlocks"),
        ("psycopg.errors.SerializationFailure", "", "serialization failures"),
        ("sqlalchemy.exc.DBAPIError", "could not serialize access due to concurrent update", "serialization failures"),
        ("sqlite3.OperationalError", "database is locked", '"database is locked" errors'),
        ("django.db.utils.OperationalError", "database table is locked", '"database is locked" errors'),
        ("MySQLdb.OperationalError", "(?, 'Lock wait timeout exceeded; try restarting transaction')", "lock timeouts"),
        ("psycopg.errors.LockNotAvailable", "canceling statement due to lock timeout", "lock timeouts"),
    ],
)
def test_fires_on_what_each_driver_says(type_name: str, message: str, said: str) -> None:
    assert f"2 {said} in" in only(ask(Deadlock, [failed(type_name, message), failed(type_name, message)])).title


def test_a_busy_sqlite_that_the_job_retried_is_told_by_its_lock_wait() -> None:
    group = make_group(
        target="sqlite:///shop.db", errors=3, error_types={"sqlite3.OperationalError": 3}, count=4, ms=600,
        max_ns=200 * MS, blocked_ns=590 * MS, callsite="app/stock.py:9",
    )  # fmt: skip
    busy = make_execution(run_ms=700, groups=[group], locks=[LockWait("sqlite", "shop.db", 590 * MS)])
    finding = only(ask(Deadlock, [busy]))
    assert finding.title == '3 "database is locked" errors in 1 of 1 executions, all got over'
    assert "journal_mode = WAL" in finding.recommendation.snippet


def test_the_message_tells_what_the_type_does_not() -> None:
    message = "(?, 'Deadlock found when trying to get lock')"
    error = ExceptionInfo("pymysql.err.OperationalError", message, callsite="app/stock.py:9")
    each = [met("pymysql.err.OperationalError", outcome="failed", exception=error) for _ in range(2)]
    finding = only(ask(Deadlock, each))
    assert finding.title == "2 deadlocks in 2 of 2 executions, 2 of which failed"


@pytest.mark.parametrize(("errors", "fires"), [(1, False), (2, True)])
def test_below_two_errors_it_is_silent(errors: int, fires: bool) -> None:
    assert bool(ask(Deadlock, [met(errors=errors, ms=10), *QUIET])) is fires


@pytest.mark.parametrize(("others", "severity"), [(98, "warning"), (99, "info")])
def test_just_below_two_in_a_hundred_a_short_one_is_a_hint(others: int, severity: str) -> None:
    quiet = [make_execution(run_ms=200) for _ in range(others)]
    assert only(ask(Deadlock, [met(ms=2, run_ms=200), met(ms=2, run_ms=200), *quiet])).severity == severity


@pytest.mark.parametrize(
    "execution",
    [
        met(errors=0),
        met("psycopg.errors.UniqueViolation"),
        met("sqlite3.OperationalError"),
        failed("builtins.ValueError", "the lock of the shop is broken"),
        failed("redis.exceptions.LockError", "Unable to acquire lock within the time specified"),
    ],
    ids=["no error", "unique violation", "another operational error", "a word", "a redis lock"],
)
def test_look_alikes(execution: Execution) -> None:
    assert ask(Deadlock, [execution] * 5) == []


def mysqls(number: int, **fields: object) -> Execution:
    """InnoDB ends one of the two at once: PyMySQL's error says nothing, and the job got over it."""
    group = make_group(
        fingerprint=UPDATE, operation="UPDATE", effect="write", callsite="app/stock.py:9", count=2, ms=4,
        target="mysql://db:3306/app", errors=number, in_transaction=2,
        error_types={"pymysql.err.OperationalError": number} if number else {},
    )  # fmt: skip
    return make_execution(run_ms=200, groups=[structs.replace(group, **fields)])


def waiting() -> Execution:
    wait = LockWait("row", "mysql://db:3306/app", 0, 90 * MS, group=0, statement=UPDATE)
    return structs.replace(mysqls(0), locks=[wait])


def test_fires_on_mysqls_deadlocks_that_were_got_over() -> None:
    finding = only(ask(Deadlock, [mysqls(1), mysqls(1), waiting(), *QUIET]))
    assert finding.title == "2 deadlocks in 2 of 9 executions, all got over"


@pytest.mark.parametrize("fields", [{"in_transaction": 0}, {"target": "sqlite:///app.db"}, {"fingerprint": "SELECT 1"}])
def test_other_operational_errors_are_none(fields: dict[str, object]) -> None:
    assert ask(Deadlock, [mysqls(1, **fields), mysqls(1, **fields), waiting(), *QUIET]) == []
    assert ask(Deadlock, [mysqls(1), mysqls(1), *QUIET]) == []  # nobody was seen to wait for rows
