"""sqlite3's types as subclasses that record: the originals are C types that cannot be patched.

Imported when sqlite3 is, so that a worker whose jobs do not use it never loads it. Connections are made of these
classes whether or not something is being recorded, because a job may use one that was opened before. A factory of the
user's own is respected: the class that is made derives from it.
"""

from __future__ import annotations

import functools
import sqlite3.dbapi2 as sqlite3  # the package itself may still be on its way: it imports this first
from collections.abc import Callable, Iterator
from typing import Any

from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import foreign, occupied
from jobdoctor.capture.probes.statements import Begun, Database, track
from jobdoctor.capture.recorder import Call, Cell, Recorder

_FACTORY_POSITION = 5
_NO_ROW = object()


class RecordingCursor(sqlite3.Cursor):
    """A cursor whose statements are recorded and whose rows are counted as they are fetched."""

    _jobdoctor_cell: Cell | None = None
    _jobdoctor_generation: object = None

    def _jobdoctor_follow(self, call: Call | None) -> None:
        """Count the rows that are fetched from now on as this call's."""
        self._jobdoctor_cell = call.cell if call is not None and self.description is not None else None
        self._jobdoctor_generation = call.generation if call is not None else None

    def _jobdoctor_count(self, rows: int) -> None:
        cell = self._jobdoctor_cell
        # A cursor may outlive the execution that made it: its cell is another's then.
        if cell is not None and cell.recorder.generation is self._jobdoctor_generation:
            cell.add(rows=rows)

    def execute(self, sql: Any, parameters: Any = (), /) -> Any:
        """As ``sqlite3.Cursor.execute``."""
        return _run(self, super().execute, sql, parameters, False)

    def executemany(self, sql: Any, parameters: Any, /) -> Any:
        """As ``sqlite3.Cursor.executemany``."""
        return _run(self, super().executemany, sql, parameters, True)

    def executescript(self, sql_script: Any, /) -> Any:
        """As ``sqlite3.Cursor.executescript``."""
        original = super().executescript
        return _run(self, lambda sql, _: original(sql), sql_script, None, False)

    def fetchone(self) -> Any:
        """As ``sqlite3.Cursor.fetchone``."""
        row = super().fetchone()
        if self._jobdoctor_cell is not None:
            self._jobdoctor_count(0 if row is None else 1)
        return row

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        """As ``sqlite3.Cursor.fetchmany``."""
        rows = super().fetchmany(*args, **kwargs)
        if self._jobdoctor_cell is not None:
            self._jobdoctor_count(len(rows))
        return rows

    def fetchall(self) -> Any:
        """As ``sqlite3.Cursor.fetchall``."""
        rows = super().fetchall()
        if self._jobdoctor_cell is not None:
            self._jobdoctor_count(len(rows))
        return rows

    def __iter__(self) -> Any:
        # An overridden __next__ would cost every row a Python call, recorded or not.
        return self if self._jobdoctor_cell is None else _counted(super().__next__, self)


def _counted(step: Callable[[], Any], cursor: RecordingCursor) -> Iterator[Any]:
    count = 0
    try:
        for row in iter(step, _NO_ROW):  # ends with the StopIteration of ``step``
            count += 1
            yield row
    finally:
        cursor._jobdoctor_count(count)


def _run(cursor: RecordingCursor, original: Callable[..., Any], sql: Any, parameters: Any, many: bool) -> Any:
    rec = recorder.current
    if cursor._jobdoctor_cell is not None and (rec is None or not occupied(rec)):
        cursor._jobdoctor_cell = None  # the rows of the statement before
    if rec is None:
        return original(sql, parameters)
    connection = cursor.connection
    begun = _begin(rec, connection, sql, parameters, many)
    if begun is None:
        return original(sql, parameters)
    try:
        result = original(sql, parameters)
    except BaseException as error:
        connection._jobdoctor_database.fail(rec, begun, error)  # type: ignore[attr-defined]
        track(rec, connection, connection.in_transaction)
        raise
    call, known, items = begun
    rows = cursor.rowcount if known.sql.effect == "write" else None
    if items or known.busy:
        connection._jobdoctor_database.finish(rec, begun, rows)  # type: ignore[attr-defined]
    else:
        call.end(None, rows)
    if cursor.description is not None:
        cursor._jobdoctor_cell = call.cell
        cursor._jobdoctor_generation = call.generation
    track(rec, connection, connection.in_transaction)
    return result


