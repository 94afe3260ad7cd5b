"""no-timeout: an outgoing request was made without any timeout.

## What it looks for

HTTP requests for which neither the call, nor its session, nor the socket module's default had a timeout.

## Why it costs time

It costs nothing until the day the other side accepts a connection and never answers. Then the worker hangs until RQ's
job timeout, and every other worker that takes such a job hangs as well: one slow service stops all queues.

## What to do

Give every request a timeout: one for the connection (a few seconds) and one for the answer (what you would wait). Then
decide what happens when it strikes: retry later with a backoff.

## When it is a false alarm

When the job's own timeout is short and hanging until then is acceptable.
"""

from __future__ import annotations

from collections.abc import Iterator

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms
from jobdoctor.diagnosis.rule import Limit, Rule
from jobdoctor.model import Evidence, Finding, JobHistory, SpanGroup


class NoTimeout(Rule):
    """JD202."""

    code = "JD202"
    name = "no-timeout"
    step = "external"
    kind = "isolate"
    needs = ("http",)
    related_to = ("JD402",)

    calls = Limit(1, "calls", "requests without a timeout in all executions looked at", "own: one can hang a worker")

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        by_target: dict[str, list[Calls]] = {}
        for calls in measure.merge_calls(executions, "http", where=lambda group: group.no_timeout > 0):
            by_target.setdefault(calls.first.target, []).append(calls)
        for target, calls_of_target in by_target.items():
            total = sum(group.no_timeout for calls in calls_of_target for group in calls.groups)
            if total >= self.limits.calls:
                yield self._describe(history, target, calls_of_target)

    def _describe(self, history: JobHistory, target: str, calls: list[Calls]) -> Finding:
        count = sum(each.per_execution(lambda group: group.no_timeout) for each in calls)
        lead = max(calls, key=lambda each: each.per_execution(lambda group: group.no_timeout)).first
        slowest = max(each.slowest_ms for each in calls)
        bound = next((each.timeout_s for each in history.executions if each.timeout_s), None)
        until = f"until the job's timeout of {words_ms(bound * 1_000)}" if bound and bound > 0 else "for ever"
        noun = "request" if round(count) == 1 else "requests"
        return self.finding(
            severity="warning",
            confidence=0.95,
            title=f"{words_count(count)} {noun} to {target or 'a host'} without a timeout from "
            f"{lead.callsite or 'an unknown line'}",
            cost_ms=sum(each.total_ms for each in calls),
            saving=(0.0, 0.0, 0.0),
            text="Give the request a timeout. A few seconds to connect, and what you would wait for the answer.",
            snippet=_snippet(lead),
            callsite=lead.callsite,
            calls=max(1, round(count)),
            evidence=[
                measure.calls_evidence("Requests without a timeout", calls),
                Evidence(
                    "fact",
                    f"The slowest answer took {words_ms(slowest)}; one that never comes holds the worker {until}",
                ),
            ],
        )


def _snippet(group: SpanGroup) -> str:
    method = group.operation.lower() or "get"
    head = f"# {group.callsite}\n"
    if group.library == "httpx":
        return f"{head}httpx.{method}(url, timeout=httpx.Timeout(10, connect=3))"
    if group.library == "aiohttp":
        return f"{head}aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10, connect=3))"
    if group.library in ("urllib", "urllib.request"):
        return f"{head}urllib.request.urlopen(url, timeout=10)"
    return f"{head}requests.{method}(url, timeout=(3.05, 10))  # http.client and urllib: timeout=10"
