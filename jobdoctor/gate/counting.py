"""Which recorded calls count, and how a call is named so that the same call has the same name in another run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

from jobdoctor.model import SpanGroup

#: Channels whose calls a job makes the same way each time. Those of files, locks, pools and sleeps depend on what the
#: process did before, and on who else runs.
EXACT_CHANNELS = ("sql", "redis", "http", "mail", "enqueue", "subprocess")

#: What connections, drivers and ORMs ask when a connection is new: a matter of which test ran first, not of the job.
_SETUP_OPERATIONS = frozenset({"CONNECT", "PRAGMA", "SET", "SHOW", "RESET", "DISCARD", "USE"})
_SETUP = re.compile(
    r"select (?:pg_catalog\.)?(?:version|current_schema|current_database|set_config|database)\s?\("
    r"|select cast\(\?|select @@|select sqlite_version|select .{0,300}\bfrom (?:pg_catalog\.)?pg_type\b"
    r"|select \? as (?:is_|anon)",
    re.IGNORECASE,
)

_LOOPBACK = re.compile(r"(?<=://)(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d+)?(?=[/?]|$)")


def is_setup(group: SpanGroup) -> bool:
    """Whether the call sets a connection up rather than doing the job's work."""
    operation = group.operation.upper()
    if group.channel != "sql":
        return operation == "CONNECT"
    if operation in _SETUP_OPERATIONS or _SETUP.match(group.fingerprint):
        return True
    # Pools and drivers end transactions of their own by ROLLBACK, and look up types within savepoints.
    return group.effect == "transaction" and operation != "COMMIT"


def counted(groups: Iterable[SpanGroup]) -> list[SpanGroup]:
    """The calls that count: those that were made, without what sets connections up."""
    return [group for group in groups if group.count > 0 and not is_setup(group)]


def is_query(group: SpanGroup) -> bool:
    """Whether a counted call is an SQL statement other than BEGIN, COMMIT and the like."""
    return group.channel == "sql" and group.effect != "transaction"


def by_channel(groups: Iterable[SpanGroup]) -> dict[str, int]:
    """Counted calls of each channel that made any. Of ``sql``, these are the queries."""
    counts: Counter[str] = Counter()
    for group in counted(groups):
        if group.channel != "sql" or is_query(group):
            counts[group.channel] += group.count
    return dict(sorted(counts.items()))


def name(group: SpanGroup) -> str:
    """ "sql: SELECT ... WHERE id = ?". The port of a server on this machine, another one each time, is left out."""
    shape = _LOOPBACK.sub("localhost", group.fingerprint) if group.channel == "http" else group.fingerprint
    relation = f" [{group.relationship}]" if group.relationship else ""
    return f"{group.channel}: {shape or group.operation}{relation}"


def by_name(groups: Iterable[SpanGroup]) -> dict[str, int]:
    """Counted calls of the exact channels by name, sorted."""
    counts: Counter[str] = Counter()
    for group in counted(groups):
        if group.channel in EXACT_CHANNELS:
            counts[name(group)] += group.count
    return dict(sorted(counts.items()))


def largest(groups: Iterable[SpanGroup], where: Callable[[SpanGroup], bool]) -> list[SpanGroup]:
    """Counted calls that fulfil a condition, the most of one shape and line first."""
    found = [group for group in counted(groups) if where(group)]
    return sorted(found, key=lambda group: (-group.count, group.channel, group.fingerprint, group.callsite))
