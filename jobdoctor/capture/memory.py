"""The recorder's memory: anonymous for horses that are forked, a file for those that are spawned."""

from __future__ import annotations

import mmap
import os
import re
import tempfile
import uuid

from jobdoctor.capture.layout import SIZE

_NAME = "jobdoctor"
_OWNED = re.compile(rf"{_NAME}-(\d+)-(\d+)-[0-9a-f]{{32}}\Z")  # process, and the namespace of its number


class Memory:
    """Shared memory of one recorder. ``path`` is None when it is anonymous (shared with forked children only);
    ``fallback`` then says why, if a file was asked for."""

    __slots__ = ("buffer", "fallback", "path")

    def __init__(self, buffer: mmap.mmap, path: str | None, fallback: str = "") -> None:
        self.buffer = buffer
        self.path = path
        self.fallback = fallback

    def close(self) -> None:
        """Give the memory back and remove its file. Views still held by a recorder keep it mapped until they go."""
        try:
            self.buffer.close()
        except BufferError:
            pass
        if self.path is not None:
            try:
                os.unlink(self.path)
            except OSError:
                pass


def memory_path() -> str:
    """A new path for a memory that a spawned process must find: in /dev/shm where that is, else in the temporary
    directory."""
    return os.path.join(_directory(), f"{_NAME}-{os.getpid()}-{_namespace()}-{uuid.uuid4().hex}")


def _directory() -> str:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else tempfile.gettempdir()  # noqa: S108


def _namespace() -> int:
    """Containers that share the directory number their processes each by themselves; 0 where there is no such thing."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def remove_stale() -> int:
    """Removes the files of this user's processes that are gone, because one that was killed leaves its own, and returns
    how many. What another container's process left stays, and what may be a living one's, its number being in use."""
    removed = 0
    directory, namespace = _directory(), str(_namespace())
    for name in os.listdir(directory):
        owned = _OWNED.match(name)
        if owned is None or owned[2] != namespace:
            continue
        path = os.path.join(directory, name)
        try:
            status = os.lstat(path)
            if status.st_uid == os.geteuid() and status.st_size == SIZE and _gone(int(owned[1])):
                os.unlink(path)
                removed += 1
        except OSError:
            pass  # somebody else removes it, too
    return removed


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _reserve(descriptor: int, path: str) -> None:
    """All of the file's room now: memory of a full disk, mapped, ends the process that touches it (SIGBUS)."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, SIZE)
        else:
            os.ftruncate(descriptor, SIZE)
    except OSError:
        os.unlink(path)
        raise


def open_shared(count: int) -> tuple[list[Memory], int]:
    """Anonymous memories, and the descriptor of all of them, by which a program that inherits it maps them, too; -1
    where the kernel has none: then forked children only have them."""
    try:
        descriptor = os.memfd_create("jobdoctor-recorder", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        return [open_memory() for _ in range(count)], -1
    try:
        os.ftruncate(descriptor, count * SIZE)
        return map_shared(descriptor, count), descriptor
    except (OSError, ValueError):
        os.close(descriptor)
        return [open_memory() for _ in range(count)], -1


def map_shared(descriptor: int, count: int) -> list[Memory]:
    """The memories behind a descriptor of ``open_shared``. Raises OSError or ValueError."""
    return [Memory(mmap.mmap(descriptor, SIZE, offset=index * SIZE), None) for index in range(count)]


def open_memory(path: str | None = None) -> Memory:
    """Memory for a recorder: anonymous and shared with forked children, or a file (mode 0600) when ``path`` is given.

    The file is created when it does not exist, and mapped as it is when it does and has the right size and owner. When
    the file cannot be used the memory is anonymous and ``fallback`` says why.
    """
    if path is None:
        return Memory(mmap.mmap(-1, SIZE), None)
    try:
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            created = True
        except FileExistsError:
            descriptor = os.open(path, flags)
            created = False
        try:
            if created:
                _reserve(descriptor, path)
            else:
                status = os.fstat(descriptor)
                if status.st_size != SIZE or status.st_uid != os.geteuid():
                    return Memory(mmap.mmap(-1, SIZE), None, f"{path} is not a recorder's file of this user")
            return Memory(mmap.mmap(descriptor, SIZE), path)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        return Memory(mmap.mmap(-1, SIZE), None, f"no memory at {path}: {error}")
