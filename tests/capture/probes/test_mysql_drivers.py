"""PyMySQL and mysqlclient on a real MariaDB (or MySQL): the same expectations of both."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from jobdoctor.capture import probes, recording
from tests import mariadb
from tests.capture.probes.conftest import Record, line


@pytest.fixture(params=["pymysql", "MySQLdb"])
def driver(request: pytest.FixtureRequest) -> ModuleType:
    try:
        importlib.import_module(f"{request.param}.connections")
        return importlib.import_module(request.param)
    except ImportError:
        if request.param == "MySQLdb":  # no wheel: it is built where libmariadb-dev and a compiler are
            pytest.skip("mysqlclient is not installed")
        raise


@pytest.fixture
def table(mysql_url: str) -> Iterator[dict[str, Any]]:
    """The arguments of ``connect`` for a database with a table of 100 rows."""
    import pymysql

    given = mariadb.arguments(mysql_url)
    connection = pymysql.connect(**given, autocommit=True)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS probe_my")
        cursor.execute("CREATE TABLE probe_my (id int PRIMARY KEY, name varchar(100)) ENGINE=InnoDB")
        cursor.executemany("INSERT INTO probe_my VALUES (%s, %s)", [(n, f"name {n}") for n in range(100)])
        yield given
        mariadb.end_others(cursor)
        cursor.execute("DROP TABLE probe_my")
    connection.close()


def test_statements_batches_and_transactions(record: Record, driver: Any, table: dict[str, Any]) -> None:
    with record() as recorded:
        connection = driver.connect(**table)
        cursor = connection.cursor()
        for n in range(20):
            assert cursor.execute("SELECT name FROM probe_my WHERE id < %s", (n % 5,)) == n % 5
            here = line(-1)
        assert cursor.executemany("UPDATE probe_my SET name = %s WHERE id = %s", [("a", 1), ("b", 2)]) == 2
        connection.commit()
        cursor.executemany("INSERT INTO probe_my VALUES (%s, %s)", [(n, "new") for n in range(100, 130)])
        connection.rollback()
        cursor.execute("SELECT 1")
        identity = connection.thread_id()
        connection.close()
    name = "pymysql" if driver.__name__ == "pymysql" else "mysqlclient"
    by_literals, select = sorted(recorded.of("sql", "SELECT"), key=lambda group: group.count)
    assert by_literals.fingerprint == "SELECT ?"
    assert (select.count, select.distinct, select.rows, select.in_transaction) == (20, 5, 40, 19)
    assert (select.library, select.callsite) == (name, f"tests/capture/probes/test_mysql_drivers.py:{here}")
    assert select.fingerprint == "SELECT name FROM probe_my WHERE id < ?"
    update = recorded.one("sql", "UPDATE")
    assert (update.count, update.batched, update.items, update.rows) == (1, 1, 2, 2)
    insert = recorded.one("sql", "INSERT")
    assert (insert.count, insert.items, insert.rows, insert.in_transaction) == (1, 30, 30, 0)
    assert recorded.one("sql", "COMMIT").count == recorded.one("sql", "ROLLBACK").count == 1
    assert recorded.one("sql", "COMMIT").in_transaction == 1
    assert by_literals.in_transaction == 0
    connect = recorded.one("sql", "CONNECT")
    assert (connect.count, connect.new_connections, connect.target) == (1, 1, select.target)
    assert select.target == f"mysql://localhost:{table['port']}/{table['database']}"
    (session,) = recorded.facts("session")
    assert session["backend"] == f"mysql://localhost:{table['port']}#{identity}"


def test_the_lock_observer_can_connect_with_the_secret(record: Record, driver: Any, table: dict[str, Any]) -> None:
    with record() as recorded:
        driver.connect(**table).close()
    ((backend, secret),) = recording.secrets(recorded.recorder.buffer)
    assert backend == recorded.facts("session")[0]["backend"]
    given = json.loads(secret)
    assert given.pop("driver") == driver.__name__
    assert "database" not in given
    driver.connect(**given).close()


def test_a_connection_from_before_and_one_of_every_execution(
    record: Record, driver: Any, table: dict[str, Any]
) -> None:
    connection = driver.connect(**table)
    for _ in range(2):
        with record() as recorded:
            for n in range(2):
                connection.cursor().execute("SELECT id FROM probe_my WHERE id = %s", (n,))
        (session,) = recorded.facts("session")
        assert session["backend"].endswith(f"#{connection.thread_id()}")
        assert recorded.one("sql", "SELECT").count == 2
        assert recorded.one("sql", "SELECT").target.startswith("mysql://localhost:")
    connection.close()


def test_explicit_transactions_with_autocommit(record: Record, driver: Any, table: dict[str, Any]) -> None:
    with record() as recorded:
        connection = driver.connect(**table, autocommit=True)
        cursor = connection.cursor()
        cursor.execute("UPDATE probe_my SET name = 'x' WHERE id = 1")
        cursor.execute("DELETE FROM probe_my WHERE id = 1")
        connection.begin()
        cursor.execute("UPDATE probe_my SET name = 'x' WHERE id = 2")
        cursor.execute("COMMIT")
        cursor.execute("SELECT id FROM probe_my WHERE id = 3")
        connection.close()
    assert sorted(group.in_transaction for group in recorded.of("sql", "UPDATE")) == [0, 1]
    assert [recorded.one("sql", word).in_transaction for word in ("DELETE", "BEGIN", "COMMIT", "SELECT")] == [
        0,
        0,
        1,
        0,
    ]


def test_unbuffered_cursors_and_procedures(record: Record, driver: Any, table: dict[str, Any]) -> None:
    cursors = importlib.import_module(f"{driver.__name__}.cursors")
    with record() as recorded:
        connection = driver.connect(**table)
        with connection.cursor(cursors.SSCursor) as cursor:
            cursor.execute("SELECT id FROM probe_my")
            assert len(cursor.fetchall()) == 100
        with connection.cursor(cursors.DictCursor) as cursor:
            cursor.execute("SELECT id FROM probe_my WHERE id = 5")
            assert cursor.fetchone() == {"id": 5}
        with connection.cursor() as cursor:
            cursor.execute("CREATE OR REPLACE PROCEDURE probe_adds (IN a int) SELECT a + 1")
            cursor.callproc("probe_adds", (41,))
            assert cursor.fetchall() == ((42,),)
            while cursor.nextset():
                pass
            cursor.execute("DROP PROCEDURE probe_adds")
        connection.close()
    unbuffered, buffered = sorted(recorded.of("sql", "SELECT"), key=lambda group: group.rows or 0)
    assert (unbuffered.rows, buffered.rows) == (None, 1)
    assert recorded.one("sql", "CALL").count == 1


def test_errors_and_arguments_by_name(record: Record, driver: Any, table: dict[str, Any]) -> None:
    with record() as recorded:
        connection = driver.connect(**table)
        cursor = connection.cursor()
        with pytest.raises(driver.IntegrityError):
            cursor.execute(query="INSERT INTO probe_my VALUES (1, %s)", args=("x",))
        cursor.execute(b"SELECT id FROM probe_my WHERE id = 1")
        assert cursor.executemany("UPDATE probe_my SET name = %s WHERE id = %s", []) is None
        connection.rollback()
        connection.close()
        with pytest.raises(driver.OperationalError):
            driver.connect(host="127.0.0.1", port=1, user="root")
    (name, times), *_ = recorded.one("sql", "INSERT").error_types.items()
    assert (name.rpartition(".")[2], times) == ("IntegrityError", 1)
    assert recorded.of("sql", "SELECT")[0].fingerprint == "SELECT id FROM probe_my WHERE id = ?"
    assert sum(group.errors for group in recorded.of("sql", "CONNECT")) == 1


@pytest.mark.parametrize("dialect", ["pymysql", "mysqldb"])
def test_counted_once_under_sqlalchemy(record: Record, dialect: str, mysql_url: str, table: dict[str, Any]) -> None:
    if dialect == "mysqldb":
        pytest.importorskip("MySQLdb.connections", reason="mysqlclient is not installed")
    from sqlalchemy import create_engine, text

    engine = create_engine(mysql_url.replace("mysql://", f"mysql+{dialect}://"))
    with record() as recorded:
        with engine.begin() as connection:
            for n in range(5):
                connection.execute(text("SELECT name FROM probe_my WHERE id = :id"), {"id": n})
            connection.execute(
                text("INSERT INTO probe_my VALUES (:id, :name)"), [{"id": n, "name": "x"} for n in range(200, 210)]
            )
            identity = connection.connection.dbapi_connection.thread_id()
        with engine.connect().execution_options(stream_results=True) as connection:
            assert len(connection.execute(text("SELECT id FROM probe_my")).all()) == 110
    engine.dispose()
    select, unbuffered = [group for group in recorded.of("sql", "SELECT") if "probe_my" in group.fingerprint]
    assert (select.count, select.rows, select.library) == (5, 5, "sqlalchemy")
    assert select.target == f"mysql://localhost:{table['port']}/{table['database']}"
    assert unbuffered.rows is None
    insert = recorded.one("sql", "INSERT")
    assert (insert.count, insert.items, insert.in_transaction) == (1, 10, 1)
    assert recorded.one("sql", "COMMIT").count == 1
    (session,) = recorded.facts("session")
    assert session["backend"] == f"mysql://localhost:{table['port']}#{identity}"
    ((backend, _),) = recording.secrets(recorded.recorder.buffer)
    assert backend == session["backend"]


def test_everything_is_put_back(driver: Any) -> None:
    connections = importlib.import_module(f"{driver.__name__}.connections")
    cursors = importlib.import_module(f"{driver.__name__}.cursors")
    kinds = [connections.Connection, cursors.Cursor, getattr(cursors, "BaseCursor", cursors.Cursor)]
    before = [dict(vars(kind)) for kind in kinds]
    probes.install_all()
    assert [dict(vars(kind)) for kind in kinds] != before
    probes.uninstall_all()
    assert [dict(vars(kind)) for kind in kinds] == before
