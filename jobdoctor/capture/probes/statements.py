"""What the SQL probes share: the shapes of a database's statements, its identity, sessions and open transactions."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from jobdoctor import fingerprint
from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import foreign, occupied, renewed
from jobdoctor.capture.recorder import BATCHED, NEW_CONNECTION, Call, Recorder, Shape
from jobdoctor.fingerprint import SqlShape

#: A relationship with its strategy (``relationships.lazily``), while an ORM loads it because it was touched.
relationship: ContextVar[str] = ContextVar("jobdoctor_relationship", default="")

#: Statements remembered for each database; raw SQL with literals in it makes each text a new one.
_STATEMENTS = 1024
#: Parameter sets of an executemany that are hashed together.
_MANY_HASHED = 20
#: What MySQL's drivers say of a result that is not read yet: minus one, without a sign.
_UNKNOWN_ROWS = 2**63
_LOOPBACK = frozenset({"", "localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104
#: BEGIN IMMEDIATE does nothing but take SQLite's lock: beyond this (ten times what a slow disk needs) it was held.
_SQLITE_BUSY_NS = 20_000_000


class Known(recorder.Known):
    """What the text of a statement says, learnt once."""

    __slots__ = ("busy", "sql")

    def __init__(self, sql: SqlShape, shape: Shape, sqlite: bool) -> None:
        self.sql = sql
        self.shape = shape
        self.plain = not sql.literals and not sql.items and not sql.takes_array
        self.steady = sql.effect in ("read", "write") and ";" not in sql.fingerprint
        #: It takes SQLite's lock and does nothing else: how long it takes is how long it was waited for.
        self.busy = (
            sqlite
            and sql.operation == "BEGIN"
            and ("IMMEDIATE" in sql.fingerprint.upper() or "EXCLUSIVE" in sql.fingerprint.upper())
        )


#: A statement that began: its call, what is known of its text, and its parameter sets, rows or list elements.
Begun = tuple[Call, Known, int]


class Database(recorder.Server):
    """A database as one library reaches it. ``backend`` is the session's identity for the lock observer, or empty."""

    __slots__ = ("__weakref__", "backend", "conninfo", "library", "sqlite", "target")

    def __init__(self, target: str, library: str, backend: str = "", conninfo: str = "") -> None:
        self.target = target
        self.library = library
        self.backend = backend
        self.conninfo = conninfo
        self.sqlite = target.startswith("sqlite:")
        self.counts = not self.sqlite
        self.known: dict[Any, Known] = {}

    def launch(self, rec: Recorder, statement: Any, parameters: Any = None, many: bool = False) -> Begun | None:
        """A statement begins. None: it is not to be recorded. On every query's way: few steps, and what fails in here
        is for the caller to swallow."""
        related = relationship.get()
        known = self.known.get((statement, related) if related else statement)
        if known is None:
            known = self._learn(rec, statement, related)
        shape = known.shape
        if shape.generation is not rec.generation:
            shape = known.shape = renewed(rec, shape)
        params = 0
        if many or not known.plain:
            params, items = _several(known.sql, parameters, many)
            call = rec.begin(shape, params=params, flags=BATCHED if many or items > 1 else 0)
            return (call, known, items) if call is not None else None
        if parameters:
            try:
                params = hash(tuple(parameters.values()) if type(parameters) is dict else parameters) or 1
            except Exception as error:  # it cannot be hashed
                if foreign(error):
                    raise
                params = hashed(parameters)
        call = rec.begin(shape, params=params)
        return (call, known, 0) if call is not None else None

    def begin(self, rec: Recorder, statement: Any, parameters: Any = None, many: bool = False) -> Statement | None:
        """A statement begins. None: it is not to be recorded, or could not be. Never raises."""
        try:
            if occupied(rec):
                return None  # an ORM's call is being recorded: say so before anything is computed
            begun = self.launch(rec, statement, parameters, many)
            return Statement(self, rec, begun) if begun is not None else None
        except Exception as error:
            if foreign(error):
                raise
            return None

    def _learn(self, rec: Recorder, statement: Any, related: str) -> Known:
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
        if len(self.known) >= _STATEMENTS:
            self.known.clear()
        known = self.known[(statement, related) if related else statement] = Known(sql, shape, self.sqlite)
        return known

    def blocked(self, rec: Recorder, begun: Begun) -> None:
        """A statement that has just returned, or raised, waited for the database's lock all the time."""
        call, known, _ = begun
        waited = rec.clock() - call.start
        call.cell.add(blocked_ns=waited)
        rec.note(
            "lock",
            kind="sqlite",
            target=self.target,
            waited_ns=waited,
            start_ns=call.start,
            statement=known.sql.fingerprint,
        )

    def fail(self, rec: Recorder, begun: Begun, error: BaseException) -> None:
        """A statement raised. A busy SQLite database is a lock that was waited for."""
        if self.sqlite and "is locked" in str(error):
            self.blocked(rec, begun)
        begun[0].end(error, items=begun[2])

    def finish(self, rec: Recorder, begun: Begun, rows: int | None, flags: int = 0) -> None:
        """A statement returned. ``rows`` fetched or affected, None (or less than none) when not known."""
        call, known, items = begun
        if known.busy and rec.clock() - call.start > _SQLITE_BUSY_NS:
            self.blocked(rec, begun)
        if rows is not None and not 0 <= rows < _UNKNOWN_ROWS:
            rows = None
        if items or flags:
            call.end(rows=rows, items=items, flags=flags)
        else:
            call.end(None, rows)


