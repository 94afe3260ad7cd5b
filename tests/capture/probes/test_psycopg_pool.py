"""psycopg_pool on a real PostgreSQL: a full pool is waited for, a free one is not worth a record."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jobdoctor.capture import probes
from tests.capture.probes.conftest import Record, let_go

psycopg_pool: Any = pytest.importorskip("psycopg_pool", reason="psycopg_pool is not installed")


def test_a_full_pool_is_waited_for(record: Record, postgres_url: str) -> None:
    with psycopg_pool.ConnectionPool(postgres_url, min_size=1, max_size=1) as pool:
        pool.wait()
        with record() as recorded:
            first = pool.getconn()
            with let_go(recorded, 0.15, lambda: pool.putconn(first)), pool.connection() as second:
                second.execute("SELECT 1")
            for _ in range(5):
                with pool.connection():
                    pass
    group = recorded.one("pool")
    assert (group.count, group.new_connections, group.library) == (1, 0, "psycopg_pool")
    assert group.blocked_ns > 150_000_000
    assert group.target == recorded.one("sql", "SELECT").target


def test_asyncio(record: Record, postgres_url: str) -> None:
    async def work() -> None:
        async with psycopg_pool.AsyncConnectionPool(postgres_url, min_size=1, max_size=1) as pool:
            await pool.wait()

            async def use(seconds: float) -> None:
                async with pool.connection():
                    await asyncio.sleep(seconds)

            await asyncio.gather(use(0.2), use(0.01))

    with record() as recorded:
        asyncio.run(work())
    assert recorded.one("pool").blocked_ns > 150_000_000


def test_everything_is_put_back() -> None:
    before = psycopg_pool.ConnectionPool.getconn, psycopg_pool.AsyncConnectionPool.getconn
    probes.install_all()
    assert psycopg_pool.ConnectionPool.getconn is not before[0]
    probes.uninstall_all()
    assert (psycopg_pool.ConnectionPool.getconn, psycopg_pool.AsyncConnectionPool.getconn) == before
