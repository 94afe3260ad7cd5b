"""The first application frame of a call, wherever it is made from."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
import sysconfig
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from jobdoctor.capture import callsites
from jobdoctor.capture.callsites import Site

HERE = "tests/capture/test_callsites.py"


def look() -> Site:
    """What a probe would find (this function counts as application code)."""
    return callsites.here(2)


def line() -> int:
    return sys._getframe(1).f_lineno


def test_the_line_the_function_and_the_stack() -> None:
    def inner() -> Site:
        return look()

    site = inner()
    expected = line() - 1
    inside = expected - 2
    name = "test_the_line_the_function_and_the_stack"
    assert site.callsite == f"{HERE}:{inside}"
    assert site.function == f"{name}.<locals>.inner"
    assert site.stack[:2] == [f"{HERE}:{inside} {name}.<locals>.inner", f"{HERE}:{expected} {name}"]


def test_the_stack_is_bounded() -> None:
    def recurse(depth: int) -> Site:
        return recurse(depth - 1) if depth else look()

    assert len(recurse(50).stack) <= callsites.STACK_FRAMES


def test_frames_of_libraries_are_passed_over() -> None:
    found: list[Site] = []

    class Encoder(json.JSONEncoder):
        def default(self, o: Any) -> Any:
            found.append(callsites.here())
            return None

    # The standard library calls back into the application: the innermost application frame counts.
    json.dumps({"a": object()}, cls=Encoder)
    assert found[0].function.endswith("Encoder.default")
    assert all("json/" not in entry for entry in found[0].stack)
    assert found[0].stack[1].endswith("test_frames_of_libraries_are_passed_over")


def test_a_call_made_by_a_library_belongs_to_the_line_that_called_the_library() -> None:
    # partial is written in C: it leaves no frame of its own.
    site = functools.partial(callsites.here, 1)()
    expected = line() - 1
    assert isinstance(site, Site)
    assert site.callsite == f"{HERE}:{expected}"


def test_comprehensions_are_their_function() -> None:
    (site,) = [look() for _ in range(1)]
    expected = line() - 1
    assert site.callsite == f"{HERE}:{expected}"
    assert site.function == "test_comprehensions_are_their_function"
    generated = next(look() for _ in range(1))
    assert generated.function == "test_comprehensions_are_their_function"


def test_generators_lambdas_and_decorators() -> None:
    def produce() -> Iterator[Site]:
        yield look()

    assert next(produce()).function.endswith("produce")
    assert (lambda: look())().function.endswith("<lambda>")

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper() -> Any:
            return function()

        return wrapper

    @decorate
    def decorated() -> Site:
        return look()

    site = decorated()
    assert site.function.endswith("decorated")
    assert site.stack[1].endswith("wrapper")


def test_in_a_thread_and_in_a_task() -> None:
    found: list[Site] = []

    def work() -> None:
        found.append(look())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    async def step() -> Site:
        await asyncio.sleep(0)
        return look()

    async def main() -> Site:
        return await asyncio.create_task(step())

    assert found[0].function.endswith("work")
    assert asyncio.run(main()).function.endswith("step")


@pytest.mark.parametrize(
    ("filename", "application"),
    [
        (json.__file__, False),
        (os.__file__, False),
        (pytest.__file__, False),
        (callsites.__file__, False),
        ("<string>", False),
        ("<frozen importlib._bootstrap>", False),
        ("", False),
        (os.path.join(os.path.dirname(sys.executable), "rq"), False),
        (os.path.join(sysconfig.get_path("purelib"), "requests", "api.py"), False),
        ("/usr/lib/python3/dist-packages/yaml/__init__.py", False),
        (__file__, True),
        (str(Path(callsites.__file__).parents[2] / "sample_app" / "jobs.py"), True),
        ("/srv/shop/app/tasks.py", True),
    ],
)
def test_what_is_application_code(filename: str, application: bool) -> None:
    assert callsites.is_application(filename) is application


def test_paths_are_relative_to_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    assert callsites.relative(__file__) == HERE
    monkeypatch.setattr(sys, "path", ["/srv", "/srv/elsewhere", *sys.path])
    assert callsites.relative("/srv/elsewhere/shop/cart.py") == "shop/cart.py"
    assert callsites.relative("/opt/nowhere/shop/cart.py") == "/opt/nowhere/shop/cart.py"


def test_without_any_application_frame_the_outermost_library_frame_is_named(tmp_path: Path) -> None:
    library = tmp_path / "site-packages" / "vendor"
    library.mkdir(parents=True)
    (library / "__init__.py").touch()
    (library / "worker.py").write_text(
        textwrap.dedent(
            """
            from jobdoctor.capture import callsites

            def outer():
                return inner()

            def inner():
                return callsites.here()

            site = outer()
            print(site.callsite, site.function)
            """
        )
    )
    shown = subprocess.run(
        [sys.executable, "-m", "vendor.worker"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(library.parent), os.getcwd()])},
    )
    # runpy starts it: what matters is that something useful is said, with a line.
    where, _ = shown.stdout.split()
    assert where.rpartition(":")[2].isdigit()
    assert where != ":0"


def test_without_any_application_frame_the_job_itself_is_named() -> None:
    # A coroutine of the standard library that became a task: nothing of the application is on its stack.
    frames: list[FrameType] = []
    code = compile("def step(frames, here): frames.append(here())", asyncio.tasks.__file__, "exec")
    scope: dict[str, Any] = {}
    exec(code, scope)
    thread = threading.Thread(target=scope["step"], args=(frames, sys._getframe))
    thread.start()
    thread.join()

    @functools.lru_cache
    def job() -> None: ...

    line = job.__wrapped__.__code__.co_firstlineno
    site = callsites.site_of(frames[0], job)
    assert site.callsite == f"tests/capture/test_callsites.py:{line}"
    assert site.function.endswith("job")
    assert site.stack == [f"{site.callsite} {site.function}"]
    assert callsites.site_of(frames[0], print).callsite.startswith("threading.py:")
    own = callsites.site_of(sys._getframe(), job)
    assert own.function == "test_without_any_application_frame_the_job_itself_is_named"


def test_file_names_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callsites, "FILES", len(callsites.files) + 1)
    assert callsites.is_application("/srv/one.py")
    assert callsites.is_application("/srv/two.py")
    assert "/srv/one.py" in callsites.files
    assert "/srv/two.py" not in callsites.files
    del callsites.files["/srv/one.py"]


def test_errors_are_placed_at_the_last_application_line() -> None:
    with pytest.raises(ValueError) as caught:
        json.loads("{")
    assert callsites.raised_at(caught.tb) == f"{HERE}:{line() - 1}"


def test_the_stack_ends_where_the_worker_calls_the_job() -> None:
    names: dict[str, Any] = {"here": callsites.here}
    exec(compile("def job():\n    return here()", "/app/jobs.py", "exec"), names)
    exec(compile("def execute():\n    return job()", callsites._HORSE, "exec"), names)
    exec(compile("def work():\n    return execute()", "/app/worker.py", "exec"), names)
    site = names["work"]()
    assert (site.callsite, site.stack) == ("/app/jobs.py:2", ["/app/jobs.py:2 job"])
    # A call that no line of the job makes: what there is else.
    exec(compile("def execute():\n    return here()", callsites._HORSE, "exec"), names)
    assert names["work"]().callsite == "/app/worker.py:2"
