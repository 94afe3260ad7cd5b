"""Reads and writes of the job function: how many calls, how many bytes, counted by the kernel (/proc/self/io).

Counted is what goes through read() and write() and their kin: files, pipes, and sockets under TLS, whose library uses
them. Plain sockets are not in it (Python, libpq and the like use recv() and send()), nor are files mapped into memory
and copies that the kernel makes by itself (sendfile, copy_file_range). Threads of the process are all in it: in a
simple worker, those of the worker too. Of a horse that was killed nothing is known.

Cost for each execution: a file opened, read twice and closed, and a note, about 15 us in all.
"""

from __future__ import annotations

import os

from jobdoctor.capture.foreign import foreign
from jobdoctor.capture.recorder import Recorder

_PATH = "/proc/self/io"
#: Lines of the file: bytes read and written by calls, calls that read and that wrote.
_FIELDS = ("read_bytes", "written_bytes", "read_calls", "write_calls")
_open, _read, _close = os.open, os.pread, os.close  # not as a probe wraps them


class FileMeter:
    """Marks the phases of an execution in the recorder, and meters the body on the way. Never raises."""

    __slots__ = ("_before", "_descriptor", "_own", "_recorder")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._descriptor = -1
        self._before: list[int] = []
        self._own = 0

    def mark(self, phase: str) -> None:
        """A phase begins: see ``Recorder.mark``."""
        if self._descriptor >= 0:
            self._stop()
        self._recorder.mark(phase)
        if phase == "body":
            self._start()

    def _start(self) -> None:
        try:
            self._descriptor = _open(_PATH, os.O_RDONLY | os.O_CLOEXEC)
            self._before = self._figures()
        except Exception as error:
            if foreign(error):
                raise
            self._recorder.note("missing", text=f"Reads and writes of the job: {_PATH} cannot be read")
            self._leave()

    def _stop(self) -> None:
        try:
            own = self._own
            after = self._figures()
            facts = {name: max(0, now - then) for name, now, then in zip(_FIELDS, after, self._before, strict=True)}
            # The first look is itself a read that the second one sees.
            facts["read_bytes"] = max(0, facts["read_bytes"] - own)
            facts["read_calls"] = max(0, facts["read_calls"] - 1)
            self._recorder.note("file_io", **facts)
        except Exception as error:
            if foreign(error):
                raise
        finally:
            self._leave()

    def _figures(self) -> list[int]:
        data = _read(self._descriptor, 512, 0)
        self._own = len(data)
        return [int(word) for word in data.split()[1:8:2]]

    def _leave(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            try:
                _close(descriptor)
            except OSError:
                pass
