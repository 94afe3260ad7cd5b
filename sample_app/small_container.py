"""Settings of workers in a small container (``-c sample_app.small_container``): one processor for all of them."""

import os

from sample_app.worker_settings import PRELOADED

__all__ = ["PRELOADED"]

os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
