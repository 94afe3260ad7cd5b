"""OpenTelemetry's spans as calls, with its real SDK: counted once, described without values."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk import trace as sdk
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from jobdoctor.capture import probes
from jobdoctor.capture.probes.opentelemetry_bridge import describe
from tests.capture.probes.conftest import Record, line

HERE = "tests/capture/probes/test_opentelemetry_bridge.py"
MONGO = {
    "db.system": "mongodb", "db.name": "shop", "db.operation": "find", "db.mongodb.collection": "orders",
    "db.statement": '{"email": "secret@example.com"}', "net.peer.name": "db.example.com", "net.peer.port": 27017,
}  # fmt: skip


@pytest.fixture
def tracer() -> Callable[[str], Tracer]:
    """A tracer of an instrumentation, of a provider of its own."""
    provider = sdk.TracerProvider()
    return lambda library: provider.get_tracer(f"opentelemetry.instrumentation.{library}")


def test_a_client_span_is_a_call_at_the_line_that_made_it(record: Record, tracer: Callable[[str], Tracer]) -> None:
    pymongo = tracer("pymongo")
    with record() as recorded:
        for _ in range(3):
            span = pymongo.start_span("shop.find", kind=SpanKind.CLIENT)
            for name, value in MONGO.items():  # as instrumentations do, once the span has begun
                span.set_attribute(name, value)
            select.select([], [], [], 0.01)
            span.end()
            here = line(-1)
    found = recorded.one("sql")
    assert (found.library, found.operation, found.fingerprint) == ("pymongo", "find", "find orders")
    assert (found.target, found.effect, found.count) == ("mongodb://db.example.com:27017/shop", "read", 3)
    assert found.callsite == f"{HERE}:{here}"
    assert found.min_ns >= 10_000_000
    assert recorded.recording.channel_ns["sql"] >= 30_000_000
    assert [span.duration_ns >= 10_000_000 for span in recorded.recording.spans] == [True] * 3
    assert "secret" not in str(recorded.recording)


def test_a_span_around_a_recorded_call_is_not_counted_again(record: Record, tracer: Callable[[str], Tracer]) -> None:
    elastic = tracer("elasticsearch")
    with record() as recorded:
        with elastic.start_as_current_span("search", kind=SpanKind.CLIENT, attributes={"db.system": "elasticsearch"}):
            time.sleep(0.001)
        with elastic.start_as_current_span("search", kind=SpanKind.CLIENT, attributes={"db.system": "elasticsearch"}):
            pass
    assert recorded.one("sleep").count == 1
    assert recorded.one("sql").count == 1


def test_a_span_within_a_recorded_call_is_part_of_it(record: Record, tracer: Callable[[str], Tracer]) -> None:
    mongo = tracer("pymongo")
    with record() as recorded:
        shape = recorded.recorder.shape("http", "GET", "GET https://host/")
        call = recorded.recorder.begin(shape)
        assert call is not None
        mongo.start_span("find", kind=SpanKind.CLIENT, attributes=MONGO).end()
        call.end()
        mongo.start_span("find", kind=SpanKind.CLIENT, attributes=MONGO).end()
    assert recorded.one("http").count == 1
    assert recorded.one("sql").count == 1


def test_of_spans_within_one_another_the_innermost_counts(record: Record, tracer: Callable[[str], Tracer]) -> None:
    boto, http = tracer("botocore"), tracer("some_http")
    with record() as recorded:
        with boto.start_as_current_span("S3.PutObject", kind=SpanKind.CLIENT, attributes={"rpc.system": "aws-api"}):
            with boto.start_as_current_span("signing"):
                pass
            with http.start_as_current_span("PUT", kind=SpanKind.CLIENT) as span:
                span.set_attributes({"http.method": "PUT", "http.url": "https://s3.example.com/b/12345?sign=secret"})
                span.set_attribute("http.status_code", 503)
        with boto.start_as_current_span("S3.GetObject", kind=SpanKind.CLIENT) as span:
            span.set_attributes({"rpc.system": "aws-api", "rpc.service": "S3", "rpc.method": "GetObject"})
            with boto.start_as_current_span("signing"):
                pass
    put, get = recorded.of("http")
    assert (put.operation, put.fingerprint, put.count) == ("PUT", "PUT https://s3.example.com/b/{}?sign", 1)
    assert (put.statuses, put.effect) == ({"503": 1}, "write")
    assert (get.operation, get.fingerprint, get.target, get.count) == ("GetObject", "S3/GetObject", "aws-api://S3", 1)
    assert "secret" not in str(recorded.recording)


def test_what_our_own_probes_see_is_left_to_them(record: Record, tracer: Callable[[str], Tracer]) -> None:
    with record() as recorded:
        for library in ("sqlalchemy", "redis", "aiohttp-client", "requests"):
            attributes = {"db.system": "postgresql", "db.statement": "SELECT 1"}
            tracer(library).start_span("connect", kind=SpanKind.CLIENT, attributes=attributes).end()
    assert recorded.groups == []


def test_what_the_process_serves_or_does_itself_is_no_call(record: Record, tracer: Callable[[str], Tracer]) -> None:
    own = tracer("app")
    with record() as recorded:
        own.start_span("GET /orders", kind=SpanKind.SERVER, attributes={"http.method": "GET"}).end()
        own.start_span("step 42").end()
    assert recorded.groups == []


def test_an_error_has_its_type(record: Record, tracer: Callable[[str], Tracer]) -> None:
    with record() as recorded:
        for library in ("first", "second"):
            with (
                pytest.raises(KeyError),
                tracer(library).start_as_current_span("find", kind=SpanKind.CLIENT, attributes=MONGO),
            ):
                raise KeyError("secret")
        span = tracer("first").start_span("find", kind=SpanKind.CLIENT, attributes=MONGO)
        span.set_attribute("error.type", "pymongo.errors.AutoReconnect")
        span.set_status(StatusCode.ERROR, "secret")
        span.end()
    one, other, typed = recorded.of("sql")
    assert one.error_types == other.error_types == {"KeyError": 1}
    assert typed.error_types == {"pymongo.errors.AutoReconnect": 1}
    assert "secret" not in str(recorded.recording)


def test_a_span_that_ends_in_another_thread_counts(record: Record, tracer: Callable[[str], Tracer]) -> None:
    grpc = tracer("grpc")
    attributes = {"rpc.system": "grpc", "rpc.service": "shop.Orders", "rpc.method": "Get", "server.address": "10.0.0.7"}
    with record() as recorded:
        span = grpc.start_span("/shop.Orders/Get", kind=SpanKind.CLIENT, attributes=attributes)
        thread = threading.Thread(target=span.end)
        thread.start()
        thread.join()
    found = recorded.one("http")
    assert (found.fingerprint, found.target) == ("shop.Orders/Get", "grpc://10.0.0.7")


def test_outside_of_a_recording_a_span_is_only_a_span(installed: None, tracer: Callable[[str], Tracer]) -> None:
    span: Any = tracer("pymongo").start_span("find", kind=SpanKind.CLIENT, attributes=MONGO)
    assert "_jobdoctor_open" not in vars(span)
    span.end()


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            {"db.system.name": "microsoft.sql_server", "db.query.text": "SELECT * FROM users WHERE email = 'secret'",
             "server.address": "db", "server.port": 1433, "db.namespace": "shop"},
            ("sql", "SELECT", "SELECT * FROM users WHERE email = ?", "microsoft.sql_server://db:1433/shop", "read"),
        ),
        (
            {"db.system": "redis", "db.statement": "SET session:12345 ?", "net.peer.name": "127.0.0.1"},
            ("redis", "SET", "SET session:{}", "redis://localhost", "write"),
        ),
        (
            {"db.system": "memcached", "db.operation": "get", "net.peer.name": "cache", "net.peer.port": 11211},
            ("redis", "GET", "GET", "memcached://cache:11211", "read"),
        ),
        (
            {"http.request.method": "GET", "url.full": "https://user:secret@api.example.com/orders/42?token=secret",
             "url.template": "/orders/{id}"},
            ("http", "GET", "GET https://api.example.com/orders/{id}", "https://api.example.com", "read"),
        ),
        (
            {"http.method": "post", "net.peer.name": "api", "net.peer.port": 8080, "http.target": "/orders/42"},
            ("http", "POST", "POST http://api:8080/orders/{}", "http://api:8080", "write"),
        ),
        (
            {"messaging.system": "kafka", "messaging.destination.name": "orders-12345"},
            ("http", "PUBLISH", "publish orders-{}", "kafka:", "write"),
        ),
        ({"peer.service": "ledger"}, ("http", "CLIENT", "charge ?", "ledger", "unknown")),
    ],
)  # fmt: skip
def test_attributes_are_read_by_both_conventions(attributes: dict[str, Any], expected: tuple[str, ...]) -> None:
    found = describe("charge 42", "app", "CLIENT", attributes)
    assert found is not None
    assert found[:5] == expected
    assert "secret" not in str(found)


def test_everything_is_put_back() -> None:
    before = (vars(sdk.Span)["start"], vars(sdk.Span)["end"])
    probes.install_all()
    assert vars(sdk.Span)["start"] is not before[0]
    probes.uninstall_all()
    assert (vars(sdk.Span)["start"], vars(sdk.Span)["end"]) == before
