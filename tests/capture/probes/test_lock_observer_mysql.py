"""Waits for the locks of MySQL and MariaDB: who held them, with which privileges that can be known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jobdoctor.capture.lock_observer import LockObserver
from tests import mariadb
from tests.capture import locking
from tests.capture.locking import Holder, Job, observe

pymysql = pytest.importorskip("pymysql")


@pytest.fixture
def table(mysql_url: str) -> Iterator[dict[str, Any]]:
    """The arguments of ``connect`` for a database with a table."""
    given = mariadb.arguments(mysql_url)
    connection = pymysql.connect(**given, autocommit=True)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS probe_stock")
        cursor.execute("CREATE TABLE probe_stock (id int PRIMARY KEY, left_over int) ENGINE=InnoDB")
        cursor.execute("INSERT INTO probe_stock VALUES (1, 10), (2, 10)")
        yield given
        mariadb.end_others(cursor)
        cursor.execute("DROP TABLE probe_stock")
    connection.close()


@pytest.fixture(scope="module")
def observer() -> Iterator[LockObserver]:
    """One observer, as a worker has one for all of its jobs."""
    observer = LockObserver()
    yield observer
    observer.close()


@contextmanager
def held(given: dict[str, Any], statement: str, seconds: float, jobs: int = 1) -> Iterator[Holder]:
    """A session that runs the statement and keeps what it takes for a while."""
    connection = pymysql.connect(**given, program_name="the holder")

    def release() -> None:
        connection.commit()
        connection.cursor().execute("UNLOCK TABLES")
        connection.cursor().execute("SELECT RELEASE_ALL_LOCKS()")

    with locking.held(connection, connection.thread_id(), [statement], seconds, release, jobs) as holder:
        yield holder


def run(given: dict[str, Any], statement: str) -> Job:
    """A job that runs one statement."""

    def job() -> None:
        connection = pymysql.connect(**given)
        connection.cursor().execute(statement)
        connection.commit()
        connection.close()

    return job


def warm(given: dict[str, Any], *observers: LockObserver) -> None:
    locking.warm(run(given, "SELECT sleep(0.5)"), *observers)


@pytest.mark.parametrize(
    ("kind", "holding", "waiting"),
    [
        ("row", "UPDATE probe_stock SET left_over = 7 WHERE id = 1", "DELETE FROM probe_stock WHERE id = 1"),
        ("advisory", "SELECT GET_LOCK('nightly ''1', 0)", "SELECT GET_LOCK('nightly ''1', 10)"),
        ("table", "LOCK TABLES probe_stock WRITE", "INSERT INTO probe_stock VALUES (3, 3)"),
        ("table", "SELECT left_over FROM probe_stock", "ALTER TABLE probe_stock ADD name varchar(10)"),
    ],
    ids=["row", "advisory", "table", "metadata"],
)
def test_the_kind_the_duration_and_the_holder(
    observer: LockObserver, table: dict[str, Any], kind: str, holding: str, waiting: str
) -> None:
    warm(table, observer)
    with held(table, holding, 0.6) as holder:
        (wait,), recorded = observe(observer, run(table, waiting))
    (group,) = [group for group in recorded.groups if group.operation == waiting.split()[0]]
    assert observer.problem == ""
    assert (wait.kind, wait.target, wait.statement) == (kind, group.target, group.fingerprint)
    assert 0.9 * group.max_ns <= wait.waited_ns <= 1.1 * group.max_ns
    server = group.target.rpartition("/")[0]
    assert wait.blocking_backend == f"{server}#{holder.session}"
    assert wait.blocking_application == "the holder"
    assert wait.blocking_statement.split()[0] == holding.split()[0]
    assert "7" not in wait.blocking_statement
    assert "nightly" not in wait.blocking_statement
    (session,) = recorded.facts("session")
    assert session["backend"].startswith(f"{server}#")


def test_slow_work_after_a_wait_is_no_wait(observer: LockObserver, table: dict[str, Any]) -> None:
    warm(table, observer)
    slow = "UPDATE probe_stock SET left_over = 1 WHERE id = 1 AND sleep(0.6) = 0"
    with held(table, "SELECT left_over FROM probe_stock WHERE id = 1 FOR UPDATE", 0.4):
        waits, recorded = observe(observer, run(table, slow))
    (group,) = [group for group in recorded.groups if group.operation == "UPDATE"]
    assert group.total_ns > 600_000_000
    assert sum(wait.waited_ns for wait in waits) < group.total_ns - 300_000_000


def test_slow_statements_that_wait_for_nobody(observer: LockObserver, table: dict[str, Any]) -> None:
    """While others wait: the server's count of waits is not about this session."""
    warm(table, observer)
    other = LockObserver()
    with held(table, "UPDATE probe_stock SET left_over = 7 WHERE id = 1", 0.6):
        blocked, free = locking.observe_together(
            [other, observer],
            [run(table, "UPDATE probe_stock SET left_over = 2 WHERE id = 1"), run(table, "SELECT sleep(0.5)")],
        )
    other.close()
    assert len(blocked.waits) <= 1  # it may have ended before the new observer was ready
    assert free.waits == []


