"""Free TCP ports for servers that want to be told one."""

from __future__ import annotations

import contextlib
import random
import socket

#: Below those that the kernel gives to whoever connects (Linux: 32768 and up): nobody's connection takes one of them
#: while its server starts again.
PORTS = range(15_000, 32_000)


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(number: int) -> list[int]:
    """Different from one another, and seldom those of another run."""
    with contextlib.ExitStack() as held:
        free: list[int] = []
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            if len(free) == number:
                break
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                free.append(port)
        return free
