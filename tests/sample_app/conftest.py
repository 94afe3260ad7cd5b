"""The shop with its database, cache and upstream, seeded once for each test process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import Engine, create_engine

from sample_app import cache, clients, db, seed, servers

MADE_ONCE = (db.engine, db.reporting_engine, db.threaded_engine, cache.cache, clients.http, clients.mail_gateway)


@pytest.fixture(scope="session")
def seeded(postgres_url: str, valkey_url: str, upstream_url: str) -> Iterator[dict[str, str]]:
    """Settings of a seeded shop, in a database of its own beside the suite's."""
    with servers.own_database(postgres_url, f"jobdoctor_test_shop_{os.getpid()}") as database_url:
        settings = {
            "SHOP_DATABASE_URL": database_url,
            "SHOP_REDIS_URL": valkey_url,
            "SHOP_UPSTREAM_URL": upstream_url,
        }
        engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://", 1))
        seed.seed_database(engine)
        engine.dispose()
        yield settings


@pytest.fixture
def shop_engine(seeded: dict[str, str], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The shop as a job sees it, with a fresh cache."""
    for name, value in seeded.items():
        monkeypatch.setenv(name, value)
    seed.seed_cache(cache.cache())
    yield db.engine()
    for made in (db.engine, db.reporting_engine, db.threaded_engine):
        if made.cache_info().currsize:
            made().dispose()
    for made in MADE_ONCE:
        made.cache_clear()
