"""mysqlclient (MySQLdb): a Python class over a C connection; what only the C type has is replaced on the class."""

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

LIBRARY = "mysqlclient"


def _init(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        given = keep_parameters(self, args, kwargs)
        rec = recorder.current
        call = opening(rec, LIBRARY, given) if rec is not None else None
        try:
            original(self, *args, **kwargs)
        except BaseException as error:
            if call is not None:
                call.end(error)
            raise
        if call is not None:
            call.end()
        if rec is not None:
            opened(rec, self, LIBRARY)

    return __init__


class MysqlclientProbe(Probe):
    """mysqlclient's statements, commits and connects. Without an unbuffered cursor, the client holds the whole result
    when ``execute`` returns."""

    channel: ClassVar[str] = "sql"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("MySQLdb.connections", "MySQLdb.cursors")

    def patch(self, module: ModuleType) -> None:
        """Replace the methods of the connection and of the cursor that the others are made from."""
        m: Any = module
        if module.__name__.endswith(".cursors"):
            self.replace(m.BaseCursor, "execute", recording_execute(LIBRARY, many=False))
            self.replace(m.BaseCursor, "executemany", recording_execute(LIBRARY, many=True))
            self.replace(m.BaseCursor, "callproc", recording_callproc(LIBRARY))
        else:
            self.replace(m.Connection, "__init__", _init)
            self.replace(m.Connection, "close", closing)
            for name in ("begin", "commit", "rollback"):
                self.replace(m.Connection, name, recording_word(LIBRARY, name.upper()))
