"""What RQ's job says of an execution: its instants, and which attempt it is."""

from __future__ import annotations

from datetime import UTC, datetime

from rq.job import Job

from jobdoctor.rq import stamps

#: Between the job's creation and its being put in the queue, beyond which it waited somewhere else. Enqueueing takes
#: a few milliseconds; a registry's shortest delay is a second.
SCHEDULED_GAP_NS = 1_000_000_000


def epoch_ns(moment: datetime | None) -> int:
    """Nanoseconds since the epoch; RQ's instants without a zone are UTC. 0 for None."""
    if moment is None:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000) * 1_000


def attempt(job: Job) -> tuple[int, int | None]:
    """Which attempt this is, from 1, and how many retries the job began with (None: no Retry was given).

    RQ counts two kinds of retries apart: ``retries_left`` counts down after exceptions, ``number_of_retries`` counts up
    after returned Retry objects. What it counted down from is in our stamp; without one, a job that never ended before
    is at its first attempt, and another one at least at its second.
    """
    returned = getattr(job, "number_of_retries", None) or 0
    left = job.retries_left
    if left is None:
        return 1 + returned, None
    began_with = stamps.max_retries(job)
    if began_with is None or began_with < left:
        again = job.ended_at is not None and not returned
        began_with = left + 1 if again else left
        if again and job.retry_intervals and len(job.retry_intervals) > began_with:
            began_with = len(job.retry_intervals)
    return 1 + returned + began_with - left, began_with
