"""sentry-sdk: its RQ integration, every job traced; SQLAlchemy, Redis and HTTP are instrumented by default."""

import os

import sentry_sdk
from sentry_sdk.integrations.rq import RqIntegration

sentry_sdk.init(
    dsn=f"http://public@{os.environ['BENCH_SINK']}/1",
    integrations=[RqIntegration()],
    traces_sample_rate=1.0,
)

from sample_app.worker_settings import *  # noqa: E402, F403
