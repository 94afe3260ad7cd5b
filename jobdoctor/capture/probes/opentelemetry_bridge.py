"""OpenTelemetry: the spans of libraries that have an instrumentation of its, and no probe of ours, become calls.

A span is looked at when it ends: only then are its attributes complete. It is counted with its own beginning, unless it
lies within a recorded call or had one within it: then that one is the call. Spans of instrumentations whose library a
probe of ours covers are left to the probe. Names and attributes are read, values never kept: statements and URLs go
through the fingerprints, and of a database that does not speak SQL the operation and the collection are taken only.

What an application's sampler drops is not there to be seen; a span that is running when the job is killed is not known.
"""

from __future__ import annotations

import functools
from _thread import get_ident
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar, Final, NamedTuple

from jobdoctor import fingerprint
from jobdoctor.capture import recorder
from jobdoctor.capture.calls import inside
from jobdoctor.capture.probes.afterwards import past
from jobdoctor.capture.probes.base import Probe, foreign
from jobdoctor.capture.probes.http_client import effect_of
from jobdoctor.capture.recorder import BATCHED, Recorder

LIBRARY = "opentelemetry"

#: Instrumentations of what our own probes see, by the last part of the scope's name.
_COVERED: Final = frozenset(
    {
        "sqlalchemy", "psycopg", "psycopg2", "asyncpg", "sqlite3", "pymysql", "mysqlclient", "django", "redis",
        "valkey", "requests", "urllib", "urllib3", "httpx", "aiohttp_client", "threading", "asyncio", "logging", "rq",
    }
)  # fmt: skip
#: Kinds of spans by name: what a process serves is not what it calls.
_SERVED: Final = frozenset({"SERVER", "CONSUMER"})
_KEY_VALUE: Final = frozenset({"redis", "valkey", "memcached"})
_NO_SQL: Final = frozenset(
    {
        "mongodb", "elasticsearch", "opensearch", "dynamodb", "aws.dynamodb", "cassandra", "couchdb", "couchbase",
        "hbase", "neo4j", "cosmosdb", "azure.cosmosdb", "geode", "influxdb", "solr", "milvus", "pinecone", "qdrant",
    }
)  # fmt: skip
_READS: Final = frozenset(
    {"find", "get", "mget", "query", "search", "msearch", "scan", "count", "distinct", "exists", "read", "getmore",
     "getitem", "batchgetitem", "receive", "list", "describe", "head"}
)  # fmt: skip
_WRITES: Final = frozenset(
    {"insert", "update", "delete", "put", "index", "bulk", "create", "write", "save", "upsert", "replace", "remove",
     "set", "putitem", "updateitem", "deleteitem", "batchwriteitem", "findandmodify", "send", "publish"}
)  # fmt: skip
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104


class Described(NamedTuple):
    """What a span's attributes say of the call."""

    channel: str
    operation: str
    fingerprint: str
    target: str
    effect: str
    params: int = 0
    status: int = 0
    items: int = 0
    rows: int | None = None


class _Open:
    """A span in progress. It stands in ``inside`` as a call that has ended, which hinders nobody, until a recorded call
    of the same thread or task takes its place."""

    __slots__ = ("ended", "generation", "outer", "recorder", "start", "thread")

    def __init__(self, rec: Recorder, outer: Any) -> None:
        self.ended = True
        self.recorder = rec
        self.generation = rec.generation
        self.outer = outer
        self.start = rec.clock()
        self.thread = get_ident()


# -------------------------------------------------------------------------------------------------------- descriptions


