"""What a worker and its witness tell each other."""

from __future__ import annotations

import pytest
from msgspec import MsgspecError

from jobdoctor.rq.messages import ENCODER, Begun, read, started
from tests.rq.packets import begun, ended


def test_what_is_known_after_the_fork_only() -> None:
    message = read(started(ENCODER.encode(begun(7, b"data")), 4711, 10, 20))
    assert isinstance(message, Begun)
    assert (message.number, message.data) == (7, b"data")
    assert (message.pid, message.forked_ns, message.forked_done_ns) == (4711, 10, 20)


def test_a_message_without_it() -> None:
    assert read(ENCODER.encode(ended(3))) == ended(3)


def test_garbage() -> None:
    for packet in (b"", b"\xc1", b"\xc1" + bytes(24), b"\x93nothing"):
        with pytest.raises(MsgspecError):
            read(packet)
