"""Files: opens, with what they are opened for, syncs to disk, and what changes or reads directories.

File objects stay what they are: single reads and writes are counted by the kernel for the whole body (``file_io``).
"""

from __future__ import annotations

import functools
import os
import sys
from types import ModuleType
from typing import Any, ClassVar, Final

from jobdoctor import fingerprint
from jobdoctor.capture.probes.base import Probe, recorded
from jobdoctor.capture.recorder import Call, Recorder

_JOBDOCTOR: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
_SYNCS: Final = ("fsync", "fdatasync", "sync")
#: What is done to a path, by the function's name: operation and effect.
_ON_PATHS: Final = {
    "replace": ("rename", "write"),
    "rename": ("rename", "write"),
    "remove": ("remove", "write"),
    "unlink": ("remove", "write"),
    "listdir": ("list", "read"),
    "scandir": ("list", "read"),
}
_COPIES: Final = {"copyfile": ("copy", "write")}


def _path(args: tuple[Any, ...], kwargs: dict[str, Any], *names: str) -> str | None:
    """The path that a call is about; None for a descriptor that is open already."""
    given = args[0] if args else next((kwargs[name] for name in names if name in kwargs), ".")
    return None if isinstance(given, int) else os.fsdecode(given if given is not None else ".")


def _begin_open(rec: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    path = _path(args, kwargs, "file")
    if path is None:
        return None
    mode = str(args[1] if len(args) > 1 else kwargs.get("mode", "r"))
    effect = "write" if any(letter in mode for letter in "wax+") else "read"
    return _begin(rec, "open", path, effect, "io")


def _begin_descriptor(rec: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    path = _path(args, kwargs, "path")
    if path is None or _is_ours():
        return None
    flags = args[1] if len(args) > 1 else kwargs.get("flags", 0)
    return _begin(rec, "open", path, "write" if flags & (os.O_WRONLY | os.O_RDWR) else "read", "os")


def _begin(rec: Recorder, operation: str, path: str, effect: str, library: str) -> Call | None:
    shape = rec.shape("file", operation, fingerprint.redis_key(path), library=library, effect=effect)
    return rec.begin(shape, params=fingerprint.parameters(path))


def _is_ours() -> bool:
    """Whether jobdoctor itself makes the call: it reads /proc while the job runs."""
    return sys._getframe(3).f_code.co_filename.startswith(_JOBDOCTOR)


def _begin_on_path(
    operation: str, effect: str, library: str, rec: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Call | None:
    path = _path(args, kwargs, "path", "src")
    return None if path is None else _begin(rec, operation, path, effect, library)


def _begin_sync(name: str, rec: Recorder, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    operation = "sync" if name == "sync" else "fsync"
    return rec.begin(rec.shape("file", operation, operation, library="os", effect="write"))


class FileProbe(Probe):
    """``open`` by both of its names, ``os.open``, ``os.fsync`` and its kin; renames, removals, listings and copies."""

    channel: ClassVar[str] = "file"
    library: ClassVar[str] = "io"
    modules: ClassVar[tuple[str, ...]] = ("builtins", "io", "os", "shutil")

    def patch(self, module: ModuleType) -> None:
        """Replace the functions."""
        name = module.__name__
        if name in ("builtins", "io"):
            self.replace(module, "open", lambda original: recorded(original, _begin_open))
            return
        if name == "os":
            self.replace(module, "open", lambda original: recorded(original, _begin_descriptor))
            for function in _SYNCS:
                begin = functools.partial(_begin_sync, function)
                self.replace(module, function, functools.partial(recorded, begin=begin))
        for function, (operation, effect) in (_ON_PATHS if name == "os" else _COPIES).items():
            on_path = functools.partial(_begin_on_path, operation, effect, name)
            self.replace(module, function, functools.partial(recorded, begin=on_path))
