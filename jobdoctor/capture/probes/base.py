"""What every probe is: a set of attributes of one library, replaced by wrappers and put back exactly.

A wrapper looks at ``recorder.current`` first and calls the original when nothing is being recorded. It never changes
arguments, results or exceptions. What a probe does beside the call is guarded: its failures are swallowed, except
what a signal handler raised meanwhile, which belongs to the job.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar, Literal

from jobdoctor.capture import recorder
from jobdoctor.capture.calls import inside
from jobdoctor.capture.foreign import foreign as foreign
from jobdoctor.capture.recorder import Call, Recorder, Shape
from jobdoctor.model import ProbeStatus

_MISSING: Any = object()


class Probe(ABC):
    """One library on one channel. Subclasses name the modules that they patch and do it in ``patch``."""

    channel: ClassVar[str]
    library: ClassVar[str]
    #: Import names, in the order in which they are patched. Each is patched once, when it is there.
    modules: ClassVar[tuple[str, ...]]
    #: Counts up with all that changes what a probe's status is.
    changes: ClassVar[int] = 0

    def __init__(self) -> None:
        self.patched: set[str] = set()
        self.failure = ""
        self._status: tuple[bool, str, ProbeStatus] | None = None
        self._replaced: list[tuple[Any, str, Any, Any]] = []

    @abstractmethod
    def patch(self, module: ModuleType) -> None:
        """Replace what is to be replaced in ``module``, by ``replace``."""

    def install(self, name: str, module: ModuleType) -> None:
        """Patch a module that has been imported. What fails is kept as the reason in ``status``."""
        if name in self.patched:
            return
        try:
            self.patch(module)
            self.patched.add(name)
            Probe.changes += 1
        except Exception as error:
            self.fail(f"{name}: {type(error).__name__}: {error}")

    def fail(self, reason: str) -> None:
        """It does not work, for this reason."""
        self.failure = reason
        Probe.changes += 1

    def uninstall(self) -> None:
        """Put every attribute back. One that somebody replaced after us stays theirs: it still calls through."""
        while self._replaced:
            owner, name, original, wrapper = self._replaced.pop()
            if vars(owner).get(name) is not wrapper:
                continue
            if original is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
        self.patched.clear()
        self.failure = ""
        Probe.changes += 1

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any], *, own: bool = False) -> None:
        """Replace ``owner.name`` by ``make(original)``. What is absent is left alone; with ``own``, the inherited too.

        Class and static methods are handed to ``make`` as the plain function and stay what they are. One function that
        stands under a name in two places (``builtins.open``, ``io.open``) is one wrapper in both.
        """
        raw = vars(owner).get(name, _MISSING)
        if raw is _MISSING:
            if own or not hasattr(owner, name):
                return
            original = getattr(owner, name)
        else:
            original = raw
        wrapper: Any = None
        for _, other, theirs, ours in self._replaced:
            if other == name and (original is theirs or original is ours):
                wrapper = ours
                if original is ours:  # a package that took over its submodule's name after it was patched
                    raw = theirs
                break
        if wrapper is not None:
            pass
        elif isinstance(original, (classmethod, staticmethod)):
            wrapper = type(original)(make(original.__func__))
        else:
            wrapper = make(original)
        setattr(owner, name, wrapper)
        self._replaced.append((owner, name, raw, wrapper))

    def status(self) -> ProbeStatus:
        """Active when a module was patched, absent when the library was never imported, failed with the reason."""
        patched, failure = bool(self.patched), self.failure
        if self._status is None or self._status[:2] != (patched, failure):  # asked in horses, where little changes
            word: Literal["failed", "active", "absent"] = "failed" if failure else "active" if patched else "absent"
            self._status = patched, failure, ProbeStatus(self.channel, self.library, word, failure)
        return self._status[2]


def let_through(call: Call) -> None:
    """Let calls inside this one be recorded from now on, while it stays in flight: a response is being read, and what
    the job does between two reads is its own."""
    call.let_through()


Begin = Callable[[Recorder, tuple[Any, ...], dict[str, Any]], Call | None]
End = Callable[[Recorder, Call, tuple[Any, ...], Any], None]
Fail = Callable[[Recorder, Call, BaseException], None]


def occupied(rec: Recorder) -> bool:
    """Whether a recorded call is in progress around this one, which is part of it then. Cheap: to be asked first."""
    outer = inside.get()
    return outer is not None and not outer.ended and outer.recorder is rec


def renewed(rec: Recorder, shape: Shape) -> Shape:
    """A shape kept from another execution, as it is in this one."""
    channel, operation, text, target, library, effect, related = shape.identity
    return rec.shape(channel, operation, text, target=target, library=library, effect=effect, relationship=related)


def recorded(original: Callable[..., Any], begin: Begin, end: End | None = None) -> Callable[..., Any]:
    """A wrapper that records each call of ``original``, which returns when it is done.

    ``begin`` makes the call or says None; it is not asked inside another recorded call. ``end`` closes the call when
    the original returned. An exception closes it as an error. ``args`` are those of the call, the instance first for
    methods.
    """

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        rec = recorder.current
        if rec is None or rec.silent or occupied(rec):
            return original(*args, **kwargs)
        call = None
        try:
            call = begin(rec, args, kwargs)
        except Exception as error:
            if foreign(error):
                raise
        if call is None:
            return original(*args, **kwargs)
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            call.end(error)
            raise
        if end is None:
            call.end()
        else:
            _guarded_end(end, rec, call, args, result)
        return result

    return wrapper


def recorded_async(
    original: Callable[..., Any], begin: Begin, end: End | None = None, fail: Fail | None = None
) -> Callable[..., Any]:
    """As ``recorded``, for a coroutine function. ``fail`` closes the call when the original raised."""

    @functools.wraps(original)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        rec = recorder.current
        if rec is None or rec.silent or occupied(rec):
            return await original(*args, **kwargs)
        call = None
        try:
            call = begin(rec, args, kwargs)
        except Exception as error:
            if foreign(error):
                raise
        if call is None:
            return await original(*args, **kwargs)
        try:
            result = await original(*args, **kwargs)
        except BaseException as error:
            if fail is None:
                call.end(error)
            else:
                _guarded_fail(fail, rec, call, error)
            raise
        if end is None:
            call.end()
        else:
            _guarded_end(end, rec, call, args, result)
        return result

    return wrapper


def _guarded_end(end: End, rec: Recorder, call: Call, args: tuple[Any, ...], result: Any) -> None:
    try:
        end(rec, call, args, result)
    except Exception as error:
        call.end()
        if foreign(error):
            raise


def _guarded_fail(fail: Fail, rec: Recorder, call: Call, raised: BaseException) -> None:
    try:
        fail(rec, call, raised)
    except Exception as error:
        call.end(raised)
        if foreign(error):
            raise
