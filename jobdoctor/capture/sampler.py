"""Watches the horse from outside, while it runs: CPU, memory, run-queue delay, I/O, and what it is blocked in.

On Linux by ``pread`` of /proc files that stay open (10 to 20 us a sample, in the parent; the horse pays nothing). CPU
is of the whole process; while it has one thread it is exact to the nanosecond (schedstat), with more it comes in ticks
of the kernel's clock (10 ms). What it waits for, and the run-queue delay, are of its main thread; the delay of its
other threads is read beside it while there are any. Where /proc does not exist psutil gives CPU and memory; where
neither works ``missing`` says so.
"""

from __future__ import annotations

import os
import platform
import time
from resource import struct_rusage
from typing import Protocol

from jobdoctor.capture import wait_channels
from jobdoctor.capture.foreign import foreign
from jobdoctor.model import Rusage, Sample

#: Samples kept: beyond it every second one is dropped, and the interval doubled.
SAMPLES = 512
#: Seconds between samples: short at first, so that short jobs have some, growing with the time elapsed.
FIRST_INTERVAL_S = 0.010
LAST_INTERVAL_S = 0.050
_INTERVAL_SHARE = 1 / 40

#: Threads whose run-queue delay is read with each sample.
_THREADS = 32

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK_NS = 1_000_000_000 // max(1, os.sysconf("SC_CLK_TCK"))

# Numbers of the system calls that block, from the kernel's tables of the two architectures that RQ is run on.
_SYSCALLS: dict[str, dict[int, str]] = {
    "x86_64": {
        0: "descriptor", 1: "descriptor", 7: "poll", 17: "descriptor", 18: "descriptor", 19: "descriptor",
        20: "descriptor", 23: "select", 35: "sleep", 42: "socket", 43: "socket", 44: "socket", 45: "socket",
        46: "socket", 47: "socket", 61: "child", 72: "futex", 73: "futex", 74: "disk", 75: "disk", 202: "futex",
        230: "sleep", 232: "socket", 247: "child", 257: "disk", 270: "select", 271: "poll", 281: "socket",
        288: "socket", 441: "socket",
    },
    "aarch64": {
        22: "socket", 25: "futex", 32: "futex", 56: "disk", 63: "descriptor", 64: "descriptor", 65: "descriptor",
        66: "descriptor", 67: "descriptor", 68: "descriptor", 72: "select", 73: "poll", 82: "disk", 83: "disk",
        95: "child", 98: "futex", 101: "sleep", 115: "sleep", 202: "socket", 203: "socket", 206: "socket",
        207: "socket", 211: "socket", 212: "socket", 242: "socket", 260: "child", 441: "socket",
    },
}  # fmt: skip


#: What a sample cannot say, as ``Sampler.gaps`` has it.
NO_WAITS = "What the job's process waited in, outside of recorded calls"
NO_DELAY = "How long the job's process waited for a processor"
NO_PROC = "there is no /proc"


class _Reader(Protocol):
    gaps: dict[str, str]

    def read(self) -> Sample | None: ...

    def close(self) -> None: ...


