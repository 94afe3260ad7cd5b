"""Sleeps, processes, files, mail, garbage collection and imports."""

from __future__ import annotations

import asyncio
import builtins
import gc
import importlib
import io
import multiprocessing
import os
import shutil
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobdoctor.capture import probes
from jobdoctor.capture.probes.subprocesses import program
from tests.capture.probes.conftest import Record, line


def test_sleeps(record: Record) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        await asyncio.gather(*(asyncio.sleep(0.03) for _ in range(4)))

    with record() as recorded:
        for _ in range(3):
            time.sleep(0.01)
            here = line(-1)
        asyncio.run(work())
    plain, asynchronous = recorded.of("sleep")
    assert (plain.count, plain.library, plain.effect) == (3, "time", "none")
    assert plain.callsite == f"tests/capture/probes/test_small_probes.py:{here}"
    assert plain.total_ns >= 30_000_000
    assert (asynchronous.count, asynchronous.concurrent) == (4, 3)
    # Those that sleep beside one another are counted once.
    assert recorded.recording.channel_ns["sleep"] < plain.total_ns + asynchronous.total_ns


def test_processes(record: Record) -> None:
    with record() as recorded:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.1)", "secret"], check=True)
        assert subprocess.check_output(["echo", "hello"]) == b"hello\n"
        assert os.system("true secret") == 0
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(["sleep", "5"], timeout=0.05)
    groups = {group.fingerprint: group for group in recorded.of("subprocess")}
    assert groups[os.path.basename(sys.executable)].count == 1
    assert groups[os.path.basename(sys.executable)].total_ns > 90_000_000
    assert groups["echo"].count == 1
    assert (groups["true"].operation, groups["true"].count) == ("system", 1)
    assert groups["sleep"].error_types == {"subprocess.TimeoutExpired": 1}
    assert "secret" not in str(recorded.recording)


def test_processes_of_asyncio_and_multiprocessing(record: Record) -> None:
    async def work() -> None:
        process = await asyncio.create_subprocess_exec("sleep", "0.05")
        assert await process.wait() == 0
        assert await process.wait() == 0
        shell = await asyncio.create_subprocess_shell(
            "cat; echo secret", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert (await shell.communicate(b"a "))[0] == b"a secret\n"

    with record() as recorded:
        asyncio.run(work())
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.05,))
        child.start()
        child.join()
        child.join()
    slept, echoed, joined = recorded.of("subprocess")
    assert (slept.library, slept.fingerprint, slept.count) == ("asyncio", "sleep", 1)
    assert (echoed.library, echoed.fingerprint, echoed.count) == ("asyncio", "cat", 1)
    assert slept.total_ns > 30_000_000
    assert (joined.library, joined.operation, joined.fingerprint, joined.count) == (
        "multiprocessing", "join", "ForkProcess", 1,
    )  # fmt: skip
    assert joined.total_ns > 30_000_000
    assert "secret" not in str(recorded.recording)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/usr/bin/git", "push"], "git"),
        ("A=1 /bin/ls -l | wc", "ls"),
        (Path("/bin/true"), "true"),
        (b"ls -l", "ls"),
        ([], "process"),
    ],
)
def test_a_command_is_known_by_its_program(command: object, name: str) -> None:
    assert program(command) == name


def test_files(record: Record, tmp_path: Path) -> None:
    with record() as recorded:
        for n in range(20):
            with open(tmp_path / f"invoice-{n}.txt", "w") as file:
                file.write("x")
                file.flush()
                os.fsync(file.fileno())
        for n in range(10):
            (tmp_path / f"invoice-{n}.txt").read_text()
        with pytest.raises(FileNotFoundError):
            open(tmp_path / "missing.csv")  # noqa: SIM115
    written, synced, read, missing = recorded.of("file")
    assert (written.operation, written.effect, written.count, written.distinct) == ("open", "write", 20, 20)
    assert written.fingerprint.endswith("/invoice-{}.txt")
    assert (synced.operation, synced.effect, synced.count) == ("fsync", "write", 20)
    assert (read.effect, read.count) == ("read", 10)
    assert missing.error_types == {"FileNotFoundError": 1}


