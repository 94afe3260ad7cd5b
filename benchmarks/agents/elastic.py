"""elastic-apm: it traces no RQ jobs by itself, so users begin and end the job's transaction in a worker class."""

from __future__ import annotations

import os
from typing import Any

import elasticapm
import rq

_client = elasticapm.Client(
    service_name="benchmarks",
    server_url=f"http://{os.environ['BENCH_SINK']}",
    cloud_provider="none",
)
elasticapm.instrument()


class _Traced:
    def perform_job(self, job: Any, *args: Any, **kwargs: Any) -> Any:
        _client.begin_transaction("job")
        done = super().perform_job(job, *args, **kwargs)  # type: ignore[misc]
        _client.end_transaction(job.func_name, "success" if done else "failure")
        return done


class Worker(_Traced, rq.Worker):
    """A transaction for each job."""


class SimpleWorker(_Traced, rq.SimpleWorker):
    """A transaction for each job."""


from sample_app.worker_settings import *  # noqa: E402, F403
