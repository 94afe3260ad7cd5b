"""What goes wrong around the probes hurts no job: it is said, or not even felt."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import jobdoctor
from jobdoctor.capture import probes, recorder
from jobdoctor.capture.probes import registry
from jobdoctor.capture.probes.base import Probe, recorded
from jobdoctor.model import SpanGroup


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    yield
    probes.uninstall_all()


def groups_of(work: Callable[[], Any], channel: str) -> list[SpanGroup]:
    with jobdoctor.record("job") as recording:
        work()
    assert recording.execution is not None
    return [group for group in recording.execution.groups if group.channel == channel]


def python(code: str, path: Path | None = None) -> str:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path or ""), os.getcwd()])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ------------------------------------------------------------------------------------ libraries that look otherwise


@pytest.mark.parametrize(
    ("module", "source", "library"),
    [
        ("httpx/_transports/default.py", "class Transport:\n    pass\n", "httpx"),
        ("django/db/backends/utils.py", "CursorWrapper = None\n", "django"),
        ("opentelemetry/sdk/trace.py", "tracer = 1\n", "opentelemetry"),
        ("redis/cluster.py", "class RedisCluster:\n    execute_command = None\n", "redis"),
    ],
)
def test_a_library_that_looks_otherwise_is_imported_and_named(
    tmp_path: Path, module: str, source: str, library: str
) -> None:
    file = tmp_path / module
    file.parent.mkdir(parents=True)
    file.write_text(source)
    for folder in file.parent.relative_to(tmp_path).parents[:-1]:
        (tmp_path / folder / "__init__.py").touch()
    (file.parent / "__init__.py").touch()
    name = module.removesuffix(".py").replace("/", ".")
    said = python(
        f"import jobdoctor\nfrom jobdoctor.capture import probes\nprobes.install_all()\nimport {name} as found\n"
        f"assert found.__file__ == {str(file)!r}, found\n"
        "print(*(s.library + ' ' + s.reason for s in probes.statuses() if s.status == 'failed'), sep='\\n')",
        tmp_path,
    )
    assert said.startswith(f"{library} {name}: ")


def test_methods_that_take_other_arguments_are_called_as_the_caller_does() -> None:
    import smtplib

    class Newer(smtplib.SMTP):
        def sendmail(self, *, envelope: str) -> str:  # type: ignore[override]
            return envelope

        connect = sendmail  # type: ignore[assignment]

    probe = next(probe for probe in registry.PROBES if probe.library == "smtplib")
    probe.replace(Newer, "sendmail", lambda original: recorded(original, _asks_for_too_much))
    try:
        with jobdoctor.record("job"):
            assert Newer.sendmail(object(), envelope="a") == "a"  # type: ignore[arg-type]
    finally:
        probe.uninstall()


def _asks_for_too_much(_rec: Any, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
    return args[7]


def test_a_library_that_is_not_there_is_absent(tmp_path: Path) -> None:
    said = python(
        "import sys\nfor name in ('psycopg', 'httpx', 'aiohttp', 'django'): sys.modules[name] = None\n"
        "import jobdoctor\nfrom jobdoctor.capture import probes\n"
        "with jobdoctor.record('job') as recorded:\n    try:\n        import httpx\n    except ImportError:\n"
        "        print('as ever')\n"
        "print(*sorted({s.library for s in recorded.execution.probes if s.status == 'absent'} & {'httpx', 'django'}))",
    )
    assert said == "as ever\ndjango httpx"


# --------------------------------------------------------------------------------------------- others who wrap the same


def test_wrapped_by_somebody_before_and_after_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """As APM agents do it, on both sides."""
    heard: list[str] = []

    def wrapping(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            heard.append(name)
            return original(*args, **kwargs)

        return wrapper

    original = time.sleep
    monkeypatch.setattr(time, "sleep", wrapping("before", time.sleep))
    before = time.sleep
    probes.install_all()
    monkeypatch.setattr(time, "sleep", wrapping("after", time.sleep))
    after = time.sleep
    (slept,) = groups_of(lambda: time.sleep(0.01), "sleep")
    assert (heard, slept.count) == (["after", "before"], 1)
    probes.uninstall_all()
    assert time.sleep is after  # it stays theirs
    time.sleep(0)
    assert heard == ["after", "before"] * 2
    monkeypatch.setattr(time, "sleep", before)
    probes.install_all()
    probes.uninstall_all()
    assert time.sleep is before
    assert original is not before


def test_monkeypatched_as_gevent_does() -> None:
    """Whole modules' functions and classes replaced after us, by ones that know nothing of ours."""
    assert (
        python(
            """
import threading, time, subprocess, os, select
import jobdoctor
from jobdoctor.capture import probes
probes.install_all()
real = {name: getattr(threading, name) for name in ("Lock", "RLock", "Event")}
class Green:
    def __init__(self): self.held = False
    def acquire(self, blocking=True, timeout=-1): self.held = True; return True
    def release(self): self.held = False
    __enter__ = acquire
    def __exit__(self, *_): self.release()
threading.Lock = threading.RLock = Green
green_sleep = lambda seconds=0: select.select([], [], [], seconds)
time.sleep = green_sleep
with jobdoctor.record("job") as recorded:
    with threading.Lock() as _:
        time.sleep(0.01)
    subprocess.run(["true"], check=True)
    open(os.devnull).close()
assert {group.channel for group in recorded.execution.groups} == {"subprocess", "file"}, recorded.execution.groups
probes.uninstall_all()
assert threading.Lock is Green and time.sleep is green_sleep
print("fine")
"""
        )
        == "fine"
    )


