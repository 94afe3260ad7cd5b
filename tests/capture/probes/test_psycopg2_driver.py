"""psycopg2 on a real PostgreSQL, with the user's own factories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from jobdoctor.capture import probes, recording
from tests.capture.probes.conftest import Record, line

psycopg2: Any = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")


@pytest.fixture
def table(postgres_url: str) -> Iterator[str]:
    connection = psycopg2.connect(postgres_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS probe_two")
        cursor.execute("CREATE TABLE probe_two (id int PRIMARY KEY, name text)")
        cursor.execute("INSERT INTO probe_two SELECT n, 'name ' || n FROM generate_series(0, 99) n")
        yield "probe_two"
        cursor.execute("DROP TABLE probe_two")
    connection.close()


def test_statements_batches_and_transactions(record: Record, postgres_url: str, table: str) -> None:
    from psycopg2.extras import execute_values

    with record() as recorded:
        connection = psycopg2.connect(postgres_url)
        assert isinstance(connection, psycopg2.extensions.connection)
        cursor = connection.cursor()
        assert isinstance(cursor, psycopg2.extensions.cursor)
        for n in range(20):
            cursor.execute("SELECT name FROM probe_two WHERE id < %s", (n % 5,))
            here = line(-1)
        cursor.executemany("UPDATE probe_two SET name = %s WHERE id = %s", [("a", 1), ("b", 2)])
        rows = [(n, "x") for n in range(9001, 9005)]
        execute_values(cursor, "INSERT INTO probe_two VALUES %s", rows, page_size=2)
        connection.commit()
        connection.commit()  # nothing is open: nothing is sent
        with connection, connection.cursor() as other:
            other.execute("DELETE FROM probe_two WHERE id = 1")
        backend_pid = connection.info.backend_pid
        connection.close()
    select = recorded.one("sql", "SELECT")
    assert (select.count, select.distinct, select.rows, select.in_transaction) == (20, 5, 40, 19)
    assert (select.library, select.callsite) == ("psycopg2", f"tests/capture/probes/test_psycopg2_driver.py:{here}")
    update, insert = recorded.one("sql", "UPDATE"), recorded.one("sql", "INSERT")
    assert (update.count, update.batched, update.items) == (1, 0, 2)
    assert (insert.count, insert.batched, insert.items) == (2, 2, 4)
    assert sum(group.count for group in recorded.of("sql", "COMMIT")) == 2
    assert recorded.one("sql", "CONNECT").target == select.target
    (session,) = recorded.facts("session")
    assert session["backend"] == f"{select.target}#{backend_pid}"
    conninfo = dict(recording.secrets(recorded.recorder.buffer))[session["backend"]]
    psycopg2.connect(conninfo).close()


def test_factories_are_kept(record: Record, postgres_url: str, table: str) -> None:
    from psycopg2.extras import DictCursor, RealDictCursor

    class Mine(psycopg2.extensions.connection):  # type: ignore[misc]
        pass

    with record() as recorded:
        connection = psycopg2.connect(postgres_url, connection_factory=Mine, cursor_factory=RealDictCursor)
        assert isinstance(connection, Mine)
        cursor = connection.cursor()
        assert isinstance(cursor, RealDictCursor)
        cursor.execute("SELECT id FROM probe_two WHERE id = 1")
        assert cursor.fetchone() == {"id": 1}
        with connection.cursor(cursor_factory=DictCursor) as other:
            other.execute("SELECT id FROM probe_two WHERE id = 2")
            assert other.fetchone()["id"] == 2
        with connection.cursor("named") as server_side:
            server_side.execute("SELECT id FROM probe_two")
            assert len(server_side.fetchall()) == 100
        connection.close()
    assert [group.count for group in recorded.of("sql", "SELECT")] == [1, 1, 1]


def test_errors_and_restoring(record: Record, postgres_url: str, table: str) -> None:
    with record() as recorded:
        connection = psycopg2.connect(postgres_url)
        with pytest.raises(psycopg2.errors.UniqueViolation), connection.cursor() as cursor:
            cursor.execute("INSERT INTO probe_two VALUES (1, 'x')")
        connection.rollback()
        connection.close()
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect("host=127.0.0.1 port=1 dbname=nothing")
    assert recorded.one("sql", "INSERT").error_types == {"psycopg2.errors.UniqueViolation": 1}
    assert sum(group.errors for group in recorded.of("sql", "CONNECT")) == 1


def test_everything_is_put_back(postgres_url: str) -> None:
    before = psycopg2.connect
    probes.install_all()
    assert psycopg2.connect is not before
    connection = psycopg2.connect(postgres_url)
    assert type(connection).__name__ == "connection"
    connection.close()
    probes.uninstall_all()
    assert psycopg2.connect is before
