"""asyncpg on a real PostgreSQL: statements, prepared ones, cursors, copies, transactions, sessions, its pool."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from jobdoctor.capture import probes, recording
from jobdoctor.capture.probes.statements import _ask, asyncpg_address, postgresql_target
from tests.capture.probes.conftest import Record, line

asyncpg: Any = pytest.importorskip("asyncpg")

HERE = "tests/capture/probes/test_asyncpg_driver.py"


@pytest.fixture
def table(postgres_url: str) -> Iterator[str]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS probe_parcels")
        connection.execute("CREATE TABLE probe_parcels (id int PRIMARY KEY, name text)")
        connection.execute("INSERT INTO probe_parcels SELECT n, 'name ' || n FROM generate_series(0, 99) n")
        yield "probe_parcels"
        connection.execute("DROP TABLE probe_parcels")


def target_of(url: str) -> str:
    with psycopg.connect(url) as connection:
        return postgresql_target(connection.info.host, connection.info.port, connection.info.dbname)


def test_statements_rows_and_parameters(record: Record, postgres_url: str, table: str) -> None:
    places: list[int] = []
    backends: list[int] = []

    async def work() -> None:
        connection = await asyncpg.connect(postgres_url)
        backends.append(connection.get_server_pid())
        for n in range(20):
            await connection.fetch("SELECT name FROM probe_parcels WHERE id < $1", n % 5)
            places.append(line(-1))
        await connection.fetchrow("SELECT * FROM probe_parcels WHERE id = $1", 7)
        await connection.fetchval("SELECT id FROM probe_parcels WHERE name = $1", "nobody")
        await connection.fetch("SELECT id FROM probe_parcels WHERE id = ANY($1::int[])", [1, 2, 3])
        await connection.close()

    with record() as recorded:
        asyncio.run(work())
    several, row, value, many = recorded.of("sql", "SELECT")
    assert (several.count, several.distinct, several.rows, several.max_rows) == (20, 5, 4 * (0 + 1 + 2 + 3 + 4), 4)
    assert several.callsite == f"{HERE}:{places[0]}"
    target = target_of(postgres_url)
    assert (several.library, several.target, several.effect) == ("asyncpg", target, "read")
    assert several.in_transaction == 0
    assert (row.count, row.rows, value.count, value.rows) == (1, 1, 1, 0)
    assert (many.batched, many.items, many.rows) == (1, 3, 3)
    connect = recorded.one("sql", "CONNECT")
    assert (connect.count, connect.new_connections, connect.target, connect.errors) == (1, 1, target, 0)
    (session,) = recorded.facts("session")
    assert session["backend"] == f"{target}#{backends[0]}"
    secrets = dict(recording.secrets(recorded.recorder.buffer))
    with psycopg.connect(secrets[session["backend"]]) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)


def test_writes_batches_and_scripts(record: Record, postgres_url: str, table: str) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(postgres_url)
        with record() as recorded:
            rows = [("a", 1), ("b", 2), ("c", 3)]
            await connection.executemany("UPDATE probe_parcels SET name = $1 WHERE id = $2", rows)
            await connection.execute("INSERT INTO probe_parcels VALUES (1001, 'x'), (1002, 'y')")
            await connection.execute("DELETE FROM probe_parcels WHERE id > $1", 1000)
            found = await connection.fetchmany("SELECT name FROM probe_parcels WHERE id = $1", [(1,), (2,)])
        await connection.close()
        update, insert, delete, select = (
            recorded.one("sql", verb) for verb in ("UPDATE", "INSERT", "DELETE", "SELECT")
        )
        assert (update.count, update.batched, update.items, update.effect) == (1, 1, 3, "write")
        assert (insert.count, insert.batched, insert.items, insert.rows) == (1, 1, 2, 2)
        assert (delete.count, delete.batched, delete.rows, delete.distinct) == (1, 0, 2, 1)
        assert (select.count, select.batched, select.items, select.rows) == (1, 1, 2, len(found))
        assert recorded.of("sql", "CONNECT") == []
        assert len(recorded.facts("session")) == 1

    asyncio.run(work())


def test_prepared_statements_and_cursors(record: Record, postgres_url: str, table: str) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(postgres_url)
        prepared = await connection.prepare("SELECT name FROM probe_parcels WHERE id = $1")
        for n in range(5):
            assert await prepared.fetchval(n) is not None
        await prepared.fetch(1000)
        async with connection.transaction():
            async for _ in connection.cursor("SELECT id FROM probe_parcels", prefetch=40):
                pass
            cursor = await connection.cursor("SELECT name FROM probe_parcels ORDER BY id")
            await cursor.forward(10)
            assert len(await cursor.fetch(30)) == 30
        await connection.close()

    with record() as recorded:
        asyncio.run(work())
    values, none, iterated, opened = recorded.of("sql", "SELECT")
    assert (values.count, values.distinct, values.rows) == (5, 5, 5)
    assert (none.count, none.rows) == (1, 0)
    assert (iterated.count, iterated.rows, iterated.in_transaction, opened.count) == (1, 40, 1, 1)
    assert recorded.one("sql", "PREPARE").count == 1
    assert recorded.one("sql", "MOVE").count == 1
    # 100 rows in batches of 40, then one of 30.
    assert [(group.count, group.rows) for group in recorded.of("sql", "FETCH")] == [(2, 60), (1, 30)]


def test_transactions_and_savepoints(record: Record, postgres_url: str, table: str) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(postgres_url)
        for n in range(3):
            async with connection.transaction():
                await connection.execute("UPDATE probe_parcels SET name = $1 WHERE id = 1", str(n))
                async with connection.transaction():
                    await connection.execute("DELETE FROM probe_parcels WHERE id = $1", n)
        transaction = connection.transaction(isolation="serializable")
        await transaction.start()
        await transaction.rollback()
        await connection.execute("SELECT 1")
        await connection.close()

    with record() as recorded:
        asyncio.run(work())
    begins = recorded.of("sql", "BEGIN")
    assert [(group.count, group.fingerprint) for group in begins] == [
        (3, "BEGIN"),
        (1, "BEGIN ISOLATION LEVEL SERIALIZABLE"),
    ]
    assert {group.effect for group in begins} == {"transaction"}
    savepoint, release = recorded.one("sql", "SAVEPOINT"), recorded.one("sql", "RELEASE")
    assert (savepoint.count, savepoint.fingerprint) == (3, "SAVEPOINT")
    assert (release.count, release.fingerprint) == (3, "RELEASE SAVEPOINT")
    assert (recorded.one("sql", "COMMIT").count, recorded.one("sql", "ROLLBACK").count) == (3, 1)
    assert recorded.one("sql", "UPDATE").in_transaction == 3
    assert recorded.one("sql", "DELETE").in_transaction == 3
    assert recorded.one("sql", "SELECT").in_transaction == 0


def test_copies(record: Record, postgres_url: str, table: str) -> None:
    async def lines() -> AsyncIterator[bytes]:
        for n in range(3000, 3010):
            await asyncio.sleep(0.001)
            yield f"{n}\tx\n".encode()

    async def work() -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.copy_records_to_table(table, records=[(n, "x") for n in range(2000, 2050)])
        await connection.copy_to_table(table, source=lines())
        await connection.copy_from_query("SELECT id FROM probe_parcels", output=io.BytesIO())
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.copy_records_to_table(table, records=[(1, "x")], columns=["id", "name"])
        await connection.close()

    with record() as recorded:
        asyncio.run(work())
    records, source, query, failed = recorded.of("sql", "COPY")
    assert (records.count, records.rows, records.effect) == (1, 50, "write")
    assert (source.count, source.rows) == (1, 10)
    assert (query.count, query.rows, query.effect) == (1, 160, "read")
    assert (failed.count, failed.errors) == (1, 1)
    assert recorded.one("sleep").count == 10


def test_errors_keep_their_type(record: Record, postgres_url: str, table: str) -> None:
    async def work() -> None:
        connection = await asyncpg.connect(postgres_url)
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("INSERT INTO probe_parcels VALUES (1, 'x')")
        await connection.close()
        with pytest.raises(OSError):
            await asyncpg.connect(host="127.0.0.1", port=1, database="nothing", user="nobody", timeout=2)

    with record() as recorded:
        asyncio.run(work())
    assert recorded.one("sql", "INSERT").error_types == {"asyncpg.exceptions.UniqueViolationError": 1}
    good, bad = recorded.of("sql", "CONNECT")
    assert (good.count, good.errors, bad.count, bad.errors) == (1, 0, 1, 1)
    assert bad.target == "postgresql://localhost:1/nothing"
    assert bad.error_types == {"ConnectionRefusedError": 1}


def test_connections_side_by_side(record: Record, postgres_url: str) -> None:
    async def nap(connection: Any) -> None:
        await connection.execute("SELECT pg_sleep(0.1)")

    async def work() -> None:
        connections = [await asyncpg.connect(postgres_url) for _ in range(3)]
        await asyncio.gather(*map(nap, connections))
        for connection in connections:
            await connection.close()

    with record() as recorded:
        asyncio.run(work())
    group = recorded.one("sql", "SELECT")
    assert (group.count, group.concurrent) == (3, 2)
    assert recorded.recording.channel_ns["sql"] < group.total_ns
    assert len(recorded.facts("session")) == 3


def test_a_full_pool_is_waited_for(record: Record, postgres_url: str, table: str) -> None:
    async def work() -> None:
        async with asyncpg.create_pool(postgres_url, min_size=1, max_size=1) as pool:

            async def use(seconds: float) -> None:
                async with pool.acquire() as connection:
                    await connection.fetchval("SELECT 1")
                    await asyncio.sleep(seconds)

            with record() as recorded:
                await asyncio.gather(use(0.2), use(0.01))
                for n in range(5):
                    await pool.fetch("SELECT name FROM probe_parcels WHERE id = $1", n)
                with pytest.raises(asyncio.TimeoutError):
                    async with pool.acquire():
                        await pool.acquire(timeout=0.05)
            wait, failed = recorded.of("pool")
            assert (wait.count, wait.new_connections, wait.library, wait.errors) == (1, 0, "asyncpg", 0)
            assert wait.blocked_ns > 150_000_000
            assert (failed.count, failed.errors, failed.target) == (1, 1, wait.target)
            one, names = recorded.of("sql", "SELECT")
            assert (one.count, names.count, names.distinct, one.target) == (2, 5, 5, wait.target)
            assert sum(group.count for group in recorded.of("sql", "RESET")) == 8

    asyncio.run(work())


def test_a_pool_that_grows(record: Record, postgres_url: str) -> None:
    async def work() -> None:
        async with asyncpg.create_pool(postgres_url, min_size=0, max_size=2) as pool:
            async with pool.acquire() as connection:
                await connection.execute("SELECT 1")
            async with pool.acquire() as connection:
                await connection.execute("SELECT 1")

    with record() as recorded:
        asyncio.run(work())
    group = recorded.one("pool")
    assert (group.count, group.new_connections, group.blocked_ns) == (1, 1, 0)
    assert recorded.one("sql", "CONNECT").count == 1


def test_sqlalchemy_counts_each_statement_once(record: Record, postgres_url: str, table: str) -> None:
    pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio needs greenlet")
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    places: list[int] = []

    async def work() -> None:
        engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://", 1))
        async with engine.begin() as connection:
            for n in range(5):
                await connection.execute(text("SELECT name FROM probe_parcels WHERE id = :id"), {"id": n})
                places.append(line(-1))
            await connection.execute(text("UPDATE probe_parcels SET name = 'x' WHERE id < 3"))
        await engine.dispose()

    with record() as recorded:
        asyncio.run(work())
    select, update = (
        next(group for group in recorded.of("sql", verb) if "probe_parcels" in group.fingerprint)
        for verb in ("SELECT", "UPDATE")
    )
    target = target_of(postgres_url)
    assert (select.library, select.target, select.count, select.distinct) == ("sqlalchemy", target, 5, 5)
    assert select.callsite == f"{HERE}:{places[0]}"
    assert (update.count, update.rows) == (1, 3)
    assert update.in_transaction == 1
    assert [(group.library, group.count) for group in recorded.of("sql", "COMMIT")] == [("sqlalchemy", 1)]
    # Of asyncpg by itself there is only what SQLAlchemy asks of it directly, once, when it connects.
    assert [group.operation for group in recorded.of("sql") if group.library == "asyncpg"] == [
        "CONNECT",
        "PREPARE",
        "SHOW",
    ]
    assert recorded.one("sql", "CONNECT").count == 1
    (session,) = recorded.facts("session")
    assert session["backend"].startswith(f"{target}#")


def test_sqlalchemys_trial_of_a_connection_has_a_name(record: Record, postgres_url: str) -> None:
    pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio needs greenlet")
    from sqlalchemy.ext.asyncio import create_async_engine

    async def work() -> None:
        url = postgres_url.replace("postgresql://", "postgresql+asyncpg://", 1)
        engine = create_async_engine(url, pool_pre_ping=True)
        for _ in range(3):
            async with engine.connect():
                pass
        await engine.dispose()

    with record() as recorded:
        asyncio.run(work())
    assert recorded.one("sql", "PING").count == 2
    assert all(group.operation for group in recorded.of("sql"))


def test_the_lock_observer_can_follow_over_tcp() -> None:
    given = {"database": "shop", "user": "o'neil", "password": "secret", "sslmode": asyncpg.connect_utils.SSLMode(5)}
    connection = SimpleNamespace(
        _addr=("127.0.0.1", 5433),
        _params=SimpleNamespace(**given),
        get_server_pid=lambda: 42,
    )
    database = _ask(connection, "asyncpg")
    assert (database.target, database.backend) == (
        "postgresql://localhost:5433/shop",
        "postgresql://localhost:5433/shop#42",
    )
    assert psycopg.conninfo.conninfo_to_dict(database.conninfo) == {
        "host": "127.0.0.1",
        "port": "5433",
        "dbname": "shop",
        "user": "o'neil",
        "password": "secret",
        "sslmode": "verify-full",
    }


def test_a_sockets_path_is_the_directory_that_libpq_takes() -> None:
    assert asyncpg_address("/var/run/postgresql/.s.PGSQL.5433") == ("/var/run/postgresql", "5433")
    assert asyncpg_address(("db.example.com", 5432)) == ("db.example.com", "5432")


def test_everything_is_put_back(postgres_url: str) -> None:
    kinds = (asyncpg.Connection, asyncpg.prepared_stmt.PreparedStatement, asyncpg.cursor.BaseCursor,
             asyncpg.cursor.Cursor, asyncpg.pool.Pool, asyncpg.pool.PoolConnectionProxy)  # fmt: skip
    before = [dict(vars(kind)) for kind in kinds], asyncpg.connect_utils._connect_addr
    probes.install_all()
    assert [dict(vars(kind)) for kind in kinds[:5]] != before[0][:5]
    assert asyncpg.connect_utils._connect_addr is not before[1]

    async def work() -> None:
        connection = await asyncpg.connect(postgres_url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()

    asyncio.run(work())
    probes.uninstall_all()
    assert [dict(vars(kind)) for kind in kinds] == before[0]
    assert asyncpg.connect_utils._connect_addr is before[1]
