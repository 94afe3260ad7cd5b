"""An entry carries an execution whole; garbage and newer versions are said, not crashed on."""

from __future__ import annotations

import subprocess
import sys
import zlib

import msgspec
import pytest
from msgspec.structs import replace

from jobdoctor import wire
from jobdoctor.model import Profile, ProfileFrame, Sample, Span
from tests.builders import make_execution, make_group


def test_an_execution_comes_back_as_it_was() -> None:
    execution = make_execution(
        groups=[make_group(error_types={"TimeoutError": 2})],
        spans=[Span(0, 5, 7)],
        samples=[Sample(1, 2, 3, 4, "futex")],
        profile=Profile(1.0, 2, 3, [ProfileFrame(-1, "main", "app.py:1", 5, True)]),
    )
    fields = wire.encode(execution, lost=3)
    assert wire.decode(fields) == execution
    assert wire.lost(fields) == 3
    assert fields[b"id"] == execution.id.encode()
    assert wire.lost(wire.encode(execution)) == 0


def test_names_that_are_not_utf8_do_not_stop_it() -> None:
    execution = make_execution(job="app.t\udce4sks.run", groups=[make_group(error_types={"\ud800": 1})])
    assert wire.decode(wire.encode(execution)).job == "app.t?sks.run"


GOOD = wire.encode(make_execution())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "no version"),
        ({b"v": b"one", b"e": GOOD[b"e"]}, "no version"),
        ({b"v": b"1"}, "no execution"),
        ({b"v": b"2", b"e": GOOD[b"e"]}, "written by a newer jobdoctor"),
        ({b"v": b"1", b"e": b"garbage"}, "not a packed execution"),
        ({b"v": b"1", b"e": GOOD[b"e"][:-9]}, "cut short"),
        ({b"v": b"1", b"e": zlib.compress(b"\xc1")}, "not a packed execution"),
        ({b"v": b"1", b"e": zlib.compress(msgspec.msgpack.encode({"id": 1}))}, "not a packed execution"),
        ({b"v": b"1", b"e": wire.pack(make_execution(outcome="exploded"))}, "Invalid enum value"),
        (
            {b"v": b"1", b"e": wire.pack(replace(make_execution(), reaped_at_ns=2**63))},
            "reaped_at_ns is not an instant",
        ),
        ({b"v": b"1", b"e": zlib.compress(bytes(wire.MAX_UNPACKED_BYTES + 1))}, "larger than"),
    ],
)
def test_what_cannot_be_read_is_said(fields: dict[bytes, bytes], said: str) -> None:
    with pytest.raises(wire.UnreadableEntryError, match=said):
        wire.decode(fields)


def test_a_worker_that_imports_it_pays_for_little() -> None:
    program = "import sys, jobdoctor.wire; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "jobdoctor.model" in out
    assert not {"sqlalchemy", "redis", "rq", "click", "jobdoctor.store", "jobdoctor.diagnosis"} & set(out)
