"""Exceptions that came out of our own code without being ours: they belong to the job, or to RQ, and must go on."""

from __future__ import annotations

import os
from inspect import CO_VARARGS
from types import FrameType

#: No handler of ours raises, but functions of ours are given numbers and frames too.
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

#: Raised by RQ's signal handlers and timers, wherever the process happens to be. Where they are defined differs between
#: RQ's versions, and this is imported where RQ may not be.
_OF_RQ = frozenset({"ShutDownImminentException", "StopRequested"})


def _of_rq(kind: type) -> bool:
    module = kind.__module__
    return module == "rq.timeouts" or (module.startswith("rq.") and kind.__name__ in _OF_RQ)


def foreign(error: BaseException) -> bool:
    """Whether an exception that came out of our own code was raised into it from outside: by a signal handler, or into
    this thread by RQ's timer.

    Such an exception (RQ's job timeout, KeyboardInterrupt) is the job's business and must go on. A handler's frame,
    which takes a signal number and a frame, stands in the traceback; the timer's leaves none, but its type is RQ's.
    """
    if not isinstance(error, Exception) or any(_of_rq(kind) for kind in type(error).__mro__):
        return True
    traceback = error.__traceback__
    while traceback is not None:
        ours = traceback.tb_frame.f_code.co_filename.startswith(_OURS)
        values = [] if ours else _arguments(traceback.tb_frame)
        if any(isinstance(value, FrameType) for value in values) and any(type(value) is int for value in values):
            return True
        traceback = traceback.tb_next
    return False


def _arguments(frame: FrameType) -> list[object]:
    """The positional arguments that a function was called with, those of its ``*args`` among them."""
    code = frame.f_code
    values = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount]]
    if code.co_flags & CO_VARARGS:
        values += frame.f_locals.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ())
    return values
