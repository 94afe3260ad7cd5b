"""What the batching rules ask of repeated calls: do they follow the input, what caused them, what replaces them."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from jobdoctor.diagnosis.measure import NS_PER_MS, Calls, stretch_ns, words_count
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.model import Execution, SpanGroup

#: Executions needed before varying counts say anything.
GROWTH_EXECUTIONS = 3
#: Counts must vary this much (largest to smallest) before they can be compared with the input.
GROWTH_FACTOR = 2.0
#: A call follows a query's rows when it is made this many times for each of them (slope near 1).
ONE_EACH = (0.8, 1.25)
#: A query that feeds a loop runs at most this many times.
FEEDING_CALLS = 3

#: Of a batching rule: what to give back is too little to speak of.
LEAST_MS = Limit(
    0.3,
    "ms",
    "saving below which nothing is said",
    "own: 50 calls of 6 us, SQLite's; across a network the same 50 take 50 ms and more",
)

#: The snippets quote a statement up to here.
_QUOTED_CHARS = 240


@dataclass(frozen=True)
class Growth:
    """Whether the number of calls grows with the input, and how it is known."""

    proven: bool
    text: str = ""


def feeding_query(calls: Calls, execution: Execution) -> SpanGroup | None:
    """The query whose rows the calls follow one by one: the "1" of an N+1."""
    made = calls.counts().get(execution.id, 0)
    if not made:
        return None
    own = {group.callsite for group in calls.groups}
    candidates = [
        group
        for group in execution.groups
        if group.channel == "sql"
        and group.effect == "read"
        and group.count <= FEEDING_CALLS
        and group.rows
        and ONE_EACH[0] <= made / group.rows <= ONE_EACH[1]
        and group.first_start_ns <= min(g.first_start_ns for g in calls.groups)
    ]
    return max(candidates, key=lambda group: (group.callsite not in own, group.first_start_ns), default=None)


def growth(calls: Calls) -> Growth:
    """Compares the counts of several executions: constant counts prove nothing, varying ones prove a loop over data."""
    counts = [count for count in calls.counts().values() if count]
    if len(counts) < GROWTH_EXECUTIONS or max(counts) < GROWTH_FACTOR * min(counts):
        return Growth(False)
    return Growth(
        True,
        f"The number of calls follows the input: from {words_count(min(counts))} to {words_count(max(counts))} "
        f"over {len(counts)} executions",
    )


def between_ms(calls: Calls) -> float:
    """CPU between the calls of a loop, in ms for each execution: an ORM's work around each query, and the job's own.

    It is the stretch from the first call to the last, without these and all other calls in it, and never more than the
    CPU that the ledger found outside of calls, with the waits for a processor. Where several lines call within the
    stretch, each has its part.
    """
    between = 0.0
    for group, owner in zip(calls.groups, calls.owners, strict=True):
        if group.count < 2 or 2 * group.concurrent > group.count:
            continue
        rest = float(max(0, stretch_ns(group) - group.total_ns))
        beside = 0.0
        for other in owner.groups:
            if other is group or other.last_end_ns <= other.first_start_ns:
                continue
            common = min(group.last_end_ns, other.last_end_ns) - max(group.first_start_ns, other.first_start_ns)
            if common > 0:
                part = common / (other.last_end_ns - other.first_start_ns)
                rest -= other.total_ns * part
                beside += other.count * part
        computed = sum(
            part.ns for part in owner.ledger if (part.name == "cpu" and not part.detail) or part.name == "cpu_wait"
        )
        between += max(0.0, min(rest, computed)) * group.count / (group.count + beside)
    return between / calls.executions / NS_PER_MS


def library_ms(calls: Calls, share_saved: float = 1.0) -> tuple[float, float]:
    """What goes with the calls of a loop beside their own time, in ms for each execution: (mid, high).

    The CPU between them is the library's (an ORM, SQLAlchemy's compiler, a session of requests) and the job's own, and
    nobody can tell the two apart from outside. At most it is all the library's; in the middle `LIBRARY_SHARE` of it
    where the calls came through a library that works around each call, else nothing. ``share_saved`` of the calls go.
    """
    between = between_ms(calls) * share_saved
    return (LIBRARY_SHARE * between if _through_library(calls) else 0.0, between)


def _through_library(calls: Calls) -> bool:
    first = calls.first
    return bool(first.relationship or first.library in _LIBRARIES or _WRITTEN_BY_ORM.search(first.fingerprint))


def shortened(statement: str) -> str:
    """A statement as snippets and titles quote it."""
    return statement if len(statement) <= _QUOTED_CHARS else f"{statement[: _QUOTED_CHARS - 4]} ..."


#: Share of the CPU between the calls of a loop that is the library's and goes with them. Measured, without profiled
#: executions: 0.75 when selectinload() replaced 100 lazy loads (the objects have to be made all the same), 0.9 to 1.0
#: when one statement replaced 120 to 200 others through SQLAlchemy, 1.0 of requests' between 25 requests.
LIBRARY_SHARE = 0.85
#: Those that work for each call outside of the driver, where it is recorded.
_LIBRARIES = frozenset({"sqlalchemy", "django"})
#: Statements as an ORM writes them: labelled ("book.id AS book_id", SQLAlchemy) or all in quotes (Django).
_WRITTEN_BY_ORM = re.compile(r'\b(\w+)\.(\w+) AS \1_\2\b|^SELECT (?:DISTINCT )?"\w+"\."\w+"')

_EQUALS = re.compile(r"(?P<column>[\w.\"`\[\]]+)\s*=\s*\?")


def looked_up_column(statement: str) -> str:
    """The column that a lookup compares with its parameter: an id when there is one. Empty when none is compared."""
    where = re.search(r"\bwhere\b", statement, re.IGNORECASE)
    if where is None:
        return ""
    columns = [match.group("column") for match in _EQUALS.finditer(statement, where.end())]
    ids = [column for column in columns if bare_name(column).lower().endswith("id")]
    return (ids or columns or [""])[0]


def bare_name(column: str) -> str:
    """ "orders.customer_id" is "customer_id"."""
    return column.rpartition(".")[2].strip('"`[]')


def in_query(statement: str, placeholder: str) -> str:
    """The lookup for many values at once; the statement itself when no column is compared."""
    column = looked_up_column(statement)
    if not column:
        return statement
    return re.sub(re.escape(column) + r"\s*=\s*\?", f"{column} {placeholder}", statement, count=1)


def numbered(statement: str) -> str:
    """A statement with PostgreSQL's own placeholders, as asyncpg takes them: $1, $2 and so on."""
    numbers = itertools.count(1)
    return re.sub(r"\?", lambda _: f"${next(numbers)}", statement)


def plural(noun: str) -> str:
    """A variable's name for several: "order" is "orders", "category" is "categories"."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun if noun.endswith("s") else f"{noun}s"
