"""What the SQL probes share: the shapes of a database's statements, its identity, sessions and open transactions."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from jobdoctor import fingerprint
from jobdoctor.capture.calls import inside
from jobdoctor.capture.probes.base import foreign
from jobdoctor.capture.recorder import BATCHED, NEW_CONNECTION, Call, Recorder, Shape
from jobdoctor.fingerprint import SqlShape

#: "Order.items" while an ORM loads it because it was touched.
relationship: ContextVar[str] = ContextVar("jobdoctor_relationship", default="")

#: Statements remembered for each database; raw SQL with literals in it makes each text a new one.
_STATEMENTS = 1024
#: Parameter sets of an executemany that are hashed together.
_MANY_HASHED = 20
_LOOPBACK = frozenset({"", "localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104
#: BEGIN IMMEDIATE does nothing but take SQLite's lock: beyond this (ten times what a slow disk needs) it was held.
_SQLITE_BUSY_NS = 20_000_000


class Database:
    """A database as one library reaches it. ``backend`` is the session's identity for the lock observer, or empty."""

    __slots__ = ("__weakref__", "backend", "conninfo", "library", "shapes", "target")

    def __init__(self, target: str, library: str, backend: str = "", conninfo: str = "") -> None:
        self.target = target
        self.library = library
        self.backend = backend
        self.conninfo = conninfo
        self.shapes: dict[Any, tuple[SqlShape, Shape]] = {}

    def begin(self, rec: Recorder, statement: Any, parameters: Any = None, many: bool = False) -> Statement | None:
        """A statement begins. None: it is not to be recorded, or could not be. Never raises."""
        try:
            outer = inside.get()
            if outer is not None and not outer.ended and outer.recorder is rec:
                return None  # an ORM's call is being recorded: say so before anything is computed
            related = relationship.get()
            key = (statement, related) if related else statement
            known = self.shapes.get(key)
            if known is None:
                known = self._learn(rec, key, statement, related)
            sql, shape = known
            items = sql.items
            params = 0
            if many:
                sets = parameters if isinstance(parameters, (list, tuple)) else ()
                items = len(sets)
                params = fingerprint.parameters(tuple(map(fingerprint.parameters, sets[:_MANY_HASHED])))
            elif parameters:
                params = fingerprint.parameters(tuple(parameters.values()) if type(parameters) is dict else parameters)
                if sql.takes_array:
                    items = max(items, _longest(parameters))
            if sql.literals:
                params = hash((params, sql.literals))
            flags = BATCHED if many or items > 1 else 0
            call = rec.begin(shape, params=params, flags=flags)
            return Statement(self, rec, call, sql, items) if call is not None else None
        except Exception as error:
            if foreign(error):
                raise
            return None

    def _learn(self, rec: Recorder, key: Any, statement: Any, related: str) -> tuple[SqlShape, Shape]:
        sql = fingerprint.sql(statement)
        shape = rec.shape(
            "sql",
            sql.operation,
            sql.fingerprint,
            target=self.target,
            library=self.library,
            effect=sql.effect,
            relationship=related,
        )
        if len(self.shapes) >= _STATEMENTS:
            self.shapes.clear()
        self.shapes[key] = (sql, shape)
        return sql, shape


class Statement:
    """One statement in progress."""

    __slots__ = ("call", "database", "items", "rec", "sql")

    def __init__(self, database: Database, rec: Recorder, call: Call, sql: SqlShape, items: int) -> None:
        self.database = database
        self.rec = rec
        self.call = call
        self.sql = sql
        self.items = items

    def fail(self, error: BaseException) -> None:
        """It raised. A busy SQLite database is a lock that was waited for."""
        if "is locked" in str(error) and self.database.target.startswith("sqlite:"):
            self._blocked()
        self.call.end(error, items=self.items)

    def finish(self, rows: int | None = None, flags: int = 0) -> None:
        """It returned. ``rows`` fetched or affected, None when not known."""
        if (
            self.sql.operation == "BEGIN"
            and self.database.target.startswith("sqlite:")
            and self.rec.clock() - self.call.start > _SQLITE_BUSY_NS
            and ("IMMEDIATE" in self.sql.fingerprint.upper() or "EXCLUSIVE" in self.sql.fingerprint.upper())
        ):
            self._blocked()
        self.call.end(rows=rows if rows is not None and rows >= 0 else None, items=self.items, flags=flags)

    def _blocked(self) -> None:
        waited = self.rec.clock() - self.call.start
        self.call.cell.add(blocked_ns=waited)
        self.rec.note(
            "lock",
            kind="sqlite",
            target=self.database.target,
            waited_ns=waited,
            start_ns=self.call.start,
            statement=self.sql.fingerprint,
        )


def _longest(parameters: Any) -> int:
    values = parameters.values() if isinstance(parameters, dict) else parameters
    return max((len(value) for value in values if isinstance(value, (list, tuple))), default=0)


# ------------------------------------------------------------------------------------------------------- transactions

_open: dict[int, object] = {}


def in_transaction(connection: Any) -> bool | None:
    """Whether the driver's connection has a transaction open, None when it cannot say."""
    try:
        kind = type(connection)
        ask = _asking.get(kind)
        if ask is None:
            ask = _asking[kind] = _how_to_ask(connection)
        return ask(connection)
    except Exception as error:
        if foreign(error):
            raise
        return None


_asking: dict[type, Callable[[Any], bool | None]] = {}


