"""psycopg2: its types are C types, so ``connect`` makes subclasses of them, of the user's own factories too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import Probe, foreign, occupied
from jobdoctor.capture.probes.statements import (
    Statement,
    begin_connect,
    follow,
    in_transaction,
    postgresql,
    postgresql_target,
    track,
)
from jobdoctor.capture.recorder import BATCHED, Call, Recorder

LIBRARY = "psycopg2"


def _begin(rec: Recorder, connection: Any, query: Any, parameters: Any, many: bool) -> Statement | None:
    try:
        if occupied(rec):
            return None  # an ORM's call, nearly always
        if not isinstance(query, (str, bytes)):
            query = query.as_string(connection)
        statement = postgresql(rec, connection, LIBRARY).begin(rec, query, parameters, many)
        if many and statement is not None:
            statement.call.flags &= ~BATCHED  # many sets, and no batch: psycopg2 sends each by itself
        return statement
    except Exception as error:
        if foreign(error):
            raise
        return None


def _run(cursor: Any, original: Callable[..., Any], query: Any, parameters: Any, many: bool) -> Any:
    rec = recorder.current
    statement = _begin(rec, cursor.connection, query, parameters, many) if rec is not None else None
    if rec is None or statement is None:
        return original(query, parameters)
    try:
        result = original(query, parameters)
    except BaseException as error:
        statement.fail(error)
        track(rec, cursor.connection, in_transaction(cursor.connection))
        raise
    statement.finish(cursor.rowcount)
    follow(rec, cursor.connection, statement.begun[1])
    return result


def _end_transaction(connection: Any, word: str, original: Callable[[], Any]) -> Any:
    rec = recorder.current
    # Without an open transaction the driver sends nothing.
    statement = _begin(rec, connection, word, None, False) if rec is not None and in_transaction(connection) else None
    if rec is None or statement is None:
        return original()
    try:
        result = original()
    except BaseException as error:
        statement.fail(error)
        track(rec, connection, in_transaction(connection))
        raise
    statement.finish()
    track(rec, connection, in_transaction(connection))
    return result


@functools.lru_cache(maxsize=64)
def _cursor_class(base: Any) -> Any:
    class Cursor(base):  # type: ignore[misc]
        def execute(self, query: Any, vars: Any = None) -> Any:  # noqa: A002
            return _run(self, super().execute, query, vars, False)

        def executemany(self, query: Any, vars_list: Any) -> Any:
            return _run(self, super().executemany, query, vars_list, True)

    return _named(Cursor, base)


@functools.lru_cache(maxsize=64)
def _connection_class(base: Any, plain_cursor: Any) -> Any:
    class Connection(base):  # type: ignore[misc]
        def cursor(self, *args: Any, **kwargs: Any) -> Any:
            given = args[1] if len(args) > 1 else kwargs.get("cursor_factory")
            factory = given or self.cursor_factory or plain_cursor
            if isinstance(factory, type) and issubclass(factory, plain_cursor):
                factory = _cursor_class(factory)
            if len(args) > 1:
                args = (args[0], factory, *args[2:])
            else:
                kwargs["cursor_factory"] = factory
            return super().cursor(*args, **kwargs)

        def commit(self) -> Any:
            return _end_transaction(self, "COMMIT", super().commit)

        def rollback(self) -> Any:
            return _end_transaction(self, "ROLLBACK", super().rollback)

        def close(self) -> Any:
            rec = recorder.current
            if rec is not None:
                track(rec, self, False)
            return super().close()

    return _named(Connection, base)


def _named(kind: Any, base: Any) -> Any:
    # What they are made for must not show in messages and in repr().
    kind.__name__, kind.__qualname__, kind.__module__ = base.__name__, base.__qualname__, base.__module__
    kind.__doc__ = base.__doc__
    return kind


def _begin_opening(rec: Recorder, extensions: Any, dsn: Any, kwargs: dict[str, Any]) -> Call | None:
    try:
        given = {**(extensions.parse_dsn(dsn) if dsn else {}), **kwargs}
        name = given.get("dbname") or given.get("database")
        return begin_connect(rec, LIBRARY, postgresql_target(given.get("host"), given.get("port"), name))
    except Exception as error:
        if foreign(error):
            raise
        return None


def _connect(original: Callable[..., Any], extensions: Any) -> Callable[..., Any]:
    @functools.wraps(original)
    def connect(dsn: Any = None, connection_factory: Any = None, cursor_factory: Any = None, **kwargs: Any) -> Any:
        factory = connection_factory or extensions.connection
        if isinstance(factory, type) and issubclass(factory, extensions.connection):
            factory = _connection_class(factory, extensions.cursor)
        rec = recorder.current
        call = _begin_opening(rec, extensions, dsn, kwargs) if rec is not None else None
        try:
            connection = original(dsn, factory, cursor_factory, **kwargs)
        except BaseException as error:
            if call is not None:
                call.end(error)
            raise
        if call is not None:
            call.end()
        if rec is not None:
            _opened(rec, connection)
        return connection

    return connect


def _opened(rec: Recorder, connection: Any) -> None:
    try:
        postgresql(rec, connection, LIBRARY)
    except Exception as error:
        if foreign(error):
            raise


class Psycopg2Probe(Probe):
    """psycopg2's statements, commits and connects. The client holds the whole result when ``execute`` returns."""

    channel: ClassVar[str] = "sql"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("psycopg2",)

    def patch(self, module: ModuleType) -> None:
        """Replace ``connect``."""
        self.replace(module, "connect", lambda original: _connect(original, module.extensions))
