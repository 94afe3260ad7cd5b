"""The other agents as an RQ user sets them up: each file is settings for ``rq worker -c``, some with worker classes.

Whatever an agent sends goes to the sink that the benchmark runs (``BENCH_SINK``, host and port), which says yes to all.
Each ends by importing the shop's own settings, so that all workers have the same modules preloaded.
"""
