"""A store on each database, and executions of the last minutes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from jobdoctor.model import Execution
from jobdoctor.store import Store, tables
from jobdoctor.store.database import Database
from tests.builders import EPOCH_NS, MS, make_execution

_seconds = itertools.count()


def recent(*, seconds_ago: float | None = None, now_ns: int | None = None, **fields: Any) -> Execution:
    """An execution of the last hour; each later than the one before unless ``seconds_ago`` says otherwise."""
    if seconds_ago is None:
        seconds_ago = 3_000 - next(_seconds) % 2_900
    now_ns = time.time_ns() if now_ns is None else now_ns
    return make_execution(at_ms=(now_ns - EPOCH_NS) / MS - seconds_ago * 1000, **fields)


def drop_tables(url: str) -> None:
    database = Database(url)
    with database.engine.begin() as connection:
        tables.metadata.drop_all(connection)
    database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty store: a file that does not exist yet, or a database without our tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    url: str = request.getfixturevalue("postgres_url")
    drop_tables(url)
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store.open(store_url) as opened:
        yield opened


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/store.db") as opened:
        yield opened


def rows_in(store: Store, table: sqlalchemy.Table) -> int:
    """How many rows a table has."""
    with store._database.reading() as connection:
        return int(connection.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(table)).scalar_one())