def test_descriptors_directories_and_copies(record: Record, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with record() as recorded:
        for number in range(3):
            name = tmp_path / "tree" / f"part-{number}"
            descriptor = os.open(name, os.O_CREAT | os.O_WRONLY)
            os.write(descriptor, b"secret")
            os.fdatasync(descriptor)
            os.close(descriptor)
            os.replace(name, tmp_path / "tree" / f"whole-{number}")
            here = line(-1)
        os.close(os.open(tmp_path / "tree" / "whole-0", os.O_RDONLY))
        assert len(os.listdir(tmp_path / "tree")) == 3
        assert {entry.name for entry in os.scandir(tmp_path / "tree")} == {"whole-0", "whole-1", "whole-2"}
        shutil.copyfile(tmp_path / "tree" / "whole-0", tmp_path / "tree" / "copy")
        (tmp_path / "tree" / "copy").unlink()
        with pytest.raises(FileNotFoundError):
            os.remove(tmp_path / "missing")
        recorded.recorder.mark("callback")  # which opens /proc, and is not the job's
    found = [(group.operation, group.effect, group.library, group.count, group.errors) for group in recorded.of("file")]
    assert found == [
        ("open", "write", "os", 3, 0), ("fsync", "write", "os", 3, 0), ("rename", "write", "os", 3, 0),
        ("open", "read", "os", 1, 0), ("list", "read", "os", 1, 0), ("list", "read", "os", 1, 0),
        ("copy", "write", "shutil", 1, 0), ("remove", "write", "os", 1, 0),
        ("remove", "write", "os", 1, 1),
    ]  # fmt: skip
    renamed = next(group for group in recorded.of("file") if group.operation == "rename")
    assert (renamed.distinct, renamed.fingerprint[-8:]) == (3, "/part-{}")
    assert renamed.callsite == f"tests/capture/probes/test_small_probes.py:{here}"
    assert "secret" not in str(recorded.recording)


@pytest.fixture
def smtp_port() -> Iterator[int]:
    """A mail server of four replies."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as stream:

            def say(text: str) -> None:
                stream.write(text.encode() + b"\r\n")
                stream.flush()

            say("220 ready")
            while True:
                command = stream.readline().strip().upper()
                if not command:
                    return
                if command == b"DATA":
                    say("354 go on")
                    while stream.readline().strip() != b".":
                        pass
                say("221 bye" if command == b"QUIT" else "250 fine")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.close()


def test_mail(record: Record, smtp_port: int) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.com, c@example.com", "secret"
    message.set_content("secret")
    with record() as recorded, smtplib.SMTP("127.0.0.1", smtp_port) as client:
        client.send_message(message)
        here = line(-1)
        client.sendmail("a@example.com", "b@example.com", "hello")
    connect, many, one = recorded.of("mail")
    assert (connect.operation, connect.count, connect.no_timeout, connect.new_connections) == ("CONNECT", 1, 1, 1)
    assert connect.target == f"smtp://127.0.0.1:{smtp_port}"
    assert (many.operation, many.effect, many.count, many.batched, many.items) == ("SEND", "write", 1, 1, 2)
    assert many.callsite == f"tests/capture/probes/test_small_probes.py:{here}"
    assert (one.count, one.batched, one.sent_bytes) == (1, 0, 5)
    assert "secret" not in str(recorded.recording)
    assert "example.com" not in str(recorded.recording)


def test_collections(record: Record) -> None:
    with record() as recorded:
        gc.collect()
        gc.collect()
    assert recorded.recording.gc_count >= 2
    assert recorded.recording.gc_ns > 0


def test_imports_of_the_execution(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000_000]

    def take_ms(ms: int) -> None:
        now[0] += ms * 1_000_000

    monkeypatch.setitem(sys.modules, "jd_probe_clock", SimpleNamespace(take_ms=take_ms))
    (tmp_path / "jd_probe_outer.py").write_text(
        "import jd_probe_clock\njd_probe_clock.take_ms(20)\nimport jd_probe_inner\nimport jd_probe_quick\n"
    )
    (tmp_path / "jd_probe_inner.py").write_text("import jd_probe_clock\njd_probe_clock.take_ms(30)\n")
    (tmp_path / "jd_probe_quick.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with record() as recorded:
        recorded.recorder.clock = lambda: now[0]
        importlib.import_module("jd_probe_outer")
        import jd_probe_inner  # type: ignore[import-not-found]  # noqa: F401

        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("jd_probe_missing")
    notes = {note["module"]: note for note in recorded.facts("import")}
    assert notes["jd_probe_outer"]["application"]
    assert {"jd_probe_outer", "jd_probe_inner"} <= set(notes)
    assert "jd_probe_quick" not in notes
    outer, inner = notes["jd_probe_outer"], notes["jd_probe_inner"]
    assert (outer["depth"], inner["depth"]) == (0, 1)
    assert (outer["total_ns"], outer["self_ns"]) == (50_000_000, 20_000_000)
    assert (inner["total_ns"], inner["self_ns"]) == (30_000_000, 30_000_000)


def test_everything_is_put_back() -> None:
    def attributes() -> tuple[object, ...]:
        return (
            time.sleep, asyncio.sleep, asyncio.tasks.sleep, builtins.open, io.open, os.fsync, os.fdatasync, os.system,
            os.open, os.sync, os.replace, os.rename, os.remove, os.unlink, os.listdir, os.scandir, shutil.copyfile,
            threading.Event.wait, threading.Condition.wait,
            subprocess.Popen.wait, subprocess.Popen.communicate, smtplib.SMTP.sendmail, smtplib.SMTP.connect,
            sys.modules["_frozen_importlib"]._find_and_load,  # type: ignore[attr-defined]
        )  # fmt: skip

    before, callbacks, finders = attributes(), list(gc.callbacks), list(sys.meta_path)
    probes.install_all()
    assert all(one is not other for one, other in zip(attributes(), before, strict=True))
    assert builtins.open is io.open
    assert asyncio.sleep is asyncio.tasks.sleep
    probes.uninstall_all()
    assert all(one is other for one, other in zip(attributes(), before, strict=True))
    assert (gc.callbacks, sys.meta_path) == (callbacks, finders)


def test_waits_that_time_out_are_sleeps(record: Record) -> None:
    done, condition = threading.Event(), threading.Condition()
    with record() as recorded:
        for _ in range(3):
            assert not done.wait(0.02)
            here = line(-1)
        with condition:
            assert not condition.wait(timeout=0.02)
        threading.Timer(0.02, done.set).start()
        assert done.wait(5)  # for the job's own thread
        assert done.wait(5)
        assert not threading.Event().wait(0)
    event, other = recorded.of("sleep")
    assert (event.operation, event.fingerprint, event.count) == ("wait", "threading.Event.wait", 3)
    assert event.callsite == f"tests/capture/probes/test_small_probes.py:{here}"
    assert event.min_ns >= 20_000_000
    assert (other.fingerprint, other.count) == ("threading.Condition.wait", 1)
    assert 80_000_000 <= recorded.recording.channel_ns["sleep"] <= event.total_ns + other.total_ns


def test_full_collections_are_told_from_young_ones(record: Record) -> None:
    with record() as recorded:
        gc.collect(0)
        gc.collect(2)
    assert recorded.recording.gc_full_count >= 1
    assert recorded.recording.gc_count > recorded.recording.gc_full_count
    assert 0 < recorded.recording.gc_full_ns < recorded.recording.gc_ns
