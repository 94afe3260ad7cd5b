"""psycopg's server-side cursors: each chunk that is fetched is a round trip of its own, with its rows.

Behind ``fetchmany``, iteration, SQLAlchemy's ``yield_per`` and Django's ``iterator()``; blocking and asyncio alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor import fingerprint
from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import Probe, foreign, occupied
from jobdoctor.capture.probes.psycopg_driver import LIBRARY
from jobdoctor.capture.probes.statements import postgresql
from jobdoctor.capture.recorder import Call, Recorder


def _begin(rec: Recorder, cursor: Any) -> Call | None:
    try:
        database = postgresql(rec, cursor.connection, LIBRARY)
        text = f"FETCH FORWARD ? FROM {fingerprint.redis_key(cursor.name)}"
        return rec.begin(rec.shape("sql", "FETCH", text, target=database.target, library=LIBRARY, effect="read"))
    except Exception as error:
        if foreign(error):
            raise
        return None


def _fetch(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _fetch_gen(self: Any, *args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        rec = recorder.current
        call = None if rec is None or rec.silent or occupied(rec) else _begin(rec, self)
        if call is None:
            return (yield from original(self, *args, **kwargs))
        try:
            rows = yield from original(self, *args, **kwargs)
        except BaseException as error:
            call.end(error)
            raise
        call.end(rows=len(rows) if isinstance(rows, list) else None)
        return rows

    return _fetch_gen


class PsycopgServerCursorProbe(Probe):
    """Chunks of server-side cursors."""

    channel: ClassVar[str] = "sql"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("psycopg",)

    def patch(self, module: ModuleType) -> None:
        """Replace what both kinds of server-side cursors fetch by, wherever this version keeps it."""
        m: Any = module
        owner = next(kind for kind in m.ServerCursor.__mro__ if "_fetch_gen" in vars(kind))
        self.replace(owner, "_fetch_gen", _fetch)
