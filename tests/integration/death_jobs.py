"""Jobs that come to an end they did not choose. Importable by forked and spawned horses."""

from __future__ import annotations

import ctypes
import os
import pathlib
import resource
import signal
import threading
import time


def fault() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def bus_error() -> None:
    signal.raise_signal(signal.SIGBUS)


def leave(code: int) -> None:
    time.sleep(0.3)  # long enough to be looked at
    os._exit(code)


def sleep_for(seconds: float) -> None:
    time.sleep(seconds)


def computing(seconds: float) -> int:
    ends = time.monotonic() + seconds
    number = 0
    while time.monotonic() < ends:
        number += 1
    return number


def kill_self_after(seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    computing(60)


def fill_memory(step: int = 8 * 1024 * 1024, pause: float = 0.01, most: int = 400 * 1024 * 1024) -> None:
    held: list[bytes] = []
    while len(held) * step < most:
        held.append(b"x" * step)
        time.sleep(pause)


def fill_limited_memory(limit_bytes: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as statm:
        size = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + limit_bytes, resource.RLIM_INFINITY))
    fill_memory(pause=0)


def outgrow_file_limit(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def use_up_cpu() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (1, resource.RLIM_INFINITY))
    computing(60)


def swallow_the_timeout() -> None:
    while True:
        try:
            time.sleep(0.05)
        except Exception:
            pass


def stay_in_native_code() -> None:
    """A call that does not look at signals: a lock taken twice, without Python."""
    library = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)  # and again


def wait_in_python(started: str) -> None:
    pathlib.Path(started).write_text(str(os.getpid()), encoding="ascii")
    computing(60)
