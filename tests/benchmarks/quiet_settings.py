"""Settings of a worker that needs no servers of the shop; what its jobs import is preloaded."""

from benchmarks import jobs

PRELOADED = (jobs,)
