"""Who blocks a session in MySQL and MariaDB, with the privileges of the job's own user.

=================  ============================================  =================================================
lock               that a session waits                          who holds it
=================  ============================================  =================================================
GET_LOCK           the session's own state                       IS_USED_LOCK
table, metadata    the session's own state                       performance_schema.metadata_locks, or MariaDB's
                                                                 plugin METADATA_LOCK_INFO
row, in MySQL 8    performance_schema.data_lock_waits            the same
row, in MariaDB    information_schema.INNODB_LOCK_WAITS, which   the same
and MySQL 5.7      needs PROCESS
=================  ============================================  =================================================

The row locks of MariaDB come from a snapshot that the server renews only when nobody has read it for 0.1 s
(``CACHE_MIN_IDLE_TIME_NS`` in its trx0i_s.cc). So it is read seldom, and what it does not show may be there: that a
wait ended is known from the server's count of waiting transactions, or when the session has gone from the snapshot.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import time
from typing import Any, Final

_SESSIONS: Final = """
SELECT ID, COMMAND, STATE, INFO FROM information_schema.PROCESSLIST WHERE ID IN ({})
"""

#: MySQL 8: a blocker that waits itself comes last.
_ROWS: Final = """
SELECT holder.PROCESSLIST_ID, wanted.LOCK_TYPE
FROM performance_schema.data_lock_waits AS waits
JOIN performance_schema.threads AS waiting ON waiting.THREAD_ID = waits.REQUESTING_THREAD_ID
JOIN performance_schema.threads AS holder ON holder.THREAD_ID = waits.BLOCKING_THREAD_ID
LEFT JOIN performance_schema.data_locks AS wanted ON wanted.ENGINE_LOCK_ID = waits.REQUESTING_ENGINE_LOCK_ID
WHERE waiting.PROCESSLIST_ID IN ({})
ORDER BY (SELECT count(*) FROM performance_schema.data_lock_waits AS others
          WHERE others.REQUESTING_THREAD_ID = waits.BLOCKING_THREAD_ID)
LIMIT 1
"""

_ROWS_SNAPSHOT: Final = """
SELECT holder.trx_mysql_thread_id, wanted.lock_type
FROM information_schema.INNODB_LOCK_WAITS AS waits
JOIN information_schema.INNODB_TRX AS waiting ON waiting.trx_id = waits.requesting_trx_id
JOIN information_schema.INNODB_TRX AS holder ON holder.trx_id = waits.blocking_trx_id
LEFT JOIN information_schema.INNODB_LOCKS AS wanted ON wanted.lock_id = waits.requested_lock_id
WHERE waiting.trx_mysql_thread_id IN ({})
ORDER BY holder.trx_state = 'LOCK WAIT', holder.trx_started
LIMIT 1
"""

#: The strongest lock first: it is in everybody's way. One that is only asked for holds nobody by itself.
_METADATA: Final = """
SELECT holder.PROCESSLIST_ID
FROM performance_schema.threads AS waiting
JOIN performance_schema.metadata_locks AS wanted
  ON wanted.OWNER_THREAD_ID = waiting.THREAD_ID AND wanted.LOCK_STATUS = 'PENDING'
JOIN performance_schema.metadata_locks AS held
  ON held.OBJECT_TYPE = wanted.OBJECT_TYPE AND held.OBJECT_SCHEMA <=> wanted.OBJECT_SCHEMA
  AND held.OBJECT_NAME <=> wanted.OBJECT_NAME AND held.LOCK_STATUS = 'GRANTED'
  AND held.OWNER_THREAD_ID <> wanted.OWNER_THREAD_ID
JOIN performance_schema.threads AS holder ON holder.THREAD_ID = held.OWNER_THREAD_ID
WHERE waiting.PROCESSLIST_ID = %s
ORDER BY CASE held.LOCK_TYPE WHEN 'EXCLUSIVE' THEN 0 WHEN 'SHARED_NO_READ_WRITE' THEN 1 WHEN 'SHARED_NO_WRITE' THEN 2
         WHEN 'SHARED_READ_ONLY' THEN 3 ELSE 4 END
LIMIT 1
"""

_METADATA_PLUGIN: Final = """
SELECT THREAD_ID FROM information_schema.METADATA_LOCK_INFO
WHERE THREAD_ID <> %s AND LOCK_TYPE = 'Table metadata lock' AND TABLE_NAME IN ({})
ORDER BY CASE LOCK_MODE WHEN 'MDL_EXCLUSIVE' THEN 0 WHEN 'MDL_SHARED_NO_READ_WRITE' THEN 1
         WHEN 'MDL_SHARED_NO_WRITE' THEN 2 WHEN 'MDL_SHARED_READ_ONLY' THEN 3 ELSE 4 END
