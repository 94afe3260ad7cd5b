"""Waits on locks and pools, merged over executions: what the three rules of the lock step measure with.

A lock that nobody holds costs a call too (a round trip to Redis, for one), so what counts is the time above that of
an acquisition without contention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from jobdoctor.diagnosis.measure import NS_PER_MS, Calls, stretch_ns
from jobdoctor.model import Evidence, Execution, LockWait, SpanGroup


@dataclass
class Contention:
    """Waits on one lock (or at one line), over the executions looked at."""

    kind: str  # a LockWait's kind
    target: str
    callsite: str
    statement: str  # what waited
    looked_at: int
    waited_ns: dict[str, int] = field(default_factory=dict)  # by execution id
    longest_ns: int = 0
    times: int = 0
    holders: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # job, statement, application -> ns

    def add(self, execution: Execution, waited_ns: int, longest_ns: int, times: int) -> None:
        so_far = self.waited_ns.get(execution.id, 0)
        self.waited_ns[execution.id] = min(so_far + waited_ns, execution.run_ns)
        self.longest_ns = max(self.longest_ns, longest_ns)
        self.times += times

    def held_by(self, wait: LockWait) -> None:
        holder = (wait.blocking_job, wait.blocking_statement, wait.blocking_application or wait.blocking_backend)
        if any(holder):
            self.holders[holder] += wait.waited_ns

    @property
    def mean_ms(self) -> float:
        """Mean wait for each execution looked at, those that never waited included."""
        return sum(self.waited_ns.values()) / self.looked_at / NS_PER_MS if self.looked_at else 0.0

    @property
    def longest_ms(self) -> float:
        return self.longest_ns / NS_PER_MS

    @property
    def affected(self) -> int:
        """Executions that waited."""
        return sum(1 for waited in self.waited_ns.values() if waited > 0)

    @property
    def main_holder(self) -> tuple[str, str, str]:
        """Job, statement and application that held the lock for most of the wait; empty when nobody was seen."""
        return self.holders.most_common(1)[0][0] if self.holders else ("", "", "")


def longest_first(found: Iterable[Contention]) -> list[Contention]:
    return sorted(found, key=lambda each: (-each.mean_ms, each.target, each.callsite))


def lock_waits(executions: Sequence[Execution], kinds: frozenset[str]) -> list[Contention]:
    """The recorded lock waits of these kinds, merged by lock and waiting line."""
    found: dict[tuple[str, str, str], Contention] = {}
    for execution in executions:
        for wait in execution.locks:
            if wait.kind not in kinds or wait.waited_ns <= 0:
                continue
            group = execution.groups[wait.group] if 0 <= wait.group < len(execution.groups) else None
            callsite = group.callsite if group else ""
            statement = wait.statement or (group.fingerprint if group else "")
            each = found.setdefault(
                (wait.kind, wait.target, callsite or statement),
                Contention(wait.kind, wait.target, callsite, statement, len(executions)),
            )
            each.add(execution, wait.waited_ns, wait.waited_ns, 1)
            each.held_by(wait)
    return longest_first(found.values())


def call_waits(
    executions: Sequence[Execution],
    calls: Iterable[Calls],
    waited: Callable[[SpanGroup], int],
    kind: Callable[[SpanGroup], str],
) -> list[Contention]:
    """Calls that acquire something, with the part of their time that ``waited`` says was contention."""
    found = []
    for each in calls:
        first = each.first
        merged = Contention(kind(first), first.target, first.callsite, first.fingerprint, len(executions))
        for group, owner in zip(each.groups, each.owners, strict=True):
            ns = waited(group)
            if ns > 0:
                merged.add(owner, ns, group.max_ns, group.count)
        if merged.waited_ns:
            found.append(merged)
    return longest_first(found)


def above_uncontended_ns(group: SpanGroup, uncontended_ms: float) -> int:
    """What acquisitions took above those that found nobody there: known blocked time, or the excess over the fastest.

    An acquisition faster than ``uncontended_ms`` waited for nobody; the fastest call seen is what one costs here.
    """
    if group.blocked_ns > 0:
        return min(group.blocked_ns, group.total_ns)
    limit_ns = int(uncontended_ms * NS_PER_MS)
    if group.max_ns < limit_ns:
        return 0
    spent = min(group.total_ns, stretch_ns(group))
    return max(0, spent - group.count * min(group.min_ns, limit_ns))


def contention_evidence(text: str, found: Sequence[Contention]) -> Evidence:
    """The waits as a table, the longest first, with who held the lock."""
    return Evidence(
        "lock",
        text,
        {
            "target": found[0].target,
            "callsite": found[0].callsite,
            "locks": [
                {
                    "kind": each.kind,
                    "target": each.target,
                    "callsite": each.callsite,
                    "statement": each.statement,
                    "waits": each.times,
                    "executions_affected": each.affected,
                    "executions": each.looked_at,
                    "mean_ms": round(each.mean_ms, 3),
                    "longest_ms": round(each.longest_ms, 3),
                    "holders": [
                        {"job": job, "statement": statement, "application": application, "ms": round(ns / NS_PER_MS, 3)}
                        for (job, statement, application), ns in each.holders.most_common(5)
                    ],
                }
                for each in found[:10]
            ],
        },
    )
