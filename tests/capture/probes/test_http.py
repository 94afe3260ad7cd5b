"""http.client, urllib, urllib3, requests and httpx against a real server in a thread."""

from __future__ import annotations

import asyncio
import gc
import http.client
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import requests
import urllib3

from jobdoctor import fingerprint
from jobdoctor.capture import probes
from jobdoctor.capture.probes import httpx_client
from tests.capture.probes.conftest import Record, line


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        if self.path.startswith("/slow"):
            time.sleep(0.1)
        if self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", "/orders/1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path.startswith("/empty"):
            self.send_response(204)
            self.end_headers()
            return
        if self.path.startswith("/hang"):
            self.close_connection = True
            return
        if self.path.startswith("/chunks"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(3):
                self.wfile.write(b"5\r\nhello\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return
        body = b"x" * 1000
        self.send_response(404 if self.path.startswith("/missing") else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_POST = do_HEAD = do_PUT = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_requests_in_a_session(record: Record, server: str) -> None:
    with record() as recorded, requests.Session() as session:
        for n in range(10):
            assert session.get(f"{server}/orders/{n}?token=secret", timeout=5).status_code == 200
            here = line(-1)
    group = recorded.one("http")
    assert (group.operation, group.effect, group.library) == ("GET", "read", "http.client")
    assert (group.fingerprint, group.target) == (f"GET {server}/orders/{{}}?token", server)
    assert (group.count, group.distinct, group.statuses) == (10, 10, {"200": 10})
    assert (group.no_timeout, group.new_connections, group.received_bytes) == (0, 1, 10_000)
    assert group.callsite == f"tests/capture/probes/test_http.py:{here}"
    assert group.sent_bytes > 1000


def test_requests_without_a_session_without_a_timeout(record: Record, server: str) -> None:
    with record() as recorded:
        for _ in range(3):
            requests.post(f"{server}/orders", data=b"y" * 5000, headers={"Idempotency-Key": "secret"})
    group = recorded.one("http")
    assert (group.operation, group.effect, group.count) == ("POST", "write", 3)
    assert (group.no_timeout, group.new_connections, group.idempotency_keys) == (3, 3, 3)
    assert group.sent_bytes > 15_000


def test_redirects_are_calls_of_their_own(record: Record, server: str) -> None:
    with record() as recorded:
        requests.get(f"{server}/redirect", timeout=5)
    assert [(group.fingerprint.rpartition("/")[2], group.statuses) for group in recorded.of("http")] == [
        ("redirect", {"302": 1}),
        ("{}", {"200": 1}),
    ]


def test_the_call_lasts_until_the_body_is_read_and_hides_nothing_meanwhile(record: Record, server: str) -> None:
    with record() as recorded:
        response = requests.get(f"{server}/orders/1", stream=True, timeout=5)
        time.sleep(0.05)
        assert len(response.content) == 1000
    assert recorded.one("http").total_ns > 50_000_000
    assert recorded.one("sleep").count == 1


def test_a_response_that_nobody_reads_ends_when_it_goes(record: Record, server: str) -> None:
    with record() as recorded:
        response = requests.get(f"{server}/orders/1", stream=True, timeout=5)
        response.close()
        connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=5)
        connection.request("GET", "/orders/2")
        connection.getresponse()
        connection.close()
        gc.collect()
    assert sum(group.count for group in recorded.of("http")) == 2
    assert recorded.recording.in_flight is None


def test_urllib_and_urllib3_and_plain_http_client(record: Record, server: str) -> None:
    with record() as recorded:
        urllib.request.urlopen(f"{server}/orders/1").read()
        urllib3.PoolManager().request("GET", f"{server}/chunks", timeout=5)
        connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=5)
        for path in ("/empty", "/orders/3"):
            connection.request("GET", path)
            connection.getresponse().read()
        connection.request("HEAD", "/orders/3")
        connection.getresponse().read()
        connection.close()
    groups = recorded.of("http")
    assert [(group.count, group.no_timeout, group.new_connections) for group in groups] == [
        (1, 1, 1),
        (1, 0, 1),
        (1, 0, 1),
        (1, 0, 0),
        (1, 0, 0),
    ]
    assert [next(iter(group.statuses)) for group in groups] == ["200", "200", "204", "200", "200"]
    assert recorded.recording.in_flight is None


def test_errors_end_the_call(record: Record, server: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with record() as recorded:
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.1:{port}/orders/1", timeout=30)
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{server}/hang", timeout=30)
        with pytest.raises(requests.Timeout):
            requests.get(f"{server}/slow", timeout=0.02)
        assert requests.get(f"{server}/missing", timeout=5).status_code == 404
    assert [(group.count, group.errors) for group in recorded.of("http")] == [(1, 1), (1, 1), (1, 1), (1, 0)]
    # The server's own sleep, in a thread of this process, may still go on.
    in_flight = recorded.recording.in_flight_group
    assert in_flight is None or in_flight.channel == "sleep"


def test_calls_in_threads_are_concurrent(record: Record, server: str) -> None:
    with record() as recorded, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: requests.get(f"{server}/slow/{n}", timeout=5), range(8)))
    group = recorded.one("http")
    assert group.count == 8
    assert group.concurrent >= 6
    assert recorded.recording.channel_ns["http"] < group.total_ns * 0.6