LIMIT 1
"""

#: An idle session's last statement is seen in the performance schema only.
_LAST_STATEMENT: Final = """
SELECT statement.SQL_TEXT
FROM performance_schema.threads AS thread
JOIN performance_schema.events_statements_current AS statement ON statement.THREAD_ID = thread.THREAD_ID
WHERE thread.PROCESSLIST_ID = %s AND statement.SQL_TEXT IS NOT NULL
ORDER BY statement.EVENT_ID DESC LIMIT 1
"""

_PROGRAM: Final = """
SELECT ATTR_VALUE FROM performance_schema.session_connect_attrs
WHERE PROCESSLIST_ID = %s AND ATTR_NAME = 'program_name'
"""

_WAITING_ROWS: Final = "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'"

_LOCK_NAME: Final = re.compile(r"\bget_lock\s*\(\s*('(?:[^'\\]|''|\\.)*'|\"(?:[^\"\\]|\"\"|\\.)*\")", re.IGNORECASE)
_TABLE_WAIT: Final = re.compile(r"^waiting for .*(?:\block\b|table flush)", re.IGNORECASE)

#: The snapshot is read after this, then after twice as long each time: two workers that wait must not keep it stale.
_SNAPSHOT_FIRST_S: Final = 0.12
_SNAPSHOT_MOST_S: Final = 1.0


def load(parameters: str) -> Any:
    """The module of the driver that the job itself uses."""
    driver = json.loads(parameters)["driver"]
    if driver == "MySQLdb":
        importlib.import_module("MySQLdb.connections")  # which it leaves for the first connection
    return importlib.import_module(driver)


class Blockers:
    """One connection, made as the job's. The driver's errors come through."""

    MISSING: Final = "the job's driver (PyMySQL or mysqlclient) cannot be imported beside the worker"

    def __init__(self, parameters: str, application: str) -> None:
        given: dict[str, Any] = json.loads(parameters)
        driver = load(parameters)
        given.pop("driver")
        kept_back = given.pop("not_passed_on", None)
        if kept_back:
            raise ValueError(f"the job's connection was made with a {kept_back}, which only its own process has")
        if driver.__name__ == "pymysql":
            given["program_name"] = application
        self._connection: Any = driver.connect(**given, connect_timeout=3, read_timeout=2, autocommit=True)
        self._driver = driver
        self._missing = ""
        self._denied: set[str] = set()  # questions that the server does not answer to this user
        version = str(self._rows("SELECT VERSION()")[0][0])
        self._mariadb = "mariadb" in version.lower()
        self._snapshot = self._mariadb or not version[:1].isdigit() or int(version.partition(".")[0]) < 8
        self._rows(f"SET SESSION {'max_statement_time=1' if self._mariadb else 'max_execution_time=1000'}")
        self._call = 0
        self._seen: dict[str, Any] | None = None
        self._holder: dict[str, Any] | None = None
        self._wait_s = 0.0
        self._read_again = 0.0

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    def look(self, call: int, sessions: list[int]) -> dict[str, Any]:
        """Whether one of the sessions waits: ``blocked`` (None when not), ``sure`` (whether that is known), and what is
        ``missing`` to know more. ``call`` is the same as long as one statement stands still."""
        if call != self._call:
            self._call, self._seen, self._holder = call, None, None
            self._wait_s, self._read_again = _SNAPSHOT_FIRST_S, 0.0
        self._missing = ""
        running = [row for row in self._rows(_SESSIONS.format(_places(sessions)), sessions) if _text(row[1]) != "Sleep"]
        blocked: dict[str, Any] | None = None
        sure = True
        for session, _, state, statement in running:
            words = _text(state)
            if words.lower() == "user lock":
                blocked = self._blocked("advisory", self._advisory_holder(session, _text(statement)))
            elif _TABLE_WAIT.match(words):
                blocked = self._blocked("table", self._table_holder(session, _text(statement)))
        if blocked is None and running:
            blocked, sure = self._row([int(row[0]) for row in running])
        return {"blocked": blocked, "sure": sure, "missing": self._missing}

    # -- rows

    def _row(self, sessions: list[int]) -> tuple[dict[str, Any] | None, bool]:
        if not int(self._rows(_WAITING_ROWS)[0][1]):  # of the whole server
            self._seen, self._wait_s, self._read_again = None, _SNAPSHOT_FIRST_S, 0.0
            return None, True
        if not self._snapshot:
            found = self._ask(_ROWS.format(_places(sessions)), sessions, "SELECT on performance_schema")
            if found is None:
                return None, False
            return (self._row_blocked(found[0]) if found else None), True
        now = time.monotonic()
        if now < self._read_again:
            return self._seen, self._seen is not None
        found = self._ask(_ROWS_SNAPSHOT.format(_places(sessions)), sessions, "PROCESS")
        # At random, so that workers that wait for each other do not ask in step.
        self._read_again = now + self._wait_s * (1.0 + os.urandom(1)[0] / 1000)
        self._wait_s = min(2 * self._wait_s, _SNAPSHOT_MOST_S)
        if found is None:
            return None, False
        gone = self._seen is not None and not found
        self._seen = self._row_blocked(found[0]) if found else None
        return self._seen, self._seen is not None or gone

    def _row_blocked(self, found: Any) -> dict[str, Any]:
        return self._blocked("table" if _text(found[1]) == "TABLE" else "row", int(found[0]))

    # -- other locks

    def _advisory_holder(self, session: int, statement: str) -> int:
        literal = _LOCK_NAME.search(statement)
        if literal is not None:
            holder = self._rows("SELECT IS_USED_LOCK(%s)", (_unquoted(literal.group(1)),))[0][0]
            if holder is not None:
                return int(holder)
        found = self._ask(_METADATA, (session,))
        return int(found[0][0]) if found else 0

    def _table_holder(self, session: int, statement: str) -> int:
        found = self._ask(_METADATA, (session,))
        if not found:
            tables = [name.rpartition(".")[2] for name in _tables(statement)]
            if self._mariadb and tables:
                found = self._ask(_METADATA_PLUGIN.format(_places(tables)), (session, *tables))
        if not found and self._waits_for_a_table(session):
            self._missing = (
                "Who holds a table's lock in MySQL: the job's user sees no metadata_locks; "
                "GRANT SELECT ON performance_schema.* (in MariaDB also performance_schema=ON)"
            )
        return int(found[0][0]) if found else 0

    def _waits_for_a_table(self, session: int) -> bool:
        """Whether it still does: a wait that has ended meanwhile has no holder, which says nothing of privileges."""
        running = self._rows(_SESSIONS.format("%s"), (session,))
        return bool(running and _TABLE_WAIT.match(_text(running[0][2])))

    # -- who

    def _blocked(self, kind: str, holder: int) -> dict[str, Any]:
        known = self._holder
        if known is not None and (known["kind"], known["session"]) == (kind, holder):
            return dict(known)
        statement = application = ""
        if holder:
            running = self._rows(_SESSIONS.format("%s"), (holder,))
            statement = _text(running[0][3]) if running else ""
            if not statement:
                last = self._ask(_LAST_STATEMENT, (holder,))
                statement = _text(last[0][0]) if last else ""
            program = self._ask(_PROGRAM, (holder,))
            application = _text(program[0][0]) if program else ""
        self._holder = {"kind": kind, "session": holder, "statement": statement, "application": application}
        return dict(self._holder)

    # -- questions

    def _rows(self, question: str, parameters: Any = None) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(question, parameters)
            return list(cursor.fetchall())

    def _ask(self, question: str, parameters: Any, needs: str = "") -> list[Any] | None:
        """None when the server has no such table or this user may not read it; ``needs`` is the privilege to name."""
        if question in self._denied:
            self._missing = self._missing or _denied(needs)
            return None
        try:
            return self._rows(question, parameters)
        except self._driver.MySQLError as error:
            if not error.args or error.args[0] not in _NOT_ALLOWED:
                raise
            self._denied.add(question)
            self._missing = self._missing or _denied(needs)
            return None


#: No privilege (1044, 1142, 1143, 1227), no such database, table or column (1049, 1146, 1109, 1054).
_NOT_ALLOWED: Final = frozenset({1044, 1142, 1143, 1227, 1049, 1146, 1109, 1054})


def _denied(needs: str) -> str:
    return f"Who blocks a row in MySQL: the job's user may not ask; it needs {needs}" if needs else ""


def _places(values: list[Any]) -> str:
    return ", ".join(["%s"] * len(values))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _unquoted(literal: str) -> str:
    quote, inner = literal[0], literal[1:-1]
    return re.sub(r"\\(.)", r"\1", inner.replace(quote * 2, quote), flags=re.DOTALL)


def _tables(statement: str) -> tuple[str, ...]:
    from jobdoctor import fingerprint

    return fingerprint.sql(statement).tables
