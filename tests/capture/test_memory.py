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