def _how_to_ask(connection: Any) -> Callable[[Any], bool | None]:
    if hasattr(connection, "pgconn"):  # psycopg; 1: active, 2: in a transaction, 3: in a failed one
        return lambda connection: int(connection.pgconn.transaction_status) in {1, 2, 3}
    if isinstance(getattr(connection, "in_transaction", None), bool):  # sqlite3
        return lambda connection: bool(connection.in_transaction)
    if hasattr(connection, "get_transaction_status"):  # psycopg2
        return lambda connection: bool(connection.get_transaction_status())
    if hasattr(connection, "is_in_transaction"):  # asyncpg
        return lambda connection: bool(connection.is_in_transaction())
    return lambda _: None


def track(rec: Recorder, connection: Any, opened: bool | None) -> None:
    """Tell the recorder when a connection's transaction begins or ends; saying it again is cheap."""
    key = id(connection)
    if opened:
        if _open.get(key) is not rec.generation:
            if len(_open) > 1000:
                _open.clear()
            _open[key] = rec.generation
            rec.transaction(key, True)
    elif _open.pop(key, None) is not None:
        rec.transaction(key, False)


# ---------------------------------------------------------------------------------------------------------- PostgreSQL

_databases: dict[int, tuple[weakref.ref[Any], Database]] = {}
_seen: dict[int, object] = {}


def postgresql(rec: Recorder | None, connection: Any, library: str) -> Database:
    """The database behind a psycopg, psycopg2 or asyncpg connection. Its session is noted once in each execution."""
    key = id(connection)
    entry = _databases.get(key)
    if entry is None or entry[0]() is not connection:
        database = _ask(connection, library)
        if len(_databases) > 1000:
            _databases.clear()
        _databases[key] = (weakref.ref(connection), database)
        _seen.pop(key, None)
    else:
        database = entry[1]
    if rec is not None and _seen.get(key) is not rec.generation:
        _seen[key] = rec.generation
        rec.note("session", backend=database.backend, start_ns=rec.clock(), end_ns=0)
        rec.secret(database.backend, database.conninfo)
    return database


def postgresql_target(host: str | None, port: Any, name: str | None) -> str:
    """ "postgresql://host:port/name". Every way to this machine is "localhost", so that two jobs' sessions compare."""
    first = (host or "").split(",")[0].strip()
    if first in _LOOPBACK or first.startswith(("/", "@")):
        first = "localhost"
    return f"postgresql://{first}:{str(port or 5432).split(',')[0]}/{name or ''}"


def knows_its_session(connection: Any) -> bool:
    """Whether ``postgresql`` can say which session a driver's connection is."""
    return hasattr(connection, "info") or hasattr(connection, "get_server_pid")


def _ask(connection: Any, library: str) -> Database:
    if hasattr(connection, "get_server_pid"):
        return _ask_asyncpg(connection, library)
    info = connection.info
    target = postgresql_target(info.host, info.port, info.dbname)
    parameters = info.get_parameters() if hasattr(info, "get_parameters") else dict(info.dsn_parameters)
    parameters = {
        name: value for name, value in parameters.items() if name in _CONNECTION_PARAMETERS or name.startswith("ssl")
    }
    if info.password:
        parameters["password"] = info.password
    return Database(target, library, f"{target}#{info.backend_pid}", _conninfo(parameters))


def _ask_asyncpg(connection: Any, library: str) -> Database:
    host, port = asyncpg_address(connection._addr)
    given = connection._params
    parameters = {"host": host, "port": port, "dbname": given.database, "user": given.user}
    if isinstance(given.password, str):  # it may be a function that asks for one
        parameters["password"] = given.password
    if getattr(given, "sslmode", None) is not None and not isinstance(connection._addr, str):
        parameters["sslmode"] = given.sslmode.name.replace("_", "-")
    target = postgresql_target(host, port, given.database)
    return Database(target, library, f"{target}#{connection.get_server_pid()}", _conninfo(parameters))


def asyncpg_address(address: Any) -> tuple[str, str]:
    """Host and port of an address as asyncpg keeps it: a pair, or the path of a socket, whose directory libpq takes."""
    if isinstance(address, str):
        directory, _, port = address.rpartition("/.s.PGSQL.")
        return directory, port
    return str(address[0]), str(address[1])


def _conninfo(parameters: dict[str, Any]) -> str:
    return " ".join(f"{name}='{_escaped(value)}'" for name, value in parameters.items())


def _escaped(value: Any) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "\\'")


_CONNECTION_PARAMETERS = frozenset({"host", "hostaddr", "port", "dbname", "user", "gssencmode", "channel_binding"})


def begin_checkout(rec: Recorder, library: str, target: str, grows: bool) -> Call | None:
    """A pool that has no connection at hand is asked for one; ``grows``: it may make one, else it waits."""
    shape = rec.shape("pool", "checkout", "checkout", target=target, library=library, effect="none")
    return rec.begin(shape, flags=NEW_CONNECTION if grows else 0, passthrough=True)


def end_checkout(rec: Recorder, call: Call, _args: tuple[Any, ...], _result: Any) -> None:
    """The pool gave a connection: one it made, or one that somebody gave back, which was waited for."""
    call.end(blocked_ns=_waited(rec, call))


def fail_checkout(rec: Recorder, call: Call, error: BaseException) -> None:
    """The pool gave none."""
    call.end(error, blocked_ns=_waited(rec, call))


def _waited(rec: Recorder, call: Call) -> int:
    return 0 if call.flags & NEW_CONNECTION else rec.clock() - call.start


def begin_connect(rec: Recorder, library: str, target: str) -> Call | None:
    """A connection is being opened. Never raises."""
    try:
        shape = rec.shape("sql", "CONNECT", "CONNECT", target=target, library=library, effect="none")
        return rec.begin(shape, flags=NEW_CONNECTION)
    except Exception as error:
        if foreign(error):
            raise
        return None
