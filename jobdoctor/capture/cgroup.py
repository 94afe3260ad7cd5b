"""The memory that a process may use, and whether the kernel's out-of-memory killer struck: of its control group, in
version 1 and version 2, nested or seen from inside a container; of the machine where no group can be read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from msgspec import Struct

#: Version 1 says "no limit" with the largest multiple of a page; nobody has as much.
_UNLIMITED = 1 << 60


class MemoryFacts(Struct, frozen=True):
    """What is known of the memory of a process that ended."""

    limit_bytes: int = 0  # the smallest limit of its control group and of those above it; 0: none is known
    machine_bytes: int = 0  # all that the machine has
    oom_kills: int = 0  # processes of the same group killed by the kernel meanwhile; of the machine: see ``watched``
    limit_hits: int = 0  # times that a limit of the group was reached meanwhile, and nothing could be freed
    watched: str = ""  # "cgroup", "machine", or empty when nothing could be read


class _Group(Struct, frozen=True):
    """One control group on the way up to the root."""

    path: str
    version: int

    def limit_bytes(self) -> int:
        """0 when there is none."""
        name = "memory.max" if self.version == 2 else "memory.limit_in_bytes"
        text = _text(os.path.join(self.path, name)).strip()
        limit = int(text) if text.isdigit() else 0
        return limit if limit < _UNLIMITED else 0

    def events(self) -> dict[str, int]:
        """Cumulative counters: ``oom_kill`` (victims in this group; in version 2 also below it) and ``hits``."""
        if self.version == 2:
            found = _pairs(_text(os.path.join(self.path, "memory.events")))
            return {"oom_kill": found["oom_kill"], "hits": found.get("oom", 0)} if "oom_kill" in found else {}
        found = _pairs(_text(os.path.join(self.path, "memory.oom_control")))
        hits = _text(os.path.join(self.path, "memory.failcnt")).strip()
        if "oom_kill" not in found:
            return {}
        return {"oom_kill": found["oom_kill"], "hits": int(hits) if hits.isdigit() else 0}


#: Nanoseconds for which a reading of the counters is new enough to begin an execution with.
_NEW_NS = 1_000_000_000


class MemoryWatch:
    """Counters from now on, or from the last :meth:`renew`. ``groups`` are those of :func:`groups_of`, which stay the
    same for all processes that a worker forks."""

    def __init__(self, groups: list[_Group]) -> None:
        self._groups = groups
        self._read()

    def _read(self) -> None:
        self._read_ns = time.monotonic_ns()
        self._before = [group.events() for group in self._groups]
        # A cheaper file than that of the machine, and a surer sign.
        self._own = bool(self._groups and self._before[0])
        self._machine_before = None if self._own else _machine_oom_kills()

    def renew(self) -> None:
        """An execution begins: what happened up to now is not its. At most one reading a second."""
        if time.monotonic_ns() - self._read_ns > _NEW_NS:
            self._read()

    def facts(self) -> MemoryFacts:
        """What happened since then. Limits are read now: somebody may have changed them."""
        limits = [group.limit_bytes() for group in self._groups]
        after = [group.events() for group in self._groups]
        hits = sum(
            max(0, now["hits"] - before["hits"])
            for before, now, limit in zip(self._before, after, limits, strict=True)
            if limit and before and now
        )
        kills = 0
        watched = ""
        if self._own and after[0]:
            kills, watched = after[0]["oom_kill"] - self._before[0]["oom_kill"], "cgroup"
        elif self._machine_before is not None:
            kills, watched = (_machine_oom_kills() or 0) - self._machine_before, "machine"
        return MemoryFacts(
            limit_bytes=min((limit for limit in limits if limit), default=0),
            machine_bytes=_machine_bytes(),
            oom_kills=max(0, kills),
            limit_hits=hits,
            watched=watched,
        )


def groups_of(process: str = "self", read: Callable[[str], str] | None = None) -> list[_Group]:
    """The memory control groups of a process, its own first, then those above it; empty when there are none."""
    text = read or _text
    memberships = [line.split(":", 2) for line in text(f"/proc/{process}/cgroup").splitlines() if line.count(":") >= 2]
    mounts = _mounts(text(f"/proc/{process}/mountinfo"))
    for number, controllers, path in memberships:
        if "memory" in controllers.split(","):
            return _way_up(path, mounts.get(1), 1)
        if number == "0" and not any("memory" in each[1].split(",") for each in memberships):
            return _way_up(path, mounts.get(2), 2)
    return []


def _mounts(mountinfo: str) -> dict[int, tuple[str, str]]:
    """(root within the hierarchy, where it is mounted) of each version's hierarchy."""
    found: dict[int, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if not separator or len(fields) < 5 or len(kind) < 3:
            continue
        root, mountpoint = _unescaped(fields[3]), _unescaped(fields[4])
        if kind[0] == "cgroup2":
            found.setdefault(2, (root, mountpoint))
        elif kind[0] == "cgroup" and "memory" in kind[2].split(","):
            found.setdefault(1, (root, mountpoint))
    return found


def _unescaped(path: str) -> str:
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _way_up(path: str, mount: tuple[str, str] | None, version: int) -> list[_Group]:
    if mount is None:
        return []
    root, mountpoint = mount
    # In a container the hierarchy may be mounted from the container's own group on, or the path be seen from there.
    if root != "/" and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    elif root != "/" or ".." in path.split("/"):
        path = ""
    steps = [step for step in path.split("/") if step]
    return [_Group(os.path.join(mountpoint, *steps[:depth]), version) for depth in range(len(steps), -1, -1)]


def _pairs(text: str) -> dict[str, int]:
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.strip().isdigit():
            found[name] = int(value)
    return found


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _machine_oom_kills() -> int | None:
    """Processes that the out-of-memory killer has killed since the start of the machine, in any group; None when the
    kernel does not say."""
    return _pairs(_text("/proc/vmstat")).get("oom_kill")


def _machine_bytes() -> int:
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0
