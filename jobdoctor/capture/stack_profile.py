"""pyinstrument on chosen executions (``profile_policy`` chooses): its start and stop in the horse, and the way of its
result out of it (a side file, because it does not fit the recorder's memory).

pyinstrument samples the Python stack of the job's thread by wall time. It costs nothing measurable in a job that waits
and up to x2.7 in one that does nothing but call Python functions, so it never runs on every execution. It is imported
in the process that runs the job, and only when that execution was chosen (40 ms).
"""

from __future__ import annotations

import heapq
import os
import tempfile
import uuid
from typing import Any

from msgspec import MsgspecError, msgpack

from jobdoctor.capture.callsites import is_application, relative
from jobdoctor.capture.foreign import foreign
from jobdoctor.model import Profile, ProfileFrame

INTERVAL_MS = 1.0
#: Frames below this share of the duration are left out: their time is in their callers.
SMALLEST_SHARE = 0.005
FRAMES = 400


class StackProfile:
    """One profile, from ``start`` to ``stop``, in the thread that runs the job. Neither ever raises: ``missing`` says
    why there is none."""

    def __init__(self, interval_ms: float = INTERVAL_MS) -> None:
        self.interval_ms = interval_ms
        self.missing = ""
        self._profiler: Any = None

    def start(self) -> bool:
        """Begin to sample. False when that is not possible (another profiler is active, for instance)."""
        try:
            import pyinstrument  # only in a process that profiles

            # "disabled": the stack as it is, event loop included. With tracking of ``await``, time in the loop between
            # a job's own steps is given to coroutines that wait, which says nothing of where the CPU goes.
            profiler = pyinstrument.Profiler(interval=self.interval_ms / 1000, async_mode="disabled")
            profiler.start()
            self._profiler = profiler
            return True
        except Exception as error:
            if foreign(error):
                raise
            self.missing = f"Profile: pyinstrument could not start: {type(error).__name__}: {error}"
            return False

    def stop(self) -> Profile | None:
        """End sampling; the profile, or None when there is none."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return None
        try:
            session = profiler.stop()
            duration_ns = int(session.duration * 1e9)
            root = _tree(session.frame_records)
            return Profile(
                interval_ms=self.interval_ms,
                samples=session.sample_count,
                duration_ns=duration_ns,
                frames=_frames(_begin(root, session.start_call_stack), duration_ns),
            )
        except Exception as error:
            if foreign(error):
                raise
            self.missing = f"Profile: pyinstrument's result could not be read: {type(error).__name__}: {error}"
            return None


class _Node:
    """A function in one place of the call tree, all its calls together."""

    __slots__ = ("application", "children", "file", "first_line", "function", "lines", "seconds")

    def __init__(self, identifier: str) -> None:
        function, _, place = identifier.partition("\0")
        self.file, _, line = place.partition("\0")
        self.function = function
        self.first_line = int(line) if line.isdigit() else 0
        self.application = bool(self.file) and is_application(self.file)
        self.children: dict[str, _Node] = {}
        self.lines: dict[int, float] = {}
        self.seconds = 0.0

    def callsite(self) -> str:
        """The line of the function where most of its time was seen; its first line when the lines were not seen."""
        if not self.file or self.file.startswith("<"):
            return ""
        line = max(self.lines, key=lambda number: self.lines[number], default=self.first_line)
        return f"{relative(self.file)}:{line}"


def _tree(records: list[tuple[list[str], float]]) -> _Node:
    """pyinstrument's records, (stack from the outermost frame on, seconds), as a call tree. A frame is its function,
    file and first line, between NULs, and attributes behind \\x01 of which "l" is the line."""
    root = _Node("")
    for stack, seconds in records:
        node = root
        node.seconds += seconds
        for frame in stack:
            identifier, *attributes = frame.split("\x01")
            if identifier.startswith("["):
                continue  # [await] and the like: no function
            child = node.children.get(identifier)
            if child is None:
                child = node.children[identifier] = _Node(identifier)
            child.seconds += seconds
            for attribute in attributes:
                if attribute[:1] == "l" and attribute[1:].isdigit():
                    line = int(attribute[1:])
                    child.lines[line] = child.lines.get(line, 0.0) + seconds
            node = child
    return root


def _begin(root: _Node, start_stack: list[str]) -> _Node:
    """The node that the profile begins with: what called ``start``, then on towards the job as long as there is one way
    and no application code yet. A sample may have met what still starts beside the job: that is not the way."""
    node = root
    for frame in start_stack:
        child = node.children.get(frame.split("\x01")[0])
        if child is None or child.seconds < 0.5 * node.seconds:
            break
        node = child
    while not node.application and node.children:
        heaviest = max(node.children.values(), key=lambda child: child.seconds)
        if heaviest.seconds < 0.9 * node.seconds:
            break
        node = heaviest
    return node


def _frames(root: _Node, duration_ns: int) -> list[ProfileFrame]:
    """The tree as a list, heaviest first, so that what is cut off is the lightest and a parent precedes its
    children."""
    found: list[ProfileFrame] = []
    waiting = [(-root.seconds, 0, -1, root)]
    number = 0
    while waiting and len(found) < FRAMES:
        negative, _, parent, node = heapq.heappop(waiting)
        ns = int(-negative * 1e9)
        if ns < duration_ns * SMALLEST_SHARE:
            break
        index = len(found)
        found.append(ProfileFrame(parent, node.function, node.callsite(), ns, node.application))
        for child in node.children.values():
            number += 1
            heapq.heappush(waiting, (-child.seconds, number, index, child))
    return found


# ----------------------------------------------------------------------------------------------------------- side file


def profile_path() -> str:
    """A new path for a profile's side file; nothing is created."""
    return os.path.join(tempfile.gettempdir(), f"jobdoctor-profile-{os.getpid()}-{uuid.uuid4().hex}")


def dump(profile: Profile, path: str) -> bool:
    """Write the profile for the parent, whole or not at all (mode 0600). False when it cannot be written."""
    partial = f"{path}.part"
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as side:
            side.write(msgpack.encode(profile))
        os.replace(partial, path)
        return True
    except OSError:
        _remove(partial)
        return False


def load(path: str) -> Profile | None:
    """Read the profile and remove its file. None when the horse did not come to write it (it was killed)."""
    try:
        with open(path, "rb") as side:
            return msgpack.decode(side.read(), type=Profile)
    except (OSError, MsgspecError):
        return None
    finally:
        _remove(path)
        _remove(f"{path}.part")


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
