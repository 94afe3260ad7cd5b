"""Waits for PostgreSQL's locks: the recording of one process is observed from another, as a worker does it."""

from __future__ import annotations

import os
import pathlib
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobdoctor.capture.lock_observer import LockObserver
from tests.capture import locking
from tests.capture.locking import Holder, Observed, observe

psycopg = pytest.importorskip("psycopg")


@pytest.fixture
def table(postgres_url: str) -> Iterator[str]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS probe_stock")
        connection.execute("CREATE TABLE probe_stock (id int PRIMARY KEY, left_over int)")
        connection.execute("INSERT INTO probe_stock VALUES (1, 10), (2, 10)")
        yield "probe_stock"
        connection.execute("DROP TABLE probe_stock")


@pytest.fixture(scope="module")
def observer(postgres_url: str) -> Iterator[LockObserver]:
    """One observer, as a worker has one for all of its jobs."""
    observer = LockObserver()
    yield observer
    observer.close()


@contextmanager
def held(url: str, statement: str, seconds: float, application: str = "the holder") -> Iterator[Holder]:
    """A session that runs the statement and keeps its transaction open for a while."""
    connection = psycopg.connect(url, application_name=application)
    with locking.held(connection, connection.info.backend_pid, [statement], seconds, connection.commit) as holder:
        yield holder


def warm(observer: LockObserver, url: str) -> None:
    def stand_still() -> None:
        with psycopg.connect(url) as connection:
            connection.execute("SELECT pg_sleep(0.5)")

    locking.warm(stand_still, observer)


def test_a_row_lock_its_duration_and_its_holder(observer: LockObserver, postgres_url: str, table: str) -> None:
    warm(observer, postgres_url)

    def job() -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("UPDATE probe_stock SET left_over = left_over - 1 WHERE id = %s", (1,))

    with held(postgres_url, "UPDATE probe_stock SET left_over = 7 WHERE id = 1", 0.6) as holder:
        began = time.perf_counter_ns()
        (wait,), recorded = observe(observer, job)
    (group,) = [group for group in recorded.groups if group.operation == "UPDATE"]
    assert wait.kind == "row"
    assert wait.target == group.target
    # From the statement's start, although it was first asked about 50 ms later, to its end.
    assert 0.95 * group.total_ns <= wait.waited_ns <= 1.05 * group.total_ns
    assert group.total_ns > 400_000_000
    assert began < wait.start_ns < time.perf_counter_ns()
    assert wait.statement == group.fingerprint
    assert wait.blocking_statement == "UPDATE probe_stock SET left_over = ? WHERE id = ?"
    assert wait.blocking_backend == f"{group.target}#{holder.session}"
    assert wait.blocking_application == "the holder"
    (session,) = recorded.facts("session")
    assert session["backend"].rpartition("#")[0] == group.target


def test_advisory_and_table_locks(observer: LockObserver, postgres_url: str, table: str) -> None:
    warm(observer, postgres_url)

    def job() -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(42)")

    with held(postgres_url, "SELECT pg_advisory_xact_lock(42)", 0.5) as holder:
        (wait,), recorded = observe(observer, job)
    (group,) = [group for group in recorded.groups if group.effect == "lock"]
    assert (wait.kind, wait.blocking_statement) == ("advisory", "SELECT pg_advisory_xact_lock(?)")
    assert wait.blocking_backend == f"{group.target}#{holder.session}"
    assert 0.85 * group.total_ns <= wait.waited_ns <= 1.15 * group.total_ns

    def other_job() -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("INSERT INTO probe_stock VALUES (3, 3)")

    with held(postgres_url, "LOCK TABLE probe_stock IN EXCLUSIVE MODE", 0.4):
        (wait,), _ = observe(observer, other_job)
    assert (wait.kind, wait.blocking_statement) == ("table", "LOCK TABLE probe_stock IN EXCLUSIVE MODE")


