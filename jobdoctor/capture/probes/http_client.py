"""http.client, and with it requests, urllib3, urllib and boto3: one call from the request line to the response's end.

The call suppresses what its own library does until the response's head is there. While the body is read it stays in
flight, and what the job does between two reads is recorded as its own.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar, Final

from jobdoctor import fingerprint
from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import Probe, foreign, occupied, recorded
from jobdoctor.capture.recorder import IDEMPOTENCY_KEY, NEW_CONNECTION, NO_TIMEOUT, Call, Recorder, Shape

LIBRARY = "http.client"
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


def effect_of(method: str) -> str:
    """What a request does, by its method."""
    return "read" if method in _READS else "write"


class Server(recorder.Server):
    """A server as one library reaches it: shapes of requests by method and the path's skeleton."""

    __slots__ = ("library", "origin")

    def __init__(self, origin: str, library: str) -> None:
        self.origin = origin
        self.library = library
        self.known = {}

    def shape(self, rec: Recorder, method: str, path: str) -> Shape:
        """The shape of a request."""
        # Where no digit stays, which is nearly always, the zeros are the skeleton.
        shape: Shape | None = self.known.get((method, path.encode().translate(_ZEROS)))
        if shape is None or shape.generation is not rec.generation:
            shape = self._learnt(rec, method, path)
        return shape

    def _learnt(self, rec: Recorder, method: str, path: str) -> Shape:
        skeleton = fingerprint.skeleton(path)
        shape: Shape | None = self.known.get((method, skeleton))
        if shape is not None and shape.generation is rec.generation:
            return shape
        shape = interned(rec, method.upper(), fingerprint.url(method.upper(), self.origin + path), self.library)
        if skeleton is not None and "%" not in path:  # what is quoted has digits of its own
            if len(self.known) >= _SHAPES:
                self.known.clear()
            self.known[method, skeleton] = shape
        return shape


def interned(rec: Recorder, method: str, known: fingerprint.UrlShape, library: str) -> Shape:
    """The shape of a request, as the recorder has it."""
    return rec.shape("http", method, known.template, target=known.target, library=library, effect=effect_of(method))


_ZEROS: Final = fingerprint.ZEROS
#: Servers, and shapes of each, that are remembered.
_SERVERS: Final = 200
_SHAPES: Final = 1024
_servers: dict[tuple[Any, ...], Server] = {}


class _Exchange:
    """A request and its response on one connection."""

    __slots__ = ("asked", "call", "length", "new", "sent", "status", "timeout")

    def __init__(self, call: Call, new: bool) -> None:
        self.call = call
        self.new = new
        self.timeout: bool | None = None  # not asked yet
        self.asked = False  # the request is out, ``getresponse`` is at work and will close the call
        self.sent = 0
        self.status = 0
        self.length: int | None = None

    def end(self, error: BaseException | None = None, received: int = 0) -> None:
        flags = (NEW_CONNECTION if self.new else 0) | (0 if self.timeout else NO_TIMEOUT)
        self.call.end(error, None, self.sent, received, self.status, 0, flags)


def has_timeout(connection: Any) -> bool:
    """Whether a connection's waits are bounded."""
    sock = connection.sock
    if sock is not None:
        return sock.gettimeout() is not None
    timeout = connection.timeout
    if timeout is socket._GLOBAL_DEFAULT_TIMEOUT:  # type: ignore[attr-defined]
        timeout = socket.getdefaulttimeout()
    return timeout is not None


def _address(connection: Any, url: str) -> str:
    if "://" in url:  # to a proxy
        return url
    host = getattr(connection, "_tunnel_host", None) or connection.host
    port = (getattr(connection, "_tunnel_port", None) if host != connection.host else None) or connection.port
    scheme = "https" if connection.default_port == 443 else "http"
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{port}{url if url.startswith('/') else '/' + url}"


def _shape(rec: Recorder, connection: Any, own: dict[str, Any], method: Any, url: Any) -> tuple[Shape, int]:
    """The shape of a request, and the hash of its URL."""
    if type(url) is not str or type(method) is not str or url[:1] != "/" or "://" in url:
        known = fingerprint.url(str(method).upper(), _address(connection, str(url)))
        return interned(rec, str(method).upper(), known, LIBRARY), known.distinct
    # Of urllib3's connections ``host`` is a property, made of this.
    host = own.get("host") or own.get("_dns_host") or connection.host
    place = (host, own.get("port"), connection.default_port, own.get("_tunnel_host"), own.get("_tunnel_port"))
    server = _servers.get(place)
    if server is None:
        if len(_servers) >= _SERVERS:
            _servers.clear()
        server = _servers[place] = Server(_address(connection, "/")[:-1], LIBRARY)
    return server.shape(rec, method, url), hash((method, server.origin, url)) or 1


def _begin(rec: Recorder, connection: Any, method: Any, url: Any) -> None:
    try:
        own = connection.__dict__
        if "_jobdoctor_exchange" in own:
            _finish(connection)
        if occupied(rec):
            return
        shape, distinct = _shape(rec, connection, own, method, url)
        call = rec.begin(shape, params=distinct)
        if call is not None:
            # New also when ``connect`` was called for this request, before its first line was written.
            fresh = own.pop("_jobdoctor_fresh", False)
            connection._jobdoctor_exchange = _Exchange(call, fresh or connection.sock is None)
    except Exception as error:
        if foreign(error):
            raise


