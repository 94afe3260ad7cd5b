"""SQLAlchemy's connection pool: checkouts that had to wait for a connection, or to make one.

A checkout that finds a connection at hand costs microseconds and is not recorded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import Probe, foreign
from jobdoctor.capture.probes.sqlalchemy_dialect import LIBRARY, database_of
from jobdoctor.capture.recorder import NEW_CONNECTION, Call, Recorder


def _begin(rec: Recorder, pool: Any) -> tuple[Call, bool] | None:
    try:
        if pool.checkedin() > 0:
            return None
        full = pool._max_overflow > -1 and pool._overflow >= pool._max_overflow
        database = database_of(pool._dialect)
        target = database.target if database is not None else ""
        shape = rec.shape("pool", "checkout", "checkout", target=target, library=LIBRARY, effect="none")
        call = rec.begin(shape, flags=0 if full else NEW_CONNECTION, passthrough=True)
        return (call, full) if call is not None else None
    except Exception as error:
        if foreign(error):
            raise
        return None


def _get(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _do_get(self: Any) -> Any:
        rec = recorder.current
        begun = _begin(rec, self) if rec is not None else None
        if rec is None or begun is None:
            return original(self)
        call, full = begun
        try:
            result = original(self)
        except BaseException as error:
            call.end(error, blocked_ns=rec.clock() - call.start if full else 0)
            raise
        call.end(blocked_ns=rec.clock() - call.start if full else 0)
        return result

    return _do_get


class SqlAlchemyPoolProbe(Probe):
    """Waits for a pooled connection."""

    channel: ClassVar[str] = "pool"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("sqlalchemy.pool.impl",)

    def patch(self, module: ModuleType) -> None:
        """Replace the method behind every checkout of a bounded pool; the asyncio pool inherits it."""
        m: Any = module
        self.replace(m.QueuePool, "_do_get", _get)
