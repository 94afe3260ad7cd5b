"""Writes executions to the stream: one XADD each.

When the server does not take one (it is away, out of memory, read-only), it waits in a bounded buffer until the server
does; what the buffer cannot hold is counted, and the next entry says how many were lost.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from jobdoctor.model import Execution
from jobdoctor.wire import DEFAULT_MAXLEN, STREAM_KEY, encode

#: Recordings held while the server takes none: some minutes of a busy worker, some megabytes at most.
BUFFERED = 256
BUFFERED_BYTES = 8 * 1024 * 1024
#: Entries in which an execution is looked for that a witness which died may have written.
_NEWEST = 100


class _Entry(NamedTuple):
    fields: dict[bytes, bytes]
    lost: int  # that the entry itself tells of

    @property
    def size(self) -> int:
        return sum(len(value) for value in self.fields.values())


class StreamWriter:
    """The worker's end of the stream. ``write`` raises nothing that has to do with the server."""

    def __init__(self, connection: Any, *, maxlen: int = DEFAULT_MAXLEN) -> None:
        self.connection = connection
        self.maxlen = maxlen
        self.lost = 0  # dropped since the last entry that told
        self.problem = ""  # why the last attempt failed
        self._waiting: deque[_Entry] = deque()

    @property
    def waiting(self) -> int:
        """How many recordings are held back."""
        return len(self._waiting)

    def write(self, execution: Execution) -> bool:
        """Sends what waits, then ``execution``. False: it is held back, for the next time."""
        self._append(execution)
        return self.flush()

    def hold(self, execution: Execution) -> None:
        """As ``write``, when it is known that the server is away."""
        self._append(execution)
        self._drop()

    def has(self, execution_id: str) -> bool:
        """Whether one of the newest entries is of this execution."""
        sought = execution_id.encode("utf-8", "replace")
        entries = self.connection.xrevrange(STREAM_KEY, count=_NEWEST)
        return any(fields.get(b"id") == sought for _, fields in entries)

    def _append(self, execution: Execution) -> None:
        self._waiting.append(_Entry(encode(execution, lost=self.lost), self.lost))
        self.lost = 0

    def flush(self) -> bool:
        """Sends what waits, oldest first; false when the server does not take it."""
        try:
            while self._waiting:
                self.connection.xadd(STREAM_KEY, self._waiting[0].fields, maxlen=self.maxlen, approximate=True)
                self._waiting.popleft()
        except (RedisError, OSError) as error:
            self.problem = f"{type(error).__name__}: {error}"
            self._drop()
            return False
        self.problem = ""
        return True

    def _drop(self) -> None:
        size = sum(entry.size for entry in self._waiting)
        while self._waiting and (len(self._waiting) > BUFFERED or size > BUFFERED_BYTES):
            dropped = self._waiting.popleft()
            size -= dropped.size
            self.lost += 1 + dropped.lost
