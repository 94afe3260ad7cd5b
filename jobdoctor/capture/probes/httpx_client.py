"""httpx: requests at the network transports, so that redirects are calls of their own and mocks are none."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor import fingerprint
from jobdoctor.capture.probes.base import Probe, foreign, let_through, recorded, recorded_async
from jobdoctor.capture.probes.http_client import effect_of
from jobdoctor.capture.recorder import IDEMPOTENCY_KEY, NO_TIMEOUT, Call, Recorder

LIBRARY = "httpx"


def _begin(rec: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    request = args[1] if len(args) > 1 else kwargs["request"]
    known = fingerprint.url(request.method, str(request.url))
    shape = rec.shape(
        "http", request.method, known.template, target=known.target, library=LIBRARY, effect=effect_of(request.method)
    )
    timeout = request.extensions.get("timeout") or {}
    flags = 0 if any(value is not None for value in timeout.values()) else NO_TIMEOUT
    if "idempotency-key" in request.headers:
        flags |= IDEMPOTENCY_KEY
    call = rec.begin(shape, params=known.distinct, flags=flags)
    if call is not None:
        length = request.headers.get("content-length", "")
        call.cell.add(sent=int(length) if length.isdigit() else 0)
    return call


def _end(_rec: Recorder, call: Call, _args: tuple[Any, ...], response: Any) -> None:
    # The body follows: the call ends when the stream is closed, which the client does as soon as it was read.
    response.stream._jobdoctor_call = (call, weakref.ref(response))
    let_through(call)


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
        self.replace(m.HTTPTransport, "handle_request", lambda original: recorded(original, _begin, _end))
        self.replace(
            m.AsyncHTTPTransport, "handle_async_request", lambda original: recorded_async(original, _begin, _end)
        )
        self.replace(m.ResponseStream, "close", _close)
        self.replace(m.AsyncResponseStream, "aclose", _aclose)
