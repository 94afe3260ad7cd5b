"""httpx: requests at the network transports, so that redirects are calls of their own and mocks are none."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar, Final

from jobdoctor import fingerprint
from jobdoctor.capture.probes.base import Probe, foreign, recorded, recorded_async
from jobdoctor.capture.probes.http_client import Server, interned
from jobdoctor.capture.recorder import IDEMPOTENCY_KEY, NEW_CONNECTION, NO_TIMEOUT, Call, Recorder, Shape, hot

LIBRARY = "httpx"


def _shape(rec: Recorder, method: str, url: Any) -> tuple[Shape, int]:
    """The shape of a request, and the hash of its URL."""
    parts = getattr(url, "_uri_reference", None)  # to put it together would cost more than all that follows
    if not isinstance(parts, tuple) or len(parts) != _PARTS:
        known = fingerprint.url(method, str(url))
        return interned(rec, method, known, LIBRARY), known.distinct
    place, path, query = parts[:4], parts[4], parts[5]
    if query is not None:
        path = f"{path}?{query}"
    server = _servers.get(place)
    if server is None:
        if len(_servers) >= _SERVERS:
            _servers.clear()
        server = _servers[place] = Server(f"{url.scheme}://{url.netloc.decode('ascii')}", LIBRARY)
    return server.shape(rec, method, path), hash((method, place, path)) or 1


def _begin(rec: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    request = args[1] if len(args) > 1 else kwargs["request"]
    method = request.method
    shape, distinct = _shape(rec, method, request.url)
    flags = NO_TIMEOUT
    for value in (request.extensions.get("timeout") or _NO_TIMEOUTS).values():
        if value is not None:
            flags = 0
    sent = 0
    for name, content in request.headers.raw:
        # Asking a ``Headers`` for one costs as much as reading all of them.
        length = len(name)
        if length == _CONTENT_LENGTH:
            if content.isdigit() and name.lower() == b"content-length":
                sent = int(content)
        elif length == _IDEMPOTENCY_KEY and name.lower() == b"idempotency-key":
            flags |= IDEMPOTENCY_KEY
    call = rec.begin(shape, params=distinct, flags=flags)
    if call is not None and sent:
        call.cell.add(sent=sent)
    return call


#: Scheme, user, host, port, path, query, fragment.
_PARTS: Final = 7
#: By scheme, user, host and port.
_servers: dict[tuple[Any, ...], Server] = {}
_SERVERS: Final = 200
_NO_TIMEOUTS: Final[dict[str, Any]] = {}
_CONTENT_LENGTH: Final = len("content-length")
_IDEMPOTENCY_KEY: Final = len("idempotency-key")


def _end(_rec: Recorder, call: Call, _args: tuple[Any, ...], response: Any) -> None:
    stream = response.extensions.get("network_stream")
    if stream is not None and not getattr(stream, "_jobdoctor_seen", False):  # one object as long as it is connected
        stream._jobdoctor_seen = True
        call.flags |= NEW_CONNECTION
    # The body follows: the call ends when the stream is closed, which the client does as soon as it was read.
    response.stream._jobdoctor_call = (call, weakref.ref(response))
    call.let_through()


def _close_stream(stream: Any) -> None:
    try:
        call, reference = stream.__dict__.pop("_jobdoctor_call", (None, None))
        if call is None:
            return
        response = reference()
        call.end(
            status=response.status_code if response is not None else 0,
            received=response.num_bytes_downloaded if response is not None else 0,
        )
    except Exception as error:
        if foreign(error):
            raise


def _close(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def close(self: Any) -> Any:
        try:
            return original(self)
        finally:
            _close_stream(self)

    return close


def _aclose(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def aclose(self: Any) -> Any:
        try:
            return await original(self)
        finally:
            _close_stream(self)

    return aclose


class HttpxProbe(Probe):
    """Requests of httpx, blocking and asyncio."""

    channel: ClassVar[str] = "http"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("httpx._transports.default",)

    def patch(self, module: ModuleType) -> None:
        """Replace what carries a request over the network, and the end of its response."""
        m: Any = module
        request = hot(lambda original: recorded(original, _begin, _end), "request", sessions=_servers)
        self.replace(m.HTTPTransport, "handle_request", request)
        self.replace(
            m.AsyncHTTPTransport, "handle_async_request", lambda original: recorded_async(original, _begin, _end)
        )
        self.replace(m.ResponseStream, "close", hot(_close, "stream"))
        self.replace(m.AsyncResponseStream, "aclose", _aclose)