def _first(attributes: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        value = attributes.get(name)
        if value is not None and value != "":
            return value
    return ""


def _number(value: Any) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        return 0


def _place(attributes: Mapping[str, Any]) -> str:
    """ "host:port" of the server, as far as it is known."""
    host = str(_first(attributes, "server.address", "net.peer.name", "network.peer.address", "net.peer.ip"))
    port = _number(_first(attributes, "server.port", "net.peer.port", "network.peer.port"))
    host = "localhost" if host in _LOOPBACK else host
    return f"{host}:{port}" if host and port else host


def describe(name: str, scope: str, kind: str, attributes: Mapping[str, Any]) -> Described | None:
    """The call that a span stands for, by OpenTelemetry's semantic conventions, the stable ones and those before.
    None: it is none, but a piece of the application's own work."""
    if _first(attributes, "db.system.name", "db.system"):
        return _database(attributes)
    if _first(attributes, "http.request.method", "http.method"):
        return _http(attributes)
    if attributes.get("messaging.system"):
        return _messaging(attributes)
    if _first(attributes, "rpc.system", "rpc.system.name"):
        return _rpc(attributes)
    if kind not in ("CLIENT", "PRODUCER"):
        return None
    place = _place(attributes) or str(_first(attributes, "peer.service", "service.peer.name")) or scope
    return Described("http", kind, fingerprint.message(name), fingerprint.redis_key(place), "unknown")


def _database(attributes: Mapping[str, Any]) -> Described:
    system = str(_first(attributes, "db.system.name", "db.system"))
    text = _first(attributes, "db.query.text", "db.statement")
    place = _place(attributes) or "localhost"
    target = f"{system}://{place}/{_first(attributes, 'db.namespace', 'db.name')}".rstrip("/")
    items = _number(attributes.get("db.operation.batch.size"))
    returned = attributes.get("db.response.returned_rows")
    rows = _number(returned) if returned is not None else None
    values = tuple(value for key, value in attributes.items() if key.startswith("db.query.parameter."))
    params = fingerprint.parameters(values) if values else 0
    operation = str(_first(attributes, "db.operation.name", "db.operation"))
    if system in _KEY_VALUE:
        words = str(text or operation).split() or ["command"]
        known = fingerprint.redis(words[0], tuple(words[1:]))
        return Described(
            "redis", known.operation, known.shape, target, known.effect, known.distinct if text else 0, items=items
        )
    if system not in _NO_SQL and text:
        sql = fingerprint.sql(str(text))
        if sql.operation:
            if sql.literals:
                params = hash((params, sql.literals))
            return Described(
                "sql",
                sql.operation,
                sql.fingerprint,
                target,
                sql.effect,
                params,
                items=max(items, sql.items),
                rows=rows,
            )
    collection = str(_first(attributes, "db.collection.name", "db.mongodb.collection", "db.sql.table"))
    operation = operation or "call"
    shape = f"{operation} {fingerprint.redis_key(collection)}".strip()
    return Described("sql", operation, shape, target, _effect(operation), params, items=items, rows=rows)


def _effect(operation: str) -> str:
    word = operation.lower()
    return "read" if word in _READS else "write" if word in _WRITES else "unknown"


def _http(attributes: Mapping[str, Any]) -> Described:
    method = str(_first(attributes, "http.request.method", "http.method")).upper()
    address = str(_first(attributes, "url.full", "http.url"))
    if "://" not in address:
        scheme = str(_first(attributes, "url.scheme", "http.scheme") or "http")
        path = str(_first(attributes, "url.template", "url.path", "http.target") or "/")
        address = f"{scheme}://{_place(attributes) or 'localhost'}{path if path.startswith('/') else '/' + path}"
    known = fingerprint.url(method, address)
    template = str(_first(attributes, "url.template"))
    shape = f"{method} {known.target}{template}" if template.startswith("/") else known.template
    status = _number(_first(attributes, "http.response.status_code", "http.status_code"))
    return Described("http", method, shape, known.target, effect_of(method), known.distinct, status)


def _messaging(attributes: Mapping[str, Any]) -> Described:
    system = str(attributes["messaging.system"])
    operation = str(
        _first(attributes, "messaging.operation.name", "messaging.operation.type", "messaging.operation") or "publish"
    )
    named = str(
        _first(attributes, "messaging.destination.template", "messaging.destination.name", "messaging.destination")
    )
    place = _place(attributes)
    target = f"{system}://{place}" if place else f"{system}:"
    shape = f"{operation} {fingerprint.redis_key(named)}".strip()
    items = _number(attributes.get("messaging.batch.message_count"))
    return Described("http", operation.upper(), shape, target, _effect(operation), items=items)


def _rpc(attributes: Mapping[str, Any]) -> Described:
    system = str(_first(attributes, "rpc.system", "rpc.system.name"))
    service, method = str(attributes.get("rpc.service") or ""), str(attributes.get("rpc.method") or "call")
    shape = f"{service}/{method}" if service and "/" not in method else method
    target = f"{system}://{_place(attributes) or service}"
    status = _number(attributes.get("http.status_code"))
    return Described("http", method, shape, target, "unknown", status=status)


# ---------------------------------------------------------------------------------------------------------------- spans


def _library(span: Any) -> str:
    scope = getattr(span, "instrumentation_scope", None) or getattr(span, "instrumentation_info", None)
    return _short(getattr(scope, "name", "") or "")


@functools.lru_cache(maxsize=256)
def _short(scope: str) -> str:
    return scope.rpartition(".")[2].replace("-", "_")


def _started(rec: Recorder, span: Any) -> None:
    try:
        if span.kind.name in _SERVED or _library(span) in _COVERED:
            return
        outer = inside.get()
        if outer is not None and not outer.ended and outer.recorder is rec:
            return  # a recorded call does it: that one counts
        opened = _Open(rec, outer)
        span.__dict__["_jobdoctor_open"] = opened
        inside.set(opened)  # type: ignore[arg-type]
    except Exception as error:
        if foreign(error):
            raise


def _ended(rec: Recorder, span: Any, opened: _Open) -> None:
    try:
        now: Any = inside.get()
        if now is opened:
            inside.set(opened.outer)
        elif opened.thread == get_ident():
            return  # a call was recorded meanwhile
        if rec is not opened.recorder or rec.generation is not opened.generation or rec.silent:
            return
        library = _library(span)
        attributes = dict(span.attributes or ())  # the span's own is slow to be asked
        found = describe(str(span.name), library, span.kind.name, attributes)
        if found is None:
            return
        shape = rec.shape(
            found.channel,
            found.operation,
            found.fingerprint,
            target=found.target,
            library=library or LIBRARY,
            effect=found.effect,
        )
        batched = BATCHED if found.items > 1 else 0
        call = past(rec, shape, opened.start, params=found.params, flags=batched)
        if call is not None:
            call.end(
                _error(span, attributes),
                rows=found.rows,
                sent=_number(_first(attributes, "http.request.body.size", "http.request_content_length")),
                received=_number(_first(attributes, "http.response.body.size", "http.response_content_length")),
                status=found.status,
                items=found.items if batched else 0,
            )
    except Exception as error:
        if foreign(error):
            raise


def _error(span: Any, attributes: Mapping[str, Any]) -> BaseException | None:
    """An exception of the type that the span names, which is all that is kept of it."""
    if span.status.status_code.name != "ERROR":
        return None
    name = ""
    for event in span.events:
        if event.name == "exception":
            name = str((event.attributes or {}).get("exception.type") or name)
    return _of_type(name or str(attributes.get("error.type") or "error"))


@functools.lru_cache(maxsize=256)
def _of_type(name: str) -> BaseException:
    module, _, kind = name[:200].rpartition(".")
    made: BaseException = type(kind or "error", (Exception,), {"__module__": module or "builtins"})()
    return made


def _start(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def start(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        rec = recorder.current
        if rec is not None and not rec.silent:
            _started(rec, self)
        return result

    return start


def _end(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def end(self: Any, *args: Any, **kwargs: Any) -> Any:
        opened = self.__dict__.pop("_jobdoctor_open", None)
        if opened is not None:
            rec = recorder.current
            if rec is not None:
                _ended(rec, self, opened)
        return original(self, *args, **kwargs)

    return end


class OpenTelemetryProbe(Probe):
    """Spans of the SDK, of every tracer provider. The channel is each call's own."""

    channel: ClassVar[str] = ""
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("opentelemetry.sdk.trace",)

    def patch(self, module: ModuleType) -> None:
        """Replace the beginning and the end of a span."""
        m: Any = module
        self.replace(m.Span, "start", _start)
        self.replace(m.Span, "end", _end)
