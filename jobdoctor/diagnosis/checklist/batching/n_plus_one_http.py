"""n-plus-one-http: many requests to one URL template from one line, one after the other.

## What it looks for

GET (or HEAD) requests whose URLs differ in an id only, made one after the other from one line of the job, at least
`calls` times in an execution. Paths that differ in one segment count as one template, also where the segment is a
name and not a number.

## Why it costs time

Each request pays the network, the other side's work and often TLS, one after the other, while the worker waits. 60
requests of 80 ms are almost five seconds in which the worker does nothing.

## What to do

Ask for all at once: most services have a bulk or filter endpoint (`?ids=1,2,3`). Where there is none, make the
requests beside one another with a bound (a pool of threads, `asyncio.gather` with a semaphore), over one session, or
cache what does not change.

## When it is a false alarm

When each answer decides the next request (following links, paging by a cursor: paging parameters are not counted), or
when the service allows one request at a time. Requests that already run beside one another do not count.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from jobdoctor.diagnosis import measure, round_trips
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, SpanGroup

_PAGING = re.compile(
    r"[?&](?:page|offset|cursor|after|before|skip|start|starting_after|page_?token|next(?:_?token)?|continuation"
    r"(?:_?token)?|marker|since_id|max_id)(?:&|$)",
    re.IGNORECASE,
)


#: A request for all of them takes as long as so many of the fastest. Own: more to look up, to send and to parse.
_BULK_REQUEST = 3


class NPlusOneHttp(TimeRule):
    """JD402."""

    code = "JD402"
    name = "n-plus-one-http"
    step = "batching"
    kind = "batch"
    needs = ("http",)

    calls = Limit(5, "calls", "requests of one template from one line, for each execution", "Sentry's N+1 API rule: 5")
    distinct_share = Limit(0.2, "share", "different URLs among the requests", "own: below it, it is polling")
    at_once = Limit(
        4,
        "calls",
        "requests beside one another that any service bears: the low end of the saving",
        "own: a modest pool",
    )
    least_ms = Limit(5, "ms", "saving below which nothing is said", "own: a request on one machine takes 1.3 ms")

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        whole = measure.body_ms(executions)
        templates = _families(executions, int(self.limits.calls))

        def by(group: SpanGroup) -> tuple[str, ...]:
            template = templates.get((group.target, group.callsite, group.fingerprint), group.fingerprint)
            return (group.operation, template, group.target, group.callsite)

        for calls in measure.merge_calls(executions, "http", where=_is_read, by=by):
            distinct = calls.distinct or calls.count
            if calls.count < self.limits.calls or distinct < max(2.0, self.limits.distinct_share * calls.count):
                continue
            if measure.mostly_concurrent(calls):
                continue
            saving = self._saving(calls)
            if saving[1] >= self.limits.least_ms:
                yield self._describe(calls, by(calls.first)[1], saving, whole)

    def _saving(self, calls: Calls) -> tuple[float, float, float]:
        """Low: the same requests, `at_once` beside one another. High: one request as fast as the fastest, and nothing
        of what the session computed between them. Mid: one request for all, that takes a few times as long as the
        fastest, and most of the CPU between them is the session's."""
        total = calls.total_ms
        _, between = round_trips.library_ms(calls)
        low = total * (1 - 1 / min(self.limits.at_once, max(1.0, calls.count)))
        high = max(low, total - calls.fastest_ms + between)
        mid = total - _BULK_REQUEST * calls.fastest_ms + round_trips.LIBRARY_SHARE * between
        return (low, min(max(low, mid), high), high)

    def _describe(self, calls: Calls, template: str, saving: tuple[float, float, float], whole: float) -> Finding:
        first = calls.first
        growth = round_trips.growth(calls)
        feeding = round_trips.feeding_query(calls, calls.largest_execution)
        evidence = [
            measure.calls_evidence(
                f"{words_count(calls.count)} requests to {words_count(calls.distinct)} different URLs, one after the "
                f"other, take {words_ms(calls.total_ms)} of {words_ms(whole)} in the job",
                [calls],
            )
        ]
        if feeding is not None:
            evidence.append(
                Evidence(
                    "fact",
                    f"One request for each of the {words_count(feeding.rows or 0)} rows fetched at {feeding.callsite}",
                    {"callsite": feeding.callsite, "rows": feeding.rows, "fingerprint": feeding.fingerprint},
                )
            )
        if growth.proven:
            evidence.append(Evidence("series", growth.text, {"calls": calls.counts()}))
        evidence.append(measure.execution_evidence(calls.largest_execution, "Most requests of this template"))
        return self.finding(
            severity=self.severity(saving[1], whole, calls=calls.count, grows=growth.proven),
            confidence=0.86 + 0.06 * (feeding is not None) + 0.05 * growth.proven,
            title=f"{words_count(calls.count)} requests of {template} from {first.callsite or 'an unknown line'}, "
            "one after the other",
            cost_ms=max(calls.total_ms, saving[1]),
            saving=saving,
            text=f"Ask {first.target or 'the service'} for all of them in one request. Where it has no bulk endpoint, "
            "make the requests beside one another over one session, with a bound, or cache what does not change.",
            snippet=_snippet(first, template),
            callsite=first.callsite,
            calls=round(calls.count),
            evidence=evidence,
        )


def _is_read(group: SpanGroup) -> bool:
    return group.operation.upper() in ("GET", "HEAD") and not _PAGING.search(group.fingerprint)


def _families(executions: Iterable[Execution], least: int) -> dict[tuple[str, str, str], str]:
    """Templates for paths that differ in one segment only, when at least ``least`` of them come from one line.

    The fingerprint takes ids out of a path, but not names: /users/alice and /users/bob are one template as well.
    """
    lines: defaultdict[tuple[str, str, str, int], set[str]] = defaultdict(set)
    for execution in executions:
        for group in execution.groups:
            if group.channel == "http" and _is_read(group):
                path, _, query = group.fingerprint.partition("?")
                lines[group.target, group.callsite, query, path.count("/")].add(path)
    templates: dict[tuple[str, str, str], str] = {}
    for (target, callsite, query, _), paths in lines.items():
        if len(paths) < least:
            continue
        split = [path.split("/") for path in sorted(paths)]
        varying = [position for position, segments in enumerate(zip(*split, strict=True)) if len(set(segments)) > 1]
        if len(varying) != 1:
            continue
        merged = list(split[0])
        merged[varying[0]] = "{}"
        suffix = f"?{query}" if query else ""
        for path in paths:
            templates[target, callsite, f"{path}{suffix}"] = "/".join(merged) + suffix
    return templates


def _snippet(group: SpanGroup, template: str) -> str:
    _, _, url = template.partition(" ")
    bulk = re.sub(r"/?\{\}.*$", "", url) or url
    if group.library == "httpx":
        beside = (
            "async with httpx.AsyncClient(timeout=10) as client:\n"
            "    answers = await asyncio.gather(*(client.get(url) for url in urls))  # bound it with a semaphore"
        )
    elif group.library == "aiohttp":
        beside = (
            "async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:\n"
            "    answers = await asyncio.gather(*(fetch(session, url) for url in urls))  # bound it with a semaphore"
        )
    else:
        beside = (
            "with ThreadPoolExecutor(max_workers=4) as pool:\n"
            "    answers = list(pool.map(lambda url: session.get(url, timeout=10), urls))"
        )
    return (
        f"# {group.callsite}: best, one request for all (ask the service's owner for the endpoint)\n"
        f'session.get("{bulk}", params={{"ids": ",".join(map(str, ids))}}, timeout=10)\n\n'
        f"# or beside one another\n{beside}"
    )
