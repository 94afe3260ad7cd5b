"""Jobs with promises, for ``clogging.py``. Each tells how long after its enqueue it was done."""

from __future__ import annotations

import time

from rq import get_current_job

import jobdoctor

#: Where durations in ms are put, by the name of the job.
DONE_KEY = "bench:done:"


def _nap(name: str, seconds: float, enqueued_s: float) -> None:
    time.sleep(seconds)
    job = get_current_job()
    assert job is not None
    job.connection.rpush(DONE_KEY + name, f"{1_000 * (time.time() - enqueued_s):.3f}")


@jobdoctor.slo(within="300ms")
def small(enqueued_s: float) -> None:
    _nap("small", 0.010, enqueued_s)


@jobdoctor.slo(within="300ms")
def medium(enqueued_s: float) -> None:
    _nap("medium", 0.040, enqueued_s)


@jobdoctor.slo(within="300ms")
def clogging(enqueued_s: float) -> None:
    """Twenty times as long as it promises."""
    _nap("clogging", 6.0, enqueued_s)


def no_op() -> None: ...
