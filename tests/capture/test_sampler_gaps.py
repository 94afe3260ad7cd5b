"""What a sample says where the kernel says less: another right to look, another machine, no /proc."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jobdoctor.capture import sampler, wait_channels
from jobdoctor.capture.sampler import NO_DELAY, NO_WAITS, Sampler

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads /proc, which is not here")


@contextmanager
def child(work: Callable[[], Any]) -> Iterator[int]:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Reading /proc/<pid>/<name> is not permitted, as of a process that may not be traced."""
    readable = sampler._ProcReader._text

    def text(reader: sampler._ProcReader, asked: str) -> bytes:
        return b"" if asked == name else readable(reader, asked)

    monkeypatch.setattr(sampler._ProcReader, "_text", text)


def channels_are_shown() -> bool:
    with child(lambda: time.sleep(60)) as pid:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with open(f"/proc/{pid}/wchan", encoding="ascii") as channel:
                    if channel.read().startswith("hrtimer_nanosleep"):
                        return True
            except OSError:
                return False
            time.sleep(0.01)
    return False


def seen(pid: int, wanted: str, patience_s: float = 20.0) -> str:
    """What samples find the process in, until it is what is wanted."""
    with Sampler(pid) as watched:
        deadline = time.monotonic() + patience_s
        while True:
            sample = watched.sample()
            assert sample is not None
            if sample.wait == wanted or time.monotonic() > deadline:
                assert watched.gaps == []
                return sample.wait
            time.sleep(0.01)


def receive() -> None:
    ours, _theirs = socket.socketpair()
    ours.recv(1)


def poll() -> None:
    ours, _theirs = socket.socketpair()
    select.select([ours], [], [])


def wait_for_a_child() -> None:
    with subprocess.Popen(["/bin/sleep", "60"], preexec_fn=_end_with_parent) as process:
        process.wait()


def _end_with_parent() -> None:
    signal.alarm(30)


def read_a_pipe() -> None:
    end, _other = os.pipe()
    os.read(end, 1)


def wait_for_a_lock() -> None:
    held = threading.Lock()
    held.acquire()
    held.acquire()


WAITS: list[tuple[Callable[[], None], str]] = [
    (lambda: time.sleep(60), "sleep"),
    (receive, "socket"),
    (poll, "socket"),
    (wait_for_a_child, "child"),
    (read_a_pipe, "child"),
    (wait_for_a_lock, "futex"),
]


@pytest.mark.parametrize(("work", "wait"), WAITS)
def test_where_system_calls_are_hidden_the_kernels_function_tells(
    work: Callable[[], None], wait: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not channels_are_shown():
        pytest.skip("the kernel does not show wchan here")
    forbid(monkeypatch, "syscall")
    with child(work) as pid:
        assert seen(pid, wait) == wait


def test_on_a_machine_whose_system_calls_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    if not channels_are_shown():
        pytest.skip("the kernel does not show wchan here")
    monkeypatch.setattr(sampler.platform, "machine", lambda: "riscv64")
    with child(lambda: time.sleep(60)) as pid:
        assert seen(pid, "sleep") == "sleep"


def test_where_neither_may_be_read_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch, "syscall")
    monkeypatch.setattr(wait_channels, "kind_of", lambda _function: pytest.fail("nothing was read"))
    opened = open

    def closed(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith("/wchan"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(sampler, "open", closed, raising=False)
    with child(lambda: time.sleep(60)) as pid, Sampler(pid) as watched:
        deadline = time.monotonic() + 20
        while not watched.gaps and time.monotonic() < deadline:
            watched.sample()
            time.sleep(0.01)
        assert watched.samples[-1].wait == ""
        assert watched.samples[-1].rss_bytes > 0
    assert watched.gaps == [f"{NO_WAITS}: /proc/<pid>/syscall and /proc/<pid>/wchan may not be read"]
    assert watched.missing == ""


def burn_in_a_thread() -> None:
    def burn() -> None:
        until = time.thread_time() + 0.4
        while time.thread_time() < until:
            pass

    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()
    time.sleep(60)


def test_the_main_threads_cpu_is_told_from_that_of_others() -> None:
    with child(burn_in_a_thread) as pid, Sampler(pid) as watched:
        deadline = time.monotonic() + 30
        while watched.samples[-1].cpu_ns < 300_000_000 and time.monotonic() < deadline:
            watched.sample()
            time.sleep(0.02)
        last = watched.samples[-1]
    assert last.cpu_ns >= 300_000_000
    assert 0 < last.thread_cpu_ns < 150_000_000


def test_without_schedstat_the_run_queue_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch, "schedstat")
    with Sampler(os.getpid()) as watched:
        pass
    assert watched.gaps == [f"{NO_DELAY}: the kernel keeps no /proc/<pid>/schedstat"]
    assert watched.samples[0].thread_cpu_ns == 0


def test_psutil_knows_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "_open", lambda pid: (sampler._PsutilReader(pid), ""))
    with Sampler(os.getpid()) as watched:
        pass
    assert watched.gaps == [f"{NO_WAITS}: there is no /proc", f"{NO_DELAY}: there is no /proc"]


@pytest.mark.parametrize(
    ("call", "wait"),
    [
        (b"98 0xffff 0x80 0x0 0x0 0x0 0x0 0x0 0x0", "futex"),
        (b"101 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0", "sleep"),
        (b"115 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0", "sleep"),
        (b"207 0x5 0x0 0x0 0x0 0x0 0x0 0x0 0x0", "socket"),
        (b"22 0x5 0x0 0x0 0x0 0x0 0x0 0x0 0x0", "socket"),
        (b"73 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0", "sleep"),
        (b"73 0x0 0x1 0x0 0x0 0x0 0x0 0x0 0x0", "socket"),
        (b"72 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0", "sleep"),
        (b"260 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0", "child"),
        (b"95 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0", "child"),
        (b"82 0x5 0x0 0x0 0x0 0x0 0x0 0x0 0x0", "disk"),
        (b"running", "running"),
    ],
)
def test_system_calls_of_aarch64(call: bytes, wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler.platform, "machine", lambda: "aarch64")
    reader = sampler._ProcReader(os.getpid())
    try:
        monkeypatch.setattr(reader, "_text", lambda _name: call)
        assert reader._wait(b"S") == wait
    finally:
        reader.close()
