"""Beside other plugins, in processes of their own; and in sessions that never use it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pytest_plugin.conftest import CONFTEST, SHOP

#: What a session that does not use the plugin must not load because of it.
HEAVY = ("msgspec", "rq", "redis", "sqlalchemy", "jobdoctor.gate", "jobdoctor.model", "jobdoctor.capture")


def run(folder: Path, tests: str, *arguments: str, plugins: tuple[str, ...] = (), **files: str) -> str:
    """What a session in a process of its own says; of the plugins only those named are there, and ours."""
    (folder / "test_it.py").write_text(tests)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    others = {"randomly", "asyncio", "django", "benchmark", "anyio", "xdist", "timeout", "hypothesispytest"} - set(
        plugins
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    command += [part for name in sorted(others) for part in ("-p", f"no:{name}")]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    return ran.stdout + ran.stderr


def need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: it is in the group dev")


def test_a_session_that_does_not_use_it_loads_nothing(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        f"""
import sys

def test_it(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("jobdoctor")
    heavy = {HEAVY!r}
    assert [name for name in sys.modules if name in heavy or name.startswith(tuple(f"{{h}}." for h in heavy))] == []
""",
    )
    assert "1 passed" in said, said


def test_with_asyncio(tmp_path: Path) -> None:
    need("pytest_asyncio")
    said = run(
        tmp_path,
        """
import asyncio
import pytest
import work

@pytest.mark.asyncio
@pytest.mark.jobdoctor(max_calls={"sleep": 1})
async def test_within_a_loop(jobdoctor):
    assert jobdoctor.run(work.later, 4).result == 5
    with jobdoctor.record() as profile:
        await asyncio.sleep(0)
    assert profile.wall_ms > 0

@pytest.mark.asyncio
@pytest.mark.jobdoctor(max_calls={"sleep": 0})
async def test_broken(jobdoctor):
    jobdoctor.run(work.later, 4)

def test_outside(jobdoctor):
    assert jobdoctor.run(work.later, 4).calls == {"sleep": 1}
""",
        plugins=("asyncio",),
        work="import asyncio\n\nasync def later(number):\n    await asyncio.sleep(0.001)\n    return number + 1\n",
    )
    assert "1 failed, 2 passed" in said, said
    assert "work.later: 1 sleep call, 0 allowed [max_calls]" in said


def test_with_django(tmp_path: Path) -> None:
    need("pytest_django")
    settings = "SECRET_KEY = 'x'\nINSTALLED_APPS = ['django.contrib.contenttypes', 'django.contrib.auth']\n"
    settings += "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}\nUSE_TZ = True\n"
    said = run(
        tmp_path,
        """
import pytest
import work

@pytest.fixture
def users(db):
    from django.contrib.auth.models import Group, User
    for number in range(8):
        User.objects.create(username=f"u{number}").groups.add(Group.objects.create(name=f"g{number}"))

@pytest.mark.jobdoctor(max_queries=2)
def test_healthy(jobdoctor, users):
    assert jobdoctor.run(work.together).result == 8

def test_sick(jobdoctor, users):
    jobdoctor.scales(work.one_by_one, sizes=[2, 8])
""",
        "--ds=settings",
        plugins=("django",),
        settings=settings,
        work="""
def one_by_one(number):
    from django.contrib.auth.models import User
    return sum(len(user.groups.all()) for user in User.objects.order_by("id")[:number])

def together():
    from django.contrib.auth.models import User
    return sum(len(user.groups.all()) for user in User.objects.prefetch_related("groups"))
""",
    )
    assert "1 failed, 1 passed" in said, said
    assert "work.one_by_one: 2 -> 8 sql calls for 2 -> 8 items" in said
    assert "work.py:4 one_by_one" in said
    assert "prefetch_related" in said


def test_in_random_order(tmp_path: Path) -> None:
    need("pytest_randomly")
    tests = """
import pytest
import shop

@pytest.mark.parametrize("number", range(6))
def test_it(jobdoctor, number):
    jobdoctor.run(shop.at_once, list(range(1, number + 2)))
"""
    files = {"shop": SHOP, "conftest": CONFTEST}
    update = run(tmp_path, tests, "--jobdoctor-update", **files)
    assert "baseline: .jobdoctor/baseline.json, 6 tests written" in update, update
    compared = run(tmp_path, tests, "-v", plugins=("randomly",), **files)
    assert "6 passed" in compared, compared
    assert "--randomly-seed" in compared
    assert "= jobdoctor =" not in compared  # nothing is new, less or more
