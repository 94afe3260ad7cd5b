"""The last known Python stack of a process that may be killed at any moment, looked at from outside now and then.

Each look costs the one who looks about 0.1 ms and the process nothing. Short executions are not looked at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from types import TracebackType

from jobdoctor.capture import callsites
from jobdoctor.capture.foreign import foreign
from jobdoctor.capture.outside_stack import RawFrame, StackReader, UnreadableError
from jobdoctor.model import StackFrame

#: Seconds into the execution until the first look; then a tenth of what has passed, within bounds.
FIRST_LOOK_S = 0.1
LAST_INTERVAL_S = 1.0
_INTERVAL_SHARE = 0.1
#: A process that grew by this much since the last look is looked at at once: it may be about to be killed for it.
GROWTH_BYTES = 64 * 1024 * 1024
#: Frames kept, innermost first; other threads, and frames of each.
FRAMES = 24
THREADS = 3
_THREAD_FRAMES = 8

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_OWN_RQ = os.path.join(_OWN, "rq") + os.sep

#: What strikes between two lines of the job: the handler of RQ's timeout, the profiler.
_INTERRUPTIONS = (f"{os.sep}rq{os.sep}timeouts.py", f"{os.sep}pyinstrument{os.sep}")
#: The limits of a process that end it or make its calls fail, as /proc names them, and as programs do.
_LIMITS = {
    "Max cpu time": "RLIMIT_CPU",
    "Max file size": "RLIMIT_FSIZE",
    "Max data size": "RLIMIT_DATA",
    "Max address space": "RLIMIT_AS",
}


class SeenStack:
    """What the last look saw. Instants are nanoseconds of the performance counter.

    ``since_ns``: the first of the looks, one after the other, that found the application at the same line.
    """

    def __init__(self, raw: list[RawFrame], seen_ns: int, since_ns: int, threads: list[list[RawFrame]]) -> None:
        self.place = _place(raw)
        self.seen_ns = seen_ns
        self.since_ns = since_ns
        self._raw = raw
        self._threads = threads

    @property
    def stack(self) -> list[StackFrame]:
        """The job's part of it, innermost first."""
        return frames_of(self._raw)

    @property
    def threads(self) -> list[list[StackFrame]]:
        """Those of other threads that the application is in."""
        found = [frames_of(each)[:_THREAD_FRAMES] for each in self._threads]
        return [each for each in found if any(one.application for one in each)]


class LastStack:
    """Looks at one process. Nothing is opened before the first look."""

    def __init__(self, pid: int, *, spawned: bool = False, thread: int = 0, parent: int = 0) -> None:
        """See ``outside_stack.StackReader``."""
        self.pid = pid
        self.missing = ""  # why there is no stack, when there should be one
        self.seen: SeenStack | None = None
        self.limits: dict[str, int] = {}  # of the process, those that are set
        self.spent_ns = 0
        self._spawned = spawned
        self._thread = thread
        self._parent = parent
        self._reader: StackReader | None = None
        self._due_ns = int(FIRST_LOOK_S * 1e9)
        self._limits_due_ns = 0
        self._rss_bytes = 0

    def tick(self, elapsed_ns: int, rss_bytes: int = 0) -> None:
        """Looks when it is time to, ``elapsed_ns`` after the process began. Never raises by itself."""
        if elapsed_ns < self._due_ns and (not self._rss_bytes or rss_bytes < self._rss_bytes + GROWTH_BYTES):
            self._rss_bytes = self._rss_bytes or rss_bytes
            return
        self._rss_bytes = rss_bytes
        interval_ns = max(FIRST_LOOK_S * 1e9, min(LAST_INTERVAL_S * 1e9, elapsed_ns * _INTERVAL_SHARE))
        self._due_ns = elapsed_ns + int(interval_ns)
        self.look()

    def look(self) -> None:
        """Looks now. Never raises by itself."""
        if self.missing:
            return
        began = time.perf_counter_ns()
        try:
            if self._reader is None:
                self._reader = StackReader(self.pid, spawned=self._spawned, thread=self._thread, parent=self._parent)
            self._remember(self._reader, began)
            if began >= self._limits_due_ns:
                self._limits_due_ns = began + int(LAST_INTERVAL_S * 1e9)
                self.limits = limits_of(self.pid) or self.limits
        except ProcessLookupError:
            pass  # it ended meanwhile
        except UnreadableError as error:
            self.missing = str(error)
        except Exception as error:
            if foreign(error):
                raise
            self.missing = f"the look failed: {type(error).__name__}"
        self.spent_ns += time.perf_counter_ns() - began

    def _remember(self, reader: StackReader, now: int) -> None:
        raw = reader.stack(_OWN_RQ)
        if _place(raw) is None:
            return  # it was on its way from one frame to the next, or is gone: what was seen before stays
        before = self.seen
        self.seen = SeenStack(raw, now, now, reader.other_stacks(THREADS, _OWN_RQ))
        if before is not None and before.place == self.seen.place:
            self.seen.since_ns = before.since_ns

    def close(self) -> None:
        """Closes what is open. What was seen stays."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _place(raw: Iterable[RawFrame]) -> tuple[str, int, str] | None:
    """Where the application is: its innermost line, or the innermost one at all; None when the job has no frame yet."""
    innermost: RawFrame | None = None
    for each in raw:
        if each.filename.startswith(_OWN_RQ):
            break
        if each.filename.startswith(_OWN):
            continue
        if callsites.is_application(each.filename):
            return each.filename, each.line, each.function
        innermost = innermost or each
    return (innermost.filename, innermost.line, innermost.function) if innermost is not None else None


def frames_of(raw: Iterable[RawFrame]) -> list[StackFrame]:
    """The job's part of a stack, innermost first: without what called the job, and without frames of ours."""
    frames: list[StackFrame] = []
    for each in raw:
        if each.filename.startswith(_OWN):
            if each.filename.startswith(_OWN_RQ):
                break  # from here on it is the worker
            continue
        if not frames and any(part in each.filename for part in _INTERRUPTIONS):
            continue
        frames.append(
            StackFrame(
                callsites.place(each.filename, each.line), each.function, callsites.is_application(each.filename)
            )
        )
    last = max((index for index, frame in enumerate(frames) if frame.application), default=len(frames) - 1)
    return _bounded(frames[: last + 1])


def _bounded(frames: list[StackFrame]) -> list[StackFrame]:
    """At most FRAMES of them, with the innermost application frame among them."""
    if len(frames) <= FRAMES:
        return frames
    first = next((index for index, frame in enumerate(frames) if frame.application), 0)
    if first < FRAMES:
        return frames[:FRAMES]
    half = FRAMES // 2
    return frames[:half] + frames[first : first + half]


def frames_of_traceback(traceback: TracebackType | None) -> list[StackFrame]:
    """The job's part of the stack on which an exception was raised, innermost first."""
    raw: list[RawFrame] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        raw.append(RawFrame(code.co_filename, traceback.tb_lineno or 0, callsites.function_name(code)))
        traceback = traceback.tb_next
    return frames_of(reversed(raw))


def limits_of(pid: int | str) -> dict[str, int]:
    """The limits that are set for a process, bytes or seconds by name: ``{"RLIMIT_AS": 536870912}``."""
    found: dict[str, int] = {}
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii", errors="replace") as limits:
            for line in limits:
                name = _LIMITS.get(line[:26].strip())
                value = line[26:].split()[0] if name else ""
                if name and value.isdigit():
                    found[name] = int(value)
    except (OSError, IndexError):
        pass
    return found
