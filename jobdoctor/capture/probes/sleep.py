"""Sleeps of the job. Those inside another recorded call (a lock that polls) are part of that call."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture.probes.base import Probe, recorded, recorded_async
from jobdoctor.capture.recorder import Call, Recorder


def _begin(rec: Recorder, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    if not args or not args[0]:
        return None
    return rec.begin(rec.shape("sleep", "sleep", "time.sleep", library="time", effect="none"))


def _begin_asyncio(rec: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    if not (args[0] if args else kwargs.get("delay")):
        return None  # only gives the other tasks their turn
    return rec.begin(rec.shape("sleep", "sleep", "asyncio.sleep", library="asyncio", effect="none"))


class SleepProbe(Probe):
    """``time.sleep``."""

    channel: ClassVar[str] = "sleep"
    library: ClassVar[str] = "time"
    modules: ClassVar[tuple[str, ...]] = ("time",)

    def patch(self, module: ModuleType) -> None:
        """Replace ``time.sleep``."""
        self.replace(module, "sleep", lambda original: recorded(original, _begin))


class AsyncioSleepProbe(Probe):
    """``asyncio.sleep``. Other tasks run meanwhile: the sleep has the lowest priority in the attribution of time."""

    channel: ClassVar[str] = "sleep"
    library: ClassVar[str] = "asyncio"
    modules: ClassVar[tuple[str, ...]] = ("asyncio.tasks", "asyncio")

    def patch(self, module: ModuleType) -> None:
        """Replace ``asyncio.sleep`` under both of its names."""
        self.replace(module, "sleep", lambda original: recorded_async(original, _begin_asyncio))
