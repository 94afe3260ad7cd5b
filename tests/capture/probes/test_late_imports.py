"""Libraries that the job itself is the first to import: each is recorded from its first call on."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

_JOB = """
import sys
import jobdoctor
from jobdoctor.capture import probes
probes.install_all()
with jobdoctor.record("job") as recorded:
    imported = set(sys.modules)
    {work}
assert not {libraries} & imported, {libraries} & imported
found = {{(group.channel, group.library) for group in recorded.execution.groups}}
statuses = {{(probe.channel, probe.library): probe.status for probe in recorded.execution.probes}}
assert {expected} <= found, found
assert all(statuses[pair] == "active" for pair in {expected} if pair in statuses), statuses
"""

#: What the job imports and does, and which calls are to be found. No servers: a refused connection is a call too.
_LIBRARIES = {
    "sqlite3": ('import sqlite3; sqlite3.connect(":memory:").execute("SELECT 1")', {("sql", "sqlite3")}),
    "sqlalchemy": (
        'import sqlalchemy as s; s.create_engine("sqlite://").connect().execute(s.text("SELECT 1"))',
        {("sql", "sqlalchemy")},
    ),
    "django": (
        "from django.conf import settings; "
        'settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}); '
        'import django; django.setup(); from django.db import connection; connection.cursor().execute("SELECT 1")',
        {("sql", "django")},
    ),
    "psycopg": (
        'import psycopg\n    try: psycopg.connect("host=127.0.0.1 port=9 connect_timeout=2")\n'
        "    except psycopg.OperationalError: pass",
        {("sql", "psycopg")},
    ),
    "psycopg2": (
        'import psycopg2\n    try: psycopg2.connect("host=127.0.0.1 port=9 connect_timeout=2")\n'
        "    except psycopg2.OperationalError: pass",
        {("sql", "psycopg2")},
    ),
    "pymysql": (
        'import pymysql\n    try: pymysql.connect(host="127.0.0.1", port=9)\n'
        "    except pymysql.err.OperationalError: pass",
        {("sql", "pymysql")},
    ),
    "asyncpg": (
        'import asyncio, asyncpg\n    try: asyncio.run(asyncpg.connect(host="127.0.0.1", port=9, user="a"))\n'
        "    except OSError: pass",
        {("sql", "asyncpg")},
    ),
    "redis": (
        "import redis, redis.retry, redis.backoff as b\n"
        "    try: redis.Redis(port=9, retry=redis.retry.Retry(b.NoBackoff(), 0)).get('a')\n"
        "    except redis.ConnectionError: pass",
        {("redis", "redis")},
    ),
    "valkey": (
        "import valkey\n    try: valkey.Valkey(port=9).get('a')\n    except valkey.ConnectionError: pass",
        {("redis", "redis")},
    ),
    "requests": (
        'import requests\n    try: requests.get("http://127.0.0.1:9/", timeout=2)\n'
        "    except requests.ConnectionError: pass",
        {("http", "http.client")},
    ),
    "urllib.request": (
        'import urllib.request\n    try: urllib.request.urlopen("http://127.0.0.1:9/", timeout=2)\n'
        "    except OSError: pass",
        {("http", "http.client")},
    ),
    "httpx": (
        'import httpx\n    try: httpx.get("http://127.0.0.1:9/")\n    except httpx.ConnectError: pass',
        {("http", "httpx")},
    ),
    "aiohttp": (
        "import asyncio, aiohttp\n    async def get():\n        async with aiohttp.ClientSession() as session:\n"
        '            await session.get("http://127.0.0.1:9/")\n'
        "    try: asyncio.run(get())\n    except aiohttp.ClientError: pass",
        {("http", "aiohttp")},
    ),
    "smtplib": (
        'import smtplib\n    try: smtplib.SMTP("127.0.0.1", 9, timeout=2)\n    except OSError: pass',
        {("mail", "smtplib")},
    ),
    "multiprocessing": (
        'import multiprocessing as m; p = m.get_context("fork").Process(target=len, args=((),)); p.start(); p.join()',
        {("subprocess", "multiprocessing")},
    ),
    "filelock": (
        'import filelock, tempfile; filelock.FileLock(tempfile.mktemp()).acquire()', {("lock", "filelock")},
    ),
    "opentelemetry": (
        "from opentelemetry.sdk.trace import TracerProvider; from opentelemetry.trace import SpanKind; "
        'TracerProvider().get_tracer("x.pymongo").start_span("find", kind=SpanKind.CLIENT, '
        'attributes={"db.system": "mongodb", "db.operation": "find"}).end()',
        {("sql", "pymongo")},
    ),
}  # fmt: skip


#: Those that do not import one another, in one process each: a process is what takes the time.
_TOGETHER = (
    ("sqlite3", "psycopg", "redis", "smtplib", "multiprocessing", "opentelemetry"),
    ("sqlalchemy", "psycopg2", "valkey", "requests", "httpx", "filelock"),
    ("django", "pymysql", "asyncpg", "urllib.request", "aiohttp"),
)


def test_each_library_has_its_turn() -> None:
    assert sorted(name for names in _TOGETHER for name in names) == sorted(_LIBRARIES)


@pytest.mark.parametrize("names", _TOGETHER, ids=lambda names: "+".join(names))
def test_the_job_imports_them_first(names: tuple[str, ...]) -> None:
    there = [name for name in names if importlib.util.find_spec(name.partition(".")[0]) is not None]
    work = "\n    ".join(_LIBRARIES[name][0] for name in there)
    expected = set().union(*(_LIBRARIES[name][1] for name in there))
    code = _JOB.format(work=work, libraries=set(there), expected=expected)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
