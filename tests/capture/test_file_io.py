"""What the kernel counts of the body's reads and writes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import asdict

from jobdoctor import record
from jobdoctor.capture import file_io, recorder, recording
from jobdoctor.capture.file_io import FileMeter
from jobdoctor.model import FileIO
from tests.capture.children import in_a_fork


@pytest.fixture
def memory() -> Iterator[recorder.Memory]:
    made = recorder.open_memory()
    yield made
    made.close()


def test_reads_and_writes_of_a_block_are_counted(tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(b"x" * 100_000)

    def counted() -> dict[str, int]:
        with record("block") as recorded:
            with open(tmp_path / "many", "wb", buffering=0) as file:
                for _ in range(500):
                    file.write(b"0123456789")
            with open(tmp_path / "many", "rb", buffering=0) as file:
                while file.read(10):
                    pass
        assert recorded.execution is not None
        assert recorded.execution.file_io is not None
        return asdict(recorded.execution.file_io)

    found = FileIO(**in_a_fork(counted))  # the kernel counts what all threads of a process do
    assert (found.write_calls, found.read_calls) == (500, 501)
    assert 5_000 <= found.written_bytes < 10_000
    assert 5_000 <= found.read_bytes < 10_000


def test_an_idle_body_has_none_of_its_own(memory: recorder.Memory) -> None:
    def idle() -> None:
        rec = recorder.Recorder(memory.buffer)
        meter = FileMeter(rec)
        assert recorder.start(rec)
        for phase in ("import", "body", "persist", "end"):
            meter.mark(phase)

    in_a_fork(idle)
    found = recording.read(memory.buffer)
    assert [phase.name for phase in found.phases] == ["import", "body", "persist"]
    (facts,) = found.facts("file_io")
    assert FileIO(**facts) == FileIO()


def test_sockets_are_not_files(memory: recorder.Memory) -> None:
    rec = recorder.Recorder(memory.buffer)
    meter = FileMeter(rec)
    one, other = socket.socketpair()
    with one, other:
        meter.mark("body")
        for _ in range(100):
            one.send(b"x")
            other.recv(1)
        meter.mark("end")
    (facts,) = recording.read(memory.buffer).facts("file_io")
    assert facts["read_calls"] < 50
    assert facts["write_calls"] < 50
    rec.release()


@pytest.mark.parametrize("broken", ["absent", "denied", "strange"])
def test_without_proc_the_phases_are_marked_all_the_same(
    memory: recorder.Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: str
) -> None:
    if broken == "absent":
        monkeypatch.setattr(file_io, "_PATH", str(tmp_path / "no" / "io"))
    elif broken == "denied":

        def denied(*_: object) -> bytes:
            raise PermissionError

        monkeypatch.setattr(file_io, "_read", denied)
    else:
        (tmp_path / "io").write_text("something else\n")
        monkeypatch.setattr(file_io, "_PATH", str(tmp_path / "io"))

    def left_open() -> int:
        before = len(os.listdir("/proc/self/fd"))
        rec = recorder.Recorder(memory.buffer)
        meter = FileMeter(rec)
        meter.mark("body")
        meter.mark("end")
        rec.release()
        return len(os.listdir("/proc/self/fd")) - before

    assert in_a_fork(left_open) == 0
    found = recording.read(memory.buffer)
    assert [phase.name for phase in found.phases] == ["body"]
    assert found.facts("file_io") == []
    assert [note["text"].split(":")[0] for note in found.facts("missing")] == ["Reads and writes of the job"]
