"""Locks of libraries that poll for a file: the wait is one call, its tries and sleeps are part of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.capture.probes.conftest import Record, let_go, line

fasteners = pytest.importorskip("fasteners", reason="fasteners is not installed")

HOLDER = """
import sys, fasteners
with fasteners.InterProcessLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_that_another_process_holds(record: Record, tmp_path: Path) -> None:
    path = str(tmp_path / "stock-42.lock")
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    lock = fasteners.InterProcessLock(path)
    with record() as recorded, let_go(recorded, 0.1, process.stdin.close):
        lock.acquire()
        here = line(-1)
    lock.release()
    process.wait()
    process.stdout.close()
    group = recorded.one("lock")
    assert (group.count, group.library, group.effect) == (1, "filelock", "lock")
    assert group.fingerprint.endswith("/stock-{}.lock")
    assert 100_000_000 < group.blocked_ns <= group.total_ns
    assert group.callsite == f"tests/capture/probes/test_file_locks.py:{here}"
    assert [each.channel for each in recorded.groups] == ["lock"]  # no sleeps, no tries
    (wait,) = recorded.facts("lock")
    assert (wait["kind"], wait["target"]) == ("file", group.fingerprint)


def test_trying_once_is_no_wait(record: Record, tmp_path: Path) -> None:
    lock = fasteners.InterProcessLock(str(tmp_path / "free.lock"))
    with record() as recorded:
        assert lock.acquire(blocking=False)
    lock.release()
    assert recorded.facts("lock") == []
    assert not any(group.library == "filelock" for group in recorded.groups)
