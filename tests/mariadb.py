"""A MariaDB server of this machine, started for the tests in a temporary directory: small, and quick, not durable."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.ports import free_port

#: Where servers are that are not for everybody's path.
PLACES = (*os.get_exec_path(), "/usr/sbin", "/usr/local/sbin", "/usr/libexec")
#: A free port may be taken by another process before the server has it.
START_ATTEMPTS = 5
START_S = 60


def find() -> tuple[str, str] | None:
    """Paths of ``mariadbd`` and ``mariadb-install-db``, or None."""
    path = os.pathsep.join(PLACES)
    server, install = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
    return (server, install) if server and install else None


def absent(what: str) -> None:
    """Skips the test; where CI has installed what is missing (``JOBDOCTOR_TEST_EXPECTED``), fails it."""
    if "mariadb" in os.environ.get("JOBDOCTOR_TEST_EXPECTED", "").split(","):
        pytest.fail(f"{what}, but JOBDOCTOR_TEST_EXPECTED names mariadb")
    pytest.skip(f"{what}: install mariadb-server or set JOBDOCTOR_TEST_MYSQL_URL")


def arguments(url: str) -> dict[str, Any]:
    """``connect``'s arguments, of PyMySQL and mysqlclient alike, from mysql://user:password@host:port/database."""
    parts = urlsplit(url)
    return {
        "host": parts.hostname or "127.0.0.1",
        "port": parts.port or 3306,
        "user": unquote(parts.username or "root"),
        "password": unquote(parts.password or ""),
        "database": parts.path.strip("/"),
    }


@contextlib.contextmanager
def started(server: str, install: str) -> Iterator[str]:
    """Runs a server on a free port; yields its URL, without a database. The user "root" has no password."""
    directory = Path(tempfile.mkdtemp(prefix="jobdoctor-mariadb-"))
    # Each server deletes the temporary tables that it finds in its directory for them, another one's too.
    small = ["--no-defaults", f"--datadir={directory}/data", f"--tmpdir={directory}", "--innodb-log-file-size=8M"]
    small.append("--innodb-buffer-pool-size=16M")
    if os.getuid() == 0:
        small.append("--user=root")
    process: subprocess.Popen[bytes] | None = None
    try:
        subprocess.run(
            [install, *small, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"],
            check=True,
            capture_output=True,
            timeout=START_S,
        )
        for _ in range(START_ATTEMPTS):
            port = free_port()
            process = subprocess.Popen(
                [
                    server,
                    *small,
                    f"--socket={directory}/socket",
                    f"--pid-file={directory}/pid",
                    f"--log-error={directory}/log",
                    f"--port={port}",
                    "--bind-address=127.0.0.1",
                    "--skip-log-bin",
                    "--skip-name-resolve",
                    "--innodb-use-native-aio=OFF",
                    "--innodb-flush-method=nosync",
                    "--innodb-flush-log-at-trx-commit=0",
                    "--innodb-fast-shutdown=2",
                    "--key-buffer-size=1M",
                    # What a failed test left open must not hold up the next one.
                    "--lock-wait-timeout=20",
                    "--innodb-lock-wait-timeout=20",
                    # Who holds a table's lock, and what an idle session ran last, is seen there only.
                    "--performance-schema=ON",
                    "--performance-schema-instrument=wait/lock/metadata/sql/mdl=ON",
                    "--performance-schema-consumer-events-statements-current=ON",
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if _answers(process, port):
                break
        else:
            log = (directory / "log").read_text(errors="replace") if (directory / "log").exists() else ""
            raise RuntimeError(f"MariaDB does not start: {log[-2000:]}")
        yield f"mysql://root@127.0.0.1:{port}/"
    finally:
        if process is not None:
            process.terminate()
            process.wait(30)
        shutil.rmtree(directory, ignore_errors=True)


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
            return connection.recv(5) != b""  # its greeting
        time.sleep(0.02)
    return False


@contextlib.contextmanager
def own_database(server_url: str, name: str) -> Iterator[str]:
    """Makes a database, yields its URL, and drops it."""
    import pymysql

    given = arguments(server_url)
    given.pop("database")

    def run(*statements: str) -> None:
        connection = pymysql.connect(**given, autocommit=True)
        with contextlib.closing(connection), connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    run(f"DROP DATABASE IF EXISTS `{name}`", f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
    try:
        yield f"{server_url.rpartition('/')[0]}/{name}"
    finally:
        run(f"DROP DATABASE `{name}`")


def end_others(cursor: Any) -> None:
    """Ends the other sessions of the database, which a failed test may have left open."""
    cursor.execute("SELECT id FROM information_schema.processlist WHERE id <> connection_id() AND db = database()")
    for (session,) in cursor.fetchall():
        with contextlib.suppress(Exception):  # it has ended meanwhile
            cursor.execute(f"KILL {session}")
