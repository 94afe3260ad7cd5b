"""Watching a real child from outside: what it waits in, its CPU and memory, and that it may go at any moment."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobdoctor.capture import sampler
from jobdoctor.capture.sampler import Sampler, rusage_of
from tests.capture.children import in_a_fork, sampled_until_gone

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads /proc, which is not here")


def fork(work: Callable[[], Any]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def watch(work: Callable[[], Any]) -> tuple[Sampler, Any]:
    """The samples of a child that does the work, and wait4's answer."""
    pid = fork(work)
    with Sampler(pid) as watched:
        done = sampled_until_gone(pid, watched)
    assert done[0] == pid
    return watched, done


def waits(watched: Sampler) -> Counter[str]:
    return Counter(sample.wait for sample in watched.samples)


def watch_until(work: Callable[[], Any], wanted: str, cpu_ns: int = 0) -> tuple[Sampler, Any]:
    """The same of a child that does not end: it is killed once most samples, eight at least, say what is wanted. It may
    take a while to get there on a busy machine."""
    pid = fork(work)
    deadline = time.monotonic() + 20
    with Sampler(pid) as watched:

        def on_sample() -> None:
            found = waits(watched).most_common(1)
            done = found and found[0][0] == wanted and found[0][1] >= 8 and watched.samples[-1].cpu_ns >= cpu_ns
            if done or time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)

        done = sampled_until_gone(pid, watched, on_sample)
    assert os.WTERMSIG(done[1]) == signal.SIGKILL
    assert waits(watched).most_common(1)[0][0] == wanted
    return watched, done


def spin(seconds: float) -> int:
    until = time.process_time() + seconds
    number = 0
    while time.process_time() < until:
        number += 1
    return number


class TestWaits:
    def test_sleeping(self) -> None:
        watched, _ = watch_until(lambda: time.sleep(60), "sleep")
        assert watched.samples[-1].cpu_ns < 150_000_000

    def test_spinning(self) -> None:
        watched, done = watch_until(lambda: spin(60), "running", cpu_ns=150_000_000)
        usage = rusage_of(done[2])
        assert watched.samples[-1].cpu_ns <= usage.user_ns + usage.system_ns + 20_000_000

    def test_blocked_on_a_socket(self) -> None:
        _mine, theirs = socket.socketpair()
        theirs.settimeout(None)
        watch_until(lambda: theirs.recv(1), "socket")

    def test_polling_a_socket_with_a_timeout(self) -> None:
        _mine, theirs = socket.socketpair()
        theirs.settimeout(60)
        watch_until(lambda: theirs.recv(1), "socket")

    def test_a_thread_lock(self) -> None:
        def work() -> None:
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()

        watch_until(work, "futex")

    def test_threads_that_wait_for_a_processor(self) -> None:
        def work() -> None:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            if os.fork() == 0:  # somebody else on the one processor
                spin(0.3)
                os._exit(0)
            thread = threading.Thread(target=spin, args=(0.2,))
            thread.start()
            thread.join()
            os.wait()

        watched, _ = watch(work)
        assert watched.samples[-1].threads_runqueue_ns > 50_000_000

    def test_a_file_lock(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        with open(path, "w") as mine:
            fcntl.flock(mine, fcntl.LOCK_EX)

            def work() -> None:
                with open(path) as theirs:
                    fcntl.flock(theirs, fcntl.LOCK_EX)

            watch_until(work, "futex")

    def test_a_subprocess(self) -> None:
        watch_until(lambda: subprocess.run(["sleep", "2"], check=True) and time.sleep(60), "child")


class TestMemory:
    def test_growth_shows_above_the_baseline(self) -> None:
        grown = 64 * 1024 * 1024

        def work() -> None:
            held = b"x" * grown
            time.sleep(0.2)
            del held

        watched, done = watch(work)
        assert watched.peak_rss_bytes - watched.baseline_rss_bytes > grown * 0.9
        usage = rusage_of(done[2], watched.baseline_rss_bytes)
        assert usage.max_rss_bytes - usage.baseline_rss_bytes > grown * 0.9


class TestBounds:
    def test_samples_are_decimated_and_the_interval_grows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sampler, "SAMPLES", 16)
        with Sampler(os.getpid()) as watched:
            first = watched.samples[0]
            for _ in range(200):
                watched.sample()
        assert len(watched.samples) <= 16
        assert watched.samples[0] == first
        assert watched.spacing >= 8
        times = [sample.at_ns for sample in watched.samples]
        assert times == sorted(times)
        assert watched.interval_s() >= 8 * sampler.FIRST_INTERVAL_S

    def test_the_interval_is_short_at_first_and_bounded(self) -> None:
        with Sampler(os.getpid()) as watched:
            assert watched.interval_s() == sampler.FIRST_INTERVAL_S
            watched.started_ns -= int(1e9)
            assert sampler.FIRST_INTERVAL_S < watched.interval_s() < sampler.LAST_INTERVAL_S
            watched.started_ns -= int(60e9)
            assert watched.interval_s() == sampler.LAST_INTERVAL_S

    def test_no_descriptor_stays_open(self) -> None:
        def opened() -> int:
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(5):
                watch(lambda: None)
            return len(os.listdir("/proc/self/fd")) - before

        assert in_a_fork(opened) == 0


class TestGone:
    def test_a_process_that_is_gone_before_it_was_watched(self) -> None:
        pid = fork(lambda: None)
        os.waitpid(pid, 0)
        watched = Sampler(pid)
        assert watched.samples == []
        assert watched.missing
        assert watched.sample() is None
        with pytest.raises(ChildProcessError):
            sampled_until_gone(pid, watched)

    def test_a_zombie_gives_no_sample(self) -> None:
        pid = fork(lambda: None)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with Sampler(pid) as watched:
            assert watched.samples == []
            assert sampled_until_gone(pid, watched)[:2] == (pid, 0)

    def test_a_process_that_goes_while_it_is_watched(self) -> None:
        pid = fork(lambda: time.sleep(60))
        with Sampler(pid) as watched:
            assert len(watched.samples) == 1
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            assert watched.sample() is None
        assert watched.missing == ""

    def test_the_status_of_a_killed_child(self) -> None:
        pid = fork(lambda: time.sleep(60))
        threading.Timer(0.05, os.kill, (pid, signal.SIGKILL)).start()
        with Sampler(pid) as watched:
            done = sampled_until_gone(pid, watched)
        assert os.WTERMSIG(done[1]) == signal.SIGKILL


class TestWithoutProc:
    def test_psutil_serves(self) -> None:
        pid = fork(lambda: spin(0.2))
        reader = sampler._PsutilReader(pid)
        time.sleep(0.1)
        sample = reader.read()
        assert sample is not None
        assert sample.rss_bytes > 1_000_000
        os.waitpid(pid, 0)
        assert reader.read() is None

    def test_nothing_at_all_gives_a_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(pid: int) -> Any:
            raise OSError("no such thing")

        monkeypatch.setattr(sampler, "_ProcReader", broken)
        monkeypatch.setattr(sampler, "_PsutilReader", broken)
        monkeypatch.setattr(os.path, "exists", lambda _: False)
        watched = Sampler(os.getpid())
        assert watched.sample() is None
        assert "psutil" in watched.missing
