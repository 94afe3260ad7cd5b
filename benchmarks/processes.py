"""CPU and memory of a worker with all that belongs to it: horses, helpers, whatever it started. Linux."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_TICK_MS = 1_000 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_ms(worker: int) -> float:
    """User and system time so far, in ms, of the worker, its living descendants, and those it has reaped. It comes in
    ticks of the kernel (10 ms): take it over many jobs."""
    return _TICK_MS * sum(sum(int(field) for field in stat[11:15]) for _, stat in _family(worker))


def resident_mb(worker: int) -> float:
    """Resident memory of the worker itself."""
    return int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * _PAGE / 1e6


def proportional_mb(worker: int) -> float:
    """Memory of the worker and its helpers together, pages that several processes share divided among them (PSS)."""
    return sum(_proportional_kb(pid) for pid, _ in _family(worker)) * 1024 / 1e6


def _proportional_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _family(worker: int) -> Iterator[tuple[int, list[str]]]:
    """(pid, fields of /proc/<pid>/stat after the name) of the worker's session and of its descendants: a helper may
    have left the one or the other."""
    stats: dict[int, list[str]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stats[int(entry)] = Path(f"/proc/{entry}/stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue  # it is gone
    family = {worker}
    grown = True
    while grown:
        more = {
            pid
            for pid, stat in stats.items()
            if pid not in family and (int(stat[1]) in family or int(stat[3]) == worker)
        }
        grown = bool(more)
        family |= more
    for pid in family:
        if pid in stats:
            yield pid, stats[pid]
