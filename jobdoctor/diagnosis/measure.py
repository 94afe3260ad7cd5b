"""Measurements over a job's history that rules share: which executions to look at, their calls merged, shares, words.

Everything is for each execution: means over the executions looked at, those without such a call counting as zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jobdoctor import words
from jobdoctor.model import LEDGER_PARTS, Channel, Evidence, Execution, JobHistory, LedgerPart, SpanGroup

#: What an item costs in a batch, of what a call for it alone took at the fastest, and in ms at most: no round trip, but
#: the client and the server still work for it. Measured on one machine: redis-py's SET takes 56 us, in a pipeline 16.
REMAINS_OF_A_CALL = 0.3
REMAINS_AT_MOST_MS = 0.03
#: Of the calls of a loop, what a batch gives back at least. Own: for a server that spends most of it on the items.
LEAST_OF_CALLS = 0.3
#: How far the mean of one dozen of executions is from that of the next, on a machine that does little else. Measured:
#: 2 to 9 % for the sample shop's jobs, half of it the machine's moods.
GIVE_OR_TAKE = 0.1
NS_PER_MS = 1_000_000

#: The shape under which the recorder counts what came after its table was full: many shapes in one, nothing to judge.
OVERFLOW_SHAPE = "(other)"

_BY_THEMSELVES = frozenset({"finished"})
_PEOPLE_STOPPED_IT = frozenset({"stopped"})


def typical(history: JobHistory) -> list[Execution]:
    """The executions that tell how the job runs: finished ones, and unprofiled ones while there are three of those.

    When none finished, those that failed, timed out or were killed are all there is, and are looked at. A profiled
    execution is slower by the profiler's own cost, so it is left out where others can speak.
    """
    ended = [execution for execution in history.executions if execution.outcome in _BY_THEMSELVES]
    if not ended:
        ended = [execution for execution in history.executions if execution.outcome not in _PEOPLE_STOPPED_IT]
    unprofiled = [execution for execution in ended if execution.profile is None]
    return unprofiled if len(unprofiled) >= 3 else ended


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean, 0 for nothing."""
    collected = list(values)
    return sum(collected) / len(collected) if collected else 0.0


def winsorised(values: Iterable[float], share: float = 0.1) -> list[float]:
    """Sorted, the lowest and the highest ``share`` of them (of three values and more, at least one each) made equal to
    the next ones: a mean of them is not moved by what a busy machine did to a few."""
    ordered = sorted(values)
    cut = max(1, int(share * len(ordered))) if len(ordered) >= 3 else 0
    inner = ordered[cut : len(ordered) - cut]
    return [*inner[:1] * cut, *inner, *inner[-1:] * cut]


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which ``share`` of the values lie, interpolated; 0 for nothing."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def run_ms(executions: Sequence[Execution]) -> float:
    """Mean time that a worker was busy with an execution, in ms."""
    return mean(execution.run_ns for execution in executions) / NS_PER_MS


def wall_ms(executions: Sequence[Execution]) -> float:
    """Mean time from enqueue to reap, in ms."""
    return mean(execution.wall_ns for execution in executions) / NS_PER_MS


def body_ms(executions: Sequence[Execution]) -> float:
    """Mean time inside the job function, in ms: what its calls are a share of. The run, when no body was recorded.

    Imports inside the function are left out, as those above it are: where they stand changes no other illness.
    """
    return mean(_own_body_ns(execution) or execution.run_ns for execution in executions) / NS_PER_MS


def _own_body_ns(execution: Execution) -> int:
    imported = sum(each.total_ns for each in execution.imports if each.in_body and not each.depth)
    return max(0, execution.body_ns - imported)


def ledger_ms(executions: Sequence[Execution], *names: str, detail: str | None = None) -> float:
    """Mean of the ledger's parts with these names (and this detail, when given), in ms."""
    return (
        mean(
            sum(part.ns for part in execution.ledger if part.name in names and detail in (None, part.detail))
            for execution in executions
        )
        / NS_PER_MS
    )


