"""The progress bar: on a terminal only, only for what takes long, and gone afterwards."""

from __future__ import annotations

import io
import sys
import time

import pytest

from jobdoctor.cli import progress as module
from jobdoctor.cli.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called by each test: between a fixture and its test pytest sets standard error anew."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "PROGRESS_AFTER_S", 0.01)
    return stream


def until_said(stream: io.StringIO, wanted: str) -> bool:
    deadline = time.monotonic() + 10
    while wanted not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    return wanted in stream.getvalue()


def test_long_work_that_tells_nothing_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    with progress("Replaying", quiet=False):
        assert until_said(stream, "Replaying")
    assert stream.getvalue().endswith("\x1b[2K")  # cleared


def test_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    with progress("Diagnosing", quiet=False) as advance:
        advance(3, 1_200)
        assert until_said(stream, "3 of 1,200")


@pytest.mark.parametrize("why", ["quiet", "pipe", "dumb", "short"])
def test_none(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    stream: io.StringIO = terminal(monkeypatch)
    if why == "pipe":
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
    if why == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    if why == "short":
        monkeypatch.setattr(module, "PROGRESS_AFTER_S", 60.0)
    with progress("Diagnosing", quiet=why == "quiet") as advance:
        advance(1, 2)
        time.sleep(0.1 if why == "short" else 0.3)
        advance(2, 2)
    assert stream.getvalue() == ""
