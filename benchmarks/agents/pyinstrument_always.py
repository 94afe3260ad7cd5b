"""pyinstrument around every job, with its default interval; the profile is made and thrown away."""

from __future__ import annotations

from typing import Any

import rq
from pyinstrument import Profiler


class _Profiled:
    def perform_job(self, *args: Any, **kwargs: Any) -> Any:
        profiler = Profiler()
        profiler.start()
        try:
            return super().perform_job(*args, **kwargs)  # type: ignore[misc]
        finally:
            profiler.stop()


class Worker(_Profiled, rq.Worker):
    """A profile for each job."""


class SimpleWorker(_Profiled, rq.SimpleWorker):
    """A profile for each job."""


from sample_app.worker_settings import *  # noqa: E402, F403