class _ProcReader:
    """/proc of one process, through descriptors opened once."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.gaps: dict[str, str] = {}
        self.shows_channels = False
        self.calls = _SYSCALLS.get(platform.machine(), {})
        self.descriptors: dict[str, int] = {}
        self.cpu_ns = 0
        self.delays: dict[str, int] = {}  # of the threads beside the main one
        for name in ("stat", "statm", "schedstat", "io", "syscall"):
            try:
                self.descriptors[name] = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                if name in ("stat", "statm"):
                    self.close()
                    raise

    def _text(self, name: str) -> bytes:
        descriptor = self.descriptors.get(name)
        if descriptor is None:
            return b""
        try:
            return os.pread(descriptor, 512, 0)
        except PermissionError:
            return b""

    def read(self) -> Sample | None:
        try:
            stat = self._text("stat").rpartition(b") ")[2].split()
            if len(stat) < 22 or stat[0] in (b"Z", b"X"):
                return None
            memory = self._text("statm").split()
            transfer = self._text("io")
            # Side by side: on a busy host this process may be kept waiting between any two of these lines.
            scheduled = self._text("schedstat").split()
            at_ns = time.perf_counter_ns()
            wait = self._wait(stat[0])
        except OSError:
            return None
        if len(memory) < 2 or memory[1] == b"0":
            return None  # it has given its memory back: it is about to be gone
        exact, delayed = (int(scheduled[0]), int(scheduled[1])) if len(scheduled) >= 2 else (0, 0)
        if len(scheduled) < 2:
            self.gaps[NO_DELAY] = "the kernel keeps no /proc/<pid>/schedstat"
        threads = int(stat[17])
        if threads > 1:
            self._read_threads()
        ticks = (int(stat[11]) + int(stat[12])) * _TICK_NS
        cpu_ns = exact if exact and threads == 1 and exact + _TICK_NS >= ticks else max(exact, ticks)
        self.cpu_ns = max(self.cpu_ns, cpu_ns)
        read_bytes = written_bytes = 0
        for line in transfer.split(b"\n"):
            if line.startswith(b"read_bytes:"):
                read_bytes = int(line[11:])
            elif line.startswith(b"write_bytes:"):
                written_bytes = int(line[12:])
        return Sample(
            at_ns=at_ns,
            cpu_ns=self.cpu_ns,
            rss_bytes=int(memory[1]) * _PAGE,
            runqueue_ns=delayed,
            wait=wait,
            read_bytes=read_bytes,
            written_bytes=written_bytes,
            threads_runqueue_ns=sum(self.delays.values()),
            thread_cpu_ns=exact,
        )

    def _read_threads(self) -> None:
        """Run-queue delays of the other threads; that of a thread which has ended stays as it was last seen."""
        try:
            threads = os.listdir(f"/proc/{self.pid}/task")
        except OSError:
            return
        for thread in threads[: _THREADS + 1]:
            if thread == str(self.pid) or (thread not in self.delays and len(self.delays) >= 8 * _THREADS):
                continue
            try:
                with open(f"/proc/{self.pid}/task/{thread}/schedstat", "rb") as scheduled:
                    self.delays[thread] = int(scheduled.read().split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it ended meanwhile, or the kernel does not say

    def _wait(self, state: bytes) -> str:
        if state == b"D":
            return "disk"
        fields = self._text("syscall").split() if self.calls else []
        if not fields:
            return "running" if state == b"R" else self._wait_channel()
        if fields[0] == b"running":
            return "running"
        if fields[0] == b"-1":
            return "running" if state == b"R" else "disk"  # in a page fault, no system call
        kind = self.calls.get(int(fields[0]), "")
        if kind == "poll":
            return "socket" if len(fields) > 2 and int(fields[2], 16) else "sleep"
        if kind == "select":
            return "socket" if len(fields) > 1 and int(fields[1], 16) else "sleep"
        if kind == "descriptor":
            return self._descriptor(int(fields[1], 16)) if len(fields) > 1 else ""
        return kind

    def _wait_channel(self) -> str:
        """Where the system call may not be read, the kernel function it sleeps in often may."""
        try:
            with open(f"/proc/{self.pid}/wchan", encoding="ascii") as channel:
                function = channel.read().strip("\0 \n")
        except OSError:
            function = ""
        if function in ("", "0"):
            # It woke just now, or nothing is shown at all: then that is so for each sample.
            if not self.shows_channels:
                self.gaps[NO_WAITS] = "/proc/<pid>/syscall and /proc/<pid>/wchan may not be read"
            return ""
        self.shows_channels = True
        self.gaps.pop(NO_WAITS, None)
        return wait_channels.kind_of(function)

    def _descriptor(self, number: int) -> str:
        try:
            target = os.readlink(f"/proc/{self.pid}/fd/{number}")
        except OSError:
            return ""
        if target.startswith("socket:"):
            return "socket"
        if target.startswith("pipe:"):
            return "child"
        return "disk" if target.startswith("/") and not target.startswith("/dev/") else ""

    def close(self) -> None:
        for descriptor in self.descriptors.values():
            try:
                os.close(descriptor)
            except OSError:
                pass
        self.descriptors = {}


class _PsutilReader:
    """CPU and memory where /proc does not exist."""

    def __init__(self, pid: int) -> None:
        import psutil  # only here: it costs 20 ms that Linux does not need

        self.gaps = dict.fromkeys((NO_WAITS, NO_DELAY), NO_PROC)
        self.errors = psutil.Error
        self.process = psutil.Process(pid)

    def read(self) -> Sample | None:
        try:
            cpu = self.process.cpu_times()
            memory = self.process.memory_info()
            if self.process.status() == "zombie":
                return None
        except self.errors:
            return None
        return Sample(
            at_ns=time.perf_counter_ns(),
            cpu_ns=int((cpu.user + cpu.system) * 1e9),
            rss_bytes=memory.rss,
            runqueue_ns=0,
        )

    def close(self) -> None:
        """Nothing is held open."""


def _open(pid: int) -> tuple[_Reader | None, str]:
    try:
        return _ProcReader(pid), ""
    except OSError as error:
        if os.path.exists("/proc/self/stat"):
            return None, f"the process could not be watched through /proc: {error.strerror}"
    try:
        return _PsutilReader(pid), ""
    except Exception as error:
        return None, f"{NO_PROC}, and psutil does not work: {error}"


class Sampler:
    """Samples of one process. Make it right after the fork: the first reading is the baseline of memory."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.samples: list[Sample] = []
        self.peak_rss_bytes = 0
        self.baseline_rss_bytes = 0
        self.spacing = 1  # doubled with each decimation
        self.started_ns = time.perf_counter_ns()
        self.spent_ns = 0
        self._reader, self.missing = _open(pid)
        self._gaps_of = self._reader  # which is let go at the end
        first = self.sample()
        if first is not None:
            self.baseline_rss_bytes = first.rss_bytes

    def sample(self) -> Sample | None:
        """Take a sample now; None when the process is gone or cannot be watched. Never raises by itself."""
        if self._reader is None:
            return None
        began = time.perf_counter_ns()
        try:
            sample = self._reader.read()
        except Exception as error:
            if foreign(error):
                raise
            self.missing = self.missing or f"a sample failed: {type(error).__name__}"
            return None
        if sample is None:
            return None
        self.peak_rss_bytes = max(self.peak_rss_bytes, sample.rss_bytes)
        if len(self.samples) >= SAMPLES:
            self.samples[1:] = self.samples[2::2]
            self.spacing *= 2
        self.samples.append(sample)
        self.spent_ns += time.perf_counter_ns() - began
        return sample

    @property
    def gaps(self) -> list[str]:
        """Sentences: what the samples cannot say here, and why."""
        if self._gaps_of is None or not self.samples:
            return []  # nothing could be watched at all: ``missing`` says so
        return [f"{what}: {why}" for what, why in self._gaps_of.gaps.items()]

    def interval_s(self) -> float:
        """Seconds until the next sample is due."""
        elapsed = (time.perf_counter_ns() - self.started_ns) / 1e9
        return min(LAST_INTERVAL_S, max(FIRST_INTERVAL_S, elapsed * _INTERVAL_SHARE)) * self.spacing

    def close(self) -> None:
        """Close what is open. Samples stay."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def inherited_bytes(pid: int) -> int:
    """What a process forked by this one has in memory from the start: its anonymous pages. Pages of files are mapped
    again when they are used. 0 where /proc does not say."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as memory:
            _, resident, shared, *_ = memory.read().split()
        return max(0, int(resident) - int(shared)) * _PAGE
    except (OSError, ValueError):
        return 0


def rusage_of(usage: struct_rusage, baseline_rss_bytes: int = 0) -> Rusage:
    """What the kernel says of a child that ended. ``ru_maxrss`` is in KiB on Linux, in bytes on macOS."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return Rusage(
        user_ns=int(usage.ru_utime * 1e9),
        system_ns=int(usage.ru_stime * 1e9),
        max_rss_bytes=usage.ru_maxrss * unit,
        baseline_rss_bytes=baseline_rss_bytes,
        major_faults=usage.ru_majflt,
        minor_faults=usage.ru_minflt,
        voluntary_switches=usage.ru_nvcsw,
        involuntary_switches=usage.ru_nivcsw,
        block_reads=usage.ru_inblock,
        block_writes=usage.ru_oublock,
    )
