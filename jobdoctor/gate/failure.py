"""Why a test fails: what changed, where, which calls, which rule, what to do. A few lines each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct, field

from jobdoctor import words
from jobdoctor.model import SpanGroup

#: Lines of calls that a failure shows.
SHOWN_CALLS = 3
_SHAPE_CHARACTERS = 110


class Call(Struct, frozen=True):
    """Calls of one shape from one line, as a failure tells of them."""

    count: int
    shape: str
    callsite: str = ""
    function: str = ""


class Failure(Struct, frozen=True, omit_defaults=True):
    """``check`` is what failed: a marker's key ("max_queries"), "scales", "idempotent", "baseline", "max_slowdown" or
    a rule's code."""

    check: str
    what: str  # one sentence without a period: "app.tasks.sync: 45 queries, 5 allowed"
    calls: list[Call] = field(default_factory=list)  # the most first
    rule: str = ""  # "JD401 n-plus-one-query"
    cure: str = ""

    @property
    def callsite(self) -> str:
        """The line that did it, "" when no line did."""
        return next((call.callsite for call in self.calls if call.callsite), "")


class GateError(AssertionError):
    """A job failed at the gate. ``failures`` says at what."""

    def __init__(self, failures: Sequence[Failure], profile: Any = None) -> None:
        self.failures = list(failures)
        self.profile = profile
        super().__init__(render(self.failures))


class JobFailedError(AssertionError):
    """A job that was enqueued did not finish. ``profile`` is its recording."""

    def __init__(self, what: str, profile: Any) -> None:
        self.profile = profile
        super().__init__(what)


def call_of(group: SpanGroup, count: int | None = None) -> Call:
    """A group of calls, to be shown."""
    shape = " ".join(group.fingerprint.split()) or group.operation
    relation = f" ({group.relationship})" if group.relationship else ""
    return Call(group.count if count is None else count, shape + relation, group.callsite, group.function)


def render(failures: Sequence[Failure]) -> str:
    """All failures, for a terminal."""
    return "\n".join(line for failure in failures for line in lines(failure))


def lines(failure: Failure) -> list[str]:
    """One failure, for a terminal."""
    found = [f"{words.clean(failure.what)} [{failure.check}]"]
    for call in failure.calls[:SHOWN_CALLS]:
        place = " ".join(part for part in (call.callsite, call.function) if part) or "an unknown line"
        found.append(f"  {words.clean(place)}: {call.count:,} x {shortened(call.shape)}")
    rest = failure.calls[SHOWN_CALLS:]
    if rest:
        found.append(f"  and {words.count(sum(call.count for call in rest), 'call')} from elsewhere")
    if failure.cure:
        rule = f"{failure.rule}: " if failure.rule else ""
        found.append(f"  {rule}{words.clean(failure.cure)}")
    elif failure.rule:
        found.append(f"  {failure.rule}")
    return found


def shortened(shape: str) -> str:
    """A shape in one line."""
    text = words.clean(" ".join(shape.split()))
    return text if len(text) <= _SHAPE_CHARACTERS else text[: _SHAPE_CHARACTERS - 4] + " ..."
