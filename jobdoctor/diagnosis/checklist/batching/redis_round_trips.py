"""redis-round-trips: many single Redis commands from one loop, each with its own round trip.

## What it looks for

Commands to one Redis server from the lines of one function, at least `calls` in an execution and `calls_per_line` from
one of its lines, that were sent one by one: neither in a pipeline nor as a multi-key command. Different commands of
one loop (a GET, then a HSET) count together.

## Why it costs time

Redis answers in microseconds; what takes the time is the way there and back, and the client's work for each command.
A pipeline sends hundreds of commands in one round trip.

## What to do

Collect the commands in a pipeline, or use the command that takes many keys: MGET, MSET, HMGET, SADD with many members,
DEL with many keys. Take chunks of about 1,000.

## When it is a false alarm

When each answer decides the next command (use a Lua script, if it matters). Blocking commands, SCAN loops and
transactions' own commands do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure, round_trips
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, SpanGroup

#: Commands that wait, iterate or control: sending them one by one is how they are used.
_ONE_BY_ONE = frozenset(
    {"BLPOP", "BRPOP", "BLMOVE", "BRPOPLPUSH", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP", "XREAD", "XREADGROUP",
     "WAIT", "SUBSCRIBE", "PSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SCAN", "SSCAN", "HSCAN", "ZSCAN", "PING",
     "AUTH", "HELLO", "SELECT", "CLIENT", "COMMAND", "MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH", "EVALSHA",
     "SCRIPT", "INFO", "QUIT"}
)  # fmt: skip

#: A pipeline of so few commands is one item's.
_FEW_COMMANDS = 4

#: The multi-key command that replaces many of one, as Python.
_MANY = {
    "GET": "values = client.mget(keys)",
    "SET": "client.mset(values_by_key)",
    "HGET": "values = client.hmget(key, fields)",
    "HSET": "client.hset(key, mapping=values_by_field)",
    "DEL": "client.delete(*keys)",
    "UNLINK": "client.unlink(*keys)",
    "SADD": "client.sadd(key, *members)",
    "SREM": "client.srem(key, *members)",
    "SISMEMBER": "flags = client.smismember(key, members)",
    "ZADD": "client.zadd(key, scores_by_member)",
    "ZSCORE": "scores = client.zmscore(key, members)",
    "LPUSH": "client.lpush(key, *values)",
    "RPUSH": "client.rpush(key, *values)",
}


class RedisRoundTrips(TimeRule):
    """JD403."""

    code = "JD403"
    name = "redis-round-trips"
    step = "batching"
    kind = "batch"
    needs = ("redis",)

    calls = Limit(
        20, "calls", "single commands from one function, for each execution", "own: 20 local commands take about 2 ms"
    )
    calls_per_line = Limit(
        10, "calls", "of these, from one of the function's lines: the sign of a loop", "own: as for queries"
    )
    batch_size = Limit(1_000, "commands", "commands that one pipeline takes", "redis-py and Redis docs: some thousands")
    least_ms = round_trips.LEAST_MS

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        whole = measure.body_ms(executions)
        for calls in measure.merge_calls(executions, "redis", where=_single, by=_loop):
            if calls.per_execution(_round_trips) < self.limits.calls or measure.mostly_concurrent(calls):
                continue
            lines = _lines(calls, executions)
            if max(line.per_execution(_round_trips) for line in lines) < self.limits.calls_per_line:
                continue
            saving = measure.batching_saving(calls.count, calls.total_ms, calls.fastest_ms, self.limits.batch_size)
            if saving[1] >= self.limits.least_ms:
                yield self._describe(calls, lines, saving, whole)

    def _describe(
        self, calls: Calls, lines: Sequence[Calls], saving: tuple[float, float, float], whole: float
    ) -> Finding:
        busiest = max(lines, key=lambda line: line.count).first
        growth = round_trips.growth(calls)
        place = busiest.callsite or "an unknown line"
        if len(lines) > 1:
            place += f" and {len(lines) - 1} more {'line' if len(lines) == 2 else 'lines'} of {busiest.function}"
        shapes = sorted({group.fingerprint for group in calls.groups})
        evidence = [
            measure.calls_evidence(
                f"{words_count(calls.count)} commands, each with its own round trip, take {words_ms(calls.total_ms)} "
                f"of {words_ms(whole)} in the job",
                lines,
            )
        ]
        if growth.proven:
            evidence.append(Evidence("series", growth.text, {"calls": calls.counts()}))
        evidence.append(measure.execution_evidence(calls.largest_execution, "Most commands"))
        few = sum(group.batched for group in calls.groups) > 0.5 * sum(group.count for group in calls.groups)
        kind = "Redis pipelines of a few commands" if few else "single Redis commands"
        return self.finding(
            severity=self.severity(saving[1], whole, calls=calls.count, grows=growth.proven),
            confidence=0.86 + 0.08 * growth.proven,
            title=f"{words_count(calls.count)} {kind} ({', '.join(shapes[:2])}"
            f"{', ...' if len(shapes) > 2 else ''}) from {place}",
            cost_ms=calls.total_ms,
            saving=saving,
            text="Send them in one pipeline. Or use the command that takes many keys; in chunks of about 1,000 when "
            "there are very many.",
            snippet=_snippet(busiest, shapes),
            callsite=busiest.callsite,
            calls=round(calls.count),
            evidence=evidence,
        )


def _single(group: SpanGroup) -> bool:
    return group.operation.upper().partition(" ")[0] not in _ONE_BY_ONE and _round_trips(group) > 0


def _round_trips(group: SpanGroup) -> int:
    """Round trips that carried next to nothing: single commands, and pipelines of a few for each item of a loop."""
    if group.batched and group.items <= _FEW_COMMANDS * group.batched:
        return group.count
    return group.count - group.batched


def _loop(group: SpanGroup) -> tuple[str, ...]:
    """Lines of one function are taken for one loop."""
    file_name = group.callsite.rpartition(":")[0]
    return (group.target, file_name, group.function or group.callsite)


def _line(group: SpanGroup) -> tuple[str, ...]:
    return (group.target, group.callsite)


def _lines(calls: Calls, executions: Sequence[Execution]) -> list[Calls]:
    """The calls of a loop, line by line."""
    loop = _loop(calls.first)
    return measure.merge_calls(
        executions, "redis", where=lambda group: _single(group) and _loop(group) == loop, by=_line
    )


def _snippet(group: SpanGroup, shapes: Sequence[str]) -> str:
    if group.operation.upper() == "PIPELINE":
        return (
            f"# {group.callsite}: one pipeline around the loop, not one in it\n"
            "with client.pipeline(transaction=False) as pipe:\n"
            "    for item in items:\n"
            "        ...  # queue the item's commands\n"
            "    results = pipe.execute()"
        )
    many = _MANY.get(group.operation.upper())
    lines = [f"# {group.callsite}"]
    if many and len(shapes) == 1:
        lines += [f"{many}  # instead of {group.fingerprint} for each", "", "# or, for any commands:"]
    lines += [
        "with client.pipeline(transaction=False) as pipe:",
        "    for item in items:",
        f"        pipe.{_method(group.operation)}(...)  # {group.fingerprint}",
        "    results = pipe.execute()",
    ]
    return "\n".join(lines)


def _method(operation: str) -> str:
    name = operation.lower().partition(" ")[0]
    return {"del": "delete"}.get(name, name)
