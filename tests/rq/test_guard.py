"""What the guard swallows, and what it must let through."""

from __future__ import annotations

import logging
import signal
from types import FrameType

import pytest
from rq.timeouts import HorseMonitorTimeoutException, JobTimeoutException

from jobdoctor.rq import guard as guard_module
from jobdoctor.rq.guard import Guard


@pytest.fixture(autouse=True)
def _nothing_logged_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "_logged", set())


def test_our_failures_are_said_once_and_swallowed(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard()
    with caplog.at_level(logging.WARNING, "jobdoctor"):
        for _ in range(3):
            with guard("hook"):
                raise ValueError("planted")
    assert guard.problems == ["hook failed: ValueError: planted"]
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING


def test_guards_within_guards_keep_their_names() -> None:
    guard = Guard()
    with guard("outer"):
        with guard("inner"):
            raise ValueError("one")
        raise KeyError("two")
    assert guard.problems == ["inner failed: ValueError: one", "outer failed: KeyError: 'two'"]


@pytest.mark.parametrize("error", [JobTimeoutException, HorseMonitorTimeoutException, SystemExit, KeyboardInterrupt])
def test_what_belongs_to_rq_goes_through(error: type[BaseException]) -> None:
    guard = Guard()
    with pytest.raises(error), guard("hook"):
        raise error()
    assert guard.problems == []


def test_what_a_signal_handler_raises_goes_through() -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        raise ValueError("of the application")

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        guard = Guard()
        with pytest.raises(ValueError, match="of the application"), guard("hook"):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
