"""``jobdoctor collect`` and ``jobdoctor mark`` as people call them."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
import sqlalchemy
from click.testing import CliRunner

from jobdoctor import wire
from jobdoctor.cli.main import cli
from jobdoctor.store import Store, StreamReader, database, tables
from jobdoctor.store.collector import Collector
from jobdoctor.store.database import UnavailableStoreError
from tests.store.conftest import drop_tables, recent, rows_in
from tests.store.test_stream import JOB, put, total


class Called(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def call(*arguments: str, cwd: Path) -> Called:
    with contextlib.chdir(cwd):
        result = CliRunner().invoke(cli, arguments)
    return Called(result.exit_code, result.stdout, result.stderr)


def call_as_a_process(*arguments: str, cwd: Path) -> Called:
    done = subprocess.run(
        [sys.executable, "-m", "jobdoctor", *arguments], capture_output=True, text=True, cwd=cwd, timeout=60
    )
    return Called(done.returncode, done.stdout, done.stderr)


def test_once(redis_client: redis.Redis, valkey_url: str, tmp_path: Path) -> None:
    put(redis_client, [recent() for _ in range(5)])
    redis_client.xadd(wire.STREAM_KEY, {"bad": 1})
    done = call_as_a_process("collect", "--url", valkey_url, "--once", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-1] == "5 recordings collected, 1 unreadable"
    with Store.open(f"sqlite:///{tmp_path}/jobdoctor.db") as store:
        assert total(store) == 5
    again = call("collect", "--url", valkey_url, "--once", "--quiet", cwd=tmp_path)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_what_is_left(
    redis_client: redis.Redis, valkey_url: str, store_url: str, number: signal.Signals
) -> None:
    program = "from jobdoctor.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "collect", "--url", valkey_url, "--store", store_url],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        assert process.stderr.readline().startswith(f"collecting from {valkey_url} to ")
        put(redis_client, [recent() for _ in range(900)])
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert errors.splitlines()[-1] == "900 recordings collected"
    with Store.open(store_url) as store:
        assert total(store) == 900
    assert redis_client.xinfo_consumers(wire.STREAM_KEY, wire.GROUP) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "redis://127.0.0.1:1"], "no server answers at redis://127.0.0.1:1; start it, or give its --url"),
        (["--url", "nonsense"], "nonsense is no Redis URL"),
        (["--store", "nonsense"], "'nonsense' is no database URL; write it like sqlite:///jobdoctor.db"),
        (["--store", "mysql://a/b"], "cannot keep its store in mysql"),
        (["--store", "postgresql://x@127.0.0.1:1/d"], "cannot use postgresql://x@127.0.0.1:1/d"),
    ],
)
@pytest.mark.parametrize("once", [[], ["--once"]])
def test_bad_input_is_one_line(
    redis_client: redis.Redis, valkey_url: str, tmp_path: Path, arguments: list[str], words: str, once: list[str]
) -> None:
    url = [] if "--url" in arguments else ["--url", valkey_url]
    done = call("collect", *url, *arguments, *once, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_it_outlives_its_database_connections(
    redis_client: redis.Redis, valkey_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_tables(postgres_url)
    put(redis_client, [recent() for _ in range(450)])
    lines: list[str] = []
    started = time.monotonic()
    add = Store.add
    cut: list[int] = []

    def add_with_a_cut(self: Store, *arguments: object, **options: object) -> object:
        if len(cut) < 2:
            cut.append(1)
            with database.Database(postgres_url).engine.begin() as connection:
                connection.execute(
                    sqlalchemy.text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
            raise UnavailableStoreError("server closed the connection")
        return add(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "add", add_with_a_cut)
    with Store.open(postgres_url) as store, StreamReader(store, valkey_url) as reader:
        collector = Collector(
            reader,
            stopped=lambda: collector.new == 450 or time.monotonic() - started > 30,
            say=lines.append,
        )
        collector.check()
        collector.run()
        assert total(store) == 450
    assert lines[0].startswith("waiting: ")
    assert "back again" in lines


def test_it_outlives_its_tables(redis_client: redis.Redis, valkey_url: str, store: Store, store_url: str) -> None:
    started = time.monotonic()
    lines: list[str] = []
    with StreamReader(store, valkey_url) as reader:
        collector = Collector(
            reader, stopped=lambda: collector.new == 9 or time.monotonic() - started > 30, say=lines.append
        )
        put(redis_client, [recent() for _ in range(4)])
        collector.drain()
        assert total(store) == 4
        drop_tables(store_url)
        put(redis_client, [recent() for _ in range(5)])
        collector.run()
        assert total(store) == 5
    assert f"waiting: the tables in {store.where} are gone" in lines


def test_a_locked_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        store.add([recent()])
        other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableStoreError, match="is locked by another process; try again"):
            store.add([recent()])
        assert total(store) == 1  # readers do not wait
        other.execute("ROLLBACK")
        other.close()
        store.add([recent()])
        assert total(store) == 2


def test_a_newer_store_takes_nothing_from_the_stream(
    redis_client: redis.Redis, valkey_url: str, tmp_path: Path
) -> None:
    with Store.open(f"sqlite:///{tmp_path}/jobdoctor.db") as store:
        store.add([recent()])
        with store._database.engine.begin() as connection:
            connection.execute(tables.schema.update().values(version=7))
    put(redis_client, [recent()])
    done = call("collect", "--url", valkey_url, cwd=tmp_path)
    assert done.returncode == 2
    assert "was written by a newer jobdoctor (schema 7, this one knows 1)" in done.stderr
    assert redis_client.xlen(wire.STREAM_KEY) == 1


# ---------------------------------------------------------------------------------------------------------------- mark


def test_marks_are_written(tmp_path: Path) -> None:
    done = call("mark", "deploy", "3f9c2ab", "--at", "2026-01-31T08:00:00+00:00", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "marked deploy 3f9c2ab at 2026-01-31T08:00:00Z in jobdoctor.db\n"
    again = call("mark", "incident", "provider down", "--store", "sqlite:///jobdoctor.db", "-q", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, "")
    with Store.open(f"sqlite:///{tmp_path}/jobdoctor.db") as store:
        assert rows_in(store, tables.marks) == 2
        now_ns = time.time_ns()
        store.add([recent(seconds_ago=10, now_ns=now_ns)])
        last = store.history(JOB).marks[-1]
        assert (last.kind, last.label) == ("incident", "provider down")
        assert now_ns - last.at_ns < 60 * 10**9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["deploy"], "Missing argument"),
        (["release", "x"], "'release' is not one of 'deploy', 'incident'"),
        (["deploy", "x", "--at", "yesterday"], "--at 'yesterday' is no time; write it like 2026-01-31T08:00"),
        (["deploy", " "], "the label is empty"),
    ],
)
def test_wrong_marks_are_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = call("mark", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help(tmp_path: Path) -> None:
    for name in ("collect", "mark"):
        done = call(name, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert "--store" in done.stdout