def test_httpx(record: Record, server: str) -> None:
    with record() as recorded:
        with httpx.Client(timeout=None) as client:
            for n in range(4):
                assert client.get(f"{server}/orders/{n}").status_code == 200
        httpx.post(f"{server}/orders", content=b"y" * 100, headers={"idempotency-key": "secret"})
        httpx.get(f"{server}/redirect", follow_redirects=True)
        with httpx.Client() as client, client.stream("GET", f"{server}/orders/9") as response:
            time.sleep(0.05)
            assert sum(len(chunk) for chunk in response.iter_bytes()) == 1000
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{server}/slow", timeout=0.02)
    gets, post, redirect, followed, streamed, slow = recorded.of("http")
    assert (gets.library, gets.count, gets.distinct, gets.no_timeout) == ("httpx", 4, 4, 4)
    assert (gets.statuses, gets.received_bytes) == ({"200": 4}, 4000)
    assert (post.effect, post.idempotency_keys, post.sent_bytes, post.no_timeout) == ("write", 1, 100, 0)
    assert (redirect.statuses, followed.statuses) == ({"302": 1}, {"200": 1})
    assert streamed.total_ns > 50_000_000
    assert (slow.count, slow.errors) == (1, 1)
    assert recorded.one("sleep").count == 1


@pytest.mark.parametrize(
    "address",
    ["http://h", "http://h/", "https://u:zqx@H:443/a/1?x=1&y=2", "http://[::1]:80/v1/x/7", "http://h:81/a%20b/9?q",
     "http://m\u00fcnchen.de/\u00f6/12#zqx", "http://h?x=a/b", "http://h/?", "http://h/v2/orders/12/lines?page=3"],
)  # fmt: skip
def test_httpx_addresses_in_parts_have_the_shape_of_the_whole(record: Record, address: str) -> None:
    url = httpx.URL(address)
    whole = fingerprint.url("GET", str(url))
    with record() as recorded:
        for _ in range(2):  # learnt, and known
            shape, _ = httpx_client._shape(recorded.recorder, "GET", url)
            assert shape.identity[2:4] == (whole.template, whole.target)


def test_new_connections_of_httpx_are_counted(record: Record, server: str) -> None:
    with record() as recorded:
        with httpx.Client() as client:
            for _ in range(3):
                client.get(f"{server}/orders/1")
        httpx.get(f"{server}/lines/1")
    found = {group.fingerprint.split("/")[-2]: group.new_connections for group in recorded.of("http", "GET")}
    assert found == {"orders": 1, "lines": 1}


def test_the_shape_of_a_request_holds_for_its_ids_and_server(record: Record, server: str) -> None:
    other = server.replace("127.0.0.1", "localhost")
    with record() as recorded, requests.Session() as session:
        for address in (server, other):
            for number in (7, 8, 9):
                session.get(f"{address}/v1/orders/{number}", timeout=5)
            session.get(f"{address}/v2/orders/7", timeout=5)
    found = {(group.fingerprint, group.target): (group.count, group.distinct) for group in recorded.of("http", "GET")}
    assert found == {
        (f"GET {address}/v{version}/orders/{{}}", address): counts
        for address in (server, other)
        for version, counts in ((1, (3, 3)), (2, (1, 1)))
    }


def test_httpx_asyncio(record: Record, server: str) -> None:
    async def work() -> None:
        async with httpx.AsyncClient() as client:
            await asyncio.gather(*(client.get(f"{server}/slow/{n}") for n in range(5)))

    with record() as recorded:
        asyncio.run(work())
    group = recorded.one("http")
    assert (group.count, group.statuses, group.concurrent) == (5, {"200": 5}, 4)
    assert recorded.recording.channel_ns["http"] < group.total_ns * 0.5


def test_a_mock_transport_is_no_call(record: Record) -> None:
    with record() as recorded, httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        client.get("http://nowhere/")
    assert recorded.of("http") == []


def test_everything_is_put_back(server: str) -> None:
    from httpx._transports import default

    kinds = (http.client.HTTPConnection, http.client.HTTPResponse, urllib3.connection.HTTPConnection,
             urllib3.connection.HTTPSConnection, default.HTTPTransport, default.AsyncHTTPTransport,
             default.ResponseStream, default.AsyncResponseStream)  # fmt: skip
    before = [dict(vars(kind)) for kind in kinds]
    probes.install_all()
    assert [dict(vars(kind)) for kind in kinds] != before
    assert requests.get(f"{server}/orders/1", timeout=5).status_code == 200
    probes.uninstall_all()
    assert [dict(vars(kind)) for kind in kinds] == before
