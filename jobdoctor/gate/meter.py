"""What a run cost the process: wall time, CPU, waits for a processor, and the peak of its memory.

The kernel keeps a high-water mark of a process's resident memory; writing 5 to ``/proc/self/clear_refs`` sets it back
(proc(5), since Linux 4.0), so that afterwards it is the peak of the run alone, whatever ran before.
"""

from __future__ import annotations

import os
import threading
import time

_UNIT = 1024


class Meter:
    """``with Meter() as meter: job()``. Durations in ns; what the kernel does not tell is None.

    ``runqueue_ns`` is how long the thread was ready to run and had no processor: noise of the machine, not the job's.
    """

    wall_ns = 0
    cpu_ns = 0
    runqueue_ns: int | None = None
    peak_rss_bytes: int | None = None

    def __enter__(self) -> Meter:
        self._path = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        self._resident = _high_water() if _reset_high_water() else None
        self._runqueue = _runqueue_ns(self._path)
        self._cpu = time.process_time_ns()
        self._wall = time.perf_counter_ns()
        return self

    def __exit__(self, *_: object) -> None:
        wall = time.perf_counter_ns()
        self.cpu_ns = time.process_time_ns() - self._cpu
        self.wall_ns = wall - self._wall
        after = _runqueue_ns(self._path)
        if self._runqueue is not None and after is not None:
            self.runqueue_ns = max(0, after - self._runqueue)
        peak = _high_water()
        if self._resident is not None and peak is not None:
            self.peak_rss_bytes = max(0, peak - self._resident)


def _reset_high_water() -> bool:
    try:
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY)
    except OSError:
        return False
    try:
        os.write(descriptor, b"5")
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _high_water() -> int | None:
    """Peak of the resident memory, in bytes."""
    for line in _text("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * _UNIT
    return None


def _runqueue_ns(path: str) -> int | None:
    fields = _text(path).split()
    return int(fields[1]) if len(fields) > 1 else None


def _text(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(descriptor, 8192).decode("ascii", "replace")
    finally:
        os.close(descriptor)
