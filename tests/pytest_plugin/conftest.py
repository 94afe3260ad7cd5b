"""Sessions of pytest within pytest, on a small shop with a SQLite database."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobdoctor.capture import exits
from jobdoctor.capture.probes import registry as probes
from jobdoctor.diagnosis import registry as rules
from jobdoctor.rq import stamps

# Loaded here, and so kept: a session within the session forgets what it has imported itself.
rules.load_rules()
for name in ("gate.github", "gate.history", "gate.sarif", "gate.session", "gate.summary", "gate.timing", "store.trace",
             "report.html_report", "rq.burst"):  # fmt: skip
    importlib.import_module(f"jobdoctor.{name}")

SHOP = """
import sqlite3

from redis import Redis
from rq import Queue
from rq.decorators import job

DATABASE = "shop.db"


def connect():
    return sqlite3.connect(DATABASE)


def stock(number):
    with connect() as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, points INTEGER DEFAULT 0, seen TEXT)")
        connection.execute("CREATE TABLE log (text TEXT)")
        connection.executemany("INSERT INTO orders (id) VALUES (?)", [(one,) for one in range(1, number + 1)])


def one_by_one(ids):
    with connect() as connection:
        return [connection.execute("SELECT id FROM orders WHERE id = ?", [one]).fetchone()[0] for one in ids]


def at_once(ids):
    marks = ", ".join("?" * len(ids))
    with connect() as connection:
        return [one for one, in connection.execute(f"SELECT id FROM orders WHERE id IN ({marks})", ids)]


def in_chunks(ids):
    return [one for start in range(0, len(ids), 4) for one in at_once(ids[start : start + 4])]


def add_points(one):
    with connect() as connection:
        connection.execute("UPDATE orders SET points = points + 1 WHERE id = ?", [one])


def set_points(one, points):
    with connect() as connection:
        connection.execute("UPDATE orders SET points = ? WHERE id = ?", [points, one])


def add(a, b):
    return a + b


def return_much(number):
    return "x" * number


def remember(number):
    return len(bytearray(b"x" * number))


def fail():
    raise ValueError("no order 12")


@job(Queue("low", connection=Redis(port=1), serializer="json"), connection=None, timeout=30)
def decorated(rows):
    return rows
"""
CONFTEST = """
import os
import pytest
import shop


@pytest.fixture(autouse=True)
def database(tmp_path, monkeypatch):
    monkeypatch.setattr(shop, "DATABASE", str(tmp_path / "shop.db"))
    shop.stock(20)
"""


@pytest.fixture(autouse=True)
def _nothing_is_wrapped() -> Iterator[None]:
    yield
    stamps.uninstall()
    exits.uninstall()
    probes.uninstall_all()


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Runs a session in this process on a test file, with the plugin and no other."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(shop=SHOP, conftest=CONFTEST)
    pytester.syspathinsert()

    def run(tests: str | None = None, *arguments: str, **files: Any) -> pytest.RunResult:
        if tests is not None:
            pytester.makepyfile(test_shop=f"import pytest\nimport shop\n\n{tests}")
        if files:
            pytester.makepyfile(**files)
        return pytester.runpytest_inprocess("-p", "jobdoctor.pytest_plugin", "-p", "no:cacheprovider", *arguments)

    return run
