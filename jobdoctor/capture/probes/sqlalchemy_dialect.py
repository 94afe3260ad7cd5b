"""SQLAlchemy 2.0 and 2.1: statements at the dialect, below the events, where a call costs the least.

What the drivers' probes would see of the same statement is inside this call and counted here once. A lazy load of the
ORM puts the relationship's name on the statement it makes.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import Probe, foreign, occupied
from jobdoctor.capture.probes.mysql import is_mysql, mysql, mysql_target
from jobdoctor.capture.probes.statements import (
    Begun,
    Database,
    Known,
    Session,
    Statement,
    hashed,
    in_transaction,
    knows_its_session,
    open_transactions,
    postgresql,
    postgresql_target,
    relationship,
    session_of,
    sessions,
    track,
)
from jobdoctor.capture.recorder import Call, Recorder, hot

LIBRARY = "sqlalchemy"
#: SQLAlchemy's names for one kind of server.
MYSQL = frozenset({"mysql", "mariadb"})

_databases: dict[int, tuple[weakref.ref[Any], Database]] = {}


def database_of(dialect: Any, connection: Any = None, context: Any = None) -> Database | None:
    """The database a dialect speaks to. Its address is learnt with the first connection, None before."""
    entry = _databases.get(id(dialect))
    if entry is not None and entry[0]() is dialect:
        return entry[1]
    if connection is None and context is None:
        return None
    database = Database(_address(dialect, connection, context), LIBRARY)
    if len(_databases) > 200:
        _databases.clear()
    _databases[id(dialect)] = (weakref.ref(dialect), database)
    return database


def _address(dialect: Any, connection: Any, context: Any) -> str:
    url = None
    if context is not None:
        url = context.root_connection.engine.url
    if dialect.name == "postgresql":
        if knows_its_session(connection):
            return postgresql(None, connection, dialect.driver).target
        if url is not None:
            host = url.host or url.query.get("host")
            return postgresql_target(host if isinstance(host, str) else None, url.port, url.database)
    if dialect.name in MYSQL:
        if is_mysql(connection):
            return mysql(None, connection, dialect.driver).target
        if url is not None:
            return mysql_target(url.host, url.port, url.database)
    if url is None:
        return f"{dialect.name}:"
    if dialect.name == "sqlite":
        return f"sqlite:///{(url.database or ':memory:').removeprefix('file:').partition('?')[0]}"
    port = f":{url.port}" if url.port else ""
    return f"{dialect.name}://{url.host or 'localhost'}{port}/{url.database or ''}"


def _driver(connection: Any) -> Any:
    """The driver's own connection: not the pool's proxy, not the adapter around an asyncio driver."""
    connection = getattr(connection, "dbapi_connection", connection)
    return getattr(connection, "_connection", connection)


def _session(rec: Recorder, dialect: Any, cursor: Any, context: Any) -> Session:
    """What is remembered of a cursor's connection, made ready for this execution."""
    connection = _connection(cursor, context)
    if dialect.name == "postgresql" and knows_its_session(connection):
        postgresql(rec, connection, dialect.driver)
    elif dialect.name in MYSQL and is_mysql(connection):
        mysql(rec, connection, dialect.driver)
    session = session_of(connection)
    if session.dialect is not dialect:
        session.orm = database_of(dialect, connection, context)
        session.dialect = dialect
    session.generation = rec.generation
    return session


def _connection(cursor: Any, context: Any) -> Any:
    return _driver(getattr(cursor, "connection", None) or context.root_connection.connection)


#: A statement that began, and the identity of its cursor's connection.
_Running = tuple[Call, Known, int, int]


def _begin(
    rec: Recorder, dialect: Any, cursor: Any, statement: Any, parameters: Any, context: Any, many: bool
) -> _Running | None:
    try:
        # What nearly every statement takes: a connection and a text that were seen before, in this execution.
        connection = getattr(cursor, "connection", None)
        key = id(connection)
        session = sessions.get(key)
        if (
            session is None
            or session.generation is not rec.generation
            or session.dialect is not dialect
            or session.reference() is not connection
        ):
            if rec.silent or occupied(rec):
                return None
            session = _session(rec, dialect, cursor, context)
        database = session.orm
        if database is None:
            return None
        known = database.known.get(statement)
        if (
            many
            or known is None
            or not known.plain
            or known.shape.generation is not rec.generation
            or relationship.get()
        ):
            begun = database.launch(rec, statement, parameters, many)
            return (*begun, key) if begun is not None else None
        params = 0
        if parameters:
            try:
                params = hash(tuple(parameters.values()) if type(parameters) is dict else parameters) or 1
            except Exception as error:  # it cannot be hashed
                if foreign(error):
                    raise
                params = hashed(parameters)
        call = rec.begin(known.shape, params=params)
        return (call, known, 0, key) if call is not None else None
    except Exception as error:
        if foreign(error):
            raise
        return None


def _finish(rec: Recorder, dialect: Any, cursor: Any, begun: _Running, context: Any) -> None:
    call, known, items, key = begun
    try:
        rows = cursor.rowcount
        if type(rows) is not int:
            rows = None
        if not items and dialect.name == "postgresql":
            call.end(None, rows if rows is None or rows >= 0 else None)
        else:
            _finish_rest(rec, dialect, cursor, begun, rows, context)
        if not known.steady or open_transactions.get(key) is not rec.generation:
            _track(rec, _connection(cursor, context))
    except Exception as error:
        call.end(items=items)
        if foreign(error):
            raise


