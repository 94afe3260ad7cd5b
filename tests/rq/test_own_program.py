"""When a witness becomes a program of its own."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from jobdoctor.capture.memory import open_memory, open_shared
from jobdoctor.rq import own_program
from jobdoctor.rq.witness import Witness
from jobdoctor.rq.witness_link import Setting
from jobdoctor.rq.witness_server import Server


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """The servers of witnesses that would have become programs."""
    found: list[Server] = []
    monkeypatch.setattr(own_program, "become", lambda line, setting, server: found.append(server))
    return found


@pytest.fixture
def witness(became: list[Server]) -> Iterator[Witness]:
    """One that has been a fork for long enough, and has nothing to do."""
    line, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with line, other:
        setting = Setting(redis.Redis(), "worker", ["default"], [], os.getpid(), 0)
        made = Witness(line, setting, Server("Connection", {}))
        made._forked_until_s = 0.0
        yield made


def test_it_does_when_it_has_nothing_to_do(witness: Witness, became: list[Server]) -> None:
    witness._tick()
    witness._tick()  # where that failed, it stays what it is
    assert became == [Server("Connection", {})]


def test_not_while_a_job_runs(witness: Witness, became: list[Server]) -> None:
    watch: Any = type("Watch", (), {"due_s": lambda self: 1.0})()
    witness.watches[1] = watch
    witness._tick()
    assert became == []
    assert witness.server is not None


def test_not_while_there_is_something_that_would_be_lost(witness: Witness, became: list[Server]) -> None:
    """It is tried again in a while, and not all the time."""
    witness.writer.lost = 1
    witness._tick()
    assert became == []
    assert witness.server is not None
    assert witness._forked_until_s > 0.0
    witness.writer.lost, witness._forked_until_s = 0, 0.0
    witness._tick()
    assert len(became) == 1


@pytest.mark.parametrize("change", ["", "small", "frozen", "no interpreter", "anonymous", "home"])
def test_where_it_can(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.delenv("PYTHONHOME", raising=False)
    monkeypatch.setattr(own_program, "WORTHWHILE_BYTES", 1 << 60 if change == "small" else 0)
    memories, descriptor = open_shared(2) if change != "anonymous" else ([open_memory()], -1)
    if change == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    elif change == "no interpreter":
        monkeypatch.setattr(sys, "executable", "")
    elif change == "home":
        monkeypatch.setenv("PYTHONHOME", "/opt/python")
    setting = Setting(None, "worker", [], memories, os.getpid(), 0, descriptor=descriptor)
    assert own_program.possible(setting) is (change == "")
    for memory in memories:
        memory.close()
    if descriptor >= 0:
        os.close(descriptor)
