"""The flight recorder: what the process that runs a job writes, and what survives when that process is killed.

Probes and workers write through ``current``; ``recording`` reads the memory, at any instant and from another process.

Memory is bounded for any number of calls: each shape of call from each line has one cell that is updated in place, so
counts are exact; single spans, notes and callsites are bounded logs. The shared memory is ``layout.SIZE``, 1 MiB, and
what the recorder keeps beside it in the process is less than that: together never more than 2 MiB.

There are two recorders that write the same: ``reference.PythonRecorder``, and, where the accelerator was built
(``ACCELERATED``), one whose hot path is in C. ``begin`` and ``end`` together take some microseconds in Python, about
half of one in C.
``overhead_ns`` in a recording is an estimate: calls seen times the cost of one begin/end pair, which ``calibrate``
measures once in each process on a scratch memory.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jobdoctor.capture import callsites
from jobdoctor.capture.calls import BATCHED, IDEMPOTENCY_KEY, NEW_CONNECTION, NO_TIMEOUT, Call, Cell, Shape
from jobdoctor.capture.foreign import foreign
from jobdoctor.capture.layout import PHASES
from jobdoctor.capture.memory import Memory, memory_path, open_memory
from jobdoctor.capture.reference import OTHER, PythonRecorder, type_name

#: What ``reference`` and the accelerator have agreed upon; one that was built from other sources is left alone.
_CONTRACT = 3


def _load() -> Any:
    """The accelerator, None where there is none or ``JOBDOCTOR_PURE=1`` asks for Python."""
    if os.environ.get("JOBDOCTOR_PURE", "") not in ("", "0"):
        return None
    try:
        core: Any = importlib.import_module("jobdoctor.capture._accelerator")
    except ImportError:
        return None
    return core if core.CONTRACT == _CONTRACT else None


_core = _load()
#: Whether the recorder's hot path is the one in C.
ACCELERATED = _core is not None

if TYPE_CHECKING or _core is None:
    Recorder = PythonRecorder
    from jobdoctor.capture.remembered import Known, Server, Session
else:
    Known, Server, Session = _core.Known, _core.Server, _core.Session

    class Recorder(_core.Core, PythonRecorder):
        """The recorder with its hot path in C."""

        shape_type = _core.Shape
        cell_type = _core.Cell


#: The recorder of the execution that runs in this process; None when there is none, and probes pass straight through.
current: Recorder | None = None


def start(recorder: Recorder) -> bool:
    """Record into ``recorder`` from now on. False, and nothing changes, when an execution is being recorded already."""
    global current
    if current is not None and current is not recorder:
        current.suppressed()
        return False
    recorder.began()
    current = recorder
    return True


def stop() -> None:
    """Record nothing from now on."""
    global current
    current = None


def _forget_in_child() -> None:
    # A process that the job forks must not write into the job's recording.
    global current
    current = None


def _say_fork() -> None:
    if current is not None and not current.forked:
        current.forked = True
        current.note("missing", text="Calls of processes that the job forked: only the job's own process is recorded")


os.register_at_fork(before=_say_fork, after_in_child=_forget_in_child)


def hot(make: Callable[[Any], Any], kind: str, *, method: bool = True, **more: Any) -> Callable[[Any], Any]:
    """``make``, which wraps a method in Python; in front of its wrapper one in C, where there is the accelerator, that
    records the most frequent calls by itself. ``kind`` and ``more`` are for that one."""
    if _core is None:
        return make
    wrapper = _core.Wrapper if method else _core.Function

    def made(original: Any) -> Any:
        return functools.update_wrapper(wrapper(kind, original, make(original), **more), original)

    return made


def calibrate() -> int:
    """Cost of one begin/end pair in this process, ns: see ``PythonRecorder.calibrate``."""
    return Recorder.calibrate()


__all__ = [
    "ACCELERATED",
    "BATCHED",
    "IDEMPOTENCY_KEY",
    "NEW_CONNECTION",
    "NO_TIMEOUT",
    "OTHER",
    "PHASES",
    "Call",
    "Cell",
    "Known",
    "Memory",
    "PythonRecorder",
    "Recorder",
    "Server",
    "Session",
    "Shape",
    "calibrate",
    "callsites",
    "current",
    "foreign",
    "hot",
    "memory_path",
    "open_memory",
    "start",
    "stop",
    "type_name",
]
