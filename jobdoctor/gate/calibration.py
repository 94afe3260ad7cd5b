"""Workloads that tell how fast this machine is at this moment, to hold a job's time against.

A busy machine does not slow everything alike: a neighbour on the same core halves what arithmetic gets, one that
streams memory slows what misses the caches, and a processor that two virtual ones share slows calls and strings more
than it slows arithmetic. So there are several, of what jobs in Python mostly do; ``timing`` finds the mix that follows
a job. Times are CPU of this thread: what waits for a processor does not count.
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


class _Line:
    def __init__(self, price: int, number: int) -> None:
        self.price, self.number = price, number

    def total(self) -> int:
        return self.price * self.number


def _calls() -> int:
    total = 0
    for number in range(12_000):
        total += _Line(number, 2).total() & 0xFFFF
    return total


def _objects() -> int:
    total = 0
    for number in range(8_000):
        row = {"id": number, "name": str(number), "lines": [number, number + 1]}
        total += len(row["name"]) + row["lines"][1]  # type: ignore[arg-type,index]
    return total


def _memory() -> int:
    total = 0
    position = 0
    scattered = _SCATTERED
    for _ in range(12_000):
        position = scattered[position]
        total += position
        position = (position + 1) % 200_003
    return total


def _library() -> int:
    found = 0
    for _ in range(2):
        found += len(re.findall(r"(\d+) x (SKU-\d+)", _TEXT))
        text = json.dumps(_ROWS)
        found += len(json.loads(text)) + len(sorted(text.split(",")))
    return found


def _strings() -> int:
    found: dict[str, int] = {}
    for number in range(8_000):
        name = f"order-{number % 701:05}"
        found[name] = found.get(name, 0) + len(name.upper())
    return len(sorted(found))


def _heap() -> int:
    # Kept until all are made: their memory comes from the kernel, page by page, and goes back to it.
    rows = [{"id": number, "lines": [number]} for number in range(9_000)]
    return len(rows)


#: By name; each takes some milliseconds.
KERNELS: dict[str, Callable[[], int]] = {
    "calls": _calls,
    "heap": _heap,
    "library": _library,
    "memory": _memory,
    "objects": _objects,
    "strings": _strings,
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
