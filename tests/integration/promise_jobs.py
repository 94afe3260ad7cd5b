"""Jobs with promises for real workers. Each execution leaves a trace of itself."""

from __future__ import annotations

import time

from rq import get_current_job

import jobdoctor


def _trace() -> None:
    job = get_current_job()
    assert job is not None
    job.connection.rpush("ran", f"{job.id} {job.origin}")


@jobdoctor.slo(within="10ms")
def too_slow() -> None:
    _trace()
    time.sleep(0.03)


@jobdoctor.slo(within="10ms", exempt=True)
def too_slow_and_exempt() -> None:
    _trace()
    time.sleep(0.03)


@jobdoctor.slo(within="10s")
def quick() -> None:
    _trace()


def no_promise() -> None:
    _trace()
