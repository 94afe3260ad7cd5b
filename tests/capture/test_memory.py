"""Files of recorders whose process was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobdoctor.capture import memory

_KILLED = """
import os, signal
from jobdoctor.capture import memory
opened = memory.open_memory(memory.memory_path())
print(opened.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def _left_by_a_killed_process() -> Path:
    done = subprocess.run([sys.executable, "-c", _KILLED], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -9
    return Path(done.stdout.strip())


def test_files_of_killed_processes_are_removed() -> None:
    left = _left_by_a_killed_process()
    living = memory.open_memory(memory.memory_path())
    try:
        assert left.exists()
        assert living.path is not None
        assert memory.remove_stale() >= 1
        assert not left.exists()
        assert os.path.exists(living.path)
    finally:
        living.close()


def test_files_that_are_not_ours_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_directory", lambda: str(tmp_path))
    name = _left_by_a_killed_process().name
    _, pid, namespace, rest = name.split("-")
    small = tmp_path / name
    small.write_bytes(b"somebody's")
    elsewhere = tmp_path / f"jobdoctor-{pid}-{int(namespace) + 1}-{rest}"
    elsewhere.write_bytes(bytes(memory.SIZE))
    other = tmp_path / "notes.txt"
    other.write_bytes(bytes(memory.SIZE))
    assert memory.remove_stale() == 0
    assert {small, elsewhere, other} == set(tmp_path.iterdir())


def test_a_files_room_is_there_before_it_is_used(tmp_path: Path) -> None:
    """Where the disk is full it must be now that it fails, not when the horse writes: that would kill it."""
    opened = memory.open_memory(str(tmp_path / "memory"))
    try:
        status = os.stat(tmp_path / "memory")
        assert status.st_blocks * 512 >= memory.SIZE
    finally:
        opened.close()


def test_a_full_disk_gives_anonymous_memory_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    opened = memory.open_memory(str(tmp_path / "memory"))
    assert opened.path is None
    assert "No space left" in opened.fallback
    assert list(tmp_path.iterdir()) == []
    opened.close()
