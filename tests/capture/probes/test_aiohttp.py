"""aiohttp's client against a real server of its own, in the same loop or in a thread."""

from __future__ import annotations

import asyncio
import gc
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobdoctor.capture import probes
from tests.capture.probes.conftest import Record, line

aiohttp: Any = pytest.importorskip("aiohttp")
web: Any = pytest.importorskip("aiohttp.web")

#: For the server, whose waits are not the job's: taken before the probes are there.
pause = asyncio.sleep

HERE = "tests/capture/probes/test_aiohttp.py"


async def answer(request: Any) -> Any:
    await request.read()
    return web.Response(body=b"x" * 1000, status=404 if request.path.startswith("/missing") else 200)


async def slow(_request: Any) -> Any:
    await pause(0.1)
    return web.Response(body=b"x" * 1000)


async def redirect(_request: Any) -> Any:
    raise web.HTTPFound("/orders/1")


async def chunks(request: Any) -> Any:
    """The head at once, then five chunks 30 ms apart."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(5):
        await response.write(b"y" * 100)
        await pause(0.03)
    return response


async def stall(request: Any) -> Any:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"y" * 100)
    await pause(2)
    return response


async def cut(request: Any) -> Any:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"y" * 100)
    request.transport.close()
    return response


async def zipped(_request: Any) -> Any:
    return web.Response(body=gzip.compress(b"z" * 100_000), headers={"Content-Encoding": "gzip"})


async def socket_(request: Any) -> Any:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    loop = asyncio.new_event_loop()
    app = web.Application()
    for path, handler in (
        ("/slow/{n}", slow),
        ("/redirect", redirect),
        ("/chunks", chunks),
        ("/stall", stall),
        ("/cut", cut),
        ("/zipped", zipped),
        ("/socket", socket_),
    ):
        app.router.add_get(path, handler)
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))

    async def start() -> None:
        await runner.setup()
        await web.SockSite(runner, listening).start()

    async def stop() -> None:
        await runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def run(record: Record) -> Callable[[Any], Any]:
    """Runs a coroutine in a recording."""

    def run(work: Any) -> Any:
        with record() as recorded:
            asyncio.run(work)
        assert recorded.recording.in_flight is None
        return recorded

    return run


def test_requests_in_a_session(run: Any, server: str) -> None:
    places: list[int] = []

    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            for n in range(10):
                async with session.get(f"{server}/orders/{n}", params={"token": "secret"}) as response:
                    places.append(line(-1))
                    assert len(await response.read()) == 1000

    group = run(work()).one("http")
    assert (group.operation, group.effect, group.library) == ("GET", "read", "aiohttp")
    assert (group.fingerprint, group.target) == (f"GET {server}/orders/{{}}?token", server)
    assert (group.count, group.distinct, group.statuses) == (10, 10, {"200": 10})
    assert (group.no_timeout, group.new_connections, group.received_bytes) == (0, 1, 10_000)
    assert group.callsite == f"{HERE}:{places[0]}"
    assert (group.errors, group.concurrent) == (0, 0)
    assert group.sent_bytes > 1000


@pytest.mark.parametrize(
    ("of_session", "of_request", "unbounded"),
    [
        ({}, {}, 0),
        ({}, {"timeout": None}, 1),
        ({}, {"timeout": 5}, 0),
        ({}, {"timeout": 0}, 1),
        ({"timeout": aiohttp.ClientTimeout()}, {}, 1),
        ({"timeout": aiohttp.ClientTimeout(total=0)}, {}, 1),
        ({"timeout": aiohttp.ClientTimeout(sock_read=5)}, {}, 0),
        ({"timeout": aiohttp.ClientTimeout()}, {"timeout": aiohttp.ClientTimeout(connect=5)}, 0),
    ],
)
def test_timeouts(
    run: Any, server: str, of_session: dict[str, Any], of_request: dict[str, Any], unbounded: int
) -> None:
    async def work() -> None:
        async with aiohttp.ClientSession(**of_session) as session:
            await (await session.get(f"{server}/orders/1", **of_request)).read()

    assert run(work()).one("http").no_timeout == unbounded


def test_writes_and_base_urls(run: Any, server: str) -> None:
    async def work() -> None:
        async with aiohttp.ClientSession(server, headers={"idempotency-key": "secret"}) as session:
            for _ in range(3):
                async with session.post("/orders", data=b"y" * 5000) as response:
                    await response.text()
        async with aiohttp.request("PUT", f"{server}/orders", headers={"IDEMPOTENCY-KEY": "secret"}) as response:
            assert response.status == 200
        async with aiohttp.request("DELETE", f"{server}/orders/1") as response:
            assert response.status == 200

    recorded = run(work())
    post, put, delete = (recorded.one("http", verb) for verb in ("POST", "PUT", "DELETE"))
    assert (post.fingerprint, post.effect, post.count) == (f"POST {server}/orders", "write", 3)
    assert (post.idempotency_keys, post.new_connections, post.no_timeout) == (3, 1, 0)
    assert post.sent_bytes > 15_000
    assert (put.effect, put.idempotency_keys, put.new_connections) == ("write", 1, 1)
    assert (delete.effect, delete.idempotency_keys, delete.new_connections) == ("write", 0, 1)


def test_a_redirect_is_part_of_its_request(run: Any, server: str) -> None:
    async def work() -> None:
        async with aiohttp.ClientSession() as session, session.get(f"{server}/redirect") as response:
            assert len(await response.read()) == 1000

    group = run(work()).one("http")
    assert (group.fingerprint, group.count, group.statuses) == (f"GET {server}/redirect", 1, {"200": 1})


def test_the_call_lasts_until_the_body_is_there_and_hides_nothing_meanwhile(run: Any, server: str) -> None:
    received: list[int] = []

    async def work() -> None:
        async with aiohttp.ClientSession() as session, session.get(f"{server}/chunks") as response:
            async for chunk in response.content.iter_any():
                received.append(len(chunk))
                await session.get(f"{server}/orders/2")

    recorded = run(work())
    streamed, inner = recorded.of("http")
    assert (streamed.count, streamed.received_bytes, streamed.statuses) == (1, 500, {"200": 1})
    assert streamed.total_ns > 100_000_000
    assert inner.count == len(received)


def test_responses_that_nobody_reads_end_when_they_go(run: Any, server: str) -> None:
    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            (await session.get(f"{server}/stall")).close()
            async with session.get(f"{server}/stall"):
                pass
            await session.get(f"{server}/stall")
        await asyncio.sleep(0.02)
        gc.collect()  # the connection held the response, and the session the connection

    groups = run(work()).of("http")
    assert [(group.count, group.errors) for group in groups] == [(1, 0), (1, 0), (1, 0)]


def test_errors_end_the_call(run: Any, server: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]

    async def drain(session: Any, timeout: Any) -> None:
        async with session.get(f"{server}/stall", timeout=timeout) as response:
            async for _ in response.content.iter_any():
                pass

    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(f"http://127.0.0.1:{port}/orders/1")
            with pytest.raises(asyncio.TimeoutError):
                await session.get(f"{server}/slow/1", timeout=aiohttp.ClientTimeout(total=0.03))
            with pytest.raises(asyncio.TimeoutError):
                await (await session.get(f"{server}/stall", timeout=aiohttp.ClientTimeout(total=0.3))).read()
            with pytest.raises(aiohttp.SocketTimeoutError):
                await drain(session, aiohttp.ClientTimeout(sock_read=0.3))
            with pytest.raises(aiohttp.ClientPayloadError):
                await (await session.get(f"{server}/cut")).read()
            with pytest.raises(aiohttp.ClientResponseError):
                await session.get(f"{server}/missing", raise_for_status=True)
            with pytest.raises(ZeroDivisionError):
                async with session.get(f"{server}/stall"):
                    _ = 1 / 0

    groups = run(work()).of("http")
    assert [(group.count, group.errors) for group in groups] == [(1, 1)] * 6 + [(1, 0)]
    assert [list(group.statuses) for group in groups] == [[], [], ["200"], ["200"], ["200"], ["404"], ["200"]]
    assert [next(iter(group.error_types), "").rpartition(".")[2] for group in groups[:6]] == [
        "ClientConnectorError",
        "TimeoutError",
        "TimeoutError",
        "SocketTimeoutError",
        "ClientPayloadError",
        "ClientResponseError",
    ]


def test_gathered_requests_are_concurrent(run: Any, server: str) -> None:
    async def work() -> None:
        async with aiohttp.ClientSession() as session:

            async def get(n: int) -> int:
                async with session.get(f"{server}/slow/{n}") as response:
                    return len(await response.read())

            assert await asyncio.gather(*map(get, range(5))) == [1000] * 5

    recorded = run(work())
    group = recorded.one("http")
    assert (group.count, group.statuses, group.concurrent, group.new_connections) == (5, {"200": 5}, 4, 5)
    assert recorded.recording.channel_ns["http"] < group.total_ns * 0.5


def test_bytes_are_counted_as_they_came(run: Any, server: str) -> None:
    async def work() -> None:
        async with aiohttp.ClientSession() as session, session.get(f"{server}/zipped") as response:
            assert len(await response.read()) == 100_000

    assert 0 < run(work()).one("http").received_bytes < 1000


def test_a_websocket_is_a_call_until_it_is_open(run: Any, server: str) -> None:
    async def work() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{server}/socket") as ws:
            nonlocal opened_ns
            opened_ns = time.perf_counter_ns()
            await ws.send_str("hello")
            assert await ws.receive_str() == "hello"
            await asyncio.sleep(0.01)

    opened_ns = 0
    group = run(work()).one("http")
    assert (group.count, group.statuses) == (1, {"101": 1})
    assert group.first_start_ns + group.total_ns < opened_ns


def test_what_is_no_request_is_no_call(run: Any) -> None:
    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.InvalidURL):
                await session.get("http://[nonsense")

    assert run(work()).of("http") == []


def test_everything_is_put_back(server: str) -> None:
    kinds = (aiohttp.ClientSession, aiohttp.ClientResponse, aiohttp.TCPConnector, aiohttp.UnixConnector)
    before = [dict(vars(kind)) for kind in kinds]
    probes.install_all()
    assert all(dict(vars(kind)) != was for kind, was in zip(kinds, before, strict=True))

    async def work() -> None:
        async with aiohttp.ClientSession() as session, session.get(f"{server}/orders/1") as response:
            assert response.status == 200

    asyncio.run(work())
    probes.uninstall_all()
    assert [dict(vars(kind)) for kind in kinds] == before
