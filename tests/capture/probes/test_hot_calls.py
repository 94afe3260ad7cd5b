"""Calls that the accelerator records from end to end: the same as the wrappers in Python write, and nothing is kept."""

from __future__ import annotations

import functools
import gc
import inspect
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import httpx
import pytest

from jobdoctor.capture import recorder, recording
from jobdoctor.capture.probes import httpx_client, redis_client, sqlalchemy_dialect, statements
from jobdoctor.capture.probes.base import Probe, recorded
from jobdoctor.capture.recorder import PythonRecorder, Recorder
from tests.capture.children import in_a_fork

needs_accelerator = pytest.mark.skipif(not recorder.ACCELERATED, reason="the accelerator was not built")


class Refused(Exception):
    """What the fakes raise."""


class Pool:
    connection_kwargs: ClassVar[dict[str, Any]] = {"host": "cache", "port": 6379, "db": 0}


class Client:
    """A Redis client, as far as the probe looks at it."""

    def __init__(self) -> None:
        self.connection_pool = Pool()

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Sends a command."""
        if options.get("fails"):
            raise Refused(args)
        return options.get("answer", b"OK")


class Pipeline(Client):
    """A pipeline, as far as the probe looks at it."""

    def __init__(self, pool: Pool, *commands: tuple[Any, ...]) -> None:
        self.connection_pool = pool
        self.command_stack = [(command, {}) for command in commands]

    def execute(self, fails: bool = False) -> list[Any]:
        """Sends all of them."""
        if fails:
            raise Refused
        return [b"OK"] * len(self.command_stack)


class Transport:
    """A transport of httpx's, as far as the probe looks at it."""

    def __init__(self) -> None:
        self.connection = type("Connection", (), {})()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request."""
        if request.url.path == "/fails":
            raise Refused
        return httpx.Response(201, stream=Stream(), extensions={"network_stream": self.connection})


class Stream(httpx.SyncByteStream):
    """A response's body, as far as the probe looks at it."""

    def __iter__(self) -> Iterator[bytes]:
        return iter((b"12345",))

    def close(self) -> None:
        """Gives the connection back."""


class Connection:
    in_transaction = False


class Cursor:
    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.rowcount: Any = 1

    def execute(self, statement: str, _parameters: Any = None) -> str:
        if "fails" in statement:
            raise Refused(statement)
        if "BEGIN" in statement:
            self.connection.in_transaction = True
        if "COMMIT" in statement:
            self.connection.in_transaction = False
        return statement


