"""psycopg on a real PostgreSQL: blocking and asyncio, batches, transactions, sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from jobdoctor.capture import probes, recording
from jobdoctor.capture.probes.statements import postgresql_target
from tests.capture.probes.conftest import Record, line

psycopg = pytest.importorskip("psycopg")


@pytest.fixture
def table(postgres_url: str) -> Iterator[str]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS probe_orders")
        connection.execute("CREATE TABLE probe_orders (id int PRIMARY KEY, name text)")
        connection.execute("INSERT INTO probe_orders SELECT n, 'name ' || n FROM generate_series(0, 99) n")
        yield "probe_orders"
        connection.execute("DROP TABLE probe_orders")


def test_statements_rows_and_parameters(record: Record, postgres_url: str, table: str) -> None:
    with record() as recorded, psycopg.connect(postgres_url) as connection:
        info = connection.info
        target = postgresql_target(info.host, info.port, info.dbname)
        backend = f"{target}#{info.backend_pid}"
        for n in range(20):
            connection.execute("SELECT name FROM probe_orders WHERE id < %s", (n % 5,))
            here = line(-1)
        connection.execute("SELECT * FROM probe_orders WHERE id = ANY(%s)", ([1, 2, 3],))
    one, many = recorded.of("sql", "SELECT")
    assert (one.count, one.distinct, one.rows, one.max_rows) == (20, 5, 4 * (0 + 1 + 2 + 3 + 4), 4)
    assert one.callsite == f"tests/capture/probes/test_psycopg_driver.py:{here}"
    assert (one.library, one.target, one.effect) == ("psycopg", target, "read")
    assert one.in_transaction == 19
    assert (many.batched, many.items, many.rows) == (1, 3, 3)
    assert recorded.one("sql", "COMMIT").count == 1
    connect = recorded.one("sql", "CONNECT")
    assert (connect.count, connect.new_connections, connect.target) == (1, 1, target)
    (session,) = recorded.facts("session")
    assert session["backend"] == backend
    secrets = dict(recording.secrets(recorded.recorder.buffer))
    with psycopg.connect(secrets[backend]) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)


def test_writes_and_batches(record: Record, postgres_url: str, table: str) -> None:
    with psycopg.connect(postgres_url) as connection, record() as recorded:
        cursor = connection.cursor()
        cursor.executemany("UPDATE probe_orders SET name = %s WHERE id = %s", [("a", 1), ("b", 2), ("c", 3)])
        cursor.execute("INSERT INTO probe_orders VALUES (1001, 'x'), (1002, 'y')")
        cursor.execute("DELETE FROM probe_orders WHERE id > 1000")
        connection.rollback()
        connection.rollback()  # nothing is open: nothing is sent
    update, insert, delete = (recorded.one("sql", verb) for verb in ("UPDATE", "INSERT", "DELETE"))
    assert (update.count, update.batched, update.items, update.rows) == (1, 1, 3, 3)
    assert (insert.count, insert.batched, insert.items, insert.rows) == (1, 1, 2, 2)
    assert (delete.count, delete.batched, delete.rows, delete.effect) == (1, 0, 2, "write")
    assert recorded.one("sql", "ROLLBACK").count == 1
    assert recorded.of("sql", "CONNECT") == []
    assert len(recorded.facts("session")) == 1


def test_statements_of_a_pipeline_share_their_round_trips(record: Record, postgres_url: str, table: str) -> None:
    with psycopg.connect(postgres_url) as connection, record() as recorded:
        with connection.pipeline():
            for n in range(5):
                connection.execute("UPDATE probe_orders SET name = %s WHERE id = %s", ("a", n))
        connection.execute("UPDATE probe_orders SET name = 'b'")
        connection.rollback()
    piped, alone = recorded.of("sql", "UPDATE")
    assert (piped.count, piped.batched, piped.items) == (5, 5, 5)
    assert (alone.count, alone.batched) == (1, 0)


def test_a_copy_is_one_call(record: Record, postgres_url: str, table: str) -> None:
    with psycopg.connect(postgres_url) as connection, record() as recorded:
        cursor = connection.cursor()
        with cursor.copy("COPY probe_orders (id, name) FROM STDIN") as copy:
            for n in range(2000, 2050):
                copy.write_row((n, "x"))
        with pytest.raises(psycopg.errors.UniqueViolation), cursor.copy("COPY probe_orders FROM STDIN") as copy:
            copy.write_row((1, "x"))
        connection.rollback()
    good, bad = recorded.of("sql", "COPY")
    assert (good.count, good.effect, good.rows, good.errors) == (1, "write", 50, 0)
    assert (bad.count, bad.errors) == (1, 1)


def test_autocommit_is_no_transaction_and_blocks_are(record: Record, postgres_url: str, table: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection, record() as recorded:
        connection.execute("SELECT 1")
        connection.execute("SELECT 2, 2")
        for n in range(3):
            with connection.transaction():
                connection.execute("UPDATE probe_orders SET name = %s WHERE id = 1", (str(n),))
    assert [group.in_transaction for group in recorded.of("sql", "SELECT")] == [0, 0]
    assert recorded.one("sql", "BEGIN").count == 3
    assert recorded.one("sql", "COMMIT").count == 3
    assert recorded.one("sql", "UPDATE").in_transaction == 3


def test_a_commit_that_hides_behind_a_query_ends_the_transaction(record: Record, postgres_url: str, table: str) -> None:
    with record() as recorded, psycopg.connect(postgres_url) as connection:
        connection.execute("SELECT id FROM probe_orders")
        connection.execute("SELECT name FROM probe_orders; COMMIT")
        connection.execute("SELECT id, name FROM probe_orders")
        connection.execute("SELECT name, id FROM probe_orders")
    found = {group.fingerprint: group.in_transaction for group in recorded.of("sql", "SELECT")}
    assert found == {
        "SELECT id FROM probe_orders": 0,
        "SELECT name FROM probe_orders; COMMIT": 1,
        "SELECT id, name FROM probe_orders": 0,
        "SELECT name, id FROM probe_orders": 1,
    }


def test_a_kept_connection_is_the_next_executions_too(record: Record, postgres_url: str, table: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        for _ in range(2):
            with record() as recorded:
                for number in (1, 2, 3):
                    connection.execute("SELECT name FROM probe_orders WHERE id = %s", (number,))
            group = recorded.one("sql", "SELECT")
            assert (group.count, group.distinct, group.rows, group.in_transaction) == (3, 3, 3, 2)
            assert len(recorded.facts("session")) == 1


def test_errors_keep_their_type(record: Record, postgres_url: str, table: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection, record() as recorded:
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO probe_orders VALUES (1, 'x')")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect("host=127.0.0.1 port=1 dbname=nothing connect_timeout=2")
    assert recorded.one("sql", "INSERT").error_types == {"psycopg.errors.UniqueViolation": 1}
    assert recorded.one("sql", "CONNECT").errors == 1


def test_asyncio(record: Record, postgres_url: str, table: str) -> None:
    async def work() -> int:
        async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
            async with connection.cursor() as cursor:
                for n in range(10):
                    await cursor.execute("SELECT name FROM probe_orders WHERE id = %s", (n,))
                    await cursor.fetchall()
            async with connection.transaction():
                await connection.execute("UPDATE probe_orders SET name = 'x' WHERE id = 1")
        return line(-4)

    with record() as recorded:
        here = asyncio.run(work())
    group = recorded.one("sql", "SELECT")
    assert (group.count, group.distinct, group.rows, group.in_transaction) == (10, 10, 10, 9)
    assert group.callsite == f"tests/capture/probes/test_psycopg_driver.py:{here}"
    assert recorded.one("sql", "SAVEPOINT").count == 1
    assert recorded.one("sql", "COMMIT").count == 1
    assert recorded.one("sql", "CONNECT").count == 1


def test_everything_is_put_back(postgres_url: str) -> None:
    kinds = (psycopg.Cursor, psycopg.ServerCursor, psycopg.AsyncCursor, psycopg.Connection, psycopg.AsyncConnection,
             psycopg.Transaction, psycopg.AsyncTransaction)  # fmt: skip
    before = [dict(vars(kind)) for kind in kinds], psycopg.connect
    probes.install_all()
    assert psycopg.connect != before[1]
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    probes.uninstall_all()
    assert [dict(vars(kind)) for kind in kinds] == before[0]
    assert psycopg.connect is before[1]
