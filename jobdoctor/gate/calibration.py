"""Workloads that tell how fast this machine is at this moment, to hold a job's time against.

A busy machine does not slow everything alike: a neighbour on the same core halves what arithmetic gets, one that
streams memory slows what misses the caches. So there are several, each about as long as a cell of a job that matters,
and a job counts as slower only where it is slower than all of them are. Times are CPU of this thread: what waits for a
processor does not count.
"""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Callable
from functools import cache

_TEXT = " ".join(f"order {number}: {number * 7 % 101} x SKU-{number * 13 % 997:05}" for number in range(400))
_ROWS = [{"id": number, "name": f"name {number}", "price": number * 1.1, "tags": ["a", "b"]} for number in range(300)]
#: Larger than the caches of one core, smaller than those of most processors.
_SCATTERED = [(number * 7_919) % 200_003 for number in range(200_003)]


def _arithmetic() -> int:
    total = 0
    for number in range(90_000):
        total = (total * 31 + number) & 0xFFFFFF
    return total


def _objects() -> int:
    total = 0
    for number in range(12_000):
        row = {"id": number, "name": str(number), "lines": [number, number + 1]}
        total += len(row["name"]) + row["lines"][1]  # type: ignore[arg-type,index]
    return total


def _memory() -> int:
    total = 0
    position = 0
    scattered = _SCATTERED
    for _ in range(18_000):
        position = scattered[position]
        total += position
        position = (position + 1) % 200_003
    return total


def _library() -> int:
    found = 0
    for _ in range(3):
        found += len(re.findall(r"(\d+) x (SKU-\d+)", _TEXT))
        text = json.dumps(_ROWS)
        found += len(json.loads(text)) + len(sorted(text.split(",")))
    return found


def _heap() -> int:
    # Kept until all are made: their memory comes from the kernel, page by page, and goes back to it.
    rows = [{"id": number, "lines": [number]} for number in range(12_000)]
    return len(rows)


#: By name; each takes some milliseconds.
KERNELS: dict[str, Callable[[], int]] = {
    "arithmetic": _arithmetic,
    "heap": _heap,
    "library": _library,
    "memory": _memory,
    "objects": _objects,
}


def kernel_times() -> dict[str, float]:
    """CPU milliseconds of each workload, now."""
    found = {}
    for name, kernel in KERNELS.items():
        began = time.thread_time_ns()
        kernel()
        found[name] = (time.thread_time_ns() - began) / 1e6
    return found


@cache
def machine() -> str:
    """The processor and the interpreter: figures from another one are not comparable, whatever calibrates them."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as information:
            model = next(
                (line.partition(":")[2].strip() for line in information if line.startswith("model name")), model
            )
    except OSError:
        pass
    version = ".".join(platform.python_version_tuple()[:2])
    return f"{platform.python_implementation()} {version}, {' '.join(model.split())}"
