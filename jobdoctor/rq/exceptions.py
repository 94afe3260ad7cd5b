"""How an exception is described: its type, its message without literals, the line of the application it came from."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from jobdoctor import fingerprint
from jobdoctor.capture import callsites
from jobdoctor.rq.names import dotted


def describe(error: BaseException, traceback: TracebackType | None) -> dict[str, Any]:
    """The fields of an "exception" note: ``type_name``, ``message_shape``, ``callsite``, ``status``."""
    message = _message(error)
    cause = error.__cause__
    if not message and cause is not None:
        # RQ's DeserializationError says nothing itself: what could not be imported is in its cause.
        message = f"{type(cause).__name__}: {_message(cause)}"
    return {
        "type_name": dotted(type(error)),
        "message_shape": fingerprint.message(message),
        "callsite": callsites.raised_at(traceback),
        "status": _status(error),
    }


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:  # somebody's __str__
        return f"(its text failed: {type(failure).__name__})"


def _status(error: BaseException) -> int | None:
    """An HTTP status (100 to 599) or the class of an SQLSTATE (below 100) that the exception carries."""
    response = getattr(error, "response", None)
    for value in (
        getattr(response, "status_code", None),
        getattr(response, "status", None),
        getattr(error, "status_code", None),
        getattr(error, "code", None),
        getattr(error, "status", None),
    ):
        if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
            return int(value)
    for source in (error, getattr(error, "orig", None)):
        state = getattr(source, "sqlstate", None) or getattr(source, "pgcode", None)
        if isinstance(state, str) and len(state) == 5 and state[:2].isdigit():
            return int(state[:2])
    return None
