"""repeated-query: the same query with the same parameters, again and again in one execution.

## What it looks for

SELECTs of one shape from one line that ask for what was asked before: at least `repeats` calls of an execution had
parameters that an earlier one had, and those are at least `repeated_share` of the calls.

## Why it costs time

The answer is known already. Each repetition pays a round trip and the database's work again.

## What to do

Ask once, before the loop, and pass the answer on; or keep a dict for the time of the execution. What changes rarely
(settings, exchange rates, a customer's plan) can be cached across executions with an expiry.

## When it is a false alarm

When the job waits for the answer to change: queries between sleeps are polling (see sleeping), and those on a table
that the same execution writes are not counted, for they may read something new each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from jobdoctor import fingerprint
from jobdoctor.diagnosis import measure, round_trips
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Execution, Finding, JobHistory, SpanGroup

_LOCKS = re.compile(r"\bfor (?:no key )?(?:update|share)\b|\bfor key share\b", re.IGNORECASE)


class RepeatedQuery(TimeRule):
    """JD404."""

    code = "JD404"
    name = "repeated-query"
    step = "batching"
    kind = "cache"
    needs = ("sql",)
    related_to = ("JD401",)

    repeats = Limit(
        10,
        "calls",
        "queries of an execution whose parameters were asked for before",
        "own: perf-sentinel says redundant from 2; a job that asks 3 times loses nothing worth a line",
    )
    repeated_share = Limit(0.5, "share", "such queries among all of this shape and line", "own: most of them")
    least_ms = round_trips.LEAST_MS

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        whole = measure.body_ms(executions)
        for calls in measure.merge_calls(executions, "sql", where=_is_read):
            distinct = _distinct(calls)
            repeats = calls.count - distinct
            if repeats < self.limits.repeats or repeats < self.limits.repeated_share * calls.count:
                continue
            if _polled(calls) or _written(calls, executions):
                continue
            wasted = calls.total_ms * repeats / calls.count
            if wasted >= self.limits.least_ms:
                library = round_trips.library_ms(calls, repeats / calls.count)
                yield self._describe(calls, distinct, wasted, library, whole)

    def _describe(
        self, calls: Calls, distinct: float, wasted: float, library: tuple[float, float], whole: float
    ) -> Finding:
        first = calls.first
        growth = round_trips.growth(calls)
        different = "always with the same parameters"
        if distinct >= 1.5:
            different = f"with only {words_count(distinct)} different parameter sets"
        severity = self.severity(wasted, whole, calls=calls.count - distinct, grows=growth.proven)
        if measure.mostly_concurrent(calls):
            severity = "info"
        floor = max(measure.LEAST_OF_CALLS * wasted, min(wasted, (calls.count - distinct) * calls.fastest_ms))
        tables = ", ".join(fingerprint.sql(first.fingerprint).tables) or "the answer"
        return self.finding(
            severity=severity,
            confidence=0.9 + 0.05 * growth.proven,
            title=f"{words_count(calls.count)} queries of {tables} from {first.callsite or 'an unknown line'}, "
            f"{different}",
            cost_ms=max(calls.total_ms, wasted + library[0]),
            saving=(floor, wasted + library[0], wasted + library[1]),
            text="Ask once and keep the answer for the execution. What changes rarely can be cached across executions "
            "with an expiry.",
            snippet=_snippet(first),
            callsite=first.callsite,
            calls=round(calls.count),
            evidence=[
                measure.calls_evidence(
                    f"{words_count(calls.count - distinct)} of {words_count(calls.count)} queries ask for what was "
                    f"asked before: {words_ms(wasted)} of {words_ms(whole)} in the job",
                    [calls],
                ),
                measure.execution_evidence(calls.largest_execution, "Most repetitions"),
            ],
        )


def _is_read(group: SpanGroup) -> bool:
    if group.operation.upper() not in ("SELECT", "WITH") or group.effect in ("write", "lock"):
        return False
    if _LOCKS.search(group.fingerprint) or group.distinct_capped:
        return False
    return bool(fingerprint.sql(group.fingerprint).tables)


def _distinct(calls: Calls) -> float:
    """Different parameter sets. None given is one set, unless the shape has places for parameters."""
    if calls.distinct:
        return calls.distinct
    return calls.count if "?" in calls.first.fingerprint else 1.0


def _polled(calls: Calls) -> bool:
    """Whether the execution slept about once for each of the calls: it waits for the answer to change."""
    execution = calls.largest_execution
    made = calls.counts()[execution.id]
    sleeps = sum(group.count for group in execution.groups if group.channel == "sleep")
    return sleeps >= 0.5 * made


def _written(calls: Calls, executions: Sequence[Execution]) -> bool:
    """Whether the executions write, again and again, to a table that the query reads."""
    read = set(fingerprint.sql(calls.first.fingerprint).tables)
    writes = measure.merge_calls(executions, "sql", where=lambda group: group.effect == "write")
    often = [each for each in writes if each.count >= 0.2 * calls.count]
    return any(not read.isdisjoint(fingerprint.sql(each.first.fingerprint).tables) for each in often)


def _snippet(group: SpanGroup) -> str:
    shape = round_trips.shortened(group.fingerprint)
    column = round_trips.bare_name(round_trips.looked_up_column(group.fingerprint))
    if not column:
        return f"# once, before the loop that reaches {group.callsite}\nanswer = ...  # {shape}"
    return (
        f"# {group.callsite}: ask the database only for what is not known yet\n"
        f"if {column} not in known:  # known = {{}} before the loop\n"
        f"    known[{column}] = ...  # {shape}\n"
        f"answer = known[{column}]"
    )
