"""Waits of the application for an event that did not come: with their timeout they are sleeps.

``Event.wait(5)`` and ``Condition.wait(5)`` that time out are recorded, when they are over. Those that end because
another thread set the event or notified are waits for the job's own work, and are not recorded; neither are those of
libraries.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture import callsites, recorder
from jobdoctor.capture.probes.afterwards import past
from jobdoctor.capture.probes.base import Probe, foreign, occupied
from jobdoctor.capture.recorder import Recorder


def _timed_out(rec: Recorder, name: str, start_ns: int) -> None:
    try:
        if recorder.current is not rec or rec.silent:
            return
        shape = rec.shape("sleep", "wait", name, library="threading", effect="none")
        call = past(rec, shape, start_ns)
        if call is not None:
            call.end()
    except Exception as error:
        if foreign(error):
            raise


def _wait(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def wait(self: Any, timeout: float | None = None) -> Any:
        rec = recorder.current
        if (
            rec is None
            or not timeout
            or rec.silent
            or occupied(rec)
            or not callsites.files[sys._getframe(1).f_code.co_filename]
        ):
            return original(self, timeout)
        start = rec.clock()
        result = original(self, timeout)
        if not result:
            _timed_out(rec, name, start)
        return result

    return wait


class ThreadWaitProbe(Probe):
    """``threading.Event.wait`` and ``threading.Condition.wait`` that time out."""

    channel: ClassVar[str] = "sleep"
    library: ClassVar[str] = "threading"
    modules: ClassVar[tuple[str, ...]] = ("threading",)

    def patch(self, module: ModuleType) -> None:
        """Replace the two methods."""
        m: Any = module
        self.replace(m.Event, "wait", lambda original: _wait(original, "threading.Event.wait"))
        self.replace(m.Condition, "wait", lambda original: _wait(original, "threading.Condition.wait"))
