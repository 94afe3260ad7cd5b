"""Installing, late imports, statuses, and what may never happen: a probe that hurts the job."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from types import ModuleType
from typing import Any, ClassVar

import pytest

from jobdoctor.capture import probes, recorder
from jobdoctor.capture.probes import registry
from jobdoctor.capture.probes.base import Probe, foreign, recorded
from tests.capture.probes.conftest import Record


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_libraries_that_are_imported_later_are_patched_and_unpatched() -> None:
    assert (
        python(
            """
from jobdoctor.capture import probes
probes.install_all(); probes.install_all()
status = lambda: {(s.channel, s.library): s.status for s in probes.statuses()}
assert status()[("http", "http.client")] == "absent"
assert status()[("sql", "sqlalchemy")] == "absent"
import http.client
wrapped = http.client.HTTPConnection.putrequest
assert wrapped.__wrapped__.__qualname__ == "HTTPConnection.putrequest"
assert status()[("http", "http.client")] == "active"
assert type(http.client.__spec__.loader).__name__ == "SourceFileLoader"
assert "exec_module" not in vars(http.client.__spec__.loader)
probes.uninstall_all()
assert http.client.HTTPConnection.putrequest is wrapped.__wrapped__
import smtplib
assert not hasattr(smtplib.SMTP.sendmail, "__wrapped__")
print("fine")
"""
        )
        == "fine"
    )


def test_sqlite3_imported_later_is_recorded_once_and_put_back() -> None:
    assert (
        python(
            """
from jobdoctor.capture import probes, recorder, recording
probes.install_all()
import sqlite3
status, = (s for s in probes.statuses() if s.library == "sqlite3")
assert (status.status, status.reason) == ("active", ""), status
memory = recorder.open_memory()
rec = recorder.Recorder(memory.buffer)
recorder.start(rec)
rec.mark("body")
sqlite3.connect(":memory:").execute("SELECT 1")
rec.mark("end")
recorder.stop()
assert [group.count for group in recording.read(memory.buffer).groups if group.operation == "SELECT"] == [1]
probes.uninstall_all()
import _sqlite3
assert sqlite3.connect is sqlite3.dbapi2.connect is _sqlite3.connect
print("fine")
"""
        )
        == "fine"
    )


def test_a_loader_that_modules_share_is_left_as_it_was() -> None:
    assert (
        python(
            """
import sys
from importlib.machinery import BuiltinImporter
from jobdoctor.capture.probes.base import Probe
from jobdoctor.capture.probes import registry
name = next(name for name in sys.builtin_module_names if name not in sys.modules)
class Late(Probe):
    channel, library, modules = "file", "late", (name,)
    def patch(self, module):
        self.module = module
late = Late()
registry._finder.waiting[name] = [late]
registry.install_all()
execute = BuiltinImporter.exec_module
module = __import__(name)
assert late.module is module and late.status().status == "active"
assert BuiltinImporter.exec_module is execute
assert module.__loader__ is module.__spec__.loader is BuiltinImporter
print("fine")
"""
        )
        == "fine"
    )


def test_installing_loads_no_library_that_the_worker_does_not_have() -> None:
    assert (
        python(
            """
import sys
from jobdoctor.capture import probes
probes.install_all()
heavy = {"sqlite3", "sqlalchemy", "psycopg", "psycopg2", "http.client", "httpx", "redis", "smtplib", "asyncio", "fcntl"}
print(sorted(heavy & set(sys.modules)))
"""
        )
        == "[]"
    )


def test_a_probe_that_cannot_be_installed_says_why_and_stops_nothing() -> None:
    class Broken(Probe):
        channel: ClassVar[str] = "http"
        library: ClassVar[str] = "broken"
        modules: ClassVar[tuple[str, ...]] = ("time",)

        def patch(self, module: ModuleType) -> None:
            raise AttributeError("no such thing")

    probe = Broken()
    probe.install("time", time)
    status = probe.status()
    assert (status.status, status.reason) == ("failed", "time: AttributeError: no such thing")


def test_a_probe_that_crashes_calls_the_original(record: Record) -> None:
    def begin(*_: Any) -> Any:
        raise ZeroDivisionError

    def end(*_: Any) -> Any:
        raise ZeroDivisionError

    def begin_well(rec: Any, *_: Any) -> Any:
        return rec.begin(rec.shape("file", "open", "x"))

    with record() as result:
        assert recorded(lambda x: x + 1, begin)(1) == 2
        assert recorded(lambda x: x + 1, begin_well, end)(1) == 2
    assert result.one("file").count == 1


def test_what_a_signal_handler_raises_is_the_jobs() -> None:
    class JobTimeout(Exception):
        pass

    def handler(*_: object) -> None:
        raise JobTimeout

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(JobTimeout) as caught:
            signal.raise_signal(signal.SIGUSR1)
        assert foreign(caught.value)
    finally:
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(ZeroDivisionError) as own:
        _ = 1 / 0
    assert not foreign(own.value)
    assert foreign(KeyboardInterrupt())


def test_an_attribute_that_somebody_replaced_after_us_stays_theirs() -> None:
    original = time.sleep
    registry.install_all()
    ours = time.sleep
    theirs = lambda seconds: ours(seconds)  # noqa: E731
    time.sleep = theirs
    registry.uninstall_all()
    assert time.sleep is theirs
    time.sleep(0)
    time.sleep = original


def test_statuses_have_a_line_for_each_channel(installed: None) -> None:
    channels = {status.channel for status in probes.statuses()}
    assert channels == {"sql", "pool", "redis", "lock", "http", "sleep", "subprocess", "file", "mail"}
    assert all(status.status in {"active", "absent"} for status in probes.statuses())


def test_wrappers_cost_little_when_nothing_is_recorded(installed: None) -> None:
    assert recorder.current is None
    assert time.sleep.__wrapped__.__name__ == "sleep"  # type: ignore[attr-defined]
    assert time.sleep.__name__ == "sleep"


def test_a_library_has_one_status_on_a_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    class First(Probe):
        channel: ClassVar[str] = "http"
        library: ClassVar[str] = "shared"
        modules: ClassVar[tuple[str, ...]] = ("time",)

        def patch(self, module: ModuleType) -> None:
            pass

    class Second(First):
        pass

    one, other = First(), Second()
    monkeypatch.setattr(registry, "PROBES", (one, other))
    assert [status.status for status in probes.statuses()] == ["absent"]
    one.install("time", time)
    assert [status.status for status in probes.statuses()] == ["active"]
    other.failure = "time: what is wrong"
    assert [(status.status, status.reason) for status in probes.statuses()] == [("failed", "time: what is wrong")]