def test_several_workers_that_wait_for_one_row(table: dict[str, Any]) -> None:
    """MariaDB renews what it shows only when nobody has asked for a while: they must not hide each other."""
    observers = [LockObserver() for _ in range(3)]
    warm(table, *observers)
    with held(table, "UPDATE probe_stock SET left_over = 7 WHERE id = 1", 0.8, jobs=3):
        update = run(table, "UPDATE probe_stock SET left_over = 2 WHERE id = 1")

        def late() -> None:
            time.sleep(0.4)
            update()

        found = locking.observe_together(observers, [update, late, late])
    for observer in observers:
        observer.close()
    for observed in found:
        (group,) = [group for group in observed.recorded.groups if group.operation == "UPDATE"]
        assert [wait.kind for wait in observed.waits] == ["row"]
        assert 0.9 * group.max_ns <= observed.waits[0].waited_ns <= 1.1 * group.max_ns


def test_without_privileges_what_is_missing_is_said(table: dict[str, Any]) -> None:
    root = pymysql.connect(**table, autocommit=True)
    with root.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE USER probe_poor@'%' IDENTIFIED BY 'a secret'")
        cursor.execute(f"GRANT ALL ON `{table['database']}`.* TO probe_poor@'%'")
    poor = {**table, "user": "probe_poor", "password": "a secret"}
    observer = LockObserver()
    try:
        warm(poor, observer)
        with held(table, "UPDATE probe_stock SET left_over = 7 WHERE id = 1", 0.4):
            waits, _ = observe(observer, run(poor, "UPDATE probe_stock SET left_over = 2 WHERE id = 1"))
        assert (waits, observer.problem) == (
            [],
            "Who blocks a row in MySQL: the job's user may not ask; it needs PROCESS",
        )
        with held(table, "LOCK TABLES probe_stock WRITE", 0.4):
            (wait,), _ = observe(observer, run(poor, "UPDATE probe_stock SET left_over = 2 WHERE id = 1"))
        assert (wait.kind, wait.blocking_backend) == ("table", "")
        assert wait.waited_ns > 300_000_000
        assert "GRANT SELECT ON performance_schema.*" in observer.problem
        with held(table, "SELECT GET_LOCK('poor', 0)", 0.4) as holder:
            (wait,), _ = observe(observer, run(poor, "SELECT GET_LOCK('poor', 10)"))
        assert (wait.kind, wait.blocking_backend.rpartition("#")[2]) == ("advisory", str(holder.session))
        assert observer.problem == ""
    finally:
        observer.close()
        with root.cursor() as cursor:
            cursor.execute("DROP USER probe_poor@'%'")
        root.close()


def test_statements_that_only_lock_are_waits_also_when_nobody_could_look(table: dict[str, Any]) -> None:
    blind = LockObserver(["/bin/true"])

    def job() -> None:
        connection = pymysql.connect(**table)
        cursor = connection.cursor()
        cursor.execute("SELECT GET_LOCK('blind', 10)")
        cursor.execute("SELECT RELEASE_LOCK('blind') FROM (SELECT sleep(0.05)) AS slow")
        cursor.execute("LOCK TABLES probe_stock WRITE")
        cursor.execute("UNLOCK TABLES")
        connection.close()

    with held(table, "SELECT GET_LOCK('blind', 0)", 0.3):
        waits, _ = observe(blind, job)
    assert [(wait.kind, wait.blocking_backend) for wait in waits if wait.waited_ns > 100_000_000] == [("advisory", "")]
    assert not [wait for wait in waits if "RELEASE" in wait.statement]
    blind.close()
