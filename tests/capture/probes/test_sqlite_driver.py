"""sqlite3, by itself: statements, rows, transactions, busy waits, and types that stay what they were."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from jobdoctor.capture import probes, recorder, recording
from tests.capture.probes.conftest import Record, line


@pytest.fixture
def path(tmp_path: Path) -> str:
    connection = sqlite3.connect(tmp_path / "shop.db")
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, name TEXT)")
    connection.executemany("INSERT INTO orders VALUES (?, ?)", [(n, f"name {n}") for n in range(100)])
    connection.commit()
    connection.close()
    return str(tmp_path / "shop.db")


def test_statements_of_one_line_are_one_group_with_exact_counts(record: Record, path: str) -> None:
    connection = sqlite3.connect(path)
    with record() as recorded:
        for n in range(40):
            connection.execute("SELECT name FROM orders WHERE id = ?", (n % 20,)).fetchone()
            here = line(-1)
    group = recorded.one("sql")
    assert (group.operation, group.effect, group.library) == ("SELECT", "read", "sqlite3")
    assert group.fingerprint == "SELECT name FROM orders WHERE id = ?"
    assert group.target == f"sqlite:///{path}"
    assert (group.count, group.distinct, group.rows, group.max_rows) == (40, 20, 40, 1)
    assert group.callsite == f"tests/capture/probes/test_sqlite_driver.py:{here}"
    assert (group.errors, group.in_transaction, group.batched) == (0, 0, 0)


def test_literals_in_the_text_count_as_parameters(record: Record, path: str) -> None:
    connection = sqlite3.connect(path)
    with record() as recorded:
        for n in range(30):
            connection.execute(f"SELECT name FROM orders WHERE id = {n % 10}").fetchall()
    group = recorded.one("sql")
    assert (group.count, group.distinct) == (30, 10)
    assert not any(character.isdigit() for character in group.fingerprint)


def test_rows_are_counted_however_they_are_fetched(record: Record, path: str) -> None:
    connection = sqlite3.connect(path)
    with record() as recorded:
        assert len(connection.execute("SELECT 'all' FROM orders").fetchall()) == 100
        assert sum(1 for _ in connection.execute("SELECT 'iter' FROM orders LIMIT 60")) == 60
        assert len(connection.execute("SELECT 'many', id FROM orders").fetchmany(7)) == 7
        assert connection.execute("SELECT id FROM orders WHERE id = -1").fetchone() is None
    assert [group.rows for group in recorded.of("sql")] == [100, 60, 7, 0]


def test_writes_batches_and_commits(record: Record, path: str) -> None:
    connection = sqlite3.connect(path)
    with record() as recorded:
        for n in range(3):
            connection.execute("UPDATE orders SET name = ? WHERE id < 10", (str(n),))
            connection.commit()
        connection.executemany("INSERT INTO orders (name) VALUES (?)", [("a",), ("b",), ("c",)])
        connection.rollback()
        connection.commit()  # nothing is open: nothing is sent
        with connection:
            connection.execute("DELETE FROM orders WHERE id = 1")
    update, insert = recorded.one("sql", "UPDATE"), recorded.one("sql", "INSERT")
    assert (update.count, update.effect, update.rows, update.in_transaction) == (3, "write", 30, 0)
    assert (insert.count, insert.batched, insert.items, insert.rows) == (1, 1, 3, 3)
    commits = recorded.of("sql", "COMMIT")
    assert [group.count for group in commits] == [3, 1]
    assert all(group.effect == "transaction" for group in commits)
    assert recorded.one("sql", "ROLLBACK").count == 1


def test_what_runs_between_the_first_write_and_the_commit_is_in_a_transaction(record: Record, path: str) -> None:
    connection = sqlite3.connect(path)
    with record() as recorded:
        connection.execute("SELECT 1")
        connection.execute("UPDATE orders SET name = 'x' WHERE id = 1")
        connection.execute("SELECT 2, 2")
        connection.commit()
        connection.execute("SELECT 3, 3, 3")
    assert [group.in_transaction for group in recorded.of("sql", "SELECT")] == [0, 1, 0]


def test_errors_are_counted_and_raised(record: Record, path: str) -> None:
    connection = sqlite3.connect(path)
    with record() as recorded, pytest.raises(sqlite3.OperationalError, match="no such table"):
        connection.execute("SELECT * FROM missing")
    group = recorded.one("sql")
    assert (group.errors, group.error_types) == (1, {"sqlite3.OperationalError": 1})


def test_a_busy_database_is_a_lock_that_was_waited_for(record: Record, path: str) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    connection = sqlite3.connect(path, timeout=0.2)
    with record() as recorded, pytest.raises(sqlite3.OperationalError, match="locked"):
        connection.execute("UPDATE orders SET name = 'x'")
    other.execute("ROLLBACK")
    group = recorded.one("sql")
    assert group.blocked_ns > 150_000_000
    (wait,) = recorded.facts("lock")
    assert (wait["kind"], wait["target"]) == ("sqlite", f"sqlite:///{path}")
    assert wait["waited_ns"] > 150_000_000


def test_an_uncontended_begin_immediate_waits_for_nobody(record: Record, path: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    with record() as recorded:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
    assert recorded.facts("lock") == []
    assert recorded.one("sql", "BEGIN").blocked_ns == 0


def test_types_factories_and_threads_stay_what_they_were(record: Record, path: str) -> None:
    class MyCursor(sqlite3.Cursor):
        pass

    class MyConnection(sqlite3.Connection):
        pass

    with record() as recorded:
        connection = sqlite3.connect(path, factory=MyConnection)
        assert isinstance(connection, MyConnection)
        cursor = connection.cursor(MyCursor)
        assert isinstance(cursor, MyCursor)
        assert isinstance(connection.cursor(), sqlite3.Cursor)
        cursor.execute("SELECT 1")
        assert next(cursor) == (1,)
        connection.row_factory = sqlite3.Row
        assert connection.execute("SELECT 1 AS one").fetchone()["one"] == 1
        failures = []

        def elsewhere() -> None:
            try:
                connection.execute("SELECT 1")
            except sqlite3.ProgrammingError as error:
                failures.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert len(failures) == 1
    assert sum(group.count for group in recorded.of("sql")) == 2


def test_a_cursor_that_outlives_its_execution_counts_nothing_in_the_next(record: Record, path: str) -> None:
    connection = sqlite3.connect(path)
    with record() as first:
        cursor = connection.execute("SELECT * FROM orders")
    rec = first.recorder
    rec.reset()
    assert recorder.start(rec)
    cursor.fetchall()
    recorder.stop()
    assert recording.read(rec.buffer).groups == []


def test_nothing_is_recorded_without_a_recording_and_everything_is_put_back(path: str) -> None:
    before = sqlite3.connect, sqlite3.dbapi2.connect
    probes.install_all()
    assert sqlite3.connect is not before[0]
    connection = sqlite3.connect(path)
    assert repr(type(connection)) == "<class 'sqlite3.Connection'>"
    assert len(connection.execute("SELECT * FROM orders").fetchall()) == 100
    probes.uninstall_all()
    assert (sqlite3.connect, sqlite3.dbapi2.connect) == before
    assert len(connection.execute("SELECT * FROM orders").fetchall()) == 100
