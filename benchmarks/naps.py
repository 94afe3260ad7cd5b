"""Jobs of known length: they sleep, so that what else the machine does matters little."""

from __future__ import annotations

import time


def short(seconds: float) -> None:
    time.sleep(seconds)


def middling(seconds: float) -> None:
    time.sleep(seconds)


def long(seconds: float) -> None:
    time.sleep(seconds)