class Dialect:
    """A dialect of SQLAlchemy's, as far as the probe looks at it."""

    name = "postgresql"
    driver = "none"

    def do_execute(self, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> Any:
        """Executes a statement."""
        return cursor.execute(statement, parameters)


class Unlucky:
    """A parameter that cannot be hashed."""

    def __hash__(self) -> int:
        raise Refused("hash")


class FakesProbe(Probe):
    channel, library, modules = "redis", "fake", ()

    def patch(self, module: Any) -> None:
        servers = {"sessions": redis_client._servers}
        self.replace(Client, "execute_command", module(redis_client._command, "command", **servers))
        pipeline = module(lambda original: recorded(original, redis_client._begin_pipeline), "pipeline", **servers)
        self.replace(Pipeline, "execute", pipeline)
        self.replace(Dialect, "do_execute", module(sqlalchemy_dialect._execute, "dialect", **sqlalchemy_dialect._hot))
        request = module(
            lambda original: recorded(original, httpx_client._begin, httpx_client._end),
            "request",
            sessions=httpx_client._servers,
        )
        self.replace(Transport, "handle_request", request)
        self.replace(Stream, "close", module(httpx_client._close, "stream"))


@pytest.fixture
def probe() -> Iterator[FakesProbe]:
    probe = FakesProbe()
    probe.patch(recorder.hot)  # type: ignore[arg-type]
    yield probe
    probe.uninstall()


@pytest.fixture
def rec() -> Iterator[Recorder]:
    made = Recorder(recorder.open_memory().buffer)
    recorder.start(made)
    made.mark("body")
    yield made
    recorder.stop()


def redis_calls(client: Client) -> None:
    for number in range(4):
        client.execute_command("SET", f"user:{number}:name", "x" * number)
        client.execute_command("GET", f"user:{number}:name", answer="äö")
        client.execute_command("LRANGE", f"list:{number}", 0, -1, answer=[b"abc", "de", 7])
    for number in range(3):
        client.execute_command("HSET", "map", "a", 1, "b", 2, "c", number)
        client.execute_command("HSET", "map", "a", number)
        client.execute_command("GET", b"in:bytes")
        client.execute_command("GET", "k\udc80")  # no text that can be sent: not recorded
        client.execute_command("PING")
        client.execute_command("MGET", "a:1", "a:2")
        client.execute_command("GET", f"v{number}:x")
        client.execute_command("SET", "key", [number])
        with pytest.raises(Refused):
            client.execute_command("INCR", f"n:{number}", fails=True)


def sql_calls(dialect: Dialect, cursor: Cursor) -> None:
    select = "SELECT name FROM users WHERE id = %(id)s"
    for number in range(4):
        cursor.rowcount = number
        assert dialect.do_execute(cursor, select, {"id": number}) == select
        dialect.do_execute(cursor, select, {"id": 1}, None)
        dialect.do_execute(cursor, "SELECT 7 WHERE a = %s", (number,))
        dialect.do_execute(cursor, "SELECT a FROM b", ())
        dialect.do_execute(cursor, "SELECT a FROM b WHERE c = %s", [number])
        dialect.do_execute(cursor, "SELECT a FROM b WHERE c = %s", (Unlucky(),))
        dialect.do_execute(cursor, "SELECT a FROM b WHERE c IN (%s, %s)", (1, 2))
        dialect.do_execute(cursor=cursor, statement=select, parameters={"id": 9})
        token = statements.relationship.set("User.orders")
        dialect.do_execute(cursor, select, {"id": number})
        statements.relationship.reset(token)
        cursor.rowcount = (-1, None, "many", 3)[number]
        dialect.do_execute(cursor, "UPDATE users SET a = %s", (1,))
        dialect.do_execute(cursor, "BEGIN", ())
        dialect.do_execute(cursor, select, {"id": number})
        dialect.do_execute(cursor, "COMMIT", ())
        with pytest.raises(Refused):
            dialect.do_execute(cursor, "SELECT fails FROM a WHERE b = %s", (number,))


def pipeline_calls(pool: Pool) -> None:
    for number in range(4):
        pairs = [("SET", f"user:{key}", "x" * key) for key in range(number + 5)]
        Pipeline(pool, *pairs, ("GET", f"user:{number}")).execute()
        Pipeline(pool, ("GET", f"user:{number}"), *pairs).execute()
        Pipeline(pool, *pairs, ("MGET", "a:1", "b:2")).execute()
        Pipeline(pool, *(("GET", f"{chr(97 + key)}:1") for key in range(20))).execute()
        Pipeline(pool, *pairs * 50).execute()
        Pipeline(pool).execute()
        Pipeline(pool, ("PING",)).execute()
        with pytest.raises(Refused):
            Pipeline(pool, ("GET", f"user:{number}")).execute(fails=True)


def requests(transport: Transport) -> None:
    for number in range(4):
        for request in (
            httpx.Request("GET", f"http://shop/orders/{number}?page={number}"),
            httpx.Request("POST", f"http://shop/orders/{number}", content=b"x" * number),
            httpx.Request("POST", "http://shop/orders", json={}, headers={"Idempotency-Key": f"{number}"}),
            httpx.Request("GET", "http://shop/v1/orders", extensions={"timeout": {"read": None, "connect": 5}}),
            httpx.Request("GET", "http://shop/v2/orders", extensions={"timeout": {"read": None}}),
            httpx.Request("GET", "http://shop/caf%C3%A9"),
        ):
            response = transport.handle_request(request)
            for _ in response.iter_raw():
                pass
            response.stream.close()  # type: ignore[union-attr]
            response.stream.close()  # type: ignore[union-attr]
        with pytest.raises(Refused):
            transport.handle_request(httpx.Request("GET", "http://shop/fails"))


def still() -> int:
    """A clock that stands, so that both recorders' times are equal."""
    return 1_000


def written(kind: type[Recorder], run: Callable[[], None]) -> tuple[Any, ...]:
    """All that a recorder writes of some calls, the second time, when what they are is known."""
    made = kind(recorder.open_memory().buffer, still, still, still)
    for _ in range(2):
        made.reset()
        recorder.start(made)
        made.mark("body")
        run()
        recorder.stop()
    read = recording.read(made.buffer)
    return read.groups, read.spans, read.notes, read.channel_ns


@needs_accelerator
class TestSame:
    def test_what_both_recorders_write_of_commands_is_equal(self, probe: FakesProbe) -> None:
        client = Client()
        first, second = (written(kind, lambda: redis_calls(client)) for kind in (PythonRecorder, Recorder))
        assert first == second
        assert sum(group.count for group in first[0]) == 4 * 3 + 3 * 8

    def test_what_both_recorders_write_of_statements_is_equal(self, probe: FakesProbe) -> None:
        dialect, connection = Dialect(), Connection()
        cursor = Cursor(connection)
        first, second = (written(kind, lambda: sql_calls(dialect, cursor)) for kind in (PythonRecorder, Recorder))
        assert first == second
        assert sum(group.count for group in first[0]) == 4 * 14

    def test_what_both_recorders_write_of_pipelines_is_equal(self, probe: FakesProbe) -> None:
        pool = Pool()
        first, second = (written(kind, lambda: pipeline_calls(pool)) for kind in (PythonRecorder, Recorder))
        assert first == second
        assert sum(group.count for group in first[0]) == 4 * 7

    def test_what_both_recorders_write_of_requests_is_equal(self, probe: FakesProbe) -> None:
        first, second = (written(kind, lambda: requests(Transport())) for kind in (PythonRecorder, Recorder))
        assert first == second
        assert sum(group.count for group in first[0]) == 4 * 7
        assert sum(group.new_connections for group in first[0]) == 1


class TestLikeTheOriginal:
    def test_a_wrapper_looks_like_the_method_it_stands_for(self, probe: FakesProbe) -> None:
        wrapper, original = Client.execute_command, inspect.unwrap(Client.execute_command)
        assert inspect.signature(wrapper) == inspect.signature(original)
        assert inspect.signature(Client().execute_command) == inspect.signature(original.__get__(Client()))
        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            assert getattr(wrapper, name) == getattr(original, name)
            assert getattr(Client().execute_command, name) == getattr(original, name)
        assert inspect.isroutine(wrapper)
        assert inspect.ismethod(Client().execute_command)
        assert wrapper.__wrapped__ is original  # type: ignore[attr-defined]
        assert functools.wraps(wrapper)(lambda: None).__name__ == "execute_command"
        assert pickle.loads(pickle.dumps(wrapper)) is wrapper
        assert original.__name__ in repr(wrapper)

    def test_subclasses_call_through_it(self, probe: FakesProbe, rec: Recorder) -> None:
        class Derived(Client):
            def execute_command(self, *args: Any, **options: Any) -> Any:
                return super().execute_command(*args, **options)

        for _ in range(3):
            assert Derived().execute_command("GET", "a:1") == b"OK"
        (group,) = recording.read(rec.buffer).groups
        assert (group.fingerprint, group.count) == ("GET a:{}", 3)

    def test_without_a_recording_the_original_is_called(self, probe: FakesProbe) -> None:
        assert Client().execute_command("GET", "a", answer=5) == 5
        with pytest.raises(Refused) as raised:
            Client().execute_command("GET", "a", fails=True)
        assert raised.value.args == (("GET", "a"),)

    def test_uninstalled_it_is_gone(self) -> None:
        original = vars(Client)["execute_command"]
        probe = FakesProbe()
        probe.patch(recorder.hot)  # type: ignore[arg-type]
        assert vars(Client)["execute_command"] is not original
        probe.uninstall()
        assert vars(Client)["execute_command"] is original

    def test_an_exception_is_the_call_s_own_with_its_traceback(self, probe: FakesProbe, rec: Recorder) -> None:
        client = Client()
        for _ in range(3):
            with pytest.raises(Refused) as raised:
                client.execute_command("GET", "a:1", fails=True)
            assert raised.value.__context__ is None
            assert raised.traceback[-1].name == "execute_command"
        (group,) = recording.read(rec.buffer).groups
        assert (group.count, group.errors) == (3, 3)


@needs_accelerator
class TestNothingIsKept:
    def test_of_many_calls_nothing_stays_in_memory(self, probe: FakesProbe, rec: Recorder) -> None:
        client, dialect, connection = Client(), Dialect(), Connection()
        cursor, transport = Cursor(connection), Transport()
        request = httpx.Request("POST", "http://shop/orders/5", content=b"x")

        def run(times: int) -> None:
            for _ in range(times):
                client.execute_command("SET", "user:7:name", 5)
                dialect.do_execute(cursor, "SELECT a FROM b WHERE c = %s", {"id": 5})
                dialect.do_execute(cursor, "SELECT a FROM b WHERE c = %s", (Unlucky(),))
                Pipeline(client.connection_pool, ("SET", "user:7", 1), ("GET", "user:7")).execute()
                transport.handle_request(request).stream.close()  # type: ignore[union-attr]
                try:
                    client.execute_command("GET", "user:7:name", fails=True)
                except Refused:
                    pass
                try:
                    dialect.do_execute(cursor, "SELECT fails FROM a", ())
                except Refused:
                    pass

        held = [None, True, rec, client, cursor, connection, dialect, rec.generation, Refused, transport, request]

        def drifts() -> list[int]:
            def counts() -> list[int]:
                gc.collect()
                return [sys.getallocatedblocks(), *(sys.getrefcount(one) for one in held)]

            recorder.start(rec)
            run(2_000)
            before = counts()
            run(5_000)
            return [other - one for one, other in zip(before, counts(), strict=True)]

        found = in_a_fork(drifts)
        assert all(abs(drift) < 100 for drift in found), found
        assert recording.read(rec.buffer).calls == 7 * 7_000

    def test_of_many_threads_all_calls_are_counted(self, probe: FakesProbe, rec: Recorder) -> None:
        def run() -> None:
            client, cursor, dialect = Client(), Cursor(Connection()), Dialect()
            for number in range(500):
                client.execute_command("SET", f"user:{number}", number)
                dialect.do_execute(cursor, "SELECT a FROM b WHERE c = %s", {"id": number})

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [group.count for group in recording.read(rec.buffer).groups] == [4_000, 4_000]