def unpickling_ms(execution: Execution) -> float:
    """The ledger's time for unpickling the arguments, without that of modules that were imported for their classes:
    these would have to be imported anyway, and the next phase found them there."""
    imported = sum(each.self_ns for each in execution.imports if not each.in_body)
    for_arguments = max(0, imported - execution.ledger_ns("import"))
    return max(0, execution.ledger_ns("deserialize") - for_arguments) / NS_PER_MS


def mean_ledger(executions: Sequence[Execution]) -> list[LedgerPart]:
    """The mean ledger of the executions, in the order of LEDGER_PARTS, largest detail first; without parts of 0."""
    sums: dict[tuple[str, str], int] = {}
    for execution in executions:
        for part in execution.ledger:
            sums[part.name, part.detail] = sums.get((part.name, part.detail), 0) + part.ns
    order = {name: position for position, name in enumerate(LEDGER_PARTS)}
    parts = [LedgerPart(name, detail, round(ns / len(executions))) for (name, detail), ns in sums.items() if ns > 0]
    return sorted(parts, key=lambda part: (order.get(part.name, len(order)), -part.ns, part.detail))


#: What it costs a job to load by its key what it was given before, in ms: a connection that is opened for it, one
#: statement, and what a client or an ORM computes for its first one. Measured with a local PostgreSQL: 12 to 25 through
#: SQLAlchemy's ORM in a fresh work horse, 5 through psycopg, 1 over a connection that is open already.
LOAD_BY_KEY_MS = 12.0
LOAD_WITH_OPEN_CONNECTION_MS = 1.0

#: What a worker does before and after the job: a busy host stretches it, and the job has no part in it.
AROUND_THE_JOB = ("dispatch", "fork", "persist", "reap")


def undisturbed_ms(executions: Sequence[Execution]) -> float:
    """Mean run in ms without waits for a processor, imports and what RQ does around the job: a busy or cold host must
    not hide what the job itself does."""
    return run_ms(executions) - ledger_ms(executions, "cpu_wait", "import", *AROUND_THE_JOB)


#: Parts of the ledger in which the job's process computes.
COMPUTING = ("cpu", "gc", "import", "deserialize", "result")


def with_waits(executions: Sequence[Execution], cpu_ms: float) -> float:
    """``cpu_ms`` of CPU for each execution, and its part of the waits for a processor: who does not compute does not
    wait to compute. The waits are spread evenly over all that computes, for the kernel does not say what waited."""
    computed = ledger_ms(executions, *COMPUTING)
    return cpu_ms + ledger_ms(executions, "cpu_wait") * share(cpu_ms, computed)


def load_by_key_ms(executions: Sequence[Execution]) -> float:
    """What one more load costs these executions: less where they ask a database or a cache anyway."""
    asks = any(group.channel in ("sql", "redis") for execution in executions for group in execution.groups)
    return LOAD_WITH_OPEN_CONNECTION_MS if asks else LOAD_BY_KEY_MS


def collected_by_imports_ms(executions: Sequence[Execution]) -> float:
    """Garbage collection that imports in the horse brought about, mean in ms.

    Collections come with new objects, and nobody notes whose. So they are divided by the time of what makes objects,
    imports in the function and the job's own code, and imports have at most as much as they took themselves.
    """
    collected, computed = ledger_ms(executions, "gc"), ledger_ms(executions, "cpu", detail="")
    imported = mean(sum(each.total_ns for each in one.imports if each.in_body and not each.depth) for one in executions)
    imported /= NS_PER_MS
    return min(imported, collected * share(imported, imported + computed))


def around_ms(executions: Sequence[Execution]) -> float:
    """What RQ and the kernel do around the job, mean in ms: what one more execution of it costs beside its body."""
    return ledger_ms(executions, *AROUND_THE_JOB)


def share(part: float, whole: float) -> float:
    """``part / whole``, at most 1, and 0 when there is no whole."""
    return min(1.0, part / whole) if whole > 0 else 0.0


# --------------------------------------------------------------------------------------------------------------- calls


