"""Locks of files and threads: waits for others are recorded, everything else stays as it was."""

from __future__ import annotations

import fcntl
import logging
import queue
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobdoctor.capture import probes
from jobdoctor.capture.probes import locks
from jobdoctor.capture.probes.locks import RecordingLock, _replacement
from tests.capture.probes.conftest import Record, let_go, line

HOLDER = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("function", [fcntl.flock, fcntl.lockf], ids=["flock", "lockf"])
def test_a_file_lock_that_another_process_holds(record: Record, tmp_path: Path, function: object) -> None:
    path = tmp_path / "stock-42.lock"
    holder = HOLDER.replace("fcntl.flock", f"fcntl.{function.__name__}")  # type: ignore[attr-defined]
    process = subprocess.Popen([sys.executable, "-c", holder, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    with open(path, "w") as file:
        with record() as recorded, let_go(recorded, 0.15, process.stdin.close):
            getattr(fcntl, function.__name__)(file, fcntl.LOCK_EX)  # type: ignore[attr-defined]
            here = line(-1)
        getattr(fcntl, function.__name__)(file, fcntl.LOCK_UN)  # type: ignore[attr-defined]
    process.wait()
    process.stdout.close()
    group = recorded.one("lock")
    assert (group.count, group.library, group.effect) == (1, "fcntl", "lock")
    assert group.fingerprint.endswith("/stock-{}.lock")
    assert 150_000_000 < group.blocked_ns <= group.total_ns
    assert group.callsite == f"tests/capture/probes/test_locks.py:{here}"
    (wait,) = recorded.facts("lock")
    assert (wait["kind"], wait["target"]) == ("file", group.fingerprint)


def test_a_free_file_lock_is_not_blocked(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "FILE_CONTENDED_NS", 10_000_000_000)  # a busy machine may take a millisecond for it
    with open(tmp_path / "free.lock", "w") as file, record() as recorded:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.flock(file, fcntl.LOCK_UN)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert recorded.one("lock").count == 1
    assert recorded.one("lock").blocked_ns == 0
    assert recorded.facts("lock") == []


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_thread_lock_that_another_thread_holds(record: Record, kind: str) -> None:
    lock = getattr(threading, kind)()
    made = line(-1)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with record() as recorded:
        with let_go(recorded, 0.12, done.set), lock:
            pass
        for _ in range(100):
            with lock:
                pass
    thread.join()
    group = recorded.one("lock")
    assert (group.count, group.library) == (1, "threading")
    assert group.fingerprint == f"threading.{kind} of tests/capture/probes/test_locks.py:{made}"
    assert 120_000_000 < group.blocked_ns <= group.total_ns


def test_locks_behave_as_before(record: Record) -> None:
    lock, reentrant = threading.Lock(), threading.RLock()

    class Owner:
        make = threading.Lock  # no method, as it is none without the probe

    assert Owner().make().acquire()
    with record() as recorded:
        assert lock.acquire()
        assert lock.locked()
        assert not lock.acquire(blocking=False)
        assert not lock.acquire(timeout=0.01)
        lock.release()
        with pytest.raises(RuntimeError):
            lock.release()
        with pytest.raises(ValueError):
            lock.acquire(False, 1)
        with reentrant, reentrant:
            pass
        for of in (lock, reentrant):
            condition = threading.Condition(of)
            with condition:
                assert not condition.wait(0.01)
                condition.notify_all()
    assert recorded.one("lock").count == 1
    assert repr(lock).startswith("<unlocked _thread.lock")


def test_where_the_lock_is_a_type_both_kinds_are_its_instances() -> None:
    class Lock:
        """As ``threading.Lock`` is from Python 3.13 on."""

    stand_in = _replacement(Lock)
    ours = stand_in()
    assert type(ours) is RecordingLock
    assert isinstance(ours, stand_in)
    assert isinstance(Lock(), stand_in)
    assert not isinstance(threading.RLock(), stand_in)


def test_waiting_for_ones_own_threads_is_no_lock(record: Record) -> None:
    with record() as recorded:
        with ThreadPoolExecutor(2) as pool:
            pool.submit(time.sleep, 0.05).result()
        thread = threading.Thread(target=time.sleep, args=(0.05,))
        thread.start()
        thread.join()
        items: queue.Queue[int] = queue.Queue()
        with pytest.raises(queue.Empty):
            items.get(timeout=0.02)
        logging.getLogger(__name__).debug("x")
    assert recorded.of("lock") == []


def test_libraries_get_the_real_lock(installed: None) -> None:
    assert type(queue.Queue().mutex).__module__ == "_thread"
    assert type(threading.Condition()._lock).__module__ == "_thread"  # type: ignore[attr-defined]


def test_everything_is_put_back() -> None:
    before = threading.Lock, threading.RLock, fcntl.flock, fcntl.lockf
    probes.install_all()
    assert threading.Lock is not before[0]
    lock = threading.Lock()
    probes.uninstall_all()
    assert (threading.Lock, threading.RLock, fcntl.flock, fcntl.lockf) == before
    with lock:
        assert lock.locked()
