"""pool-wait: time in line for a pooled connection.

## What it looks for

Time spent waiting for a free connection of a pool (SQLAlchemy's, psycopg's, a Redis or HTTP client's): checkouts that
took long although they opened no new connection.

## Why it costs time

The job's threads (or tasks) are more than the pool has connections for, so they take turns; or a connection is held
through slow work that does not need it, or never given back. With SQLAlchemy's defaults (5 connections and 10 more)
the wait ends in a `TimeoutError` after 30 s.

## What to do

Give connections back early: commit or close the session before slow work. Give each thread one session for its whole
work. Then size the pool for the threads of one process, and threads to what the database can take.

## When it is a false alarm

When the pool is small on purpose, to protect the database. A first checkout that opens the connection is slow and is
not counted; where a probe could not tell, the longest checkout of each execution is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.contention import Contention, contention_evidence
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Execution, Finding, JobHistory, SpanGroup


class PoolWait(TimeRule):
    code = "JD503"
    name = "pool-wait"
    step = "locks"
    kind = "lock"
    needs = ("pool",)

    min_wait_ms = Limit(
        50,
        "ms",
        "mean wait for each execution below which a pool is silent",
        "own: above the 5 to 30 ms that opening a connection takes",
    )
    min_share = Limit(0.1, "share", "share of the job's run below which a pool is silent", "own: a tenth")

    def check(self, history: JobHistory) -> Iterable[Finding]:
        executions = measure.typical(history)
        run = measure.run_ms(executions)
        pools: dict[str, Contention] = {}
        for execution in executions:
            for target, groups in _by_pool(execution, executions).items():
                waited = _waited_ns(groups)
                if waited > 0:
                    longest = max(groups, key=lambda group: group.total_ns)
                    pool = pools.setdefault(
                        target,
                        Contention("pool", target, longest.callsite, longest.fingerprint, len(executions)),
                    )
                    slowest = max(group.max_ns for group in groups)
                    pool.add(execution, waited, slowest, sum(group.count for group in groups))
        for pool in sorted(pools.values(), key=lambda pool: -pool.mean_ms):
            waited_ms = min(pool.mean_ms, run)
            if waited_ms >= self.limits.min_wait_ms and waited_ms >= self.limits.min_share * run:
                yield self._finding(executions, pool, waited_ms)

    def _finding(self, executions: Sequence[Execution], pool: Contention, waited: float) -> Finding:
        run = measure.run_ms(executions)
        timeouts = sum(
            group.errors for execution in executions for group in _by_pool(execution, executions).get(pool.target, [])
        )
        saving = _saving(executions, pool, waited)
        to = f" to {pool.target}" if pool.target else ""
        text = (
            f"{pool.affected} of {len(executions)} executions waited for a connection{to}, "
            f"the longest {measure.words_ms(pool.longest_ms)}"
        )
        if timeouts:
            text += f"; {timeouts} checkouts gave up"
        worst = max(executions, key=lambda each: pool.waited_ns.get(each.id, 0))
        return self.finding(
            severity=self.severity(saving[1], run),
            confidence=0.95 if timeouts else 0.85,
            title=(f"Waits {measure.words_ms(waited)} an execution for a pooled connection{to}"),
            cost_ms=waited,
            saving=saving,
            text=(
                "Give each thread one connection for its whole work and give it back before slow work; then size the "
                "pool for the threads that share it"
            ),
            snippet=(
                "engine = create_engine(url, pool_size=THREADS, max_overflow=0)\n"
                "with Session(engine) as session:   # one for each thread\n"
                "    rows = session.scalars(query).all()\n"
                "upload(rows)                       # slow work after the connection went back"
            ),
            callsite=pool.callsite,
            calls=round(pool.times / len(executions)),
            evidence=[contention_evidence(text, [pool]), measure.execution_evidence(worst, "The longest wait")],
        )


def _saving(executions: Sequence[Execution], pool: Contention, waited: float) -> tuple[float, float, float]:
    """(low, mid, high) in ms of wall time, by Little's law (Little 1961, L = lambda W).

    In a stretch of length s, threads stood w in all for a connection, and connections were used for u in all: w / s
    threads waited and u / s worked at a time. With a connection for each the same work takes s u / (u + w) where the
    database does it beside one another: the high end. It does nothing sooner where the connections that it has keep it
    busy: the low end. In the middle, half of the threads that waited are served at once.
    """
    stood = used = stretch = 0.0
    for execution in executions:
        pools = _by_pool(execution, executions).get(pool.target, [])
        queries = [
            group
            for group in execution.groups
            if group.channel == "sql" and group.effect != "none" and group.target in (pool.target, "")
        ]
        if not pools:
            continue
        blocked = sum(group.blocked_ns for group in pools)
        stood += blocked or sum(group.total_ns for group in pools)
        used += sum(group.total_ns for group in queries)
        begun = min(group.first_start_ns for group in pools)
        stretch += max(group.last_end_ns for group in (*pools, *queries)) - begun
    if used <= 0 or stretch <= 0:
        # Whoever waits alone, for connections that others of the process hold without asking anything.
        alone = min(waited, measure.ledger_ms(executions, "pool"))
        return (0.0, (alone + waited) / 2, waited)
    high = min(waited, stretch / len(executions) / measure.NS_PER_MS * stood / (used + stood))
    return (0.0, high / 2, high)


def _by_pool(execution: Execution, executions: Sequence[Execution]) -> dict[str, list[SpanGroup]]:
    """The checkouts of each pool. A pool has no name before its first connection: where one gets a name, it is that."""
    names = {group.target for each in executions for group in each.groups if group.channel == "pool" and group.target}
    unnamed = names.pop() if len(names) == 1 else ""
    pools: dict[str, list[SpanGroup]] = {}
    for group in execution.groups:
        if group.channel == "pool":
            pools.setdefault(group.target or unnamed, []).append(group)
    return pools


def _waited_ns(groups: Sequence[SpanGroup]) -> int:
    """The part of one pool's checkouts in one execution that was waiting for somebody to give a connection back."""
    known = sum(group.blocked_ns for group in groups)
    if known:
        return known
    covered = max(group.last_end_ns for group in groups) - min(group.first_start_ns for group in groups)
    spent = sum(group.total_ns for group in groups)
    if covered > 0:
        spent = min(spent, covered)
    slowest = max(group.max_ns for group in groups)
    opened = sum(group.new_connections for group in groups)
    if sum(group.errors for group in groups) == 0:
        opened = max(1, opened)  # the first checkout of a fresh process opens a connection
    return max(0, spent - opened * slowest)
