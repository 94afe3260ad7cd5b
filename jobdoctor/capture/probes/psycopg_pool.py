"""psycopg_pool: waits for a connection of the pool, blocking and asyncio.

A checkout that finds a connection at hand is not recorded.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture.probes.base import Probe, recorded, recorded_async
from jobdoctor.capture.probes.statements import begin_checkout, end_checkout, fail_checkout, postgresql_target
from jobdoctor.capture.recorder import Call, Recorder

LIBRARY = "psycopg_pool"


def _target(pool: Any) -> str:
    from psycopg.conninfo import conninfo_to_dict

    conninfo, kwargs = pool.conninfo, pool.kwargs
    if not isinstance(conninfo, str):  # made anew for each connection, by a callable
        return ""
    given: dict[str, Any] = {**conninfo_to_dict(conninfo), **(kwargs if isinstance(kwargs, dict) else {})}
    return postgresql_target(given.get("host"), given.get("port"), given.get("dbname"))


def _begin(rec: Recorder, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    pool = args[0]
    state = pool.get_stats()
    if state.get("pool_available"):
        return None
    grows = state.get("pool_size", 0) < state.get("pool_max", 0)
    return begin_checkout(rec, LIBRARY, _target(pool), grows)


class PsycopgPoolProbe(Probe):
    """Waits for a pooled connection."""

    channel: ClassVar[str] = "pool"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("psycopg_pool.pool", "psycopg_pool.pool_async")

    def patch(self, module: ModuleType) -> None:
        """Replace the checkout, which the pool's ``connection()`` calls too."""
        m: Any = module
        if module.__name__.endswith("_async"):
            self.replace(
                m.AsyncConnectionPool,
                "getconn",
                lambda original: recorded_async(original, _begin, end_checkout, fail_checkout),
            )
        else:
            self.replace(m.ConnectionPool, "getconn", lambda original: recorded(original, _begin, end_checkout))
