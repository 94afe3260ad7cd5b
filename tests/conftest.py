"""Servers for the tests: each pytest (or xdist worker) process starts its own, unless the environment names one.

``JOBDOCTOR_TEST_REDIS_URL``, ``JOBDOCTOR_TEST_POSTGRES_URL`` and ``JOBDOCTOR_TEST_MYSQL_URL`` name servers that exist:
the suite then works in an empty Redis database and in databases of its own, and never flushes or drops anything else.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings

from sample_app import servers
from tests import mariadb

# As in CI, everywhere: no example has to be quick on a busy machine, and all runs try the same ones.
settings.register_profile(
    "steady", database=None, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

# What a terminal or a CI says of itself changes how commands print; a test that is about it says it again.
for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
    os.environ.pop(name, None)

TESTS = Path(__file__).parent
#: Directories and files that take longest: they begin first, so that no worker is left with one of them while the
#: others have nothing more to do.
SLOW = (
    "integration",
    "store",
    "benchmarks",
    "sample_app",
    "browser",
    "pytest_plugin",
    "cli",
    "test_architecture.py",
    "test_fingerprint.py",
    "capture",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files keep together, in the order of :data:`SLOW`; ``--dist loadfile`` deals them out so."""

    def turn(item: pytest.Item) -> int:
        first = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        return SLOW.index(first) if first in SLOW else len(SLOW)

    items.sort(key=turn)


@pytest.fixture(autouse=True)
def _signals_are_put_back() -> Iterator[None]:
    """A worker of RQ that a test runs in this process leaves its handlers behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """URL of a Valkey (or given Redis) database that belongs to this process."""
    given = os.environ.get("JOBDOCTOR_TEST_REDIS_URL")
    with servers.claimed_redis(given) if given else servers.started_valkey() as url:
        yield url


@pytest.fixture
def redis_client(valkey_url: str) -> Iterator[redis.Redis]:
    """A client of :func:`valkey_url`, whose database is empty at the start of the test."""
    client = redis.Redis.from_url(valkey_url)
    if os.environ.get("JOBDOCTOR_TEST_REDIS_URL"):
        servers.clear_claimed(client)
    else:
        client.flushall()
    yield client
    client.close()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """libpq URL of a PostgreSQL database that was made for this process and is dropped at its end."""
    given = os.environ.get("JOBDOCTOR_TEST_POSTGRES_URL")
    if given:
        with servers.own_database(given, f"jobdoctor_test_{os.getpid()}") as url:
            yield url
        return
    with servers.started_postgres() as server_url, servers.own_database(server_url, "jobdoctor_test") as url:
        yield url


@pytest.fixture(scope="session")
def mysql_url() -> Iterator[str]:
    """URL of a MySQL or MariaDB database that was made for this process and is dropped at its end.

    Skips where there is no server: MariaDB comes in no wheel.
    """
    given = os.environ.get("JOBDOCTOR_TEST_MYSQL_URL")
    if given:
        with mariadb.own_database(given, f"jobdoctor_test_{os.getpid()}") as url:
            yield url
        return
    found = mariadb.find()
    if found is None:
        mariadb.absent("No MariaDB server on this machine")
        return
    with mariadb.started(*found) as server_url, mariadb.own_database(server_url, "jobdoctor_test") as url:
        yield url


@pytest.fixture(scope="session")
def upstream_url() -> Iterator[str]:
    """URL of the sample shop's HTTP services, answering after 2 ms."""
    with servers.started_upstream(latency_ms=2.0) as url:
        yield url
