"""aiohttp: one call from the request to its response's end, redirects included.

The call suppresses what the library does until the response's head is there. While the body arrives it stays in flight,
and what the job does meanwhile is recorded as its own.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any, ClassVar

from jobdoctor import fingerprint
from jobdoctor.capture import calls, recorder
from jobdoctor.capture.probes.base import Probe, foreign, let_through, recorded_async
from jobdoctor.capture.probes.http_client import effect_of
from jobdoctor.capture.recorder import IDEMPOTENCY_KEY, NEW_CONNECTION, NO_TIMEOUT, Call, Recorder

LIBRARY = "aiohttp"
_UPGRADED = 101


def _begin(rec: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    session = args[0]
    method = str(args[1] if len(args) > 1 else kwargs["method"]).upper()
    url = session._build_url(args[2] if len(args) > 2 else kwargs["str_or_url"])
    if kwargs.get("params"):
        url = url.update_query(kwargs["params"])
    known = fingerprint.url(method, str(url))
    shape = rec.shape("http", method, known.template, target=known.target, library=LIBRARY, effect=effect_of(method))
    flags = 0 if _has_timeout(session, kwargs) else NO_TIMEOUT
    given = kwargs.get("headers")
    headers = session._prepare_headers(given) if given else session.headers
    if "Idempotency-Key" in headers:
        flags |= IDEMPOTENCY_KEY
    return rec.begin(shape, params=known.distinct, flags=flags)


def _has_timeout(session: Any, kwargs: dict[str, Any]) -> bool:
    """Whether any wait of the request is bounded. aiohttp's own default is five minutes in all; None and 0 are none."""
    timeout = kwargs.get("timeout", session.timeout)
    if timeout is None or isinstance(timeout, (int, float)):
        return bool(timeout)
    if not hasattr(timeout, "sock_read"):  # the mark of a timeout that was not given
        timeout = session.timeout
    return any((timeout.total, timeout.connect, timeout.sock_connect, timeout.sock_read))


def _end(_rec: Recorder, call: Call, _args: tuple[Any, ...], response: Any) -> None:
    if response.closed or response.status == _UPGRADED:
        _finish(call, response)
        return
    response._jobdoctor_call = call
    let_through(call)


def _fail(_rec: Recorder, call: Call, error: BaseException) -> None:
    status = getattr(error, "status", 0)  # of a session that raises for it
    call.end(error, status=status if isinstance(status, int) else 0)


def _finish(call: Call, response: Any, error: BaseException | None = None) -> None:
    try:
        content = response.content
        length = response.request_info.headers.get("Content-Length", "")
        call.end(
            error,
            status=response.status or 0,
            # As it came over the wire, where this version of aiohttp counts that.
            received=getattr(content, "total_raw_bytes", 0) or getattr(content, "total_bytes", 0),
            sent=getattr(response, "_output_size", 0) or (int(length) if length.isdigit() else 0),
        )
    except Exception as failure:
        call.end(error)
        if foreign(failure):
            raise


def _failure(response: Any, caller: CodeType, reader: Any) -> BaseException | None:
    """What ended a body before its end. ``read`` closes the response when it fails, and only then."""
    try:
        if caller is getattr(reader, "__code__", None):
            return sys.exc_info()[1]
        error: BaseException | None = response.content.exception()
        return error
    except Exception as failure:
        if foreign(failure):
            raise
        return None


def _ended(original: Callable[..., Any], reader: Any) -> Callable[..., Any]:
    @functools.wraps(original)
    def ended(self: Any, *args: Any) -> Any:
        call = self.__dict__.pop("_jobdoctor_call", None)
        if call is None:
            return original(self, *args)
        error = _failure(self, sys._getframe(1).f_code, reader)
        try:
            return original(self, *args)
        finally:
            _finish(call, self, error)

    return ended


def _forgotten(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def forgotten(self: Any, *args: Any) -> None:
        call = self.__dict__.pop("_jobdoctor_call", None)
        try:
            original(self, *args)
        finally:
            if call is not None:
                _finish(call, self)

    return forgotten


def _connecting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def _create_connection(self: Any, *args: Any, **kwargs: Any) -> Any:
        if recorder.current is not None:
            # The request that asks for it is this task's call; a connection that is at hand never comes here.
            call = calls.inside.get()
            if call is not None and not call.ended:
                call.flags |= NEW_CONNECTION
        return await original(self, *args, **kwargs)

    return _create_connection


class AiohttpProbe(Probe):
    """Requests of aiohttp's client. A websocket's call ends when it is open."""

    channel: ClassVar[str] = "http"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("aiohttp",)

    def patch(self, module: ModuleType) -> None:
        """Replace what every request passes through, the ends of a response, and the making of connections."""
        m: Any = module
        response = m.ClientResponse
        reader = response.read
        self.replace(m.ClientSession, "_request", lambda original: recorded_async(original, _begin, _end, _fail))
        for name in ("_response_eof", "close", "release"):
            self.replace(response, name, lambda original: _ended(original, reader))
        self.replace(response, "__del__", _forgotten)
        for connector in (m.TCPConnector, m.UnixConnector):
            self.replace(connector, "_create_connection", _connecting, own=True)