def _begin(rec: Recorder, connection: Any, sql: Any, parameters: Any, many: bool) -> Begun | None:
    try:
        database = connection._jobdoctor_database
        return database.launch(rec, sql, parameters, many) if database is not None else None
    except Exception as error:
        if foreign(error):
            raise
        return None


class RecordingConnection(sqlite3.Connection):
    """A connection that makes recording cursors."""

    _jobdoctor_database: Database | None = None

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """As ``sqlite3.Connection.cursor``."""
        if args or kwargs:
            if args:
                args = (_derived(args[0], RecordingCursor), *args[1:])
            elif "factory" in kwargs:
                kwargs["factory"] = _derived(kwargs["factory"], RecordingCursor)
        elif not hasattr(super().cursor, "__func__"):  # not overridden in Python, where it might take no factory
            args = (RecordingCursor,)
        return super().cursor(*args, **kwargs)

    # The interpreter's own make a plain cursor in C and execute on it, whatever ``cursor`` is.

    def execute(self, sql: Any, parameters: Any = (), /) -> Any:
        """As ``sqlite3.Connection.execute``."""
        return sqlite3.Connection.cursor(self, RecordingCursor).execute(sql, parameters)

    def executemany(self, sql: Any, parameters: Any, /) -> Any:
        """As ``sqlite3.Connection.executemany``."""
        return sqlite3.Connection.cursor(self, RecordingCursor).executemany(sql, parameters)

    def executescript(self, sql_script: Any, /) -> Any:
        """As ``sqlite3.Connection.executescript``."""
        return sqlite3.Connection.cursor(self, RecordingCursor).executescript(sql_script)

    def commit(self) -> None:
        """As ``sqlite3.Connection.commit``."""
        _end_transaction(self, "COMMIT", super().commit)

    def rollback(self) -> None:
        """As ``sqlite3.Connection.rollback``."""
        _end_transaction(self, "ROLLBACK", super().rollback)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> Any:
        original = super().__exit__
        return _end_transaction(
            self, "COMMIT" if kind is None else "ROLLBACK", lambda: original(kind, error, traceback)
        )

    def close(self) -> None:
        """As ``sqlite3.Connection.close``."""
        rec = recorder.current
        super().close()
        if rec is not None:
            track(rec, self, False)


def _end_transaction(connection: RecordingConnection, word: str, original: Callable[[], Any]) -> Any:
    rec = recorder.current
    database = connection._jobdoctor_database
    if rec is None or database is None or not connection.in_transaction:
        return original()
    statement = database.begin(rec, word)
    try:
        result = original()
    except BaseException as error:
        if statement is not None:
            statement.fail(error)
            track(rec, connection, connection.in_transaction)
        raise
    if statement is not None:
        statement.finish()
        track(rec, connection, connection.in_transaction)
    return result


# What they are made for must not show in messages and in repr().
for _kind in (RecordingCursor, RecordingConnection):
    _kind.__name__ = _kind.__qualname__ = _kind.__name__.removeprefix("Recording")
    _kind.__module__ = "sqlite3"


@functools.lru_cache(maxsize=64)
def _derive(factory: Any, mixin: Any) -> Any:
    try:
        return type(factory.__name__, (mixin, factory), {"__module__": factory.__module__, "__doc__": factory.__doc__})
    except TypeError:  # no class can be both
        return factory


def _derived(factory: Any, mixin: Any) -> Any:
    base = mixin.__mro__[1]
    if factory is base:
        return mixin
    if not isinstance(factory, type) or not issubclass(factory, base) or issubclass(factory, mixin):
        return factory
    return _derive(factory, mixin)


def _target(database: Any) -> str:
    name = database.decode("utf-8", "replace") if isinstance(database, bytes) else str(database)
    name = name.removeprefix("file:").partition("?")[0]
    return f"sqlite:///{name}"


def recording_connect(original: Callable[..., Any]) -> Callable[..., Any]:
    """``connect``, with the classes above as its factories."""

    @functools.wraps(original)
    def connect(*args: Any, **kwargs: Any) -> Any:
        if len(args) > _FACTORY_POSITION:
            place = args[_FACTORY_POSITION]
            args = (*args[:_FACTORY_POSITION], _derived(place, RecordingConnection), *args[_FACTORY_POSITION + 1 :])
        else:
            kwargs["factory"] = _derived(kwargs.get("factory", sqlite3.Connection), RecordingConnection)
        connection = original(*args, **kwargs)
        if isinstance(connection, RecordingConnection):
            connection._jobdoctor_database = Database(_target(args[0] if args else kwargs.get("database")), "sqlite3")
        return connection

    return connect
