"""OpenTelemetry: there is no instrumentation for RQ, so users open the job's span in a worker class of their own.

The exporter throws spans away. In a forked horse the batch processor seldom comes to export at all: RQ ends horses with
``os._exit``. What is measured is therefore the least that OpenTelemetry can cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rq
from opentelemetry import trace
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult


class Nowhere(SpanExporter):
    """Takes everything."""

    def export(self, _spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


_provider = TracerProvider()
_provider.add_span_processor(BatchSpanProcessor(Nowhere()))
trace.set_tracer_provider(_provider)
_tracer = trace.get_tracer("benchmarks")
SQLAlchemyInstrumentor().instrument()
RedisInstrumentor().instrument()
RequestsInstrumentor().instrument()


class _Traced:
    def perform_job(self, job: Any, *args: Any, **kwargs: Any) -> Any:
        with _tracer.start_as_current_span(job.func_name):
            return super().perform_job(job, *args, **kwargs)  # type: ignore[misc]


class Worker(_Traced, rq.Worker):
    """A span for each job."""


class SimpleWorker(_Traced, rq.SimpleWorker):
    """A span for each job."""


from sample_app.worker_settings import *  # noqa: E402, F403
