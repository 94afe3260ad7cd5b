"""What RQ knows of an execution, read off the job and the worker: names, times, attempt, retry policy."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from typing import Any

from rq.job import Job
from rq.version import VERSION

from jobdoctor.capture.assemble import ExecutionFacts
from jobdoctor.model import ResultInfo, RetryPolicy, WorkerKind
from jobdoctor.rq import stamps
from jobdoctor.rq.names import job_name

#: Between the job's creation and its being put in the queue, beyond which it waited somewhere else. Enqueueing takes
#: a few milliseconds; a registry's shortest delay is a second.
SCHEDULED_GAP_NS = 1_000_000_000
_HOST = socket.gethostname()


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


def gather(worker: Any, job: Job, queue: Any, kind: WorkerKind, slos_ms: dict[str, float]) -> ExecutionFacts:
    """The facts as they are when the job was taken from the queue. The outcome is filled in later."""
    number, began_with = attempt(job)
    created, enqueued = epoch_ns(job.created_at), epoch_ns(job.enqueued_at)
    waited = bool(created and enqueued and enqueued - created > SCHEDULED_GAP_NS)
    delayed = number > 1 and any(job.retry_intervals or ())
    name = job_name(job)
    return ExecutionFacts(
        id="",
        job_id=job.id,
        job=name,
        queue=queue.name,
        worker=worker.name,
        worker_kind=kind,
        outcome="finished",
        created_at_ns=created,
        enqueued_at_ns=enqueued,
        attempt=number,
        scheduled=(waited and number == 1) or delayed,
        worker_queues=[each.name for each in worker.queues],
        host=_HOST,
        pid=os.getpid(),
        rq_version=VERSION,
        timeout_s=float(job.timeout) if job.timeout is not None and job.timeout > 0 else None,
        failure_ttl_s=job.failure_ttl,
        retry=RetryPolicy(max_retries=began_with, retries_left=job.retries_left, intervals_s=_intervals(job)),
        slo_ms=slos_ms.get(name),
        trigger=stamps.read(job, scheduled=waited and number == 1),
        result=ResultInfo("", ttl_s=job.get_result_ttl(worker.default_result_ttl)),
    )


def _intervals(job: Job) -> list[int]:
    return [int(interval) for interval in job.retry_intervals or ()]