def _finish_rest(rec: Recorder, dialect: Any, cursor: Any, begun: _Running, rows: int | None, context: Any) -> None:
    call, known, _, _ = begun
    follow_rows = getattr(cursor, "_jobdoctor_follow", None)
    if follow_rows is not None:  # sqlite3 does not know how many rows it will give
        if known.sql.effect != "write":
            rows = None
        follow_rows(call)
    database = database_of(dialect, None, context)
    if database is not None:
        database.finish(rec, begun[:3], rows)


def _fail(rec: Recorder, dialect: Any, cursor: Any, begun: _Running, context: Any, error: BaseException) -> None:
    try:
        database = database_of(dialect, None, context)
        if database is not None:
            database.fail(rec, begun[:3], error)
        _track(rec, _connection(cursor, context))
    except Exception as failure:
        begun[0].end(error)
        if foreign(failure):
            raise


def _track(rec: Recorder, connection: Any) -> None:
    state = in_transaction(connection)
    if state is None:
        # A driver that cannot say: it opens a transaction by itself unless it was told not to.
        state = getattr(connection, "autocommit", False) is not True
    track(rec, connection, state)


def _settle(rec: Recorder, _dialect: Any, cursor: Any) -> None:
    """A statement that the accelerator recorded may have begun or ended a transaction."""
    _track(rec, _connection(cursor, None))


def _raised(rec: Recorder, dialect: Any, begun: Begun, cursor: Any, error: BaseException) -> None:
    """A statement that the accelerator recorded raised."""
    _fail(rec, dialect, cursor, (*begun, 0), None, error)
    begun[0].end(error)  # where nothing is known of the dialect any more


def _execute(original: Callable[..., Any], many: bool = False) -> Callable[..., Any]:
    @functools.wraps(original)
    def do_execute(self: Any, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> Any:
        rec = recorder.current
        begun = _begin(rec, self, cursor, statement, parameters, context, many) if rec is not None else None
        if rec is None or begun is None:
            return original(self, cursor, statement, parameters, context)
        try:
            result = original(self, cursor, statement, parameters, context)
        except BaseException as error:
            _fail(rec, self, cursor, begun, context, error)
            raise
        _finish(rec, self, cursor, begun, context)
        return result

    return do_execute


def _execute_no_params(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def do_execute_no_params(self: Any, cursor: Any, statement: Any, context: Any = None) -> Any:
        rec = recorder.current
        begun = _begin(rec, self, cursor, statement, None, context, False) if rec is not None else None
        if rec is None or begun is None:
            return original(self, cursor, statement, context)
        try:
            result = original(self, cursor, statement, context)
        except BaseException as error:
            _fail(rec, self, cursor, begun, context, error)
            raise
        _finish(rec, self, cursor, begun, context)
        return result

    return do_execute_no_params


def _begin_word(rec: Recorder, dialect: Any, connection: Any, word: str) -> Statement | None:
    try:
        state = in_transaction(connection)
        if state is False:
            return None  # nothing is open: the driver sends nothing
        database = database_of(dialect, connection)
        return database.begin(rec, word) if database is not None else None
    except Exception as error:
        if foreign(error):
            raise
        return None


def _transaction_end(original: Callable[..., Any], word: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def end(self: Any, dbapi_connection: Any) -> Any:
        rec = recorder.current
        if rec is None:
            return original(self, dbapi_connection)
        connection = _driver(dbapi_connection)
        begun = _begin_word(rec, self, connection, word)
        try:
            result = original(self, dbapi_connection)
        except BaseException as error:
            if begun is not None:
                begun.fail(error)
            raise
        if begun is not None:
            begun.finish()
        track(rec, connection, False)
        return result

    return end


_hot: dict[str, Any] = {
    "sessions": sessions,
    "open": open_transactions,
    "relationship": relationship,
    "settle": _settle,
    "fail": _raised,
}


class SqlAlchemyProbe(Probe):
    """Statements, commits and rollbacks through SQLAlchemy, Core and ORM."""

    channel: ClassVar[str] = "sql"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = (
        "sqlalchemy.engine.default",
        # Dialects with an executemany of their own.
        "sqlalchemy.dialects.postgresql.psycopg2",
        "sqlalchemy.dialects.mysql.mysqldb",
        "sqlalchemy.dialects.mssql.pyodbc",
        "sqlalchemy.dialects.oracle.cx_oracle",
    )

    def patch(self, module: ModuleType) -> None:
        """Replace the dialect's methods."""
        m: Any = module
        name = module.__name__
        if name == "sqlalchemy.engine.default":
            dialect = m.DefaultDialect
            self.replace(dialect, "do_execute", hot(_execute, "dialect", **_hot))
            self.replace(dialect, "do_executemany", lambda original: _execute(original, many=True))
            self.replace(dialect, "do_execute_no_params", _execute_no_params)
            self.replace(dialect, "do_commit", lambda original: _transaction_end(original, "COMMIT"))
            self.replace(dialect, "do_rollback", lambda original: _transaction_end(original, "ROLLBACK"))
        else:
            for kind in vars(m).values():
                if isinstance(kind, type) and kind.__module__ == name:
                    self.replace(kind, "do_executemany", lambda original: _execute(original, many=True), own=True)
