"""Who blocks a session in PostgreSQL. Every role may ask; whose statement it may not read is given without it.

``pg_blocking_pids`` takes the lock manager's locks for a moment, so it is asked about sessions that wait for one only.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

#: What each kind of ``pg_locks.locktype`` is in a LockWait; a row's is "transactionid" or "tuple".
_KINDS: Final = {"relation": "table", "advisory": "advisory", "object": "table", "page": "table", "extend": "table"}

#: A blocker that waits itself comes last: the one that works, or idles in its transaction, is who holds everybody.
_QUESTION: Final = """
SELECT blocker.pid, coalesce(holder.query, ''), coalesce(holder.application_name, ''), coalesce(waited.locktype, '')
FROM pg_stat_activity AS session
CROSS JOIN LATERAL unnest(pg_blocking_pids(session.pid)) AS blocker(pid)
LEFT JOIN pg_stat_activity AS holder ON holder.pid = blocker.pid
LEFT JOIN LATERAL (SELECT locktype FROM pg_locks WHERE pid = session.pid AND NOT granted LIMIT 1) AS waited ON true
WHERE session.pid = ANY(%s) AND session.wait_event_type = 'Lock'
ORDER BY holder.wait_event_type IS NOT DISTINCT FROM 'Lock', holder.xact_start
LIMIT 1
"""


def load(_parameters: str) -> Any:
    """The driver's module: psycopg, or else psycopg2.

    Raises ImportError without either.
    """
    try:
        return importlib.import_module("psycopg")
    except ImportError:
        return importlib.import_module("psycopg2")


class Blockers:
    """One connection, with the job's own parameters. The driver's errors come through."""

    MISSING: Final = "psycopg is not installed where the worker runs; install psycopg[binary]"

    def __init__(self, conninfo: str, application: str) -> None:
        driver = load(conninfo)
        options: dict[str, Any] = {"application_name": application, "connect_timeout": 3}
        if driver.__name__ == "psycopg":
            options |= {"autocommit": True, "prepare_threshold": None}
        self._connection: Any = driver.connect(conninfo, **options)
        self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '1s'")

    def look(self, _call: int, sessions: list[int]) -> dict[str, Any]:
        """Whether one of the sessions waits: ``blocked`` (None when not) and ``sure``."""
        with self._connection.cursor() as cursor:
            cursor.execute(_QUESTION, (sessions,))
            row = cursor.fetchone()
        if row is None:
            return {"blocked": None, "sure": True}
        session, statement, application, lock = row
        blocked = {
            "kind": _KINDS.get(lock, "row"),
            "session": session,
            "statement": "" if statement.startswith("<") else statement,  # "<insufficient privilege>"
            "application": application,
        }
        return {"blocked": blocked, "sure": True}

    def close(self) -> None:
        """End the session."""
        self._connection.close()
