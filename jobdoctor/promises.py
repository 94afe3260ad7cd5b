"""Promises: how soon after its enqueue a job is to be done. Declared on the job's function, kept in its queue's name.

    @jobdoctor.slo(within="30s")
    def send_mail(user_id): ...

The function stays what it is, with one attribute more. Nothing of RQ is needed here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from jobdoctor.errors import ConfigError

#: Where a function carries its promise.
ATTRIBUTE = "__jobdoctor_slo__"
#: Promises beyond a year, or below a millisecond, are slips of the pen.
LONGEST_S = 366 * 86_400.0
SHORTEST_S = 0.001

_F = TypeVar("_F", bound=Callable[..., Any])


class ToBeDone(Enum):
    """Promises for most jobs. The value is seconds from enqueue to done."""

    WITHIN_10_SECONDS = 10.0
    WITHIN_30_SECONDS = 30.0
    WITHIN_5_MINUTES = 300.0
    WITHIN_24_HOURS = 86_400.0


class Promise(NamedTuple):
    """What ``@slo`` says of a job."""

    within_s: float  # from enqueue to done
    exempt: bool = False  # never moved to another queue

    @property
    def within_ms(self) -> float:
        return self.within_s * 1_000

    @property
    def queue(self) -> str:
        """The queue that keeps it."""
        return queue_name(self.within_s)


_FORMS = 'write for example within="30s", "5m", "24h", a timedelta, or jobdoctor.ToBeDone.WITHIN_30_SECONDS'
_UNITS_S = {
    "ms": 0.001, "millisecond": 0.001, "s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0,
    "h": 3600.0, "hour": 3600.0, "d": 86_400.0, "day": 86_400.0,
}  # fmt: skip
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)\s*")


def slo(within: Any = None, *, exempt: bool = False) -> Callable[[_F], _F]:
    """Promises that the decorated job is done within this time, from enqueue to done. The function itself is returned.

    ``within`` is a text with units ("30s", "5m", "1h 30m", "500ms"), a timedelta or a :class:`ToBeDone`. A job that is
    ``exempt`` is never moved out of its queue when it breaks the promise. Raises ConfigError for what is no duration.
    """
    if callable(within) and not isinstance(within, type):
        raise ConfigError("@jobdoctor.slo stands without a promise", _FORMS)
    promise = Promise(seconds(within), bool(exempt))

    def promised(function: _F) -> _F:
        try:
            setattr(function, ATTRIBUTE, promise)
        except (AttributeError, TypeError):
            raise ConfigError(
                f"{function!r} cannot carry a promise", "decorate a function, and let it call this one"
            ) from None
        return function

    return promised


def promise_of(function: Any) -> Promise | None:
    """The promise of a function; None when it made none. Wrappers that keep ``__dict__`` keep the promise."""
    found = getattr(function, ATTRIBUTE, None)
    return found if isinstance(found, Promise) else None


def seconds(within: Any) -> float:
    """A duration in seconds; ConfigError when it is none, or is no time at all."""
    if isinstance(within, ToBeDone):
        return within.value
    if isinstance(within, timedelta):
        found = within.total_seconds()
    elif isinstance(within, str):
        found = _parsed(within)
    elif isinstance(within, (int, float)) and not isinstance(within, bool):
        raise ConfigError(f"an SLO within {within!r} has no unit", _FORMS)
    else:
        raise ConfigError(f"an SLO within {within!r} is no duration", _FORMS)
    if not SHORTEST_S <= found <= LONGEST_S:
        wrong = "is no time at all" if found < SHORTEST_S else "is more than a year"
        raise ConfigError(f"an SLO within {within!r} {wrong}", _FORMS)
    return round(found, 3)


def _parsed(text: str) -> float:
    total, position = 0.0, 0
    cleaned = text.strip().lower()
    while position < len(cleaned):
        match = _AMOUNT.match(cleaned, position)
        unit = match[2] if match else ""
        factor = _UNITS_S.get(unit) or _UNITS_S.get(unit.removesuffix("s"))
        if match is None or factor is None:
            break
        total += float(match[1]) * factor
        position = match.end()
    if not cleaned or position < len(cleaned):
        raise ConfigError(f"an SLO within {text!r} is no duration", _FORMS)
    return total


def spelt(within_s: float) -> str:
    """A duration as ``within`` takes it: "30s"."""
    milliseconds = round(within_s * 1_000)
    for unit, size in (("d", 172_800_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if milliseconds >= size and not milliseconds % (86_400_000 if unit == "d" else size):
            return f"{milliseconds // (86_400_000 if unit == 'd' else size)}{unit}"
    return f"{milliseconds}ms"


# --------------------------------------------------------------------------------------------------- queues of promises

#: Days count from two on: a day is 24 hours.
_NAMES = (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1_000), ("millisecond", 1))
_QUEUE = re.compile(r"within_([1-9]\d*)_(day|hour|minute|second|millisecond)s?")


def queue_name(within_s: float) -> str:
    """``within_30_seconds``: the same for equal durations, however they were written."""
    milliseconds = round(within_s * 1_000)
    for name, unit in _NAMES:
        count, rest = divmod(milliseconds, unit)
        if not rest and count >= (2 if name == "day" else 1):
            return f"within_{count}_{name}{'s' if count > 1 else ''}"
    raise ConfigError(f"an SLO within {within_s!r} s is no time at all", _FORMS)


def seconds_of_queue(name: str) -> float | None:
    """The promise that a queue's name makes; None for other queues."""
    match = _QUEUE.fullmatch(name)
    if match is None:
        return None
    found = int(match[1]) * dict(_NAMES)[match[2]] / 1_000
    return found if found <= LONGEST_S and queue_name(found) == name else None


#: Where jobs without a promise go, and jobs that broke theirs.
SLOWEST_S = max(each.value for each in ToBeDone)
SLOWEST_QUEUE = queue_name(SLOWEST_S)


def in_order(names: Any) -> list[str]:
    """The promise queues among these names, and the predefined ones: fastest first."""
    known = {queue_name(each.value): each.value for each in ToBeDone}
    for name in names:
        found = seconds_of_queue(name)
        if found is not None:
            known[name] = found
    return sorted(known, key=lambda name: known[name])


def place_among(names: Any, name: str) -> int:
    """Where a promise queue belongs in a worker's order: behind all that are faster."""
    promised = seconds_of_queue(name) or 0.0
    faster = [place for place, other in enumerate(names) if (seconds_of_queue(other) or LONGEST_S) < promised]
    return faster[-1] + 1 if faster else 0