def test_wrapped_by_wrapt_on_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    import http.client

    import wrapt

    probes.install_all()
    ours = http.client.HTTPConnection.putrequest
    seen: list[str] = []

    @wrapt.decorator
    def agent(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append(args[0])
        return wrapped(*args, **kwargs)

    monkeypatch.setattr(http.client.HTTPConnection, "putrequest", agent(ours))

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", 9)
        with pytest.raises(OSError):
            connection.request("GET", "/orders/5")

    (call,) = groups_of(work, "http")
    assert (seen, call.count, call.errors) == (["GET"], 1, 1)


# -------------------------------------------------------------------------------------------------- probes that fail


class _Failing(Probe):
    channel = "mail"
    library = "failing"
    modules = ("time",)

    def patch(self, module: Any) -> None:
        self.replace(module, "monotonic_ns", lambda original: original)
        raise KeyError("the attribute that was there")


def test_a_probe_that_fails_half_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = _Failing()
    monkeypatch.setattr(registry, "PROBES", (*registry.PROBES, failing))
    with jobdoctor.record("job") as recording:
        threading.Event().wait(0.01)
    assert recording.execution is not None
    (said,) = [probe for probe in recording.execution.probes if probe.status == "failed"]
    assert (said.channel, said.library) == ("mail", "failing")
    assert "KeyError: 'the attribute that was there'" in said.reason
    assert [group.channel for group in recording.execution.groups] == ["sleep"]


@pytest.mark.parametrize("channel", ["", "http"])
def test_a_failed_probe_without_a_channel_is_named_too(monkeypatch: pytest.MonkeyPatch, channel: str) -> None:
    failing = _Failing()
    monkeypatch.setattr(type(failing), "channel", channel)
    failing.install("time", time)
    monkeypatch.setattr(registry, "PROBES", (failing,))
    assert [(status.library, status.status) for status in probes.statuses()] == [("failing", "failed")]


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), MemoryError()])
def test_what_a_probe_raises_never_reaches_the_job(error: Exception) -> None:
    def begin(rec: Any, *_: Any) -> Any:
        return rec.begin(rec.shape("file", "open", "x"))

    def fail(*_: Any) -> Any:
        raise error

    with jobdoctor.record("job"):
        assert recorded(lambda: "result", fail)() == "result"
        assert recorded(lambda: "result", begin, fail)() == "result"
        with pytest.raises(LookupError):
            recorded(_look_up, begin, fail)()
        assert recorder.current is not None
        assert not recorder.current.busy


def _look_up() -> None:
    raise LookupError


def test_a_recorder_that_fails_within_is_not_felt(monkeypatch: pytest.MonkeyPatch) -> None:
    with jobdoctor.record("job"):
        rec = recorder.current
        assert rec is not None
        rec.words.release()  # as if its memory had gone
        time.sleep(0.001)
        open(os.devnull).close()
        subprocess.run(["true"], check=True)
        rec.words = memoryview(rec.buffer).cast("q")