@dataclass(frozen=True)
class Calls:
    """The calls of one identity over several executions."""

    groups: tuple[SpanGroup, ...]
    owners: tuple[Execution, ...]  # the execution of each group
    executions: int  # how many were looked at, with and without such calls

    @property
    def first(self) -> SpanGroup:
        """The largest group: stands for all where names are needed."""
        return max(self.groups, key=lambda group: (group.count, group.total_ns))

    @property
    def largest_execution(self) -> Execution:
        """The execution with the most time in these calls."""
        spent: dict[str, int] = {}
        for group, owner in zip(self.groups, self.owners, strict=True):
            spent[owner.id] = spent.get(owner.id, 0) + group.total_ns
        return max(self.owners, key=lambda owner: spent[owner.id])

    def per_execution(self, value: Callable[[SpanGroup], float]) -> float:
        """Mean of a figure for each execution."""
        return sum(value(group) for group in self.groups) / self.executions

    @property
    def count(self) -> float:
        return self.per_execution(lambda group: group.count)

    @property
    def unbatched(self) -> float:
        """Calls that carried one item."""
        return self.per_execution(lambda group: group.count - group.batched)

    @property
    def total_ms(self) -> float:
        """Wall time of the calls: where they overlap, the stretch they cover and not their sum."""
        return self.per_execution(lambda group: min(group.total_ns, stretch_ns(group))) / NS_PER_MS

    @property
    def cpu_ms(self) -> float:
        return self.per_execution(lambda group: group.cpu_ns) / NS_PER_MS

    @property
    def blocked_ms(self) -> float:
        return self.per_execution(lambda group: group.blocked_ns) / NS_PER_MS

    @property
    def fastest_ms(self) -> float:
        return min(group.min_ns for group in self.groups) / NS_PER_MS

    @property
    def slowest_ms(self) -> float:
        return max(group.max_ns for group in self.groups) / NS_PER_MS

    @property
    def distinct(self) -> float:
        """Distinct parameter sets for each execution; a capped count stands for all the calls."""
        return self.per_execution(lambda group: group.count if group.distinct_capped else group.distinct)

    @property
    def rows(self) -> float | None:
        """Rows for each execution; None when a driver did not say."""
        if any(group.rows is None for group in self.groups):
            return None
        return self.per_execution(lambda group: group.rows or 0)

    @property
    def rows_per_call(self) -> float | None:
        rows = self.rows
        return None if rows is None or not self.count else rows / self.count

    def counts(self) -> dict[str, int]:
        """Calls by execution id, of the executions that made any."""
        found: dict[str, int] = {}
        for group, owner in zip(self.groups, self.owners, strict=True):
            found[owner.id] = found.get(owner.id, 0) + group.count
        return found


def stretch_ns(group: SpanGroup) -> int:
    """From the first start of a group's calls to their last end; their sum when no positions were recorded."""
    stretch = group.last_end_ns - group.first_start_ns
    return stretch if stretch > 0 else group.total_ns


def identity(group: SpanGroup) -> tuple[str, ...]:
    """What makes calls the same: shape, target and line."""
    return (group.channel, group.operation, group.fingerprint, group.target, group.callsite, group.relationship)


def merge_calls(
    executions: Sequence[Execution],
    *channels: Channel,
    where: Callable[[SpanGroup], bool] = lambda _: True,
    by: Callable[[SpanGroup], tuple[str, ...]] = identity,
) -> list[Calls]:
    """The calls of some channels (of all, when none is named), merged over the executions; the most time first."""
    found: dict[tuple[str, ...], tuple[list[SpanGroup], list[Execution]]] = {}
    for execution in executions:
        for group in execution.groups:
            if channels and group.channel not in channels:
                continue
            if group.fingerprint == OVERFLOW_SHAPE or group.count <= 0 or not where(group):
                continue
            groups, owners = found.setdefault(by(group), ([], []))
            groups.append(group)
            owners.append(execution)
    merged = [Calls(tuple(groups), tuple(owners), len(executions)) for groups, owners in found.values()]
    return sorted(merged, key=lambda calls: -calls.total_ms)


