"""psycopg 3: statements, commits and connects, of its blocking and its asyncio classes alike."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import Probe, foreign, let_through, occupied
from jobdoctor.capture.probes.statements import (
    Begun,
    Statement,
    begin_connect,
    follow,
    in_transaction,
    open_transactions,
    postgresql,
    postgresql_target,
    relationship,
    sessions,
    track,
)
from jobdoctor.capture.recorder import BATCHED, Call, Recorder, hot

LIBRARY = "psycopg"


def _begin(rec: Recorder, cursor: Any, args: tuple[Any, ...], kwargs: dict[str, Any], many: bool) -> Begun | None:
    try:
        query: Any = args[0] if args else kwargs.get("query", kwargs.get("statement"))
        parameters = args[1] if len(args) > 1 else kwargs.get("params_seq" if many else "params")
        if type(query) is not str and not isinstance(query, (str, bytes)):
            query = query.as_string(cursor) if hasattr(query, "as_string") else str(query)
        return postgresql(rec, cursor.connection, LIBRARY).launch(rec, query, parameters, many)
    except Exception as error:
        if foreign(error):
            raise
        return None


def _end(rec: Recorder, cursor: Any, begun: Begun, error: BaseException | None) -> None:
    try:
        connection = cursor.connection
        call, known, items = begun
        if error is not None:
            call.end(error, items=items)
            track(rec, connection, in_transaction(connection))
        else:
            rows = cursor.rowcount
            # In a pipeline many statements share a round trip.
            piped = BATCHED if connection.pgconn.pipeline_status else 0
            call.end(None, rows if rows >= 0 else None, 0, 0, 0, max(items, 1) if piped else items, piped)
            follow(rec, connection, known)
    except Exception as failure:
        begun[0].end(error)
        if foreign(failure):
            raise


def _execute(original: Callable[..., Any], many: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    def execute(self: Any, *args: Any, **kwargs: Any) -> Any:
        rec = recorder.current
        # Inside an ORM's call, nearly always.
        begun = _begin(rec, self, args, kwargs, many) if rec is not None and not occupied(rec) else None
        if rec is None or begun is None:
            return original(self, *args, **kwargs)
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            _end(rec, self, begun, error)
            raise
        _end(rec, self, begun, None)
        return result

    return execute


def _execute_async(original: Callable[..., Any], many: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    async def execute(self: Any, *args: Any, **kwargs: Any) -> Any:
        rec = recorder.current
        # Inside an ORM's call, nearly always.
        begun = _begin(rec, self, args, kwargs, many) if rec is not None and not occupied(rec) else None
        if rec is None or begun is None:
            return await original(self, *args, **kwargs)
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            _end(rec, self, begun, error)
            raise
        _end(rec, self, begun, None)
        return result

    return execute


def _begin_word(rec: Recorder, connection: Any, word: str) -> Statement | None:
    try:
        # Without an open transaction the driver sends nothing.
        if not in_transaction(connection):
            return None
        return postgresql(rec, connection, LIBRARY).begin(rec, word)
    except Exception as error:
        if foreign(error):
            raise
        return None


def _end_word(rec: Recorder, connection: Any, statement: Statement, error: BaseException | None) -> None:
    if error is not None:
        statement.fail(error)
    else:
        statement.finish()
    track(rec, connection, in_transaction(connection))


def _transaction_end(original: Callable[..., Any], word: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def end(self: Any) -> Any:
        rec = recorder.current
        statement = _begin_word(rec, self, word) if rec is not None else None
        if rec is None or statement is None:
            return original(self)
        try:
            result = original(self)
        except BaseException as error:
            _end_word(rec, self, statement, error)
            raise
        _end_word(rec, self, statement, None)
        return result

    return end


def _transaction_end_async(original: Callable[..., Any], word: str) -> Callable[..., Any]:
    @functools.wraps(original)
    async def end(self: Any) -> Any:
        rec = recorder.current
        statement = _begin_word(rec, self, word) if rec is not None else None
        if rec is None or statement is None:
            return await original(self)
        try:
            result = await original(self)
        except BaseException as error:
            _end_word(rec, self, statement, error)
            raise
        _end_word(rec, self, statement, None)
        return result

    return end


def _copy(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    @contextmanager
    def copy(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        rec = recorder.current
        begun = _begin(rec, self, args, kwargs, False) if rec is not None and not occupied(rec) else None
        if rec is None or begun is None:
            with original(self, *args, **kwargs) as stream:
                yield stream
            return
        let_through(begun[0])  # what the job reads meanwhile is its own
        try:
            with original(self, *args, **kwargs) as stream:
                yield stream
        except BaseException as error:
            _end(rec, self, begun, error)
            raise
        _end(rec, self, begun, None)

    return copy


def _copy_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    @asynccontextmanager
    async def copy(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        rec = recorder.current
        begun = _begin(rec, self, args, kwargs, False) if rec is not None and not occupied(rec) else None
        if rec is None or begun is None:
            async with original(self, *args, **kwargs) as stream:
                yield stream
            return
        let_through(begun[0])
        try:
            async with original(self, *args, **kwargs) as stream:
                yield stream
        except BaseException as error:
            _end(rec, self, begun, error)
            raise
        _end(rec, self, begun, None)

    return copy


def _closed(original: Callable[..., Any], asynchronous: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    def close(self: Any) -> Any:
        rec = recorder.current
        if rec is not None:
            track(rec, self, False)
        return original(self)  # of the asyncio class: a coroutine, for the caller to await

    @functools.wraps(original)
    async def close_async(self: Any) -> Any:
        rec = recorder.current
        if rec is not None:
            track(rec, self, False)
        return await original(self)

    return close_async if asynchronous else close


def _begin_opening(rec: Recorder, conninfo: Any, kwargs: dict[str, Any]) -> Call | None:
    try:
        from psycopg.conninfo import conninfo_to_dict

        given: dict[str, Any] = {**conninfo_to_dict(conninfo or ""), **kwargs}
        target = postgresql_target(given.get("host"), given.get("port"), given.get("dbname"))
        return begin_connect(rec, LIBRARY, target)
    except Exception as error:
        if foreign(error):
            raise
        return None


def _opened(rec: Recorder, connection: Any) -> None:
    try:
        postgresql(rec, connection, LIBRARY)
    except Exception as error:
        if foreign(error):
            raise


def _connect(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def connect(cls: Any, conninfo: str = "", **kwargs: Any) -> Any:
        rec = recorder.current
        if rec is None:
            return original(cls, conninfo, **kwargs)
        call = _begin_opening(rec, conninfo, kwargs)
        try:
            connection = original(cls, conninfo, **kwargs)
        except BaseException as error:
            if call is not None:
                call.end(error)
            raise
        if call is not None:
            call.end()
        _opened(rec, connection)
        return connection

    return connect


def _connect_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def connect(cls: Any, conninfo: str = "", **kwargs: Any) -> Any:
        rec = recorder.current
        if rec is None:
            return await original(cls, conninfo, **kwargs)
        call = _begin_opening(rec, conninfo, kwargs)
        try:
            connection = await original(cls, conninfo, **kwargs)
        except BaseException as error:
            if call is not None:
                call.end(error)
            raise
        if call is not None:
            call.end()
        _opened(rec, connection)
        return connection

    return connect


def _block_word(block: Any, entering: bool, failed: bool) -> str:
    """What a ``with connection.transaction()`` block sends as it is entered or left."""
    if block.savepoint_name:
        return "SAVEPOINT" if entering else "ROLLBACK TO SAVEPOINT" if failed else "RELEASE SAVEPOINT"
    return "BEGIN" if entering else "ROLLBACK" if failed else "COMMIT"


def _begin_block(rec: Recorder, block: Any, entering: bool, failed: bool) -> Statement | None:
    try:
        # An outer block has no savepoint, but it does not know before it is entered whether it is the outer one.
        word = _block_word(block, entering, failed)
        if entering and in_transaction(block.connection):
            word = "SAVEPOINT"
        return postgresql(rec, block.connection, LIBRARY).begin(rec, word)
    except Exception as error:
        if foreign(error):
            raise
        return None


def _block(original: Callable[..., Any], entering: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    def step(self: Any, *args: Any) -> Any:
        rec = recorder.current
        statement = _begin_block(rec, self, entering, bool(args and args[0])) if rec is not None else None
        if rec is None or statement is None:
            return original(self, *args)
        try:
            result = original(self, *args)
        except BaseException as error:
            _end_word(rec, self.connection, statement, error)
            raise
        _end_word(rec, self.connection, statement, None)
        return result

    return step


def _block_async(original: Callable[..., Any], entering: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    async def step(self: Any, *args: Any) -> Any:
        rec = recorder.current
        statement = _begin_block(rec, self, entering, bool(args and args[0])) if rec is not None else None
        if rec is None or statement is None:
            return await original(self, *args)
        try:
            result = await original(self, *args)
        except BaseException as error:
            _end_word(rec, self.connection, statement, error)
            raise
        _end_word(rec, self.connection, statement, None)
        return result

    return step


def _settle(rec: Recorder, cursor: Any, _cursor: Any) -> None:
    """A statement that the accelerator recorded may have begun or ended a transaction."""
    connection = cursor.connection
    track(rec, connection, in_transaction(connection))


def _raised(rec: Recorder, cursor: Any, begun: Begun, _cursor: Any, error: BaseException) -> None:
    """A statement that the accelerator recorded raised."""
    _end(rec, cursor, begun, error)


_hot: dict[str, Any] = {
    "sessions": sessions,
    "open": open_transactions,
    "relationship": relationship,
    "settle": _settle,
    "fail": _raised,
}


class PsycopgProbe(Probe):
    """psycopg's cursors and connections. Rows are known when ``execute`` returns: the client holds the whole result."""

    channel: ClassVar[str] = "sql"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("psycopg",)

    def patch(self, module: ModuleType) -> None:
        """Replace the methods that speak to the server; ``psycopg.connect`` is a bound method taken at import."""
        m: Any = module
        for cursor in (m.Cursor, m.ServerCursor):
            execute = hot(lambda original: _execute(original, False), "driver", **_hot)
            self.replace(cursor, "execute", execute, own=True)
            self.replace(cursor, "executemany", lambda original: _execute(original, True), own=True)
        for cursor in (m.AsyncCursor, m.AsyncServerCursor):
            self.replace(cursor, "execute", lambda original: _execute_async(original, False), own=True)
            self.replace(cursor, "executemany", lambda original: _execute_async(original, True), own=True)
        self.replace(m.Transaction, "__enter__", lambda original: _block(original, True))
        self.replace(m.Transaction, "__exit__", lambda original: _block(original, False))
        self.replace(m.AsyncTransaction, "__aenter__", lambda original: _block_async(original, True))
        self.replace(m.AsyncTransaction, "__aexit__", lambda original: _block_async(original, False))
        self.replace(m.Cursor, "copy", _copy, own=True)
        self.replace(m.AsyncCursor, "copy", _copy_async, own=True)
        self.replace(m.Connection, "commit", lambda original: _transaction_end(original, "COMMIT"))
        self.replace(m.Connection, "rollback", lambda original: _transaction_end(original, "ROLLBACK"))
        self.replace(m.AsyncConnection, "commit", lambda original: _transaction_end_async(original, "COMMIT"))
        self.replace(m.AsyncConnection, "rollback", lambda original: _transaction_end_async(original, "ROLLBACK"))
        self.replace(m.Connection, "close", lambda original: _closed(original, False))
        self.replace(m.AsyncConnection, "close", lambda original: _closed(original, True))
        self.replace(m.Connection, "connect", _connect, own=True)
        self.replace(m.AsyncConnection, "connect", _connect_async, own=True)
        self.replace(module, "connect", lambda _: m.Connection.connect)
