"""Calls that are known to be calls when they are over: what somebody else timed, waits that turn out to be sleeps."""

from __future__ import annotations

from jobdoctor.capture.recorder import Call, Recorder, Shape


def past(rec: Recorder, shape: Shape, start_ns: int, *, params: int = 0, flags: int = 0) -> Call | None:
    """As ``rec.begin``, for a call that began at ``start_ns`` and is over: ``end`` is to be called at once.

    The wall time since then is the call's, unless another one was in flight meanwhile.
    """
    with rec.lock:
        busy, last = rec.busy, rec.last
        call = rec.begin(shape, params=params, flags=flags)
        if call is not None and start_ns < call.start:
            if not busy:
                rec.words[rec.channels_at + call.cell.channel] += call.start - max(start_ns, last)
            call.start = start_ns
        return call
