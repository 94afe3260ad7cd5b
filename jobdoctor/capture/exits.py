"""Notes where the application calls ``os._exit`` while it is recorded: nothing else is left of such an end."""

from __future__ import annotations

import functools
import os
import sys
from types import FrameType
from typing import Any, NoReturn

from jobdoctor.capture import callsites, recorder
from jobdoctor.capture.foreign import foreign
from jobdoctor.capture.last_stack import frames_of
from jobdoctor.capture.outside_stack import RawFrame

_original: Any = None


def install() -> None:
    """From now on a call of ``os._exit`` by the application leaves a note of its stack. RQ's own call, with which every
    forked horse ends, does not. Does nothing the second time."""
    global _original
    if _original is not None:
        return
    original = _original = os._exit

    @functools.wraps(original)
    def _exit(status: int) -> NoReturn:
        try:
            recording = recorder.current
            if recording is not None and callsites.is_application(sys._getframe(1).f_code.co_filename):
                recording.note("raised_at", stack=frames_of(_frames(1)), limits={})
        except Exception as error:
            if foreign(error):
                raise
        original(status)

    os._exit = _exit


def uninstall() -> None:
    """Puts the function back."""
    global _original
    if _original is not None:
        os._exit = _original
        _original = None


def _frames(skip: int) -> list[RawFrame]:
    frame: FrameType | None = sys._getframe(skip + 1)
    found: list[RawFrame] = []
    while frame is not None:
        found.append(RawFrame(frame.f_code.co_filename, frame.f_lineno, callsites.function_name(frame.f_code)))
        frame = frame.f_back
    return found
