"""asyncpg: statements, prepared or not, cursors, copies, connects, and waits for a connection of its pool.

Everything is recorded at the connection itself: a transaction sends its BEGIN and COMMIT through ``execute``, and what
a pool hands out forwards to the connection.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import Probe, foreign, let_through, recorded_async
from jobdoctor.capture.probes.statements import (
    Statement,
    asyncpg_address,
    begin_checkout,
    begin_connect,
    end_checkout,
    fail_checkout,
    in_transaction,
    postgresql,
    postgresql_target,
    track,
)
from jobdoctor.capture.recorder import Call, Recorder

LIBRARY = "asyncpg"

#: From the object, the positional and the named arguments: the connection, the statement, its parameters.
Describe = Callable[[Any, tuple[Any, ...], dict[str, Any]], tuple[Any, str, Any]]


def _of_connection(connection: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, str, Any]:
    return connection, _unnamed(args[0] if args else kwargs["query"]), args[1:]


def _many_of_connection(connection: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, str, Any]:
    query = args[0] if args else kwargs["command"] if "command" in kwargs else kwargs["query"]
    return connection, query, args[1] if len(args) > 1 else kwargs["args"]


def _of_prepared(prepared: Any, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> tuple[Any, str, Any]:
    return prepared._connection, prepared._query, args


def _many_of_prepared(prepared: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, str, Any]:
    return prepared._connection, prepared._query, args[0] if args else kwargs["args"]


def _of_cursor(cursor: Any, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> tuple[Any, str, Any]:
    return cursor._connection, cursor._query, cursor._args


def _preparing(connection: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, str, Any]:
    return connection, f"PREPARE {args[0] if args else kwargs['query']}", None


def _copying(connection: Any, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> tuple[Any, str, Any]:
    return connection, args[0], None


def _copying_records(connection: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, str, Any]:
    schema, columns = kwargs.get("schema_name"), kwargs.get("columns")
    table = ".".join(_quoted(name) for name in (schema, args[0] if args else kwargs["table_name"]) if name)
    listed = f"({', '.join(map(_quoted, columns))})" if columns else ""
    return connection, f"COPY {table}{listed} FROM STDIN", None


def _quoted(name: Any) -> str:
    return '"' + str(name).replace('"', '""') + '"'


def _said(text: str) -> Describe:
    """Of a method that sends always the same, in words that do not name what it is done to."""

    def describe(owner: Any, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> tuple[Any, str, Any]:
        return getattr(owner, "_connection", owner), text, None

    return describe


def _unnamed(query: str) -> str:
    """The statement without the name that asyncpg numbers its savepoints by; PING for the empty one, with which
    SQLAlchemy tries a connection."""
    if len(query) < 4 and not query.strip("; "):
        return "PING"
    if " __asyncpg_savepoint_" in query:
        return query.partition(" __asyncpg_savepoint_")[0].replace("ROLLBACK TO", "ROLLBACK TO SAVEPOINT")
    return query


def _no_rows(_result: Any) -> int | None:
    return None


def _counted(result: Any) -> int | None:
    """Rows of a list, or of a status such as "INSERT 0 5"."""
    if isinstance(result, list):
        return len(result)
    last = result.rpartition(" ")[2] if isinstance(result, str) else ""
    return int(last) if last.isdigit() else None


def _first(result: Any) -> int:
    """A value that is NULL cannot be told from no row."""
    return 0 if result is None else 1


def _begin(
    rec: Recorder, describe: Describe, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any], many: bool
) -> tuple[Any, Statement] | None:
    try:
        connection, query, parameters = describe(owner, args, kwargs)
        statement = postgresql(rec, connection, LIBRARY).begin(rec, query, parameters, many)
        return (connection, statement) if statement is not None else None
    except Exception as error:
        if foreign(error):
            raise
        return None


def _statement(
    describe: Describe, rows: Callable[[Any], int | None], *, many: bool = False, copies: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What makes the wrapper of a method that sends a statement; ``rows`` counts those of its result."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            rec = recorder.current
            begun = _begin(rec, describe, self, args, kwargs, many) if rec is not None else None
            if rec is None or begun is None:
                return await original(self, *args, **kwargs)
            connection, statement = begun
            if copies:
                let_through(statement.call)  # what the job does to read or write the rows is its own
            try:
                result = await original(self, *args, **kwargs)
            except BaseException as error:
                statement.fail(error)
                track(rec, connection, in_transaction(connection))
                raise
            statement.finish(rows(result))
            track(rec, connection, in_transaction(connection))
            return result

        return method

    return make


def _cleanup(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _cleanup(self: Any) -> Any:
        rec = recorder.current
        if rec is not None:
            track(rec, self, False)
        return original(self)

    return _cleanup


def _begin_connect(rec: Recorder, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    address = kwargs["addr"]
    if isinstance(address, str) and not os.path.exists(address):
        return None  # one of the places where a socket might be, when no host was given
    return begin_connect(rec, LIBRARY, postgresql_target(*asyncpg_address(address), kwargs["params"].database))


def _end_connect(rec: Recorder, call: Call, _args: tuple[Any, ...], connection: Any) -> None:
    call.end()
    postgresql(rec, connection, LIBRARY)


def _fail_connect(_rec: Recorder, call: Call, error: BaseException) -> None:
    # asyncpg wraps what made it try the next host.
    call.end(error.__cause__ if type(error).__name__.startswith("_") and error.__cause__ is not None else error)


class AsyncpgProbe(Probe):
    """Statements of asyncpg. Each batch that a cursor fetches after its first is a call of its own, FETCH."""

    channel: ClassVar[str] = "sql"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("asyncpg",)

    def patch(self, module: ModuleType) -> None:
        """Replace the methods that speak to the server; the module is patched when its pool exists, which copies their
        names."""
        m: Any = module
        connection, prepared = m.connection.Connection, m.prepared_stmt.PreparedStatement
        for owner, one, many in (
            (connection, _of_connection, _many_of_connection),
            (prepared, _of_prepared, _many_of_prepared),
        ):
            self.replace(owner, "execute", _statement(one, _counted))
            self.replace(owner, "fetch", _statement(one, _counted))
            self.replace(owner, "fetchrow", _statement(one, _first))
            self.replace(owner, "fetchval", _statement(one, _first))
            self.replace(owner, "fetchmany", _statement(many, _counted, many=True))
            self.replace(owner, "executemany", _statement(many, _no_rows, many=True))
        self.replace(connection, "prepare", _statement(_preparing, _no_rows))
        self.replace(connection, "reset", _statement(_said("RESET ALL"), _no_rows))
        self.replace(connection, "_copy_in", _statement(_copying, _counted, copies=True))
        self.replace(connection, "_copy_out", _statement(_copying, _counted, copies=True))
        self.replace(connection, "copy_records_to_table", _statement(_copying_records, _counted, copies=True))
        self.replace(connection, "_cleanup", _cleanup)
        cursor = m.cursor.BaseCursor
        self.replace(cursor, "_bind_exec", _statement(_of_cursor, _counted))
        self.replace(cursor, "_bind", _statement(_of_cursor, _no_rows))
        self.replace(cursor, "_exec", _statement(_said("FETCH"), _counted))
        self.replace(m.cursor.Cursor, "forward", _statement(_said("MOVE"), _no_rows))
        self.replace(
            m.connect_utils,
            "_connect_addr",
            lambda original: recorded_async(original, _begin_connect, _end_connect, _fail_connect),
        )


def _begin_acquire(rec: Recorder, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    pool = args[0]
    if pool.get_idle_size():
        return None
    target = ""
    for holder in pool._holders:
        connection = holder._con
        if connection is not None and not connection.is_closed():
            target = postgresql(None, connection, LIBRARY).target
            break
    return begin_checkout(rec, LIBRARY, target, pool.get_size() < pool.get_max_size())


class AsyncpgPoolProbe(Probe):
    """Waits for a connection of asyncpg's pool. One that is at hand is not recorded."""

    channel: ClassVar[str] = "pool"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("asyncpg",)

    def patch(self, module: ModuleType) -> None:
        """Replace the method behind every checkout, the pool's own statements' too."""
        m: Any = module
        self.replace(
            m.pool.Pool,
            "_acquire",
            lambda original: recorded_async(original, _begin_acquire, end_checkout, fail_checkout),
        )
