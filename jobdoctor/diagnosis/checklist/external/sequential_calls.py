"""sequential-calls: requests that do not need one another's answers wait for one another.

## What it looks for

GET requests of different templates (or different hosts, or a few of one template), each at least `call_ms` long, made
one after the other in one thread. Loops of one template are left to n-plus-one-http. Requests that follow from
another one are left out where that can be seen: redirects, pages, polls, repeated and failed requests. What the code
does with an answer before it asks the next cannot be seen. A request is taken for independent when it goes to another
host, when nothing in its URL varies, or when it asks for the same thing (the same query names) as the one before; where
fewer than `chain_calls` others could be a chain (an order, then its customer), the finding is only a remark.

## Why it costs time

The job waits for the sum of all answers, when it could wait for the slowest one only. Three services of 200 ms each
are 600 ms one after the other, and 200 ms beside one another.

## What to do

Start the independent requests together: a small `ThreadPoolExecutor` in blocking code, `asyncio.gather` in async code.
Give each a timeout, and keep the bound on the pool small. Where one caller asks for the same few things every time,
an endpoint that answers all of them at once is better still.

## When it is a false alarm

When a request is made from what an earlier one answered (a token, an id, a link), or when the service allows only one
request at a time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, SpanGroup

_PAGING = re.compile(
    r"[?&](?:page|offset|cursor|after|before|skip|start|starting_after|page_?token|next(?:_?token)?|continuation"
    r"(?:_?token)?|marker|since_id|max_id)(?:&|$)",
    re.IGNORECASE,
)
#: The path of what is asked for before anything else can be: a token, a session, the description of an API.
_FIRST_THINGS = re.compile(r"/(?:oauth2?|token|auth|login|session|discovery|\.well-known|openapi)\b", re.IGNORECASE)


class SequentialCalls(TimeRule):
    """JD203."""

    code = "JD203"
    name = "sequential-calls"
    step = "external"
    kind = "isolate"
    needs = ("http",)
    related_to = ("JD402", "JD205")

    chain_calls = Limit(
        4,
        "calls",
        "requests to one host from which it may be a warning though ids in their URLs may come from earlier answers",
        "own: an order, its customer and the customer's address are three; Sentry takes 3 HTTP spans for any",
    )
    call_ms = Limit(
        30,
        "ms",
        "mean time of a request below which it is not worth a thread",
        "Sentry's consecutive database spans: 30 ms each",
    )
    saving_ms = Limit(
        100, "ms", "sum of the requests without the longest, for each execution", "Sentry's consecutive spans: 100 ms"
    )
    saving_share = Limit(
        0.1, "share", "share of the job's time that this must be", "Sentry's consecutive spans: 10% of the whole"
    )
    loop_calls = Limit(
        5, "calls", "requests of one template from which they are a loop, and n-plus-one-http's", "as JD402"
    )
    usual_share = Limit(
        0.5, "share", "executions that make a request, below which it is left out", "own: what most of them do"
    )

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        whole = measure.body_ms(executions)
        calls = [each for each in measure.merge_calls(executions, "http", where=self._counts) if self._usual(each)]
        looped = _loops(executions, self.limits.loop_calls)
        calls = [each for each in calls if (each.first.target, each.first.callsite) not in looped]
        number = sum(each.count for each in calls)
        if number < 2:
            return
        sums, longest = _sums(calls, executions)
        saved = sums - longest
        if saved < self.limits.saving_ms or saved < self.limits.saving_share * whole:
            return
        yield self._describe(calls, number, sums, longest, whole)

    def _counts(self, group: SpanGroup) -> bool:
        """A request that may well be independent of the others, and stood alone while it ran."""
        if group.operation.upper() not in ("GET", "HEAD") or group.count >= self.limits.loop_calls:
            return False
        if group.total_ns < self.limits.call_ms * measure.NS_PER_MS * group.count:
            return False
        if group.concurrent or group.errors or (group.distinct and group.distinct < group.count):
            return False
        if any(status[:1] in "345" for status in group.statuses):
            return False
        return not (_PAGING.search(group.fingerprint) or _FIRST_THINGS.search(group.fingerprint))

    def _usual(self, calls: Calls) -> bool:
        return len(calls.counts()) >= self.limits.usual_share * calls.executions

    def _describe(self, calls: Sequence[Calls], number: float, sums: float, longest: float, whole: float) -> Finding:
        hosts = Counter(each.first.target for each in calls)
        saved = sums - longest
        severity = self.severity(saved, whole, calls=number)
        chained = _may_be_chained(calls)
        if chained and number < self.limits.chain_calls:
            severity = "info"
        lead = calls[0].first
        where = f"{words_count(len(hosts))} hosts" if len(hosts) > 1 else (lead.target or "one host")
        lines = {each.first.callsite for each in calls}
        line = _outer_line(calls) if len(lines) > 1 else lead.callsite
        return self.finding(
            severity=severity,
            confidence=0.6 if chained else 0.75,
            title=f"{words_count(number)} requests to {where} one after the other take {words_ms(sums)}, the longest "
            f"{words_ms(longest)}",
            cost_ms=sums,
            # Low: only half of them turn out to be independent. High: all of them, at once.
            saving=measure.give_or_take(saved / 2, saved * 0.95, saved),
            text="Make them beside one another, if they are independent. The job then waits for the longest one only",
            snippet=_snippet(calls, line),
            callsite=line,
            calls=round(number),
            evidence=[
                measure.calls_evidence(
                    f"{words_count(number)} requests, never two at a time, take {words_ms(sums)} of {words_ms(whole)} "
                    f"in the job; the longest of them takes {words_ms(longest)}",
                    calls,
                ),
                Evidence(
                    "fact",
                    "None is a redirect, a further page or a repeat of another"
                    + ("; whether an id comes from an earlier answer cannot be seen from outside" if chained else ""),
                    {"hosts": dict(hosts)},
                ),
                measure.execution_evidence(calls[0].largest_execution, "Longest request"),
            ],
        )


def _may_be_chained(calls: Sequence[Calls]) -> bool:
    """Whether a request may be made from what an earlier one of its host answered: something in its URL varies, and it
    is not what the earlier one asked for as well."""
    asked: dict[str, set[str]] = {}
    for each in sorted(calls, key=lambda one: min(group.first_start_ns for group in one.groups)):
        path, _, names = each.first.fingerprint.partition("?")
        earlier = asked.setdefault(each.first.target, set())
        if earlier and ("{}" in path or (names and names not in earlier)):
            return True
        earlier.add(names)
    return False


def _loops(executions: Iterable[Execution], least: float) -> set[tuple[str, str]]:
    """Lines that make many requests to a host: a loop, whatever names its URLs carry."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for execution in executions:
        for group in execution.groups:
            if group.channel == "http" and group.operation.upper() in ("GET", "HEAD"):
                counts[execution.id, group.target, f"{group.callsite}|{_siblings(group)}"] += group.count
    return {(target, place.partition("|")[0]) for (_, target, place), count in counts.items() if count >= least}


