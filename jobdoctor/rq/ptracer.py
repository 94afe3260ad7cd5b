"""Lets the witness look at the process that runs a job where the kernel allows that to parents only.

Under Yama's ``ptrace_scope`` 1 (Ubuntu's default) a process may read another's system call and memory only when it is
its ancestor, or was named by it. The witness stands beside the horse, so the horse names it.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

_SCOPE = "/proc/sys/kernel/yama/ptrace_scope"
_PR_SET_PTRACER = 0x59616D61  # linux/prctl.h
_library: Any = None


def prepare() -> bool:
    """In the worker: loads what ``allow`` needs, so that horses inherit it. False where it is not needed."""
    global _library
    if _library is None and os.geteuid() and _scope() == "1":
        _library = importlib.import_module("ctypes").CDLL(None)
    return _library is not None


def allow(witness: int) -> None:
    """In the process that runs the job: this other process may look. Elsewhere than under Yama nothing happens."""
    if _library is not None and witness:
        _library.prctl(_PR_SET_PTRACER, witness, 0, 0, 0)


def _scope() -> str:
    try:
        with open(_SCOPE, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
