"""The W3C trace context on a stamp, with OpenTelemetry's own SDK."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from rq import Queue
from rq.job import Job

from jobdoctor.rq import stamp_enqueues, stamps


@pytest.fixture(autouse=True)
def _uninstalled() -> Iterator[None]:
    yield
    stamps.uninstall()


def test_a_job_enqueued_within_a_span_carries_its_context(redis_client: redis.Redis) -> None:
    stamp_enqueues()
    queue = Queue(connection=redis_client)
    carrier: dict[str, str] = {}
    with TracerProvider().get_tracer("app").start_as_current_span("request"):
        job = queue.enqueue("app.tasks.sync")
        TraceContextTextMapPropagator().inject(carrier)
    outside = queue.enqueue("app.tasks.sync")
    sent = stamps.read(Job.fetch(job.id, redis_client), scheduled=False).traceparent
    assert sent == carrier["traceparent"]
    assert stamps.read(Job.fetch(outside.id, redis_client), scheduled=False).traceparent == ""
