"""slow-dependency: one host, service or database takes most of the time.

## What it looks for

Waiting for one target (a database, a Redis, a host, another program) that is at least `target_share` of the run and at
least `target_ms`. Time blocked by other sessions' locks and the client's own CPU are not counted. Where the time is
that of many small calls, the finding is about those (see batching) and this one only says where they go.

## Why it costs time

The worker waits and can do nothing else. When the dependency is slow or down, jobs of all kinds queue up behind those
that wait for it.

## What to do

Give jobs that wait for it their own queue and workers, so that its bad days stay there. Set a short timeout, cache
what does not change, ask for less or for all at once, and make independent calls beside one another.

## When it is a false alarm

When waiting for that one thing is the job's whole purpose, and nothing else waits behind it. A program that the job
starts is only remarked: it is mostly what the job is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms, words_share
from jobdoctor.diagnosis.rule import Limit, Rule
from jobdoctor.model import Channel, Evidence, Execution, Finding, JobHistory, Severity, SpanGroup

_CHANNELS: tuple[Channel, ...] = ("sql", "http", "redis", "mail", "subprocess")


class SlowDependency(Rule):
    """JD201."""

    code = "JD201"
    name = "slow-dependency"
    step = "external"
    kind = "isolate"
    needs = ("sql", "http", "redis")
    related_to = (
        "JD407",
        "JD203", "JD205", "JD206", "JD401", "JD402", "JD403", "JD404", "JD405", "JD406", "JD501", "JD503",
        "JD605",
    )  # fmt: skip

    target_share = Limit(
        0.5,
        "share",
        "share of the run, without waits for a processor, imports and what RQ does around the job, spent waiting for "
        "one target",
        "own: more than all the rest",
    )
    target_ms = Limit(100, "ms", "waiting for it in each execution, below which nothing is said", "own")
    warning_ms = Limit(
        500, "ms", "waiting for it in each execution from which it is a warning", "Sentry's slow calls: 500 ms"
    )
    critical_ms = Limit(5_000, "ms", "waiting from which it is critical", "own: ten times a warning")
    beside_factor = Limit(
        1.3,
        "factor",
        "sum of the calls' waits over the job's own from which the job makes them beside one another already",
        "own: a third more than one after the other",
    )
    chatty_calls = Limit(10, "calls", "calls from one line from which their number may be the illness", "as JD401")
    chatty_call_ms = Limit(20, "ms", "mean time below which a call of those is not slow by itself", "own")

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        run = measure.run_ms(executions)
        undisturbed = measure.undisturbed_ms(executions)
        by_target: dict[tuple[Channel, str], list[Calls]] = {}
        for calls in measure.merge_calls(executions, *_CHANNELS):
            if target := calls.first.target or calls.first.fingerprint:  # a program has a name only
                by_target.setdefault((calls.first.channel, target), []).append(calls)
        for (channel, target), calls_of_target in by_target.items():
            waited = _waited(calls_of_target, executions, channel, target)
            if waited >= self.limits.target_ms and waited >= self.limits.target_share * undisturbed:
                yield self._describe(target, calls_of_target, waited, run, undisturbed)

    def _describe(self, target: str, calls: Sequence[Calls], waited: float, run: float, undisturbed: float) -> Finding:
        chatty = sum(_waiting_ms(each) for each in calls if self._is_chatty(each))
        count = sum(each.count for each in calls)
        lead = calls[0].first
        # What is left when each call is as fast as the fastest of its kind: the part that only slowness explains.
        tail = max(0.0, waited - sum(each.count * each.fastest_ms for each in calls))
        severity = self._severity(waited)
        if waited - chatty < self.limits.target_share * undisturbed:
            severity = "info"
        if severity == "warning" and self._are_beside(calls, waited):
            severity = "info"
        if lead.channel == "subprocess":  # a program of this host's own: usually the work itself, and nobody else's
            severity = "info"
        slowest = max(calls, key=lambda each: each.slowest_ms)
        return self.finding(
            severity=severity,
            confidence=0.85 if severity != "info" else 0.7,
            title=f"{target} takes {words_ms(waited)} of {words_ms(run)} ({words_share(measure.share(waited, run))}) "
            f"in {words_count(count)} {'call' if round(count) == 1 else 'calls'}",
            cost_ms=waited,
            saving=(0.0, tail, waited),
            text=f"Give the jobs that wait for {target} their own queue and workers. Then shorten the wait: a timeout, "
            "a cache for what does not change, independent calls beside one another.",
            snippet=_snippet(lead),
            callsite=lead.callsite,
            calls=round(count),
            evidence=[
                measure.calls_evidence(f"Calls to {target}, those that take longest first", calls),
                Evidence(
                    "fact",
                    f"The slowest call took {words_ms(slowest.slowest_ms)}, the fastest of its kind "
                    f"{words_ms(slowest.fastest_ms)} ({slowest.first.fingerprint})",
                ),
                measure.execution_evidence(slowest.largest_execution, "Longest wait"),
            ],
        )

    def _are_beside(self, calls: Sequence[Calls], waited: float) -> bool:
        """Whether most of the calls ran beside others: what isolation and a pool would give is had already."""
        groups = [group for each in calls for group in each.groups]
        if 2 * sum(group.concurrent for group in groups) < sum(group.count for group in groups):
            return False
        total = sum(group.total_ns for group in groups) / measure.NS_PER_MS / calls[0].executions
        return total > self.limits.beside_factor * waited

    def _is_chatty(self, calls: Calls) -> bool:
        return calls.count >= self.limits.chatty_calls and calls.total_ms / calls.count < self.limits.chatty_call_ms

    def _severity(self, waited: float) -> Severity:
        if waited >= self.limits.critical_ms:
            return "critical"
        return "warning" if waited >= self.limits.warning_ms else "info"


def _waiting_ms(calls: Calls) -> float:
    return max(0.0, calls.total_ms - calls.cpu_ms - calls.blocked_ms)


def _waited(calls: Sequence[Calls], executions: Sequence[Execution], channel: Channel, target: str) -> float:
    """Waiting for the target in ms; never more than the ledger gives it, for calls may run beside one another."""
    waited = sum(_waiting_ms(each) for each in calls)
    of_target = measure.ledger_ms(executions, channel, detail=target)
    of_channel = measure.ledger_ms(executions, channel)
    known = of_target or of_channel
    return min(waited, known) if known else waited


def _snippet(group: SpanGroup) -> str:
    if group.channel == "http":
        return (
            f"# {group.callsite}: a bound on each call\n"
            "session.get(url, timeout=(3.05, 10))\n\n"
            "# and a queue of its own, so that others do not wait behind it\n"
            'Queue("slow-upstream", connection=redis).enqueue(...)'
        )
    if group.channel == "sql":
        return f"-- {group.callsite}: look at its plan first\nEXPLAIN (ANALYZE, BUFFERS) {group.fingerprint}"
    return f"# {group.callsite}: {group.fingerprint}"
