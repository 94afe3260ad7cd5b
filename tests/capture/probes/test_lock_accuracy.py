"""Waits of 1.5 seconds against the truth: from the statement's start until the holder let go, within 5%."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobdoctor.capture.lock_observer import LockObserver
from tests import mariadb
from tests.capture import locking
from tests.capture.locking import Holder, Job, Observed, observe_together

BLOCKED_S = 1.5
WITHIN = 0.05

Hold = Callable[[str], AbstractContextManager[Holder]]


def measured(
    statements: dict[str, tuple[str, str]], run: Callable[[str], Job], hold: Hold, stand_still: Job
) -> dict[str, float]:
    """Reported by true wait, by kind. ``statements`` are those of the holder and of the job. The waits run together."""
    observers = [LockObserver() for _ in statements]
    try:
        locking.warm(stand_still, *observers)
        with ExitStack() as stack:
            holders = [stack.enter_context(hold(holding)) for holding, _ in statements.values()]
            jobs = [run(waiting) for _, waiting in statements.values()]
            found = observe_together(observers, jobs)
        return {kind: _ratio(each, holder, kind) for kind, each, holder in zip(statements, found, holders, strict=True)}
    finally:
        for observer in observers:
            observer.close()


def _ratio(observed: Observed, holder: Holder, kind: str) -> float:
    (wait,) = observed.waits
    assert wait.kind == kind
    assert wait.blocking_backend.rpartition("#")[2] == str(holder.session)
    return wait.waited_ns / (holder.released_ns - wait.start_ns)


def test_postgresql(postgres_url: str, record_property: Any) -> None:
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for table in ("exact_row", "exact_table"):
            connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.execute(f"CREATE TABLE {table} AS SELECT 1 AS id, 10 AS stock")

    def run(statement: str) -> Job:
        def job() -> None:
            with psycopg.connect(postgres_url) as connection:
                connection.execute(statement)

        return job

    @contextmanager
    def hold(statement: str) -> Iterator[Holder]:
        connection = psycopg.connect(postgres_url)
        session = connection.info.backend_pid
        with locking.held(connection, session, [statement], BLOCKED_S, connection.commit, jobs=3) as holder:
            yield holder

    ratios = measured(
        {
            "row": ("UPDATE exact_row SET stock = 1", "DELETE FROM exact_row"),
            "table": ("LOCK TABLE exact_table", "INSERT INTO exact_table VALUES (2, 2)"),
            "advisory": ("SELECT pg_advisory_xact_lock(77)", "SELECT pg_advisory_xact_lock(77)"),
        },
        run,
        hold,
        run("SELECT pg_sleep(0.5)"),
    )
    record_property("reported / true", ratios)
    assert all(abs(ratio - 1) <= WITHIN for ratio in ratios.values()), ratios
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP TABLE exact_row, exact_table")


def test_mysql(mysql_url: str, record_property: Any) -> None:
    pymysql = pytest.importorskip("pymysql")
    given = mariadb.arguments(mysql_url)

    def run(*statements: str) -> Job:
        def job() -> None:
            connection = pymysql.connect(**given)
            for statement in statements:
                connection.cursor().execute(statement)
            connection.commit()
            connection.close()

        return job

    @contextmanager
    def hold(statement: str) -> Iterator[Holder]:
        connection = pymysql.connect(**given)

        def release() -> None:
            if "GET_LOCK" in statement:
                connection.cursor().execute("SELECT RELEASE_ALL_LOCKS()")
            else:
                connection.cursor().execute("UNLOCK TABLES" if "TABLES" in statement else "COMMIT")

        with locking.held(connection, connection.thread_id(), [statement], BLOCKED_S, release, jobs=3) as holder:
            yield holder

    for table in ("exact_row", "exact_table"):
        run(f"DROP TABLE IF EXISTS {table}", f"CREATE TABLE {table} AS SELECT 1 AS id, 10 AS stock")()
    ratios = measured(
        {
            "row": ("UPDATE exact_row SET stock = 1", "DELETE FROM exact_row"),
            "table": ("LOCK TABLES exact_table WRITE", "INSERT INTO exact_table VALUES (2, 2)"),
            "advisory": ("SELECT GET_LOCK('exact', 0)", "SELECT GET_LOCK('exact', 10)"),
        },
        run,
        hold,
        run("SELECT sleep(0.5)"),
    )
    record_property("reported / true", ratios)
    assert all(abs(ratio - 1) <= WITHIN for ratio in ratios.values()), ratios
    run("DROP TABLE exact_row, exact_table")()


#: In a process of its own: SQLite's locks are a process's, whatever its threads do.
HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print(flush=True)
time.sleep(float(sys.argv[2]))
print(time.perf_counter_ns())
connection.commit()
"""


@pytest.mark.parametrize("waiting", ["BEGIN IMMEDIATE", "INSERT INTO orders VALUES (1)"])
def test_sqlite(tmp_path: Path, record_property: Any, waiting: str) -> None:
    path = tmp_path / "orders.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (id int)")

    def job() -> None:
        connection = sqlite3.connect(path, timeout=10, isolation_level=None)
        connection.execute(waiting)
        connection.close()

    holding = subprocess.Popen([sys.executable, "-c", HOLDER, path, str(BLOCKED_S)], stdout=subprocess.PIPE)
    assert holding.stdout is not None
    holding.stdout.readline()
    (observed,) = observe_together([LockObserver()], [job])
    released_ns = int(holding.communicate()[0])
    (wait,) = observed.waits
    assert (wait.kind, wait.statement) == ("sqlite", waiting.replace("(1)", "(?+)"))
    assert wait.blocking_backend == f"sqlite:///{path}#{holding.pid}"
    # SQLite looks again after pauses of up to 0.1 s: what the job waited for is the end of its pause.
    ratio = wait.waited_ns / (released_ns - wait.start_ns)
    record_property("reported / true", ratio)
    assert 1 - WITHIN <= ratio <= 1 + WITHIN + 0.1 / BLOCKED_S
