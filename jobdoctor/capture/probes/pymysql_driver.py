"""PyMySQL: pure Python, so its classes' own methods are replaced."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import Probe
from jobdoctor.capture.probes.mysql import (
    closing,
    keep_parameters,
    opened,
    opening,
    recording_callproc,
    recording_execute,
    recording_word,
)

LIBRARY = "pymysql"


def _init(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        keep_parameters(self, args, kwargs)
        original(self, *args, **kwargs)

    return __init__


def _connect(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def connect(self: Any, *args: Any, **kwargs: Any) -> Any:
        rec = recorder.current
        if rec is None:
            return original(self, *args, **kwargs)
        given = {"host": self.host, "port": self.port, "unix_socket": self.unix_socket, "database": self.db}
        call = opening(rec, LIBRARY, given)
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            if call is not None:
                call.end(error)
            raise
        if call is not None:
            call.end()
        opened(rec, self, LIBRARY)
        return result

    return connect


class PyMySqlProbe(Probe):
    """PyMySQL's statements, commits and connects. Without an unbuffered cursor, the client holds the whole result when
    ``execute`` returns. An ``executemany`` of INSERT is one statement, of anything else one for each item."""

    channel: ClassVar[str] = "sql"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("pymysql.connections", "pymysql.cursors")

    def patch(self, module: ModuleType) -> None:
        """Replace the methods of the connection and of the cursor that the others are made from."""
        m: Any = module
        if module.__name__.endswith(".cursors"):
            self.replace(m.Cursor, "execute", recording_execute(LIBRARY, many=False))
            self.replace(m.Cursor, "executemany", recording_execute(LIBRARY, many=True))
            self.replace(m.Cursor, "callproc", recording_callproc(LIBRARY))
        else:
            self.replace(m.Connection, "__init__", _init)
            self.replace(m.Connection, "connect", _connect)
            self.replace(m.Connection, "close", closing)
            for name in ("begin", "commit", "rollback"):
                self.replace(m.Connection, name, recording_word(LIBRARY, name.upper()))
