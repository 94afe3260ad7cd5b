"""Whether a process waits for SQLite's lock, and which process has it: read from /proc, without the database.

SQLite's busy handler sleeps between its attempts, and nothing else in SQLite sleeps: a process that is in a statement
and in ``nanosleep`` waits for the lock. Who writes holds a POSIX lock on a byte of its own: of the database's file, or
of the "-shm" file beside it in write-ahead mode (https://sqlite.org/fileformat2.html#wal_index_format, and
``PENDING_BYTE`` in SQLite's os.h).
"""

from __future__ import annotations

import os
from typing import Final

_PENDING: Final = 0x40000000
#: Pending, reserved and shared bytes of the rollback journal's modes.
_WRITERS: Final = range(_PENDING, _PENDING + 2 + 510)
_WAL_WRITER: Final = 120
#: nanosleep and clock_nanosleep on x86-64 and on ARM, where the kernel does not name the function.
_SLEEPS: Final = {"x86_64": frozenset({"35", "230"}), "aarch64": frozenset({"101", "115"})}


def waits(pid: int) -> bool:
    """Whether the process's main thread sleeps. False where /proc does not say."""
    where = _read(f"/proc/{pid}/wchan")
    if where and where != "0":
        return "nanosleep" in where
    return _read(f"/proc/{pid}/syscall").partition(" ")[0] in _SLEEPS.get(os.uname().machine, frozenset())


def holder(pid: int, target: str) -> int:
    """The process that holds the writer's lock of "sqlite:///path", as process ``pid`` sees the path; 0: not known."""
    path = os.path.join(f"/proc/{pid}/cwd", target.removeprefix("sqlite:///"))
    files: dict[str, range] = {}
    for name, places in ((path, _WRITERS), (f"{path}-shm", range(_WAL_WRITER, _WAL_WRITER + 1))):
        try:
            files[str(os.stat(name).st_ino)] = places
        except OSError:
            pass
    for line in _read("/proc/locks").splitlines():
        words = line.split()  # "1: POSIX  ADVISORY  WRITE 4711 fe:00:2318361 1073741825 1073741825"
        if len(words) != 8 or words[1] != "POSIX" or words[3] != "WRITE" or words[4] in ("-1", str(pid)):
            continue
        inode = words[5].rpartition(":")[2]
        if inode in files and words[6].isdigit() and int(words[6]) in files[inode]:
            return int(words[4])
    return 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
