"""redis-py's connections: waits for one of a bounded pool, and commands that had to open one.

A pool hands out its connections within the command that needs one. A wait for it is a call of its own, and the command
begins when it has its connection, so that the time is counted once. A checkout that finds one at hand is not recorded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture import recorder
from jobdoctor.capture.calls import inside
from jobdoctor.capture.layout import CHANNEL_INDEX
from jobdoctor.capture.probes.base import Probe, foreign, recorded, recorded_async
from jobdoctor.capture.probes.redis_client import LIBRARY, target_of
from jobdoctor.capture.recorder import NEW_CONNECTION, Call, Recorder


class _Pooled:
    """A pool as ``target_of`` takes it."""

    __slots__ = ("connection_pool",)

    def __init__(self, pool: Any) -> None:
        self.connection_pool = pool


def _command(rec: Recorder) -> Call | None:
    """The command of this thread or task that is being recorded."""
    call = inside.get()
    if call is None or call.ended or call.recorder is not rec or call.cell.channel != CHANNEL_INDEX["redis"]:
        return None
    return call


class _Wait:
    """A wait for a connection, within a command or by itself."""

    __slots__ = ("call", "command", "rec")

    def __init__(self, rec: Recorder, call: Call, command: Call | None) -> None:
        self.rec = rec
        self.call = call
        self.command = command

    def end(self, error: BaseException | None = None) -> None:
        rec, call, command = self.rec, self.call, self.command
        try:
            alone = rec.busy == 2
            call.end(error, blocked_ns=rec.clock() - call.start)
            if command is None or command.ended:
                return
            now = rec.clock()
            if alone:
                # Within a command the wall time went to it, which is the more important one by the channels' order.
                rec.words[rec.channels_at + command.cell.channel] -= now - call.start
                rec.words[rec.channels_at + call.cell.channel] += now - call.start
            command.start = now
        except Exception as failure:
            if foreign(failure):
                raise


def _begin_wait(rec: Recorder, pool: Any, exhausted: Callable[[Any], bool]) -> _Wait | None:
    try:
        if not exhausted(pool):
            return None
        command = _command(rec)
        around = inside.get()
        if command is None and around is not None and not around.ended and around.recorder is rec:
            return None  # part of something else, such as the wait for a lock
        shape = rec.shape(
            "pool", "checkout", "checkout", target=target_of(_Pooled(pool)), library=LIBRARY, effect="none"
        )
        inside.set(None)
        try:
            call = rec.begin(shape, passthrough=True)
        finally:
            inside.set(around)
        return _Wait(rec, call, command) if call is not None else None
    except Exception as error:
        if foreign(error):
            raise
        return None


def _is_empty(pool: Any) -> bool:
    return bool(pool.pool.qsize() == 0)


def _gives_none(pool: Any) -> bool:
    return not pool.can_get_connection()


def _get(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get_connection(self: Any, *args: Any, **kwargs: Any) -> Any:
        rec = recorder.current
        wait = _begin_wait(rec, self, _is_empty) if rec is not None and not rec.silent else None
        if wait is None:
            return original(self, *args, **kwargs)
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            wait.end(error)
            raise
        wait.end()
        return result

    return get_connection


def _get_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def get_connection(self: Any, *args: Any, **kwargs: Any) -> Any:
        rec = recorder.current
        wait = _begin_wait(rec, self, _gives_none) if rec is not None and not rec.silent else None
        if wait is None:
            return await original(self, *args, **kwargs)
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            wait.end(error)
            raise
        wait.end()
        return result

    return get_connection


# ------------------------------------------------------------------------------------------------------------- connects


def _opening(rec: Recorder, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    connection = args[0]
    path = getattr(connection, "path", None)
    if path:
        target = f"unix://{path}"
    else:
        target = f"redis://{connection.host}:{connection.port}/{getattr(connection, 'db', 0) or 0}"
    shape = rec.shape("redis", "CONNECT", "CONNECT", target=target, library=LIBRARY, effect="none")
    return rec.begin(shape, flags=NEW_CONNECTION)


def _mark() -> None:
    """The command that a connection is opened for has a new one."""
    rec = recorder.current
    if rec is None or rec.silent:
        return
    try:
        command = _command(rec)
        if command is not None:
            command.flags |= NEW_CONNECTION
    except Exception as error:
        if foreign(error):
            raise


def _connect(original: Callable[..., Any]) -> Callable[..., Any]:
    recording = recorded(original, _opening)

    @functools.wraps(original)
    def _connect(self: Any, *args: Any, **kwargs: Any) -> Any:
        _mark()
        return recording(self, *args, **kwargs)

    return _connect


def _connect_async(original: Callable[..., Any]) -> Callable[..., Any]:
    recording = recorded_async(original, _opening)

    @functools.wraps(original)
    async def _connect(self: Any, *args: Any, **kwargs: Any) -> Any:
        _mark()
        return await recording(self, *args, **kwargs)

    return _connect


class RedisPoolProbe(Probe):
    """Waits for a pooled connection, and connections opened."""

    channel: ClassVar[str] = "pool"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = (
        "redis.connection",
        "redis.asyncio.connection",
        "valkey.connection",
        "valkey.asyncio.connection",
    )

    def patch(self, module: ModuleType) -> None:
        """Replace the checkout of the pool that waits, and the opening of a socket."""
        m: Any = module
        asynchronous = "asyncio" in module.__name__
        self.replace(m.BlockingConnectionPool, "get_connection", _get_async if asynchronous else _get)
        for kind in (m.Connection, m.UnixDomainSocketConnection, m.SSLConnection):
            if "_connect" in vars(kind):
                self.replace(kind, "_connect", _connect_async if asynchronous else _connect)
