"""Locks of the operating system and of threads that somebody else holds.

``threading.Lock`` and ``threading.RLock`` are replaced by what gives application code a thin wrapper around the
real lock, and everybody else (the standard library, site-packages) the real lock itself: nothing inside queues, pools,
logging or conditions changes, and the interpreter's own locks never go through Python. The wrapper tries without
waiting first, so that an uncontended acquire costs one call more and records nothing; it delegates all it does not
know. Waiting for one's own threads (``join``, ``Future.result``, ``Queue.get``) is no lock that is held against the
job, and is not recorded here.
"""

from __future__ import annotations

import functools
import os
import sys
from types import FunctionType, ModuleType
from typing import Any, ClassVar, Final

from jobdoctor import fingerprint
from jobdoctor.capture import callsites, recorder
from jobdoctor.capture.probes.base import Probe, foreign, recorded
from jobdoctor.capture.recorder import Call, Recorder, hot

#: A blocking flock that takes longer than this was held by somebody: without contention it takes microseconds.
FILE_CONTENDED_NS: Final = 1_000_000

# ---------------------------------------------------------------------------------------------------------------- files


def _file_name(descriptor: Any) -> str:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    try:
        path = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        path = str(getattr(descriptor, "name", "file"))
    return fingerprint.redis_key(path)


def _begin_file(rec: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    import fcntl

    operation = args[1] if len(args) > 1 else kwargs.get("cmd", kwargs.get("operation", 0))
    if operation & (fcntl.LOCK_NB | fcntl.LOCK_UN):
        return None
    shape = rec.shape("lock", "flock", _file_name(args[0]), library="fcntl", effect="lock")
    return rec.begin(shape)


def _end_file(rec: Recorder, call: Call, args: tuple[Any, ...], _result: Any) -> None:
    waited = rec.clock() - call.start
    contended = waited > FILE_CONTENDED_NS
    call.end(blocked_ns=waited if contended else 0)
    if contended:
        rec.note("lock", kind="file", target=_file_name(args[0]), waited_ns=waited, start_ns=call.start)


class FileLockProbe(Probe):
    """Blocking ``fcntl.flock`` and ``fcntl.lockf``."""

    channel: ClassVar[str] = "lock"
    library: ClassVar[str] = "fcntl"
    modules: ClassVar[tuple[str, ...]] = ("fcntl",)

    def patch(self, module: ModuleType) -> None:
        """Replace the two functions."""
        self.replace(module, "flock", lambda original: recorded(original, _begin_file, _end_file))
        self.replace(module, "lockf", lambda original: recorded(original, _begin_file, _end_file))


# -------------------------------------------------------------------------------------------------------------- threads

_getframe = sys._getframe
_files = callsites.files


def _begin_thread(rec: Recorder, name: str) -> Call | None:
    try:
        shape = rec.shape("lock", "acquire", name, library="threading", effect="lock")
        return rec.begin(shape)
    except Exception as error:
        if foreign(error):
            raise
        return None


class RecordingLock:
    """A lock of the application, around the real one."""

    __slots__ = ("__weakref__", "_jobdoctor_lock", "_jobdoctor_name")

    def __init__(self, lock: Any, name: str) -> None:
        self._jobdoctor_lock = lock
        self._jobdoctor_name = name

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As the lock's own."""
        lock = self._jobdoctor_lock
        rec = recorder.current
        if rec is None or not blocking:
            return lock.acquire(blocking, timeout)  # type: ignore[no-any-return]
        if lock.acquire(False):
            return True
        call = _begin_thread(rec, self._jobdoctor_name)
        if call is None:
            return lock.acquire(blocking, timeout)  # type: ignore[no-any-return]
        try:
            result = lock.acquire(blocking, timeout)
        except BaseException as error:
            call.end(error)
            raise
        waited = rec.clock() - call.start
        call.end(blocked_ns=waited)
        rec.note("lock", kind="thread", target=self._jobdoctor_name, waited_ns=waited, start_ns=call.start)
        return result  # type: ignore[no-any-return]

    def release(self) -> None:
        """As the lock's own."""
        self._jobdoctor_lock.release()

    def __enter__(self) -> bool:
        return True if self._jobdoctor_lock.acquire(False) else self.acquire()

    def __exit__(self, _kind: Any, _error: Any, _traceback: Any) -> None:
        self._jobdoctor_lock.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobdoctor_lock, name)

    def __repr__(self) -> str:
        return repr(self._jobdoctor_lock)


class _LockType(type):
    """Makes ``isinstance(lock, threading.Lock)`` true of both kinds of locks."""

    real: type

    def __instancecheck__(cls, instance: Any) -> bool:
        if type(instance) is RecordingLock:
            instance = instance._jobdoctor_lock
        return isinstance(instance, cls.real)


def _replacement(real: Any) -> Any:
    name = "RLock" if "RLock" in real.__name__ else "Lock"

    def recording(frame: Any, lock: Any) -> RecordingLock:
        where = f"{callsites.relative(frame.f_code.co_filename)}:{frame.f_lineno}"
        return RecordingLock(lock, f"threading.{name} of {where}")

    # Libraries make locks by the hundred (a jar of cookies for each request): few steps.

    def make(*args: Any, **kwargs: Any) -> Any:
        frame = _getframe(1)
        lock = real(*args, **kwargs)
        return recording(frame, lock) if _files[frame.f_code.co_filename] else lock

    def new(_cls: Any, *args: Any, **kwargs: Any) -> Any:
        frame = _getframe(1)
        lock = real(*args, **kwargs)
        return recording(frame, lock) if _files[frame.f_code.co_filename] else lock

    if isinstance(real, type):  # from Python 3.13 on, of ``Lock``
        kind = _LockType(name, (), {"__new__": new, "__doc__": real.__doc__, "__module__": "threading"})
        kind.real = real
        return kind
    if isinstance(real, FunctionType):
        return functools.wraps(real)(make)
    # A built-in function is no method of a class that has it as an attribute.
    return functools.update_wrapper(functools.partial(make), real)


class ThreadLockProbe(Probe):
    """Contended acquires of locks that the application made."""

    channel: ClassVar[str] = "lock"
    library: ClassVar[str] = "threading"
    modules: ClassVar[tuple[str, ...]] = ("threading",)

    def patch(self, module: ModuleType) -> None:
        """Replace the two names that application code makes locks by."""
        for name in ("Lock", "RLock"):
            real = getattr(module, name)
            if isinstance(real, type):
                self.replace(module, name, _replacement)
            else:
                self.replace(module, name, hot(_replacement, "lock", method=isinstance(real, FunctionType)))
