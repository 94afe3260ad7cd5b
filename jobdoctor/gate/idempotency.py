"""What a second run of the same job does again. A job that RQ retries should be able to run twice.

Three kinds of writes are told apart, by what can be seen of a call:

- *Adding* ones do something anew each time: an INSERT without a conflict clause, ``points = points + 1``, INCR, LPUSH,
  a POST without an Idempotency-Key, a mail, an enqueue. Made again, they fail.
- *Overwriting* ones leave what they wrote when they write the same again: UPDATE to given values, upserts, SET, HSET,
  SADD. They fail when the second run wrote other values (a timestamp is another value), or with ``strict``. PUT and
  DELETE requests are of this kind by RFC 9110, 9.2.2.
- Writes of nothing, such as a DELETE or an UPDATE of 0 rows, ``ON CONFLICT DO NOTHING`` that met a conflict, or a
  request that was refused, do not count.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

from jobdoctor import words
from jobdoctor.diagnosis.checklist.external.non_idempotent_call import changes_the_world, succeeded
from jobdoctor.diagnosis.checklist.locks.overlapping_duplicates import POPS, adds_up
from jobdoctor.gate import counting
from jobdoctor.gate.failure import Failure, call_of
from jobdoctor.gate.profile import Profile
from jobdoctor.model import Execution, SpanGroup

Kind = Literal["adds", "overwrites", "nothing"]

_DEFINITION = re.compile(
    r"\s*(?:create|alter|drop|truncate|comment|grant|revoke|analyze|vacuum|refresh)\b", re.IGNORECASE
)
_CURES = {
    "sql": "look first, or let the database refuse the second one: a unique key, ON CONFLICT, WHERE status = 'new'",
    "redis": "write what is to be there (SET, HSET, SADD) rather than adding to it, or guard it with SET ... NX",
    "http": "send an Idempotency-Key that stays the same for the same work",
    "mail": "note that it was sent, and look there first",
    "enqueue": "enqueue it from where the work was done for the first time",
}


def check(first: Profile, second: Profile, *, strict: bool = False) -> list[Failure]:
    """What the second run wrote again, one failure for each shape and line, the most first."""
    before = _values(first.execution)
    after = _values(second.execution)
    failures: list[tuple[int, Failure]] = []
    for number, group in enumerate(second.groups):
        kind = _kind(group) if group.count else "nothing"
        made = _made(group)
        if kind == "nothing" or not made:
            continue
        what = ""
        if kind == "adds":
            what = f"the second run did it again: {_did(group, made)}"
        elif strict:
            what = f"the second run wrote it again: {_did(group, made)}"
        elif _others(before.get(_identity(group)), after.get(_identity(group)), second.execution, number):
            what = f"the second run wrote other values than the first: {_did(group, made)}"
        if what:
            rule = "JD208 non-idempotent-call" if group.channel in ("http", "mail") else "JD505 overlapping-duplicates"
            failures.append(
                (
                    made,
                    Failure("idempotent", f"{second.job}: {what}", [call_of(group, made)], rule, _CURES[group.channel]),
                )
            )
    return [failure for _, failure in sorted(failures, key=lambda pair: -pair[0])]


def _kind(group: SpanGroup) -> Kind:
    if counting.is_setup(group):
        return "nothing"
    if group.channel == "sql":
        if group.effect != "write" or group.rows == 0 or _DEFINITION.match(group.fingerprint):
            return "nothing"
        return "adds" if adds_up(group) else "overwrites"
    if group.channel == "redis":
        if group.operation.upper() in POPS:
            return "adds" if group.received_bytes else "nothing"
        if group.effect != "write":
            return "nothing"
        return "adds" if adds_up(group) else "overwrites"
    if group.channel == "http":
        if changes_the_world(group):
            return "adds"
        return "overwrites" if group.operation.upper() in ("PUT", "DELETE") else "nothing"
    if group.channel == "mail":
        return "adds" if group.effect == "write" else "nothing"
    return "adds" if group.channel == "enqueue" else "nothing"


def _made(group: SpanGroup) -> int:
    """Calls that took effect."""
    if group.channel in ("http", "mail"):
        return succeeded(group)
    return max(0, group.count - group.errors)


def _did(group: SpanGroup, made: int) -> str:
    if group.channel == "sql":
        rows = "rows not known" if group.rows is None else words.count(group.rows, "row")
        return f"{words.count(made, group.operation)} ({rows})"
    return words.count(made, f"{group.operation} call")


# ------------------------------------------------------------------------------------------------------------- values


def _identity(group: SpanGroup) -> tuple[str, ...]:
    return (group.channel, group.operation, group.fingerprint, group.callsite)


def _values(execution: Execution) -> dict[tuple[str, ...], Counter[int]]:
    """How often each shape was called with which parameters: hashes, which hold within this process."""
    found: dict[tuple[str, ...], Counter[int]] = {}
    for span in execution.spans:
        if span.params and not span.error and span.rows != 0:
            found.setdefault(_identity(execution.groups[span.group]), Counter())[span.params] += 1
    return found


def _others(before: Counter[int] | None, after: Counter[int] | None, execution: Execution, number: int) -> bool:
    """Whether parameters were written that the first run had not written. Not when they are not all known."""
    if after is None or _unseen(execution, number, after):
        return False
    return any(params not in (before or ()) for params in after)


def _unseen(execution: Execution, number: int, seen: Counter[int]) -> bool:
    return bool(execution.spans_dropped) and sum(seen.values()) < execution.groups[number].count
