"""scout-apm: its worker classes, and its SQLAlchemy integration for the shop's engines.

The core agent, a program of its own that Scout downloads, is replaced by the sink.
"""

import os

from scout_apm.api import Config
from scout_apm.rq import SimpleWorker, Worker
from scout_apm.sqlalchemy import instrument_sqlalchemy

Config.set(
    monitor=True,
    name="benchmarks",
    key="k" * 20,
    core_agent_download=False,
    core_agent_launch=False,
    core_agent_socket_path=f"tcp://{os.environ['BENCH_SINK']}",
    shutdown_message_enabled=False,
    errors_enabled=False,
)

from sample_app import db  # noqa: E402
from sample_app.worker_settings import *  # noqa: E402, F403

for engine in (db.engine(), db.reporting_engine(), db.threaded_engine()):
    instrument_sqlalchemy(engine)

__all__ = ["SimpleWorker", "Worker"]
