"""Where the Python stack goes when native code faults: faulthandler writes it as the process dies, into a file of ours.

The process dies as it would without: of the same signal, with the same core, and nothing new on its standard error.
An application that has enabled faulthandler itself keeps its own, also when it does so later.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import re

from jobdoctor.capture.outside_stack import RawFrame

#: Bytes of a file: faulthandler writes at most 100 frames of one thread; of longer ones the innermost are kept.
_SIZE = 32 * 1024
_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)')
_FATAL = "Fatal Python error: "
_BEGINNING = re.compile(r"(Stack|Current thread 0x[0-9a-f]+ .*?)\s*\(most recent call first\):")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")


class CrashLog:
    """One file for the horses of one recorder's memory, seen through a map of it: whoever inherits the map reads it
    without a descriptor. ``path`` None: it has no name, and a forked horse inherits it."""

    def __init__(self, path: str | None = None) -> None:
        """Raises OSError when no file can be made."""
        self.path = path
        if path is None:
            self.descriptor = os.memfd_create("jobdoctor-crash", os.MFD_CLOEXEC)
        else:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self.descriptor = os.open(path, flags, 0o600)
        try:
            if path is None:
                os.ftruncate(self.descriptor, _SIZE)
            else:
                os.posix_fallocate(self.descriptor, 0, _SIZE)  # a map of a file without room is a fault by itself
            self._map = mmap.mmap(self.descriptor, _SIZE)
        except (OSError, ValueError) as error:
            os.close(self.descriptor)
            self.remove()
            raise OSError(str(error)) from error

    @classmethod
    def inherited(cls, descriptor: int, path: str | None) -> CrashLog:
        """The same file in a program that was given its descriptor. Raises OSError or ValueError."""
        log = cls.__new__(cls)
        log.path, log.descriptor = path, descriptor
        log._map = mmap.mmap(descriptor, _SIZE)
        return log

    def text(self) -> str:
        """What the last horse left; empty when it did not fault."""
        return self._map[: self._end()].decode("utf-8", "replace")

    def clear(self) -> None:
        """Makes it ready for the next horse, after one that left something."""
        end = self._end()
        self._map[:end] = bytes(end)

    def _end(self) -> int:
        found = self._map.find(b"\0")
        return found if found >= 0 else _SIZE

    def close(self) -> None:
        """Gives the file up."""
        self._map.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        self.remove()

    def remove(self) -> None:
        """Takes the name away, for a process whose number of the descriptor means something else."""
        if self.path is not None:
            try:
                os.unlink(self.path)
            except OSError:
                pass


def crash_path(memory_path: str) -> str:
    """The file beside that of a recorder's memory."""
    return f"{memory_path}.crash"


#: Where faults of this process are written, and what that descriptor was when it was made: (number, inode).
_armed: tuple[int, int] = (-1, 0)


def prepare() -> bool:
    """In the worker, once: faults are written to a descriptor of ours, also those of the horses that it forks, which
    need do nothing for it. False when the application has its own way already."""
    global _armed
    if faulthandler.is_enabled():
        return _armed[0] >= 0
    descriptor = os.memfd_create("jobdoctor-crash", os.MFD_CLOEXEC)
    _armed = (descriptor, os.fstat(descriptor).st_ino)
    return arm(descriptor)


def direct(descriptor: int) -> bool:
    """Before a job: what :func:`prepare` made leads to ``descriptor`` from now on, in the horse that is forked next."""
    global _armed
    armed, inode = _armed
    if armed < 0:
        return False
    if armed != descriptor:
        if os.fstat(armed).st_ino != inode:
            _armed = (-1, 0)  # somebody closed it, and the number means something else now
            return False
        os.dup2(descriptor, armed, inheritable=False)
        _armed = (armed, os.fstat(armed).st_ino)
    os.lseek(descriptor, 0, os.SEEK_SET)  # an earlier horse may have moved it
    return True


def arm(descriptor: int) -> bool:
    """Lets a fault of this process write its stack to ``descriptor``, for the rest of its life. False when the
    application (or ``PYTHONFAULTHANDLER``) has its own way already."""
    if descriptor < 0 or faulthandler.is_enabled():
        return False
    os.lseek(descriptor, 0, os.SEEK_SET)  # an earlier horse may have moved it
    # Its own thread only: the others run on meanwhile, and their stacks could not be read safely.
    faulthandler.enable(descriptor, all_threads=False)
    return True


def arm_path(path: str) -> bool:
    """The same in a spawned process, which finds the file by its name. Raises OSError when it is not there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if arm(descriptor):
        return True  # it stays open for as long as the process lives
    os.close(descriptor)
    return False


def parse(text: str) -> list[RawFrame]:
    """The frames of the thread that faulted last, innermost first; empty when there is no whole stack."""
    _, found, report = text.rpartition(_FATAL)
    if not found:
        return []
    frames: list[RawFrame] = []
    inside = False
    for line in report.splitlines():
        if inside:
            match = _FRAME.fullmatch(line)
            if match is None:
                break
            number = int(match["line"]) if match["line"].isdigit() else 0
            frames.append(RawFrame(_unescaped(match["file"]), number, _unescaped(match["function"])))
        elif _BEGINNING.fullmatch(line):
            inside = True
    return frames


def _unescaped(text: str) -> str:
    """faulthandler writes characters that are not ASCII as escapes."""
    return _ESCAPED.sub(lambda match: chr(int(match[1] or match[2] or match[3], 16)), text)
