"""Opening the store's database: which URLs there are, how transactions are made, and what its errors mean to a person.

One writer at a time: a write transaction takes SQLite's write lock at once (``BEGIN IMMEDIATE``, waiting for another
writer) or an advisory lock on PostgreSQL, so that collectors can read, merge and write rollups without losing updates.
Readers never wait: they see a snapshot.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Column, Connection, DefaultClause, Engine, Table, event, exc, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool, StaticPool

from jobdoctor.errors import StoreError
from jobdoctor.store import tables

#: How long a SQLite writer waits for another one. A collector's batch takes well under a second.
BUSY_TIMEOUT_S = 30.0

#: Any number that no other program uses for pg_advisory_xact_lock: "jobdoctr" in ASCII.
_ADVISORY_LOCK = int.from_bytes(b"jobdoctr")

_EXAMPLES = "write it like sqlite:///jobdoctor.db or postgresql://user@host/database"
_ANOTHER = "choose another --store"


class UnavailableStoreError(StoreError):
    """The database does not answer now: a collector waits and tries again."""


class UnstorableError(StoreError):
    """The database refuses these very values: the same batch without them would go in."""


class Database:
    """An engine with the schema made when first written to, never by reading."""

    def __init__(self, url: str) -> None:
        self.url = _parsed(url)
        self.file = _sqlite_file(self.url)
        #: The store in messages: a file's path, or the URL without its password.
        self.where = str(self.file) if self.file else _shown(self.url)
        self.postgres = self.url.get_backend_name() == "postgresql"
        self.engine = self._engine()
        self._ready = False  # known to be there, of a version that we read
        self._complete = False  # with all that this version writes
        self._lacking: frozenset[str] = frozenset()

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A snapshot. StoreError when there is no store, or one that this version does not know."""
        if self.file and not self.file.exists():
            raise StoreError(f"no store at {self.where}", "run `jobdoctor run` first, or choose another --store")
        with self._saying(), self.engine.connect() as connection:
            if self.postgres:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                if not self._ready:
                    if not inspect(connection).has_table(tables.schema.name):
                        raise StoreError(f"no recordings in {self.where}", "run `jobdoctor run` first")
                    self._check_version(connection)
                    self._lacking = _lacking(connection)
                    self._ready = True
                yield connection.execution_options(jobdoctor_lacks=self._lacking)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """The only write transaction at this moment; commits at the end."""
        with self._saying(), self.engine.connect() as connection:
            connection = connection.execution_options(jobdoctor_writes=True)
            with connection.begin():
                if self.postgres:
                    connection.execute(select(sqlalchemy.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
                if not self._complete:
                    self._make(connection)
                yield connection
            self._ready = self._complete = True
            self._lacking = frozenset()

    def exists(self) -> bool:
        """Whether there is something to read. StoreError when it cannot be told, or is of a newer version."""
        if self.file and not self.file.exists():
            return False
        with self._saying(), self.engine.connect() as connection:
            if not inspect(connection).has_table(tables.schema.name):
                return False
            self._check_version(connection)
            return True

    def has(self, connection: Connection, table: Table) -> bool:
        """Whether there is this table: a store that was last written by an earlier version has not all of them."""
        return inspect(connection).has_table(table.name)

    def forget(self) -> None:
        """Drop pooled connections and what is known of the schema, after the database went away."""
        self.engine.dispose()
        self._ready = self._complete = False

    # -- schema

    def _make(self, connection: Connection) -> None:
        tables.metadata.create_all(connection)
        lacking = _lacking(connection)
        for column in tables.later:
            if column.name in lacking:
                _add(connection, column)
        if connection.execute(select(tables.schema.c.version)).first() is None:
            connection.execute(tables.schema.insert(), {"version": tables.SCHEMA_VERSION})
        self._check_version(connection)

    def _check_version(self, connection: Connection) -> None:
        version = connection.execute(select(sqlalchemy.func.max(tables.schema.c.version))).scalar_one() or 0
        if version > tables.SCHEMA_VERSION:
            raise StoreError(
                f"{self.where} was written by a newer jobdoctor (schema {version}, this one knows "
                f"{tables.SCHEMA_VERSION})",
                "upgrade jobdoctor, or choose another --store",
            )

    # -- engine

    def _engine(self) -> Engine:
        if self.postgres:
            try:
                return sqlalchemy.create_engine(self.url, pool_pre_ping=True, pool_size=2)
            except ImportError:
                raise StoreError(
                    f"{self.where} needs psycopg, which is not installed", "pip install 'jobdoctor[postgres]'"
                ) from None
        engine = sqlalchemy.create_engine(
            self.url,
            poolclass=NullPool if self.file else StaticPool,
            connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        )

        @event.listens_for(engine, "connect")
        def connected(connection: sqlite3.Connection, _record: Any) -> None:
            connection.isolation_level = None  # transactions begin when we say so, below
            connection.execute("PRAGMA synchronous = NORMAL")  # safe with the write-ahead log, one fsync fewer

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            writes = connection.get_execution_options().get("jobdoctor_writes")
            if writes and self.file and not self._complete:
                _use_write_ahead_log(connection)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    # -- errors

    @contextmanager
    def _saying(self) -> Iterator[None]:
        """Turn the database's errors into ours."""
        try:
            yield
        except (exc.DataError, exc.IntegrityError, OverflowError) as error:
            raise UnstorableError(
                f"{self.where} refuses a recording: {_line(error)}", "report this as a bug"
            ) from error
        except exc.DBAPIError as error:
            raise self._said(error) from error
        except exc.SQLAlchemyError as error:
            raise StoreError(f"{self.where}: {_line(error)}", _ANOTHER) from error

    def _said(self, error: exc.DBAPIError) -> StoreError:
        said = _line(error.orig or error)
        if "no such table: jobdoctor_" in said or ('"jobdoctor_' in said and "does not exist" in said):
            # Removed under a running collector, which makes them again.
            return UnavailableStoreError(f"the tables in {self.where} are gone", "run `jobdoctor run` first")
        if self.postgres:
            if isinstance(error, exc.OperationalError | exc.InterfaceError) or error.connection_invalidated:
                return UnavailableStoreError(f"cannot use {self.where}: {said}", "check the server and the URL")
            return StoreError(f"{self.where}: {said}", "check the user's rights, or choose another --store")
        if "not a database" in said or "malformed" in said:
            return StoreError(f"{self.where} is not an SQLite database, or is damaged", _ANOTHER)
        if "locked" in said or "busy" in said:
            return UnavailableStoreError(f"{self.where} is locked by another process", "try again")
        if "disk is full" in said:
            return UnavailableStoreError(f"the disk of {self.where} is full", "make room, or choose another --store")
        if "readonly" in said:
            return StoreError(f"{self.where} is read-only", "make it writable, or choose another --store")
        if "unable to open" in said and self.file:
            if self.file.is_dir():
                return StoreError(f"{self.where} is a directory", "name a file in --store")
            if not self.file.parent.is_dir():
                return StoreError(f"{self.file.parent} is not a directory", f"create it, or {_ANOTHER}")
            return StoreError(f"cannot open {self.where}", f"check who may read and write it, or {_ANOTHER}")
        return StoreError(f"{self.where}: {said}", _ANOTHER)


def _add(connection: Connection, column: Column[Any]) -> None:
    """Adds a column of texts that came later: at once on either database, however many rows there are."""
    default = column.server_default
    assert isinstance(default, DefaultClause)
    connection.exec_driver_sql(
        f"ALTER TABLE {column.table.name} ADD COLUMN {column.name} TEXT NOT NULL DEFAULT '{default.arg}'"
    )


def _lacking(connection: Connection) -> frozenset[str]:
    """Those of the later columns that the store has not yet."""
    try:
        there = {column["name"] for column in inspect(connection).get_columns(tables.trace.name)}
    except exc.NoSuchTableError:
        return frozenset()  # whoever reads it says so
    return frozenset(column.name for column in tables.later if column.name not in there)


def lacks(connection: Connection) -> frozenset[str]:
    """Columns that a snapshot of :meth:`Database.reading` has not."""
    found: frozenset[str] = connection.get_execution_options().get("jobdoctor_lacks", frozenset())
    return found


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError):
        raise StoreError(f"{_without_password(url)!r} is no database URL", _EXAMPLES) from None
    if backend in ("postgres", "postgresql"):
        if not parsed.database and not parsed.query:
            raise StoreError(f"{_shown(parsed)} names no database", _EXAMPLES)
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        if parsed.host:
            raise StoreError(f"{url!r} has two slashes where SQLite needs three", f"write sqlite:///{parsed.host}")
        return parsed.set(drivername="sqlite+pysqlite")
    raise StoreError(f"jobdoctor cannot keep its store in {backend}", _EXAMPLES)


def _shown(url: URL) -> str:
    """The URL for messages: as people write it, without the driver and the password."""
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)


def _without_password(url: str) -> str:
    """What was given, without what may be a secret: everything between ``:`` and ``@`` after the scheme."""
    scheme, separator, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{separator}{user.partition(':')[0]}{at}{host}"


def _sqlite_file(url: URL) -> Path | None:
    """The database's file; None for PostgreSQL and for a database in memory."""
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        return None
    return Path(name)


def _use_write_ahead_log(connection: Connection) -> None:
    """Readers beside a writer. Changing the mode does not wait for other connections by itself, so ask again."""
    for attempt in range(50):
        try:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            return
        except exc.OperationalError as error:
            if "locked" not in str(error) or attempt == 49:
                raise
            time.sleep(0.05)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
