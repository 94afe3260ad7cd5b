"""A small container's memory limit: who grows beyond it is killed without a question, as the kernel does it."""

from __future__ import annotations

import os
import signal

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class MemoryGuard:
    """Kills this process once it has grown by more than ``limit_bytes`` since the guard was made."""

    def __init__(self, limit_bytes: int = 40_000_000) -> None:
        self.limit_bytes = limit_bytes
        self.before = _resident_bytes()

    def check(self) -> None:
        if _resident_bytes() - self.before > self.limit_bytes:
            os.kill(os.getpid(), signal.SIGKILL)


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * PAGE_BYTES