def mostly_concurrent(calls: Calls) -> bool:
    """True when the calls ran beside one another, so that their number says little about the time they took.

    A call counts as concurrent when any other call of the execution was in flight. That other one may be a single long
    call (a thread that sleeps): then the loop is a loop still. So either the calls' sum exceeds the stretch they
    cover, or no other single line could have been in flight all the while.
    """
    count = sum(group.count for group in calls.groups)
    if sum(group.concurrent for group in calls.groups) < 0.5 * count:
        return False
    own_lines = {group.callsite for group in calls.groups}
    for group, owner in zip(calls.groups, calls.owners, strict=True):
        if group.total_ns > 1.1 * stretch_ns(group):
            return True
        for other in owner.groups:
            if other.callsite not in own_lines and other.max_ns >= 0.8 * stretch_ns(group):
                return False
    return True


def give_or_take(low: float, mid: float, high: float) -> tuple[float, float, float]:
    """The range of what was measured, and goes, as far as a mean of few executions tells the next ones."""
    return (low * (1 - GIVE_OR_TAKE), mid, high * (1 + GIVE_OR_TAKE))


def batching_saving(count: float, total_ms: float, fastest_ms: float, batch_size: float) -> tuple[float, float, float]:
    """What is given back when ``count`` calls become batches of ``batch_size``: (low, mid, high) in ms.

    High: all but one fastest call for each batch. Mid: of each call saved, `REMAINS_OF_A_CALL` of what the fastest one
    took remains, or `REMAINS_AT_MOST_MS`. Low: half of what the fastest call took for each, or `LEAST_OF_CALLS` of them
    all, where they took much longer than the fastest one: their server may be as slow with batches.
    """
    batches = max(1.0, math.ceil(count / batch_size))
    saved = max(0.0, count - batches)
    high = max(0.0, total_ms - batches * fastest_ms)
    floor = min(high, saved * fastest_ms)
    remains = saved * min(REMAINS_OF_A_CALL * fastest_ms, REMAINS_AT_MOST_MS)
    return (max(floor / 2, LEAST_OF_CALLS * high), max(floor / 2, high - remains), high)


def calls_evidence(text: str, calls: Iterable[Calls], limit: int = 10) -> Evidence:
    """The calls as a table: one row for each identity, in the order given."""
    return Evidence("calls", text, {"groups": [calls_row(each) for each in list(calls)[:limit]]})


def calls_row(calls: Calls) -> dict[str, Any]:
    """One row of the table of calls, for each execution."""
    first = calls.first
    rows = calls.rows
    return {
        "channel": first.channel,
        "operation": first.operation,
        "fingerprint": first.fingerprint,
        "target": first.target,
        "callsite": first.callsite,
        "function": first.function,
        "relationship": first.relationship,
        "stack": list(first.stack),
        "count": round(calls.count, 2),
        "distinct": round(calls.distinct, 2),
        "total_ms": round(calls.total_ms, 3),
        "mean_ms": round(sum(g.total_ns for g in calls.groups) / sum(g.count for g in calls.groups) / NS_PER_MS, 3),
        "fastest_ms": round(calls.fastest_ms, 3),
        "slowest_ms": round(calls.slowest_ms, 3),
        "rows": None if rows is None else round(rows, 2),
        "errors": round(calls.per_execution(lambda group: group.errors), 2),
    }


def execution_evidence(execution: Execution, why: str) -> Evidence:
    """Points at an execution that shows the finding best."""
    return Evidence(
        "execution",
        f"{why}: {execution.id}, {words_ms(execution.run_ns / NS_PER_MS)} on {execution.worker}",
        {"execution_id": execution.id},
    )


# --------------------------------------------------------------------------------------------------------------- words

# What rules call the words of `jobdoctor.words`, so that findings and reports say a number alike.
words_ms = words.duration
words_bytes = words.size
words_count = words.number
words_share = words.share
