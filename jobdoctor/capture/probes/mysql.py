"""What the probes of MySQL's drivers share: sessions, connection parameters, and the wrappers of their methods.

A session is "mysql://host:port#connection id", without the database: ids are the server's, and its locks reach across
databases. MariaDB is "mysql" too.
"""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Callable
from typing import Any

from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import foreign
from jobdoctor.capture.probes.statements import (
    Database,
    Statement,
    begin_connect,
    connected,
    open_transactions,
    sessions,
    track,
)
from jobdoctor.capture.recorder import Call, Recorder

_LOOPBACK = frozenset({"", "localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104
#: Of what a connection was made with, what another one to the same server needs; and everything about TLS.
_PARAMETERS = frozenset(
    {
        "host",
        "user",
        "password",
        "passwd",
        "port",
        "unix_socket",
        "read_default_file",
        "read_default_group",
        "auth_plugin",
        "server_public_key_path",
    }
)
#: Statements that begin a transaction, whatever the mode, and those that end one by themselves.
_BEGINS = frozenset({"BEGIN", "START"})
_ENDS = frozenset({"COMMIT", "ROLLBACK", "CREATE", "ALTER", "DROP", "TRUNCATE"})
_IN_TRANSACTION = 1  # of the server's status


#: What connections were made with, as long as they live.
_given: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()


def mysql_target(host: Any, port: Any, name: Any) -> str:
    """ "mysql://host:port/name". Every way to this machine is "localhost", so that two jobs' sessions compare."""
    text = _text(host)
    return f"mysql://{'localhost' if text in _LOOPBACK else text}:{port or 3306}/{_text(name)}"


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def is_mysql(connection: Any) -> bool:
    """Whether ``mysql`` can say which session a driver's connection is."""
    return hasattr(connection, "thread_id") and hasattr(connection, "get_host_info")


def mysql(rec: Recorder | None, connection: Any, library: str) -> Database:
    """The database behind a connection of PyMySQL or mysqlclient. Its session is noted once in each execution."""
    return connected(rec, connection, library, _ask)


def _ask(connection: Any, library: str) -> Database:
    given = _given.get(connection, {})
    target = mysql_target(_host(connection), connection.port, given.get("database") or getattr(connection, "db", ""))
    conninfo = ""
    if given:
        driver = "pymysql" if hasattr(connection, "server_status") else "MySQLdb"
        conninfo = json.dumps({"driver": driver, **_for_another(given)})
    return Database(target, library, f"{target.rpartition('/')[0]}#{connection.thread_id()}", conninfo)


def _host(connection: Any) -> str:
    """From "db.example.com via TCP/IP" and "Localhost via UNIX socket"; PyMySQL says nothing of use over TCP."""
    host, via, how = _text(connection.get_host_info()).partition(" via ")
    if not via:
        return _text(getattr(connection, "host", ""))
    return host if how == "TCP/IP" else "localhost"


def _for_another(given: dict[str, Any]) -> dict[str, Any]:
    """What the lock observer needs to connect as the job did. An SSLContext cannot be handed over: it is named."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or not (name in _PARAMETERS or name.startswith("ssl")):
            continue
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            value = type(value).__name__
            name = "not_passed_on"
        found[name] = value
    return found


def _in_transaction(rec: Recorder, connection: Any, statement: Statement) -> bool:
    """Whether a transaction is open after the statement. Without autocommit the first one that touches a table opens
    it; what the server says of it is not to be had from mysqlclient, and from PyMySQL only where no rows came back."""
    operation = statement.sql.operation
    if operation in _ENDS:
        return False
    if operation in _BEGINS or getattr(connection, "server_status", 0) & _IN_TRANSACTION:
        return True
    if open_transactions.get(id(connection)) is rec.generation:
        return True
    return bool(statement.sql.tables) and not connection.get_autocommit()


def _track(rec: Recorder, connection: Any, statement: Statement) -> None:
    try:
        track(rec, connection, _in_transaction(rec, connection, statement))
    except Exception as error:
        if foreign(error):
            raise


# ------------------------------------------------------------------------------------------------------------ wrappers


def _begin(rec: Recorder, connection: Any, library: str, query: Any, parameters: Any, many: bool) -> Statement | None:
    try:
        if isinstance(query, bytearray):
            query = bytes(query)
        return mysql(rec, connection, library).begin(rec, query, parameters, many)
    except Exception as error:
        if foreign(error):
            raise
        return None


def _finish(rec: Recorder, connection: Any, statement: Statement, rows: Any = None) -> None:
    statement.finish(rows if isinstance(rows, int) else None)
    _track(rec, connection, statement)


def recording_execute(library: str, many: bool) -> Callable[[Any], Any]:
    """A cursor's ``execute`` or ``executemany``, which both drivers declare alike."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def execute(self: Any, query: Any, args: Any = None) -> Any:
            rec = recorder.current
            connection = self.connection
            statement = None
            if rec is not None and connection is not None:
                statement = _begin(rec, connection, library, query, args, many)
            if rec is None or statement is None:
                return original(self, query, args)
            try:
                result = original(self, query, args)
            except BaseException as error:
                statement.fail(error)
                _track(rec, connection, statement)
                raise
            _finish(rec, connection, statement, self.rowcount)
            return result

        return execute

    return make


def recording_callproc(library: str) -> Callable[[Any], Any]:
    """A cursor's ``callproc``."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def callproc(self: Any, procname: Any, args: Any = ()) -> Any:
            rec = recorder.current
            connection = self.connection
            statement = None
            if rec is not None and connection is not None:
                statement = _begin(rec, connection, library, f"CALL {_text(procname)}()", args, False)
            if rec is None or statement is None:
                return original(self, procname, args)
            try:
                result = original(self, procname, args)
            except BaseException as error:
                statement.fail(error)
                _track(rec, connection, statement)
                raise
            _finish(rec, connection, statement)
            return result

        return callproc

    return make


def recording_word(library: str, word: str) -> Callable[[Any], Any]:
    """A connection's ``begin``, ``commit`` or ``rollback``, which is sent whether a transaction is open or not."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def end(self: Any) -> Any:
            rec = recorder.current
            statement = _begin(rec, self, library, word, None, False) if rec is not None else None
            if rec is None or statement is None:
                return original(self)
            try:
                result = original(self)
            except BaseException as error:
                statement.fail(error)
                _track(rec, self, statement)
                raise
            _finish(rec, self, statement)
            return result

        return end

    return make


def closing(original: Callable[..., Any]) -> Callable[..., Any]:
    """A connection's ``close``: its transaction is over."""

    @functools.wraps(original)
    def close(self: Any) -> Any:
        rec = recorder.current
        if rec is not None:
            track(rec, self, False)
        return original(self)

    return close


def keep_parameters(connection: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Remember what a connection is being made with, as long as it lives. Never raises."""
    names = ("host", "user", "password", "database", "port", "unix_socket")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    given.setdefault("database", given.pop("db", None))
    try:
        _given[connection] = given
    except TypeError:  # a class of the user's own that takes no weak references
        pass
    return given


def opening(rec: Recorder, library: str, given: dict[str, Any]) -> Call | None:
    """A connection is being opened."""
    host = None if given.get("unix_socket") else given.get("host")
    return begin_connect(rec, library, mysql_target(host, given.get("port"), given.get("database")))


def opened(rec: Recorder, connection: Any, library: str) -> None:
    """It is open: a new session, also when the connection is an old one. Never raises."""
    try:
        sessions.pop(id(connection), None)
        mysql(rec, connection, library)
    except Exception as error:
        if foreign(error):
            raise
