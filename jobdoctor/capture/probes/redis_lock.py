"""redis-py's lock: the wait for one that somebody else holds.

An acquire that succeeds at once is one ordinary command. When its first try fails and it goes on trying, a lock call
begins, and the commands and sleeps of its polling are part of that call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor import fingerprint
from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import Probe, foreign
from jobdoctor.capture.probes.redis_client import LIBRARY, target_of
from jobdoctor.capture.recorder import Call, Recorder


class _Acquiring:
    __slots__ = ("call", "rec")

    def __init__(self, rec: Recorder) -> None:
        self.rec = rec
        self.call: Call | None = None


_acquiring: ContextVar[_Acquiring | None] = ContextVar("jobdoctor_acquiring", default=None)


def _starts(lock: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Acquiring | None:
    rec = recorder.current
    if rec is None:
        return None
    blocking = args[1] if len(args) > 1 else kwargs.get("blocking")
    if blocking is None:
        blocking = lock.blocking
    return _Acquiring(rec) if blocking else None


def _tried(lock: Any, got_it: Any) -> None:
    acquiring = _acquiring.get()
    if acquiring is None or got_it or acquiring.call is not None:
        return
    try:
        name = fingerprint.redis_key(lock.name)
        shape = acquiring.rec.shape(
            "lock", "acquire", name, target=target_of(lock.redis), library=LIBRARY, effect="lock"
        )
        acquiring.call = acquiring.rec.begin(shape, params=fingerprint.parameters(lock.name))
    except Exception as error:
        if foreign(error):
            raise


def _ended(acquiring: _Acquiring, lock: Any, error: BaseException | None) -> None:
    call = acquiring.call
    if call is None:
        return
    try:
        waited = acquiring.rec.clock() - call.start
        call.end(error, blocked_ns=waited)
        acquiring.rec.note(
            "lock",
            kind="redis",
            target=fingerprint.redis_key(lock.name),
            waited_ns=waited,
            start_ns=call.start,
        )
    except Exception as failure:
        if foreign(failure):
            raise


def _acquire(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def acquire(self: Any, *args: Any, **kwargs: Any) -> Any:
        acquiring = _starts(self, args, kwargs)
        if acquiring is None:
            return original(self, *args, **kwargs)
        token = _acquiring.set(acquiring)
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            _ended(acquiring, self, error)
            raise
        finally:
            _acquiring.reset(token)
        _ended(acquiring, self, None)
        return result

    return acquire


def _acquire_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def acquire(self: Any, *args: Any, **kwargs: Any) -> Any:
        acquiring = _starts(self, args, kwargs)
        if acquiring is None:
            return await original(self, *args, **kwargs)
        token = _acquiring.set(acquiring)
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            _ended(acquiring, self, error)
            raise
        finally:
            _acquiring.reset(token)
        _ended(acquiring, self, None)
        return result

    return acquire


def _do_acquire(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def do_acquire(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        _tried(self, result)
        return result

    return do_acquire


def _do_acquire_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def do_acquire(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = await original(self, *args, **kwargs)
        _tried(self, result)
        return result

    return do_acquire


class RedisLockProbe(Probe):
    """Waits for a lock that is kept in Redis."""

    channel: ClassVar[str] = "lock"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("redis.lock", "redis.asyncio.lock", "valkey.lock", "valkey.asyncio.lock")

    def patch(self, module: ModuleType) -> None:
        """Replace the acquire and its single try."""
        m: Any = module
        asynchronous = "asyncio" in module.__name__
        self.replace(m.Lock, "acquire", _acquire_async if asynchronous else _acquire)
        self.replace(m.Lock, "do_acquire", _do_acquire_async if asynchronous else _do_acquire)
