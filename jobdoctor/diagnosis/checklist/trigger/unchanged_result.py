"""unchanged-result: the job computes the same result again, run after run.

## What it looks for

Jobs that write nothing and whose result is their product: executions with the same arguments whose result was, byte
for byte, the one of the execution before. At least five such repetitions, and at least four of five results were
repeated. Results of `None` and results that are thrown away do not count.

## Why it costs time

All but the first of those executions took a worker, and load on whatever they read, to find out what was known.

## What to do

Compute it when what it depends on changes, and keep it (precompute): enqueue the job from the place of the change. Or
make it lazy: compute it when somebody asks and it is not there, with a time to live. Both beat a timer.

## When it is a false alarm

When the point of the job is to notice a change, and changes are rare: then let it ask for the version, a time or a
count first, which is cheaper than the whole. Within an hour it is only a remark. A result of "ok" tells of no product:
a check that returns that is meant to be the same each time, and the rule ignores results of a few bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.attempts import busy_ms
from jobdoctor.diagnosis.measure import words_bytes, words_ms, words_share
from jobdoctor.diagnosis.rule import Limit, NotChecked
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Finding, JobHistory, TraceRow

_NOTHING = frozenset({"NoneType", "None", "builtins.NoneType", "bool", "builtins.bool"})
_PRODUCED = frozenset({"finished"})


class UnchangedResult(TimeRule):
    """JD803."""

    code = "JD803"
    name = "unchanged-result"
    step = "trigger"
    kind = "cache"
    where = "around"
    related_to = ("JD801", "JD806")
    min_executions = 3

    min_repeated = Limit(5, "executions", "repeated results below which the rule is silent", "own: as JD401's loops")
    repeated_share = Limit(
        0.8, "share", "share of the results that repeat the one before", "own: one change in five runs is worth a look"
    )
    least_bytes = Limit(
        32,
        "bytes",
        "serialised size below which a result is a status, not a product",
        "own: a pickled 'ok' is 17 bytes",
    )
    warning_span_s = Limit(
        3_600, "s", "time over which results must have stood still; before it is only a remark",
        "own: what did not change for a minute may change in the next one",
    )  # fmt: skip

    def check(self, history: JobHistory) -> Iterable[Finding]:
        results = [each.result for each in history.executions if each.outcome == "finished" and each.result is not None]
        if not results:
            if history.outcomes.get("finished"):
                raise NotChecked("the job's result was not recorded: run it under `jobdoctor run`")
            return
        kept = [
            result
            for result in results
            if result.type_name not in _NOTHING and result.ttl_s != 0 and (result.bytes or 0) >= self.limits.least_bytes
        ]
        if len(kept) < self.limits.repeated_share * len(results):
            return
        rows = [row for row in history.trace if row.outcome in _PRODUCED and row.result_digest]
        if any(row.writes is None or row.writes > 0 for row in rows):
            return  # what it writes is its product
        known = [row for row in rows if row.args_hash]
        repeated = _repeated(known)
        if len(repeated) < self.limits.min_repeated or len(repeated) < self.limits.repeated_share * len(known):
            return
        yield self._finding(history, known, repeated, max(result.bytes or 0 for result in kept))

    def _finding(
        self, history: JobHistory, known: Sequence[TraceRow], repeated: Sequence[TraceRow], size: int
    ) -> Finding:
        cost = busy_ms(repeated) / len(known)
        variants = len({row.args_hash for row in known})
        lines = Counter(row.trigger_callsite for row in repeated if row.trigger_callsite)
        callsite = lines.most_common(1)[0][0] if lines else ""
        kinds = Counter(row.trigger_kind for row in repeated)
        ticking = kinds.most_common(1)[0][0] in ("scheduler", "cron")
        span_ms = (max(row.reaped_at_ns for row in known) - min(row.reaped_at_ns for row in known)) / 1e6
        long = span_ms >= 1_000 * self.limits.warning_span_s
        return self.finding(
            severity=self.severity(cost, busy_ms(known) / len(known)) if long else "info",
            confidence=0.85 if long else 0.6,
            title=f"{len(repeated)} of {len(known)} results were the same as the one before",
            cost_ms=cost,
            # Somebody has to compute it now and then: half is certain, nearly all of it likely.
            saving=measure.give_or_take(cost / 2, cost * 0.9, cost),
            text=(
                "Compute it when what it depends on changes, and keep it"
                + (", instead of by a timer" if ticking else f": it is enqueued at {callsite}" if callsite else "")
                + ". Or make it lazy: compute it when it is asked for and not there"
            ),
            snippet=(
                "found = cache.get(key)\n"
                "if found is None:\n"
                "    found = compute(...)\n"
                "    cache.set(key, found, ex=3_600)   # and cache.delete(key) where the data changes"
            ),
            callsite="" if ticking else callsite,
            evidence=[
                Evidence(
                    "trace",
                    f"{len(known)} executions with {measure.words_count(variants)} different sets of arguments within "
                    f"{words_ms(span_ms)}: {words_share(len(repeated) / len(known))} gave the "
                    f"{words_bytes(size)} that were known, and nothing was written",
                    {
                        "executions": len(known),
                        "repeated": len(repeated),
                        "variants": variants,
                        "different_results": len({row.result_digest for row in known}),
                        "bytes": size,
                        "callsite": callsite,
                        "worker_time_ms": round(busy_ms(repeated), 3),
                        "lost": history.lost,
                    },
                )
            ],
        )


def _repeated(rows: Sequence[TraceRow]) -> list[TraceRow]:
    """Executions whose result is that of the one before with the same arguments."""
    by_arguments: dict[str, list[TraceRow]] = {}
    for row in sorted(rows, key=lambda row: row.reaped_at_ns):
        by_arguments.setdefault(row.args_hash, []).append(row)
    return [
        row
        for variant in by_arguments.values()
        for before, row in pairwise(variant)
        if row.result_digest == before.result_digest
    ]
