"""SQLAlchemy on SQLite and PostgreSQL: counted once, with the relationship of a lazy load, and waits for the pool."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.pool import QueuePool

from jobdoctor.capture import probes
from tests.capture.probes.conftest import Record, let_go, line


class Base(orm.DeclarativeBase):
    pass


class ProbeOrder(Base):
    __tablename__ = "probe_sa_orders"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]
    items: orm.Mapped[list[ProbeItem]] = orm.relationship(back_populates="order")


class ProbeItem(Base):
    __tablename__ = "probe_sa_items"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    order_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("probe_sa_orders.id"))
    order: orm.Mapped[ProbeOrder] = orm.relationship(back_populates="items")


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: object, installed: None) -> Iterator[sa.Engine]:
    if request.param == "sqlite":
        engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    else:
        pytest.importorskip("psycopg")
        url = request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://", 1)
        engine = sa.create_engine(url)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.add_all(ProbeOrder(name=f"order {n}", items=[ProbeItem(), ProbeItem()]) for n in range(10))
        session.commit()
    yield engine
    Base.metadata.drop_all(engine)
    engine.dispose()


def test_a_lazy_load_names_its_relationship(record: Record, engine: sa.Engine) -> None:
    with record() as recorded, orm.Session(engine) as session:
        orders = session.scalars(sa.select(ProbeOrder)).all()
        total = 0
        for order in orders:
            total += len(order.items)
            here = line(-1)
    assert total == 20
    parent, lazy = recorded.of("sql", "SELECT")
    assert (parent.count, parent.relationship, parent.rows) == (1, "", 10)
    assert (lazy.count, lazy.relationship, lazy.distinct, lazy.rows) == (10, "ProbeOrder.items", 10, 20)
    assert lazy.library == "sqlalchemy"
    assert lazy.callsite == f"tests/capture/probes/test_sqlalchemy.py:{here}"
    assert lazy.function == "test_a_lazy_load_names_its_relationship"
    assert lazy.target.startswith(f"{engine.dialect.name}://")


def test_many_to_one_found_in_the_session_makes_no_call(record: Record, engine: sa.Engine) -> None:
    with record() as recorded, orm.Session(engine) as session:
        for item in session.scalars(sa.select(ProbeItem)).all():
            assert item.order.name
    lazy = [group for group in recorded.of("sql", "SELECT") if group.relationship]
    assert [(group.relationship, group.count) for group in lazy] == [("ProbeItem.order", 10)]


def test_an_eager_load_is_one_statement_with_a_list(record: Record, engine: sa.Engine) -> None:
    with record() as recorded, orm.Session(engine) as session:
        for order in session.scalars(sa.select(ProbeOrder).options(orm.selectinload(ProbeOrder.items))):
            assert len(order.items) == 2
    _, eager = recorded.of("sql", "SELECT")
    assert (eager.count, eager.batched, eager.items, eager.relationship) == (1, 1, 10, "")


def test_writes_are_counted_once_with_their_commits(record: Record, engine: sa.Engine) -> None:
    with record() as recorded:
        for n in range(5):
            with orm.Session(engine) as session:
                session.add(ProbeOrder(name=f"new {n}"))
                session.commit()
        with engine.begin() as connection:
            connection.execute(sa.insert(ProbeItem), [{"order_id": 1} for _ in range(30)])
        with engine.begin() as connection:
            connection.execute(sa.update(ProbeOrder).values(name="x"))
    one, batch = recorded.of("sql", "INSERT")
    assert (one.count, one.rows, one.batched, one.effect) == (5, 5, 0, "write")
    assert (batch.count, batch.batched, batch.items) == (1, 1, 30)
    assert recorded.one("sql", "UPDATE").rows == 15
    assert sum(group.count for group in recorded.of("sql", "COMMIT")) == 7
    assert recorded.of("sql", "ROLLBACK") == []


def test_statements_in_a_transaction_are_marked(record: Record, engine: sa.Engine) -> None:
    with engine.connect() as connection, record() as recorded:
        connection.execute(sa.text("UPDATE probe_sa_orders SET name = 'x' WHERE id = 1"))
        connection.execute(sa.text("SELECT count(*) FROM probe_sa_items"))
        connection.commit()
        time.sleep(0.001)
    assert recorded.one("sql", "SELECT").in_transaction == 1
    assert recorded.one("sleep").in_transaction == 0


def test_a_full_pool_is_waited_for(record: Record, tmp_path: object) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/pool.db", poolclass=QueuePool, pool_size=1, max_overflow=0)
    with record() as recorded:
        first = engine.connect()
        with let_go(recorded, 0.15, first.close), engine.connect() as second:
            second.execute(sa.text("SELECT 1"))
        for _ in range(10):
            engine.connect().close()  # at hand: not worth a record
    made, waited = recorded.of("pool")
    assert (made.count, made.new_connections, made.blocked_ns) == (1, 1, 0)
    assert (waited.count, waited.new_connections) == (1, 0)
    assert 150_000_000 < waited.blocked_ns <= waited.total_ns
    assert recorded.one("sql", "SELECT").count == 1


def test_a_pool_that_times_out_raises_what_it_did(record: Record, tmp_path: object) -> None:
    engine = sa.create_engine(
        f"sqlite:///{tmp_path}/pool.db", poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.1
    )
    with record() as recorded, engine.connect(), pytest.raises(sa.exc.TimeoutError):
        engine.connect()
    assert [group.errors for group in recorded.of("pool")] == [0, 1]


def test_events_and_errors_are_untouched(record: Record, engine: sa.Engine) -> None:
    seen: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    with record() as recorded, pytest.raises(sa.exc.DBAPIError), engine.connect() as connection:
        connection.execute(sa.text("SELECT * FROM nowhere"))
    assert seen == ["SELECT * FROM nowhere"]
    assert recorded.one("sql", "SELECT").errors == 1


def test_an_asyncio_engine(record: Record, postgres_url: str) -> None:
    pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio needs greenlet")
    pytest.importorskip("psycopg")
    from sqlalchemy.ext.asyncio import create_async_engine

    async def work() -> None:
        engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://", 1))

        async def read(n: int) -> None:
            async with engine.connect() as connection:
                await connection.execute(sa.text("SELECT pg_sleep(0.05), :n"), {"n": n})

        async with engine.begin() as connection:
            for n in range(5):
                await connection.execute(sa.text("SELECT 1 WHERE 1 = :n"), {"n": n})
        await asyncio.gather(*(read(n) for n in range(3)))
        await engine.dispose()

    with record() as recorded:
        asyncio.run(work())
    groups = {group.fingerprint.partition("?")[0]: group for group in recorded.of("sql", "SELECT")}
    serial, gathered = groups["SELECT "], groups["SELECT pg_sleep("]
    assert (serial.count, serial.distinct, serial.library, serial.concurrent) == (5, 5, "sqlalchemy", 0)
    assert (gathered.count, gathered.concurrent) == (3, 2)
    assert recorded.recording.in_flight is None


def test_an_asyncio_sessions_calls_are_placed_where_they_are_awaited(record: Record, postgres_url: str) -> None:
    pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio needs greenlet")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    places: dict[str, int] = {}

    async def inner(session: AsyncSession) -> None:
        await session.execute(sa.text("SELECT 1"))
        places["inner"] = line(-1)

    async def work() -> None:
        engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://", 1))
        async with AsyncSession(engine) as session:
            await inner(session)
            places["called"] = line(-1)
            for _ in range(3):
                await session.scalar(sa.text("SELECT 2, 2"))
                places["scalar"] = line(-1)
            await session.run_sync(lambda sync: sync.execute(sa.text("SELECT 3, 3, 3")))
            places["sync"] = line(-1)
            await session.commit()
            places["commit"] = line(-1)
        await engine.dispose()

    with record() as recorded:
        asyncio.run(work())
    here = "tests/capture/probes/test_sqlalchemy.py"
    groups = {group.fingerprint: group for group in recorded.of("sql")}
    one, two, three = (groups[f"SELECT {what}"] for what in ("?", "?, ?", "?, ?, ?"))
    assert (one.count, one.callsite) == (1, f"{here}:{places['inner']}")
    assert any(entry.startswith(f"{here}:{places['called']} ") for entry in one.stack)
    assert (two.count, two.callsite) == (3, f"{here}:{places['scalar']}")
    assert (three.count, three.callsite) == (1, f"{here}:{places['sync']}")
    assert groups["COMMIT"].callsite == f"{here}:{places['commit']}"


def test_everything_is_put_back() -> None:
    loader = getattr(orm.strategies, "_LazyLoader", None) or orm.strategies.LazyLoader
    kinds = (DefaultDialect, QueuePool, loader)
    before = [dict(vars(kind)) for kind in kinds], sqlite3.connect
    probes.install_all()
    assert [dict(vars(kind)) for kind in kinds] != before[0]
    probes.uninstall_all()
    assert [dict(vars(kind)) for kind in kinds] == before[0]
    assert sqlite3.connect is before[1]
