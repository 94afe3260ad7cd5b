"""Libraries that wait for a file lock by polling: their tries do not block, so that only the whole acquire tells.

The tries and the sleeps between them are part of the one call.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from jobdoctor import fingerprint
from jobdoctor.capture.probes.base import Probe, recorded
from jobdoctor.capture.probes.locks import FILE_CONTENDED_NS
from jobdoctor.capture.recorder import Call, Recorder

#: The classes that have the blocking ``acquire``, by module.
_CLASSES = {"filelock._api": "BaseFileLock", "fasteners.process_lock": "InterProcessLock"}


def _name(lock: Any) -> str:
    """The file's name, without literals."""
    path = getattr(lock, "lock_file", None) or getattr(lock, "path", "")
    return fingerprint.redis_key(path.decode(errors="replace") if isinstance(path, bytes) else str(path))


def _begin(rec: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    lock = args[0]
    blocking = kwargs.get("blocking")
    if blocking is None:
        blocking = getattr(lock, "blocking", True)
    # fasteners takes it as the first argument; filelock's first is a timeout, and 0 is no wait.
    if not blocking or (len(args) > 1 and args[1] is not None and not args[1]) or getattr(lock, "is_locked", False):
        return None
    return rec.begin(rec.shape("lock", "acquire", _name(lock), library="filelock", effect="lock"))


def _end(rec: Recorder, call: Call, args: tuple[Any, ...], _result: Any) -> None:
    waited = rec.clock() - call.start
    contended = waited > FILE_CONTENDED_NS
    call.end(blocked_ns=waited if contended else 0)
    if contended:
        rec.note("lock", kind="file", target=_name(args[0]), waited_ns=waited, start_ns=call.start)


class PollingFileLockProbe(Probe):
    """``acquire`` of filelock's and fasteners' locks between processes."""

    channel: ClassVar[str] = "lock"
    library: ClassVar[str] = "filelock"
    modules: ClassVar[tuple[str, ...]] = tuple(_CLASSES)

    def patch(self, module: ModuleType) -> None:
        """Replace the method; ``with`` comes here as well."""
        kind = getattr(module, _CLASSES[module.__name__])
        self.replace(kind, "acquire", lambda original: recorded(original, _begin, _end))
