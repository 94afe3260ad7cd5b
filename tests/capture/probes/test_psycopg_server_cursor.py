"""Chunks of psycopg's server-side cursors, by itself and below SQLAlchemy and Django."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text

from jobdoctor.capture import probes
from jobdoctor.model import SpanGroup
from tests.capture.probes import django_shop as shop
from tests.capture.probes.conftest import Record, line

ROWS = "SELECT n FROM generate_series(1, 25) AS n"


def fetched(groups: list[SpanGroup]) -> tuple[int, int | None, int | None]:
    (group,) = groups
    assert (group.operation, group.library, group.effect) == ("FETCH", "psycopg", "read")
    return group.count, group.rows, group.max_rows


def test_each_chunk_is_a_call_with_its_rows(record: Record, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection, record() as recorded:
        with connection.cursor(name="export-12345") as cursor:
            cursor.execute(ROWS)
            while cursor.fetchmany(10):
                here = line(-1)
        with connection.cursor(name="other") as cursor:
            cursor.itersize = 20
            cursor.execute(ROWS)
            assert len(list(cursor)) == 25
    by_name = {group.fingerprint: group for group in recorded.of("sql", "FETCH")}
    chunks = by_name["FETCH FORWARD ? FROM export-{}"]
    assert fetched([chunks]) == (4, 25, 10)  # the last one is empty
    assert chunks.callsite == f"tests/capture/probes/test_psycopg_server_cursor.py:{here}"
    assert fetched([by_name["FETCH FORWARD ? FROM other"]])[1:] == (25, 20)
    assert chunks.target == recorded.of("sql", "SELECT")[0].target


def test_asyncio(record: Record, postgres_url: str) -> None:
    async def work() -> None:
        async with (
            await psycopg.AsyncConnection.connect(postgres_url) as connection,
            connection.cursor(name="export") as cursor,
        ):
            await cursor.execute(ROWS)
            assert len(await cursor.fetchall()) == 25

    with record() as recorded:
        asyncio.run(work())
    assert fetched(recorded.of("sql", "FETCH")) == (1, 25, 25)


def test_an_error_is_the_drivers_own(record: Record, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection, record() as recorded:
        cursor = connection.cursor(name="export")
        cursor.execute("SELECT 1 / (n - 3) FROM generate_series(1, 5) AS n")
        with pytest.raises(psycopg.errors.DivisionByZero):
            cursor.fetchall()
        connection.rollback()
    (group,) = recorded.of("sql", "FETCH")
    assert group.error_types == {"psycopg.errors.DivisionByZero": 1}


def test_below_sqlalchemy_and_django(record: Record, postgres_url: str) -> None:
    engine = create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://", 1))
    django = shop.use("probed", shop.postgresql_settings(postgres_url))
    shop.create(django)
    try:
        with engine.connect() as connection, record() as recorded:
            streamed: Any = connection.execution_options(yield_per=10).execute(text(ROWS))
            assert sum(len(part) for part in streamed.partitions()) == 25
        assert sum(group.rows or 0 for group in recorded.of("sql", "FETCH")) == 25
        with record() as recorded:
            assert len(list(shop.Item.objects.using("probed").iterator(chunk_size=4))) == 6
        assert fetched(recorded.of("sql", "FETCH"))[1:] == (6, 4)
        assert "{}" in recorded.of("sql", "FETCH")[0].fingerprint
    finally:
        shop.drop(django)
        django.close()
        engine.dispose()


def test_everything_is_put_back() -> None:
    owner = next(kind for kind in psycopg.ServerCursor.__mro__ if "_fetch_gen" in vars(kind))
    before = vars(owner)["_fetch_gen"]
    probes.install_all()
    assert vars(owner)["_fetch_gen"] is not before
    probes.uninstall_all()
    assert vars(owner)["_fetch_gen"] is before
