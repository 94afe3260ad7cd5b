"""connection-churn: a new connection for nearly every call to one host.

## What it looks for

Targets (HTTP hosts, databases, mail servers) to which an execution opens `connections` or more connections, and no
more than `calls_per_connection` calls go over each. Connections that are open beside one another, one for each thread
or task, are what a pool does: as many as run at the same time are not counted.

## Why it costs time

A new connection is a round trip for TCP, two more for TLS, and for a database a login, memory and a process on its
server. On one machine that is a millisecond; across a network with TLS it is often more than the call itself. Ports
and descriptors of closed connections stay taken for a minute.

## What to do

Keep the connection: one `requests.Session()` or `httpx.Client()` for all calls, a pool for the database, one SMTP
session for all messages. A module-level client that connects on first use survives the worker's fork.

## When it is a false alarm

When the server closes each connection itself (then ask its owner for keep-alive), or when a proxy hands each call to
another machine on purpose.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure, round_trips
from jobdoctor.diagnosis.measure import words_count, words_ms
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Channel, Evidence, Execution, Finding, JobHistory, Severity, SpanGroup

_CHANNELS: tuple[Channel, ...] = ("http", "sql", "mail", "redis")
_CONNECTS = "CONNECT"
_LOOPBACK = re.compile(r"://(?:[^/@]*@)?(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])(?::|/|$)")
#: A connection over the loopback interface, ms: likely, and with a server that starts a thread for each. Measured:
#: http.client's request takes 0.2 ms over a kept connection and 0.5 to 3.7 over a new one.
_LOCAL_MS = (0.3, 3.5)
#: CPU of a client for a connection of its own, beside the request, ms. Measured against a kept session: a requests
#: session 1.1, urllib3's pool 0.6, an httpx client 36, for it loads the certificates anew each time.
_CLIENT_MS = {"httpx": 36.0}
_USUAL_CLIENT_MS = 0.8
#: In a file of the same machine: opening it is no handshake.
_FILES = ("sqlite:",)


class ConnectionChurn(TimeRule):
    """JD205."""

    code = "JD205"
    name = "connection-churn"
    step = "external"
    kind = "isolate"
    needs = ("http", "sql")
    related_to = ("JD402", "JD401", "JD405", "JD406")

    connections = Limit(
        5,
        "connections",
        "connections to one target that came one after the other, for each execution",
        "own: as many calls as make a loop in Sentry's and Scout's rules",
    )
    warning_connections = Limit(
        8,
        "connections",
        "connections from which it is a warning whatever they took",
        "own: with TLS across a network 8 connections are 16 to 24 round trips more",
    )
    calls_per_connection = Limit(
        4, "calls", "calls over each connection above which it is used, not churned", "own: an item's few statements"
    )
    round_trips = Limit(
        1.0,
        "round trips",
        "of a new connection, where its own time was not recorded; a TLS connection takes two more",
        "RFC 9293: TCP answers after one round trip; RFC 8446: TLS 1.3 takes one more, RFC 5246: 1.2 two",
    )

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        whole = measure.body_ms(executions)
        by_target: defaultdict[tuple[Channel, str], list[tuple[SpanGroup, Execution]]] = defaultdict(list)
        for execution in executions:
            for group in execution.groups:
                if group.channel in _CHANNELS and group.count > 0 and not group.target.startswith(_FILES):
                    by_target[group.channel, _host(group)].append((group, execution))
        for (channel, target), found in by_target.items():
            opened = sum(_opened(group) for group, _ in found) / len(executions)
            calls = sum(group.count for group, _ in found if group.operation != _CONNECTS) / len(executions)
            excess = opened - _beside(found)
            if excess < self.limits.connections or calls > self.limits.calls_per_connection * opened:
                continue
            yield self._describe(channel, target, found, opened, excess, calls, executions, whole)

    def _describe(
        self,
        channel: Channel,
        target: str,
        found: Sequence[tuple[SpanGroup, Execution]],
        opened: float,
        excess: float,
        calls: float,
        executions: Sequence[Execution],
        whole: float,
    ) -> Finding:
        low, mid, high = self._connecting_ms(found, opened, executions)
        part = excess / opened
        saving = (low * part, mid * part, high * part)
        severity: Severity = self.severity(saving[1], whole, calls=excess)
        if severity == "info" and opened >= self.limits.warning_connections:
            severity = "warning"
        merged = measure.merge_calls(
            executions, channel, where=lambda group: _host(group) == target and _opened(group) > 0
        )
        lead = max(merged, key=lambda each: each.per_execution(_opened)).first
        made = next((each.first for each in merged if each.first.operation != _CONNECTS), lead)
        return self.finding(
            severity=severity,
            confidence=0.9,
            title=f"{words_count(opened)} connections for {words_count(calls)} "
            f"{'call' if round(calls) == 1 else 'calls'} to {target or 'one target'}",
            cost_ms=high,
            saving=saving,
            text=_advice(channel, target),
            snippet=_snippet(channel, made, target),
            callsite=made.callsite,
            calls=round(calls),
            evidence=[
                measure.calls_evidence(
                    f"{words_count(opened)} new connections to {target} in each execution, "
                    f"{words_ms(mid)} of {words_ms(whole)} as measured or estimated",
                    merged,
                ),
                Evidence(
                    "fact",
                    f"{words_count(excess)} of them came after another one to the same target was closed or left",
                    {"target": target, "opened": round(opened, 2), "calls": round(calls, 2)},
                ),
                measure.execution_evidence(
                    max(executions, key=lambda each: sum(_opened(g) for g in each.groups if _host(g) == target)),
                    "Most connections",
                ),
            ],
        )

    def _connecting_ms(
        self, found: Sequence[tuple[SpanGroup, Execution]], opened: float, executions: Sequence[Execution]
    ) -> tuple[float, float, float]:
        """What opening took, for each execution: as measured where a connect is a call of its own. Else round trips as
        long as the fastest call, of which the lower end is next to none, or what they take on one machine; and what a
        client computes anew for each connection, as far as it computed between the calls."""
        connects = [group for group, _ in found if group.operation == _CONNECTS]
        measured = sum(group.total_ns for group in connects) / len(executions) / measure.NS_PER_MS
        known = sum(group.count for group in connects) / len(executions)
        if known >= 0.5 * opened:
            return (0.7 * measured, 0.9 * measured, measured)
        calls = [group for group, _ in found if group.operation != _CONNECTS]
        fastest = min((group.min_ns for group in calls), default=0) / measure.NS_PER_MS
        trips = self.limits.round_trips + 2.0 * any(group.target.startswith("https:") for group in calls)
        # The fastest call had a connection to open, too: it was one of the round trips of its own time.
        most = fastest * trips / (1 + trips)
        likely = 0.5 * most
        if all(_LOOPBACK.search(group.target) for group in calls):  # no network: what is slow there is the answer
            likely, most = min(likely, _LOCAL_MS[0]), min(most, _LOCAL_MS[1])
        merged = measure.merge_calls(executions, where=lambda group: any(group is each for each in calls))
        computed = [(each, round_trips.between_ms(each)) for each in merged]
        cpu = measure.ledger_ms(executions, *measure.COMPUTING)
        stretched = measure.with_waits(executions, cpu) / cpu if cpu > 0 else 1.0
        client = sum(
            min(between, stretched * _CLIENT_MS.get(each.first.library, _USUAL_CLIENT_MS) * each.per_execution(_opened))
            for each, between in computed
        )
        between = sum(each for _, each in computed)
        return (0.1 * likely * opened, likely * opened + client, most * opened + between)


def _host(group: SpanGroup) -> str:
    """The target; of mail without its port, which is known while connecting only."""
    if group.channel != "mail":
        return group.target
    scheme, separator, address = group.target.partition("://")
    host, colon, port = address.rpartition(":")
    return f"{scheme}{separator}{host}" if colon and port.isdigit() else group.target


def _opened(group: SpanGroup) -> int:
    """Connections of a group. urllib3's connect is a call of its own, and the request after it says so, too."""
    return 0 if group.operation == _CONNECTS and group.channel == "http" else group.new_connections


