"""The servers that the benchmarks run on: started here, on free ports, and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from sample_app import cache, clients, db, seed, servers

DATABASE = "jobdoctor_bench"


@contextlib.contextmanager
def started_shop(latency_ms: float) -> Iterator[str]:
    """Valkey, PostgreSQL and the shop's upstream with this latency, seeded, and told to the shop by its environment
    variables; yields the Redis URL. SIGTERM ends the benchmark as Ctrl-C does, so that nothing is left running."""
    signal.signal(signal.SIGTERM, _end)
    with contextlib.ExitStack() as stack:
        redis_url = stack.enter_context(servers.started_valkey())
        server = stack.enter_context(servers.started_postgres())
        os.environ.update(
            SHOP_REDIS_URL=redis_url,
            SHOP_DATABASE_URL=stack.enter_context(servers.own_database(server, DATABASE)),
            SHOP_UPSTREAM_URL=stack.enter_context(servers.started_upstream(latency_ms)),
        )
        _forget_connections()
        seed.seed(db.engine(), cache.cache())
        db.engine().dispose()
        yield redis_url


def _forget_connections() -> None:
    """Those to the servers of an earlier measurement in the same process."""
    for made in (
        db.engine,
        db.reporting_engine,
        db.threaded_engine,
        cache.cache,
        clients.http,
        clients.mail_gateway,
    ):
        made.cache_clear()


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
