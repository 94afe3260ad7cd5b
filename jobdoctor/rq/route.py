"""How a job came to its queue, as far as its own hash tells: nothing else is asked.

RQ writes neither where a job waited nor when it was due. But what a hash holds when the job is taken leaves one answer
in nearly all cases (seen in RQ 2.0, 2.12 and 3.0): one that ran before has a heartbeat, and keeps its ``started_at``
unless somebody put it back by hand; one that came straight was put in the queue within milliseconds of its creation.
"""

from __future__ import annotations

from rq.job import Job

from jobdoctor.model import Route
from jobdoctor.rq.facts import SCHEDULED_GAP_NS

#: Of a job with dependencies or a rate limit: from creation to the queue, beyond which they held it. Enqueueing such a
#: job takes a few round trips.
_HELD_GAP_NS = 100_000_000
#: Dependencies that are kept: of more, nobody can say which one released the job.
_MOST_DEPENDENCIES = 32


def route(job: Job, attempt: int, held_ns: int | None) -> Route:
    """How the job came to its queue; to be asked before RQ notes that it began. ``unknown`` where two answers fit.

    ``held_ns``: from its creation to its being put in the queue; None: not known.
    """
    repeats = getattr(job, "repeats_left", None) is not None
    if getattr(job, "last_heartbeat", None) is not None or job.started_at is not None:
        if job.started_at is None:
            return "requeued"
        if attempt > 1:
            # RQ does not start counting anew when a job repeats.
            return "unknown" if repeats else "retried"
        return "repeated" if repeats else "requeued"
    if attempt > 1:
        return "retried"
    if held_ns is None:
        return "unknown"
    deferred, limited = bool(_dependencies(job)), bool(getattr(job, "rate_limit_key", None))
    if (deferred or limited) and held_ns > _HELD_GAP_NS:
        if deferred and limited:
            return "unknown"
        return "deferred" if deferred else "rate-limited"
    return "scheduled" if held_ns > SCHEDULED_GAP_NS else "straight"


def released_by(job: Job, came: Route) -> list[str]:
    """Ids of the jobs that a deferred one waited for; empty for others, and when there are too many to tell."""
    ids = _dependencies(job) if came == "deferred" else []
    return ids if len(ids) <= _MOST_DEPENDENCIES else []


def _dependencies(job: Job) -> list[str]:
    return [str(each) for each in getattr(job, "_dependency_ids", None) or ()]
