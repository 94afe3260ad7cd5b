"""What a worker tells its witness, made up."""

from __future__ import annotations

from jobdoctor.model import Trigger
from jobdoctor.rq.messages import Begun, Ended


def begun(number: int, data: bytes = b"", memory: int = -1) -> Begun:
    """An execution that runs."""
    return Begun(
        number=number,
        memory=memory,
        execution_id=f"job:{number}",
        kind="fork",
        epoch_ns=1,
        perf_ns=1,
        dequeued_ns=1,
        job_id="job",
        job_key="rq:job:job",
        job="app.job",
        queue="default",
        queue_key="rq:queue:default",
        serializer="pickle",
        data=data,
        data_bytes=len(data),
        profile_path="",
        attempt=1,
        max_retries=None,
        retries_left=None,
        intervals_s=[],
        created_at_ns=1,
        enqueued_at_ns=1,
        scheduled=False,
        route="straight",
        depends_on=[],
        timeout_s=None,
        failure_ttl_s=None,
        result_ttl_s=None,
        trigger=Trigger(),
    )


def ended(number: int) -> Ended:
    """An execution that is over."""
    return Ended(number, 2, 2, 0, [], "", "", None, 0, [])
