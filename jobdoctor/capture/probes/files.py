"""Files: opens, with what they are opened for, and syncs to disk. Single reads and writes are left alone: their cost is
seen from outside, by the sampler."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor import fingerprint
from jobdoctor.capture.probes.base import Probe, recorded
from jobdoctor.capture.recorder import Call, Recorder


def _begin_open(rec: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    file = args[0] if args else kwargs["file"]
    if isinstance(file, int):
        return None  # a descriptor that is open already
    mode = str(args[1] if len(args) > 1 else kwargs.get("mode", "r"))
    effect = "write" if any(letter in mode for letter in "wax+") else "read"
    path = os.fsdecode(file)
    shape = rec.shape("file", "open", fingerprint.redis_key(path), library="io", effect=effect)
    return rec.begin(shape, params=fingerprint.parameters(path))


def _begin_sync(rec: Recorder, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    return rec.begin(rec.shape("file", "fsync", "fsync", library="os", effect="write"))


class FileProbe(Probe):
    """``open`` under both of its names, ``os.fsync`` and ``os.fdatasync``."""

    channel: ClassVar[str] = "file"
    library: ClassVar[str] = "io"
    modules: ClassVar[tuple[str, ...]] = ("builtins", "io", "os")

    def patch(self, module: ModuleType) -> None:
        """Replace the functions."""
        if module.__name__ == "os":
            for function in ("fsync", "fdatasync"):
                self.replace(module, function, lambda original: recorded(original, _begin_sync))
            return
        self.replace(module, "open", lambda original: recorded(original, _begin_open))