def _siblings(group: SpanGroup) -> str:
    """The path without its last segment: what /users/ada and /users/bob have in common."""
    path = group.fingerprint.partition("?")[0]
    return path.rpartition("/")[0]


def _sums(calls: Sequence[Calls], executions: Sequence[Execution]) -> tuple[float, float]:
    """(sum, longest) of the requests in ms, means over the executions."""
    total: Counter[str] = Counter()
    longest: Counter[str] = Counter()
    for each in calls:
        for group, owner in zip(each.groups, each.owners, strict=True):
            total[owner.id] += group.total_ns
            longest[owner.id] = max(longest[owner.id], group.max_ns)
    return (
        measure.mean(total[each.id] for each in executions) / measure.NS_PER_MS,
        measure.mean(longest[each.id] for each in executions) / measure.NS_PER_MS,
    )


def _outer_line(calls: Sequence[Calls]) -> str:
    """The innermost line that all the requests came through: that of the function that makes them all."""
    stacks = [[frame.partition(" ")[0] for frame in each.first.stack] for each in calls]
    functions = [[frame.partition(" ")[2] for frame in each.first.stack] for each in calls]
    if not all(stacks):
        return calls[0].first.callsite
    for line, function in zip(stacks[0], functions[0], strict=True):
        file = line.rpartition(":")[0]
        if all(
            any(other.rpartition(":")[0] == file and name == function for other, name in zip(stack, names, strict=True))
            for stack, names in zip(stacks[1:], functions[1:], strict=True)
        ):
            return line
    return calls[0].first.callsite


def _snippet(calls: Sequence[Calls], line: str) -> str:
    names: list[str] = []
    for each in calls[:4]:
        name = each.first.function.rpartition(".")[2]
        names.append(name if name.isidentifier() and name not in names else f"request_{len(names) + 1}")
    urls = "\n".join(f"#   {each.first.fingerprint}" for each in calls[:4])
    head = f"# {line or 'the job'}: these do not wait for one another\n{urls}\n"
    library = calls[0].first.library
    if library == "aiohttp" or (library == "httpx" and _is_async(calls)):
        return f"{head}answers = await asyncio.gather({', '.join(f'{name}()' for name in names)})"
    started = "\n".join(f"    {name} = pool.submit({name}, ...)" for name in names)
    return f"{head}with ThreadPoolExecutor(max_workers={len(names)}) as pool:\n{started}\nanswer = {names[0]}.result()"


def _is_async(calls: Sequence[Calls]) -> bool:
    return any("async" in frame for each in calls for frame in each.first.stack)