def _finish(connection: Any, error: BaseException | None = None, received: int = 0) -> None:
    exchange = connection.__dict__.pop("_jobdoctor_exchange", None)
    if exchange is not None:
        if exchange.timeout is None:
            _ask_timeout(connection, exchange)
        exchange.end(error, received)


def _putrequest(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def putrequest(self: Any, method: Any, url: Any, *args: Any, **kwargs: Any) -> Any:
        rec = recorder.current
        if rec is None:
            return original(self, method, url, *args, **kwargs)
        _begin(rec, self, method, url)
        try:
            return original(self, method, url, *args, **kwargs)
        except BaseException as error:
            _finish(self, error)
            raise

    return putrequest


def _endheaders(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def endheaders(self: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = self.__dict__.get("_jobdoctor_exchange")
        if exchange is None:
            return original(self, *args, **kwargs)
        if _has_idempotency_key(self):
            exchange.call.flags |= IDEMPOTENCY_KEY
        try:
            return original(self, *args, **kwargs)
        except BaseException as error:
            _finish(self, error)
            raise

    return endheaders


def _has_idempotency_key(connection: Any) -> bool:
    try:
        # A header's own lines begin with a space where they are several.
        return b"\nidempotency-key:" in b"\n".join(connection._buffer).lower()
    except Exception as error:
        if foreign(error):
            raise
        return False


def _send(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def send(self: Any, data: Any) -> Any:
        exchange = self.__dict__.get("_jobdoctor_exchange")
        if exchange is None:
            return original(self, data)
        if type(data) is bytes or isinstance(data, (bytes, bytearray, memoryview)):
            exchange.sent += len(data)
        try:
            return original(self, data)
        except BaseException as error:
            _finish(self, error)
            raise

    return send


def _getresponse(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def getresponse(self: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = self.__dict__.get("_jobdoctor_exchange")
        if exchange is None:
            return original(self, *args, **kwargs)
        _ask_timeout(self, exchange)
        exchange.asked = True
        try:
            response = original(self, *args, **kwargs)
        except BaseException as error:
            _finish(self, error)
            raise
        _answered(self, exchange, response)
        return response

    return getresponse


def _ask_timeout(connection: Any, exchange: _Exchange) -> None:
    try:
        exchange.timeout = has_timeout(connection)
    except Exception as error:
        if foreign(error):
            raise


def _answered(connection: Any, exchange: _Exchange, response: Any) -> None:
    try:
        exchange.status = int(response.status)
        raw = response
        if not hasattr(raw, "_close_conn"):  # urllib3 may answer with a response of its own
            raw = getattr(response, "_original_response", None) or getattr(response, "_fp", None)
        if raw is None or raw.isclosed() or raw.length == 0 or getattr(raw, "_method", None) == "HEAD":
            _finish(connection)
            return
        exchange.length = raw.length
        connection.__dict__.pop("_jobdoctor_exchange", None)
        raw._jobdoctor_exchange = exchange
        exchange.call.let_through()
    except Exception as error:
        _finish(connection)
        if foreign(error):
            raise


def _close_conn(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _close_conn(self: Any) -> Any:
        exchange = self.__dict__.pop("_jobdoctor_exchange", None)
        if exchange is None:
            return original(self)
        left = self.length
        try:
            return original(self)
        finally:
            exchange.end(received=exchange.length - (left or 0) if exchange.length is not None else 0)

    return _close_conn


def _close(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def close(self: Any) -> Any:
        try:
            return original(self)
        finally:
            # A request that was given up before its answer. An answer that is being read goes on by itself.
            exchange = self.__dict__.get("_jobdoctor_exchange")
            if exchange is not None and not exchange.asked:
                _finish(self)

    return close


def _begin_connect(rec: Recorder, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    connection = args[0]
    target = fingerprint.url("CONNECT", _address(connection, "/")).target
    shape = rec.shape("http", "CONNECT", f"CONNECT {target}", target=target, library=LIBRARY, effect="none")
    call = rec.begin(shape, flags=0 if has_timeout(connection) else NO_TIMEOUT)
    if call is not None:
        connection._jobdoctor_fresh = True
    return call


class HttpClientProbe(Probe):
    """Requests through http.client. A connect by itself is recorded only when it is made before the request begins."""

    channel: ClassVar[str] = "http"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("http.client", "urllib3.connection")

    def patch(self, module: ModuleType) -> None:
        """Replace the steps of a request, which every library on top of http.client takes."""
        m: Any = module
        if module.__name__ == "urllib3.connection":
            for kind in {m.HTTPConnection, m.HTTPSConnection}:
                self.replace(kind, "connect", lambda original: recorded(original, _begin_connect), own=True)
            return
        self.replace(m.HTTPConnection, "putrequest", _putrequest)
        self.replace(m.HTTPConnection, "endheaders", _endheaders)
        self.replace(m.HTTPConnection, "send", _send)
        self.replace(m.HTTPConnection, "getresponse", _getresponse)
        self.replace(m.HTTPConnection, "close", _close)
        self.replace(m.HTTPResponse, "_close_conn", _close_conn)
