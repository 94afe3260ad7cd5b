"""The shop's database: one engine for each process, made when it is first needed."""

from __future__ import annotations

import functools
import os

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

#: Threads of a report that query at the same time.
REPORT_THREADS = 6


def database_url() -> str:
    """SQLAlchemy URL from ``SHOP_DATABASE_URL``, which may be a plain libpq URL."""
    url = os.environ["SHOP_DATABASE_URL"]
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@functools.cache
def engine() -> Engine:
    return create_engine(database_url())


@functools.cache
def reporting_engine() -> Engine:
    """For reports, which may use one connection of the database."""
    return create_engine(database_url(), pool_size=1, max_overflow=0)


@functools.cache
def threaded_engine() -> Engine:
    """For reports that use threads: a connection for each of them."""
    return create_engine(database_url(), pool_size=REPORT_THREADS, max_overflow=0)


def new_session() -> Session:
    return Session(engine())