def test_slow_work_after_a_wait_is_no_wait(observer: LockObserver, postgres_url: str, table: str) -> None:
    warm(observer, postgres_url)

    def job() -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("UPDATE probe_stock SET left_over = 1 WHERE id = 1 AND pg_sleep(0.5) IS NOT NULL")

    with held(postgres_url, "UPDATE probe_stock SET left_over = 7 WHERE id = 1", 0.3):
        waits, recorded = observe(observer, job)
    (group,) = [group for group in recorded.groups if group.operation == "UPDATE"]
    assert group.total_ns > 500_000_000
    assert sum(wait.waited_ns for wait in waits) < group.total_ns - 300_000_000


def test_a_lock_statement_is_a_wait_also_when_nobody_could_look(postgres_url: str) -> None:
    blind = LockObserver([sys.executable, "-c", "pass"])

    def job() -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(43)")

    with held(postgres_url, "SELECT pg_advisory_xact_lock(43)", 0.3):
        waits, _ = observe(blind, job)
    assert [(wait.kind, wait.blocking_backend) for wait in waits] == [("advisory", "")]
    assert waits[0].waited_ns > 150_000_000
    assert blind.problem == "The lock observer ended by itself"
    blind.close()


def test_nothing_is_started_without_a_session_that_could_be_asked_about() -> None:
    observer = LockObserver(["/nonexistent"])

    def job() -> None:
        sqlite3.connect(":memory:").execute("SELECT 1")
        time.sleep(0.1)

    waits, _ = observe(observer, job)
    assert (waits, observer.problem) == ([], "")


def test_the_first_wait_of_a_worker_is_seen_with_its_holder(postgres_url: str, table: str) -> None:
    """The process starts with the first session: a wait shorter than its start is not missed."""
    observer = LockObserver()
    begun, ready = os.pipe()

    def job() -> None:
        with psycopg.connect(postgres_url) as connection:
            os.read(begun, 1)
            connection.execute("UPDATE probe_stock SET left_over = 1 WHERE id = 2")

    observed = Observed(observer, job)
    while not _has_loaded(observer, "psycopg"):
        assert not observed.tick()
        time.sleep(0.01)
    with held(postgres_url, "UPDATE probe_stock SET left_over = 7 WHERE id = 2", 0.5):
        os.write(ready, b"1")
        while not observed.tick():
            time.sleep(0.01)
    observer.close()
    assert [(wait.kind, wait.blocking_application) for wait in observed.waits] == [("row", "the holder")]


def _has_loaded(observer: LockObserver, library: str) -> bool:
    """Whether the process has the library and waits for questions."""
    if observer._process is None:
        return False
    process = pathlib.Path(f"/proc/{observer._process.pid}")
    return library in (process / "maps").read_text() and "S" in (process / "stat").read_text().rpartition(")")[2][:3]


def test_a_process_that_nobody_asks_ends_and_is_started_again(postgres_url: str, table: str) -> None:
    short = (
        "from jobdoctor.capture import blockers as b; b.SESSION_IDLE_S = b.IDLE_S = 0.05; raise SystemExit(b.main())"
    )
    observer = LockObserver([sys.executable, "-c", short])

    def job() -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("SELECT pg_sleep(0.15)")

    for _ in range(5):  # more often than a process that fails is started
        observe(observer, job)
        assert observer.problem == ""
        assert observer._process is not None
        observer._process.wait(20)
    observer._command = [sys.executable, "-m", "jobdoctor.capture.blockers"]
    warm(observer, postgres_url)
    observer.close()


def test_the_process_has_no_secrets_in_its_arguments_and_ends_with_its_worker(
    observer: LockObserver, postgres_url: str
) -> None:
    warm(observer, postgres_url)
    process = observer._process
    assert process is not None
    with open(f"/proc/{process.pid}/cmdline", "rb") as file:
        assert b"host" not in file.read()
    with psycopg.connect(postgres_url) as connection:
        names = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'jobdoctor-lock-observer'"
        assert connection.execute(names).fetchone() == (1,)
    observer.close()
    assert process.returncode is not None
