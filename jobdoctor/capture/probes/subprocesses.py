"""Waiting for child processes: ``subprocess``, asyncio's, ``multiprocessing`` and ``os.system``. The program's name is
kept, its arguments are not."""

from __future__ import annotations

import os
import shlex
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture.probes.base import Probe, recorded, recorded_async
from jobdoctor.capture.recorder import Call, Recorder


def program(command: Any) -> str:
    """The base name of the program that a command runs."""
    try:
        if isinstance(command, (str, bytes)):
            text = os.fsdecode(command)
            words = [word for word in shlex.split(text[:500], posix=False) if "=" not in word] or [text]
            first: Any = words[0]
        elif isinstance(command, os.PathLike):
            first = command
        else:
            first = next(iter(command))
        return os.path.basename(os.fsdecode(first)).rstrip(";&|")[:80] or "process"
    except Exception:
        return "process"


def _begin_wait(rec: Recorder, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    process = args[0]
    if process.returncode is not None:
        return None
    shape = rec.shape("subprocess", "wait", program(process.args), library="subprocess", effect="unknown")
    return rec.begin(shape)


def _begin_system(rec: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    name = program(args[0] if args else kwargs["command"])
    return rec.begin(rec.shape("subprocess", "system", name, library="os", effect="unknown"))


def _begin_asyncio_wait(rec: Recorder, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    process = args[0]
    if process.returncode is not None:
        return None
    started = process._transport.get_extra_info("subprocess")
    shape = rec.shape("subprocess", "wait", program(getattr(started, "args", ())), library="asyncio", effect="unknown")
    return rec.begin(shape)


def _begin_join(rec: Recorder, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    process = args[0]
    if process._popen is None or process._popen.returncode is not None:
        return None
    name = type(process).__qualname__  # its target is forgotten once it has started
    return rec.begin(rec.shape("subprocess", "join", name, library="multiprocessing", effect="unknown"))


class SubprocessProbe(Probe):
    """Waits for a child: ``run``, ``call`` and ``check_output`` come through these methods."""

    channel: ClassVar[str] = "subprocess"
    library: ClassVar[str] = "subprocess"
    modules: ClassVar[tuple[str, ...]] = ("subprocess", "os", "asyncio.subprocess", "multiprocessing.process")

    def patch(self, module: ModuleType) -> None:
        """Replace the methods that wait."""
        m: Any = module
        match module.__name__:
            case "os":
                self.replace(module, "system", lambda original: recorded(original, _begin_system))
            case "multiprocessing.process":
                self.replace(m.BaseProcess, "join", lambda original: recorded(original, _begin_join))
            case "asyncio.subprocess":
                for name in ("wait", "communicate"):
                    self.replace(m.Process, name, lambda original: recorded_async(original, _begin_asyncio_wait))
            case _:
                for name in ("wait", "communicate"):
                    self.replace(m.Popen, name, lambda original: recorded(original, _begin_wait))
