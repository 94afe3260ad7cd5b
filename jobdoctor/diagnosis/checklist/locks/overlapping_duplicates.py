"""overlapping-duplicates: the same job with the same arguments ran twice at once, and both wrote.

## What it looks for

Two jobs (different job ids, not the retry of one) of the same function and arguments, of which the second was enqueued
before the first had ended, and which both wrote: at the same time, or one after the other. A second one that wrote
nothing, or much less, was stopped by a guard and is not counted. Grave are writes that add up when they are made
twice: an INSERT, `points = points + 1`, a POST without an idempotency key, a mail, a counter.

## Why it costs time

The second execution takes a worker for work that is done already. Worse is what it leaves: two entries, two charges,
two mails. Checking first and writing later does not help while both can check before one of them has written.

## What to do

Guard the work where it is written: take a lock that is named after what the job is about (`pg_advisory_xact_lock`, a
row lock, a Redis lock), look at the state again under it, and stop when it is done. Or let the database refuse the
second one: a unique key, `ON CONFLICT DO NOTHING`, `UPDATE ... WHERE status = 'new'`. And enqueue it once.

## When it is a false alarm

When the arguments do not say what an execution works on: it takes the next piece of work from a table or a list. When
a test enqueues one job over and over: with a single variant of arguments the rule only remarks it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.attempts import busy_ms
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, SpanGroup, TraceRow

#: Jobs that take their work from a queue of their own: equal arguments are not equal work.
_TAKES_NEXT = re.compile(r"\bSKIP\s+LOCKED\b", re.IGNORECASE)
POPS = frozenset(
    {
        "LPOP", "RPOP", "BLPOP", "BRPOP", "LMOVE", "BLMOVE", "RPOPLPUSH", "BRPOPLPUSH", "LMPOP", "BLMPOP", "SPOP",
        "ZPOPMIN", "ZPOPMAX", "BZPOPMIN", "BZPOPMAX", "ZMPOP", "XREADGROUP", "XAUTOCLAIM", "GETDEL",
    }
)  # fmt: skip
#: `points = points + 1`, `points=(customers.points + ?)`: made twice it is twice as much.
_RELATIVE = re.compile(
    r"(?:\b|\")(?P<column>\w+)\"?\s*=\s*\(?\s*(?:[\w\"]+\.)?\"?(?P=column)\"?\s*[-+*/|]", re.IGNORECASE
)
_UPSERT = re.compile(r"\bON\s+(CONFLICT|DUPLICATE\s+KEY)\b|\bINSERT\s+(OR\s+)?IGNORE\b|\bOR\s+REPLACE\b", re.IGNORECASE)
_COMMANDS = re.compile(r"(?:PIPELINE|;) (\w+)")
_ADDS_UP = frozenset(
    {
        "INCR", "INCRBY", "INCRBYFLOAT", "DECR", "DECRBY", "HINCRBY", "HINCRBYFLOAT", "ZINCRBY", "LPUSH", "RPUSH",
        "XADD", "PUBLISH", "APPEND",
    }
)  # fmt: skip


@dataclass(frozen=True)
class _Pair:
    before: TraceRow
    after: TraceRow
    adding: SpanGroup | None  # a write of the second one that adds up

    @property
    def overlaps(self) -> bool:
        return self.after.dequeued_at_ns < self.before.reaped_at_ns


class OverlappingDuplicates(Rule):
    """JD505."""

    code = "JD505"
    name = "overlapping-duplicates"
    step = "locks"
    kind = "lock"
    related_to = ("JD801",)

    min_pairs = Limit(2, "executions", "executions that repeated one below which it is silent", "own: once is a chance")
    guarded_share = Limit(
        0.5, "share", "writes of the second one, for each of the first, up to which a guard stopped it",
        "own: a guard may note that it was asked",
    )  # fmt: skip
    warning_share = Limit(
        0.02, "share", "repeats among the executions below which it is only remarked", "alerts of the field: 2%"
    )

    def check(self, history: JobHistory) -> Iterable[Finding]:
        rows = [row for row in history.trace if row.outcome != "stopped"]
        known = [row for row in rows if row.args_hash]
        if len(rows) > 1 and not known:
            raise NotChecked(
                "The arguments could not be told apart: their serialised form was not readable outside the job; use "
                "RQ's pickle or JSON serializer with arguments that serialise the same way each time"
            )
        if any(_takes_next(group) for execution in history.executions for group in execution.groups):
            return
        variants: dict[str, list[TraceRow]] = {}
        for row in known:
            variants.setdefault(row.args_hash, []).append(row)
        doubles = [pair for rows in variants.values() for pair in _doubles(rows)]
        if len(doubles) >= self.limits.min_pairs and all(row.writes is None for pair in doubles for row in pair):
            raise NotChecked(
                f"{len(doubles)} executions repeated another one, but whether they wrote is not known: not all probes "
                f"worked"
            )
        details = {execution.id: execution for execution in history.executions}
        pairs = [pair for before, after in doubles if (pair := self._both_wrote(before, after, details)) is not None]
        if len(pairs) >= self.limits.min_pairs:
            yield self._finding(history, known, len(variants), pairs)

    def _both_wrote(self, before: TraceRow, after: TraceRow, details: dict[str, Execution]) -> _Pair | None:
        first, second = _wrote(before, details), _wrote(after, details)
        if not first or not second or second <= self.limits.guarded_share * first:
            return None
        kept = details.get(after.execution_id)
        # Where its own details are gone, it wrote what the job usually writes.
        usual = [kept] if kept is not None else list(details.values())
        adding = [[group for group in execution.groups if adds_up(group)] for execution in usual]
        if 2 * sum(map(bool, adding)) <= len(usual):
            return _Pair(before, after, None)
        return _Pair(before, after, max((group for groups in adding for group in groups), key=lambda g: g.count))

    def _finding(
        self, history: JobHistory, known: Sequence[TraceRow], variants: int, pairs: Sequence[_Pair]
    ) -> Finding:
        adding = [pair.adding for pair in pairs if pair.adding is not None]
        grave = (
            variants > 1
            and len(adding) >= self.limits.min_pairs
            and len(pairs) >= self.limits.warning_share * len(history.trace)
        )
        overlapping = sum(pair.overlaps for pair in pairs)
        cost = busy_ms([pair.after for pair in pairs]) / max(1, len(history.trace))
        lead = max(adding, key=lambda group: group.count, default=None)
        callsites = Counter(pair.after.trigger_callsite for pair in pairs if pair.after.trigger_callsite)
        trigger = callsites.most_common(1)[0][0] if callsites else ""
        what = f"{lead.operation} at {lead.callsite}" if lead is not None and lead.callsite else "it"
        return self.finding(
            severity="warning" if grave else "info",
            confidence=0.85 if grave else 0.5,
            title=f"{len(pairs)} of {len(known)} jobs did again what an equal one was just doing, and wrote again",
            cost_ms=cost,
            # A guard in the job spares a duplicate its body, or lets it wait for the first one's end: nothing to all of
            # it. Only who refuses it when it is enqueued gets the rest of the execution back, too.
            saving=(0.0, cost / 2 * _body_share(history), cost),
            text=(
                f"Guard {what}: take a lock that is named after what the job is about, look at the state under it, and "
                f"stop when it is done already"
            ),
            snippet=_snippet(lead),
            callsite=lead.callsite if lead is not None else "",
            evidence=[
                Evidence(
                    "trigger",
                    f"{overlapping} of {len(pairs)} ran at the same time as the one before with the same arguments, "
                    f"{len(pairs) - overlapping} waited behind it and wrote once more; {variants} "
                    f"{'variant' if variants == 1 else 'variants'} of arguments",
                    {
                        "repeated": len(pairs),
                        "overlapping": overlapping,
                        "executions": len(known),
                        "variants": variants,
                        "adding_up": len(adding),
                        "statement": lead.fingerprint if lead is not None else "",
                        "callsite": trigger,
                        "pairs": [[pair.before.execution_id, pair.after.execution_id] for pair in pairs[:10]],
                    },
                ),
            ],
        )


def _doubles(rows: Sequence[TraceRow]) -> list[tuple[TraceRow, TraceRow]]:
    """(earlier, later) of equal arguments, of which the later was enqueued before the earlier had ended."""
    found: list[tuple[TraceRow, TraceRow]] = []
    last: TraceRow | None = None
    for row in sorted(rows, key=lambda row: row.dequeued_at_ns):
        if last is not None and last.job_id != row.job_id and row.created_at_ns < last.reaped_at_ns:
            found.append((last, row))
        if last is None or row.reaped_at_ns > last.reaped_at_ns:
            last = row
    return found


def _wrote(row: TraceRow, details: dict[str, Execution]) -> int:
    """Calls that wrote something; those that changed no row did not."""
    execution = details.get(row.execution_id)
    if execution is None or row.writes is None:
        return row.writes or 0
    idle = sum(g.count for g in execution.groups if g.channel == "sql" and g.effect == "write" and g.rows == 0)
    return max(0, row.writes - idle)


def _takes_next(group: SpanGroup) -> bool:
    if group.channel == "redis":
        return group.operation.upper() in POPS
    return group.channel == "sql" and _TAKES_NEXT.search(group.fingerprint) is not None


def adds_up(group: SpanGroup) -> bool:
    """True for a write that is not the same when it is made twice."""
    operation = group.operation.upper()
    if group.channel == "sql":
        if group.rows == 0:
            return False
        if operation == "UPDATE" or _UPSERT.search(group.fingerprint):
            return _RELATIVE.search(group.fingerprint) is not None
        return operation == "INSERT"
    if group.channel == "http":
        return operation == "POST" and group.effect == "write" and group.idempotency_keys < group.count - group.errors
    if group.channel == "redis":
        if operation == "PIPELINE":
            return any(command in _ADDS_UP for command in _COMMANDS.findall(group.fingerprint.upper()))
        return operation in _ADDS_UP
    return group.channel == "mail"


def _snippet(lead: SpanGroup | None) -> str:
    at = f"# before {lead.callsite}\n" if lead is not None and lead.callsite else ""
    if lead is not None and lead.channel in ("http", "mail"):
        return (
            f"{at}with redis.lock(f'this_job:{{order_id}}', timeout=60):\n"
            f"    if not redis.set(f'this_job:{{order_id}}:done', 1, nx=True, ex=86_400):\n"
            f"        return  # an equal job did it"
        )
    return (
        f"{at}with Session(engine) as session, session.begin():\n"
        "    session.execute(select(func.pg_advisory_xact_lock(order_id)))  # one at a time for each order\n"
        "    order = session.get(Order, order_id)\n"
        "    if order.status == 'done':\n"
        "        return  # an equal job did it"
    )


def _body_share(history: JobHistory) -> float:
    executions = measure.typical(history)
    return measure.share(measure.body_ms(executions), measure.run_ms(executions))
