"""Waits for PostgreSQL's locks: the recording of one process is observed from another, as a worker does it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from jobdoctor.capture import probes, recorder, recording
from jobdoctor.capture.lock_observer import LockObserver
from jobdoctor.model import LockWait

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


def observe(observer: LockObserver, job: Callable[[], None]) -> tuple[list[LockWait], recording.Recording]:
    """Runs the job in a forked process, recorded, and ticks as the worker's parent does."""
    memory = recorder.open_memory()
    rec = recorder.Recorder(memory.buffer)
    observer.begin()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            probes.install_all()
            recorder.start(rec)
            rec.mark("body")
            job()
            rec.mark("end")
            status = 0
        finally:
            os._exit(status)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        observer.tick(memory.buffer)
        time.sleep(0.01)
    assert status == 0
    recorded = recording.read(memory.buffer)
    return observer.end(recorded), recorded


@contextmanager
def held(url: str, statement: str, seconds: float, application: str = "the holder") -> Iterator[int]:
    """A session that runs the statement and keeps its transaction open for a while."""
    connection = psycopg.connect(url, application_name=application)
    connection.execute(statement)

    def let_go() -> None:
        time.sleep(seconds)
        connection.commit()

    thread = threading.Thread(target=let_go)
    thread.start()
    yield connection.info.backend_pid
    thread.join()
    connection.close()


def warm(observer: LockObserver, url: str) -> None:
    """A worker's first question waits for the process to start: have it started, however busy the machine is."""

    def job() -> None:
        with psycopg.connect(url) as connection:
            connection.execute("SELECT pg_sleep(0.5)")

    if observer._known:
        return
    for _ in range(20):
        waits, _ = observe(observer, job)
        assert (waits, observer.problem) == ([], "")
        if observer._answered:
            return
    pytest.fail("no answer in 10 s")


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
    assert wait.blocking_backend == f"{group.target}#{holder}"
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
    assert wait.blocking_backend == f"{group.target}#{holder}"
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


def test_nothing_is_started_for_quick_statements(postgres_url: str) -> None:
    observer = LockObserver(["/nonexistent"])

    def job() -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("SELECT 1")
        time.sleep(0.2)

    waits, _ = observe(observer, job)
    assert (waits, observer.problem) == ([], "")


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