def _beside(found: Sequence[tuple[SpanGroup, Execution]]) -> float:
    """How many connections the calls need because they run at the same time; at least the first one, mean."""
    needed: defaultdict[str, int] = defaultdict(lambda: 1)
    by_execution: defaultdict[str, list[SpanGroup]] = defaultdict(list)
    for group, execution in found:
        by_execution[execution.id].append(group)
    for identity, groups in by_execution.items():
        concurrent = sum(group.concurrent for group in groups)
        if 2 * concurrent < sum(group.count for group in groups):
            continue
        stretch = max(group.last_end_ns for group in groups) - min(group.first_start_ns for group in groups)
        total = sum(group.total_ns for group in groups)
        # Twice the mean: a pool's threads do not all call all the time.
        needed[identity] = max(2, math.ceil(2 * total / stretch)) if stretch > 0 else sum(g.count for g in groups)
    return measure.mean(needed[identity] for identity in by_execution)


def _advice(channel: Channel, target: str) -> str:
    if channel == "sql":
        return "Open the database connection once, or take it from a pool. All items of an execution can use the same"
    if channel == "mail":
        return "Send all messages over one SMTP session. It takes any number of them"
    if channel == "redis":
        return "Make one client for the process. It keeps its connections in a pool"
    return f"Make all requests to {target} through one session. It keeps the connection open between them"


def _snippet(channel: Channel, group: SpanGroup, target: str) -> str:
    head = f"# {group.callsite}\n" if group.callsite else ""
    if channel == "mail":
        return (
            f"{head}with smtplib.SMTP(host, timeout=10) as smtp:  # {target}\n"
            "    for message in messages:\n        smtp.send_message(message)"
        )
    if channel == "redis":
        return f"{head}client = redis.Redis.from_url(url)  # at module level: connects when first used, and keeps it"
    if channel == "sql":
        if group.library == "asyncpg":
            once = "pool = await asyncpg.create_pool(dsn)  # once"
            return f"{head}{once}\nasync with pool.acquire() as connection:\n    ..."
        library = group.library if group.library.startswith("psycopg") else "psycopg"
        return (
            f"{head}with {library}.connect(dsn) as connection:  # once, around the loop\n"
            "    for item in items:\n        save(connection, item)"
        )
    method = group.operation.lower()
    if group.library == "httpx":
        return f"{head}client = httpx.Client(timeout=10)  # once\nclient.{method}(url)"
    if group.library == "aiohttp":
        once = "async with aiohttp.ClientSession() as session:  # once, around the loop"
        return f"{head}{once}\n    await session.{method}(url)"
    return f"{head}session = requests.Session()  # once, for {target}\nsession.{method}(url, timeout=10)"