def _several(sql: SqlShape, parameters: Any, many: bool) -> tuple[int, int]:
    """Hash and number of a statement's parameter sets, VALUES rows or list elements."""
    items = sql.items
    params = 0
    if many:
        sets = parameters if isinstance(parameters, (list, tuple)) else ()
        items = len(sets)
        params = fingerprint.parameters(tuple(map(fingerprint.parameters, sets[:_MANY_HASHED])))
    elif parameters:
        params = hashed(parameters)
        if sql.takes_array:
            items = max(items, _longest(parameters))
    if sql.literals:
        params = hash((params, sql.literals))
    return params, items


def hashed(parameters: Any) -> int:
    """A hash of parameters that may not be hashable by themselves."""
    return fingerprint.parameters(tuple(parameters.values()) if type(parameters) is dict else parameters)


class Statement:
    """One statement in progress, for the callers that have no better place to keep it."""

    __slots__ = ("begun", "call", "database", "rec", "sql")

    def __init__(self, database: Database, rec: Recorder, begun: Begun) -> None:
        self.database = database
        self.rec = rec
        self.begun = begun
        self.call = begun[0]
        self.sql = begun[1].sql

    def fail(self, error: BaseException) -> None:
        """It raised."""
        self.database.fail(self.rec, self.begun, error)

    def finish(self, rows: int | None = None, flags: int = 0) -> None:
        """It returned. ``rows`` fetched or affected, None when not known."""
        self.database.finish(self.rec, self.begun, rows, flags)


def _longest(parameters: Any) -> int:
    values = parameters.values() if isinstance(parameters, dict) else parameters
    return max((len(value) for value in values if isinstance(value, (list, tuple))), default=0)


# ------------------------------------------------------------------------------------------------------- transactions

#: Connections with a transaction open, by their identity, with the execution in which it was said.
open_transactions: dict[int, object] = {}


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
    if hasattr(connection, "get_autocommit"):  # MySQL's: the server's word of it does not come with rows
        return lambda connection: False if connection.get_autocommit() else None
    if hasattr(connection, "is_in_transaction"):  # asyncpg
        return lambda connection: bool(connection.is_in_transaction())
    return lambda _: None


def track(rec: Recorder, connection: Any, opened: bool | None) -> None:
    """Tell the recorder when a connection's transaction begins or ends; saying it again is cheap."""
    key = id(connection)
    if opened:
        if open_transactions.get(key) is not rec.generation:
            if len(open_transactions) > 1000:
                open_transactions.clear()
            open_transactions[key] = rec.generation
            rec.transaction(key, True)
    elif open_transactions.pop(key, None) is not None:
        rec.transaction(key, False)


def follow(rec: Recorder, connection: Any, known: Known) -> None:
    """As ``track``, after a statement that succeeded: the driver is asked when the statement may have made a
    difference only."""
    if not known.steady or open_transactions.get(id(connection)) is not rec.generation:
        track(rec, connection, in_transaction(connection))


# ----------------------------------------------------------------------------------------------------------- sessions


class Session(recorder.Session):
    """What the probes remember of one connection of a driver."""

    __slots__ = ()

    database: Database | None
    orm: Database | None

    def __init__(self, reference: Callable[[], Any]) -> None:
        self.reference = reference
        self.database = None
        self.dialect = None
        self.orm = None
        self.generation = None


#: By the identity of the connection; whether it still is that one says the reference.
sessions: dict[int, Session] = {}


def connected(rec: Recorder | None, connection: Any, library: str, ask: Callable[[Any, str], Database]) -> Database:
    """The database behind a driver's connection, asked for once. Its session is noted once in each execution."""
    session = session_of(connection)
    database = session.database
    if database is None:
        database = session.database = ask(connection, library)
    if rec is not None and session.generation is not rec.generation:
        session.generation = rec.generation
        rec.note("session", backend=database.backend, start_ns=rec.clock(), end_ns=0)
        if database.conninfo:
            rec.secret(database.backend, database.conninfo)
    return database


def session_of(connection: Any) -> Session:
    """What is remembered of a connection; new when it was never seen."""
    key = id(connection)
    session = sessions.get(key)
    if session is None or session.reference() is not connection:
        try:
            session = Session(weakref.ref(connection))
        except TypeError:  # a type that cannot be referred to: remembered for this one call
            return Session(lambda: None)
        if len(sessions) > 1000:
            sessions.clear()
        sessions[key] = session
        if open_transactions.pop(key, None) is not None and recorder.current is not None:
            recorder.current.transaction(key, False)  # of one that went with its transaction open
    return session


# ---------------------------------------------------------------------------------------------------------- PostgreSQL


def postgresql(rec: Recorder | None, connection: Any, library: str) -> Database:
    """The database behind a psycopg, psycopg2 or asyncpg connection. Its session is noted once in each execution."""
    return connected(rec, connection, library, _ask)


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
