"""Locks and semaphores of asyncio that another task holds.

Only those that the application made are looked at; a condition's lock is one of them. An acquire that finds it free
costs one coroutine more and records nothing. A semaphore with room for several bounds how many tasks run at once: a
wait for it is a "wait", not an "acquire" that somebody is in the way of. Events, queues and conditions wait for work of
the job's own, and are not recorded.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture import callsites, recorder
from jobdoctor.capture.probes.base import Probe, foreign, occupied
from jobdoctor.capture.recorder import Call, Recorder

#: Where a lock keeps its name and its operation.
_NAME = "_jobdoctor_name"


def _made(original: Callable[..., Any], kind: str, filename: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        try:
            frame = sys._getframe(1)
            while frame.f_code.co_filename == filename and frame.f_back is not None:  # a condition's own lock
                frame = frame.f_back
            if callsites.files[frame.f_code.co_filename]:
                where = f"{callsites.relative(frame.f_code.co_filename)}:{frame.f_lineno}"
                operation = "wait" if getattr(self, "_value", 1) > 1 else "acquire"
                self.__dict__[_NAME] = (operation, f"asyncio.{kind} of {where}")
        except Exception as error:
            if foreign(error):
                raise

    return __init__


def _begin(rec: Recorder, name: tuple[str, str]) -> Call | None:
    try:
        return rec.begin(rec.shape("lock", name[0], name[1], library="asyncio", effect="lock"))
    except Exception as error:
        if foreign(error):
            raise
        return None


def _end(rec: Recorder, call: Call, name: tuple[str, str], failed: BaseException | None) -> None:
    try:
        waited = rec.clock() - call.start
        call.end(failed, blocked_ns=waited)
        if name[0] == "acquire":
            rec.note("lock", kind="thread", target=name[1], waited_ns=waited, start_ns=call.start)
    except Exception as error:
        if foreign(error):
            raise


def _acquire(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def acquire(self: Any) -> Any:
        rec = recorder.current
        if rec is None or not self.locked():
            return await original(self)
        name = self.__dict__.get(_NAME)
        call = None if name is None or rec.silent or occupied(rec) else _begin(rec, name)
        if call is None:
            return await original(self)
        try:
            result = await original(self)
        except BaseException as error:
            _end(rec, call, name, error)
            raise
        _end(rec, call, name, None)
        return result

    return acquire


class AsyncioLockProbe(Probe):
    """Contended acquires of asyncio's locks and semaphores that the application made."""

    channel: ClassVar[str] = "lock"
    library: ClassVar[str] = "asyncio"
    modules: ClassVar[tuple[str, ...]] = ("asyncio.locks",)

    def patch(self, module: ModuleType) -> None:
        """Replace the making, which names them, and the acquire."""
        m: Any = module
        filename = str(m.__file__)
        for kind in (m.Lock, m.Semaphore):
            name = kind.__name__
            self.replace(kind, "__init__", functools.partial(_made, kind=name, filename=filename))
            self.replace(kind, "acquire", _acquire)
