"""Pauses of the garbage collector."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import Probe

_clock = time.perf_counter_ns
_OLDEST = 2


class GcProbe(Probe):
    """A callback of the collector; it has no channel of its own, its figures stand beside the calls."""

    channel: ClassVar[str] = ""
    library: ClassVar[str] = "gc"
    modules: ClassVar[tuple[str, ...]] = ("gc",)

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: list[Any] = []
        self._started = 0
        self._callback = self._collected

    def patch(self, module: ModuleType) -> None:
        """Add the callback."""
        m: Any = module
        m.callbacks.append(self._callback)
        self._callbacks = m.callbacks

    def uninstall(self) -> None:
        """Take the callback away."""
        if self._callback in self._callbacks:
            self._callbacks.remove(self._callback)
        super().uninstall()

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        rec = recorder.current
        if rec is None:
            self._started = 0
        elif phase == "start":
            self._started = _clock()
        elif self._started:
            rec.gc_pause(_clock() - self._started, info["generation"] == _OLDEST)
            self._started = 0
