"""duplicate-enqueues: the same function with the same arguments, enqueued again within moments.

## What it looks for

Jobs (different job ids, not retries of one) of the same function and arguments, each enqueued within a window after
the one before. An earlier one that was still waiting makes the later one certainly useless; one that was done already
makes it probably so, and not at all when its result differed. Regular ticks are schedules and are left out.

## Why it costs time

Every duplicate takes a worker, a turn in the queue and the load on whatever the job calls, for a result that is there
already or is just being made.

## What to do

Enqueue once: give the job an id made of what it is about and `unique=True`, so that a second one is refused while the
first is there. Or debounce: remember in Redis that it was enqueued a moment ago (`SET NX EX`).

## When it is a false alarm

When the arguments are the same but the world has changed in between and each change must be seen: then a debounce
that runs once after the last change does it, too. When the executions come from a test that enqueues one job over and
over: with a single variant from a single line the rule only remarks it. So it does where one line goes round a fixed
set of variants, each enqueued again only after all others and after its own run: a sweep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.attempts import busy_ms, chains
from jobdoctor.diagnosis.rule import Limit, NotChecked
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Finding, JobHistory, TraceRow
from jobdoctor.queueing.arrivals import variation

_NS_PER_MS = 1_000_000
#: Fewer may be as regular by chance.
_FEWEST_TICKS = 6
_TICKING = frozenset({"scheduler", "cron"})


class DuplicateEnqueues(TimeRule):
    code = "JD801"
    name = "duplicate-enqueues"
    step = "trigger"
    kind = "delete"
    where = "around"
    related_to = ("JD806", "JD803")  # equal results of equal jobs: whichever would give back more leads

    window_s = Limit(
        60, "s", "an enqueue within this time of an equal one repeats it", "own: a form saved twice, an impatient user"
    )
    min_duplicates = Limit(3, "jobs", "repeated enqueues below which the rule is silent", "own: two are a double click")
    min_share = Limit(0.1, "share", "repeated among all enqueues below which the rule is silent", "own: one in ten")
    max_tick_cv = Limit(
        0.3, "cv", "variation of the gaps below which equal enqueues are a schedule's ticks", "own: Poisson is 1"
    )
    min_tick_s = Limit(1, "s", "shortest gap of a schedule", "RQ's scheduler ticks once a second")

    def check(self, history: JobHistory) -> Iterable[Finding]:
        enqueues = [chain.rows[0] for chain in chains(history.trace) if chain.rows[0].attempt == 1]
        enqueues = [row for row in enqueues if row.trigger_kind not in _TICKING]
        known = [row for row in enqueues if row.args_hash]
        if enqueues and not known:
            raise NotChecked(
                "The arguments could not be told apart: their serialised form was not readable outside the job; use "
                "RQ's pickle or JSON serializer with arguments that serialise the same way each time"
            )
        variants: dict[str, list[TraceRow]] = {}
        for row in known:
            variants.setdefault(row.args_hash, []).append(row)
        certain: list[TraceRow] = []
        likely: list[TraceRow] = []
        gaps: list[float] = []
        for rows in variants.values():
            rows.sort(key=lambda row: (row.created_at_ns, row.dequeued_at_ns))
            if self._ticks(rows):
                continue
            for before, row in pairwise(rows):
                gap_ms = (row.created_at_ns - before.created_at_ns) / _NS_PER_MS
                if before.job_id == row.job_id or gap_ms > 1_000 * self.limits.window_s:
                    continue
                if row.created_at_ns < before.dequeued_at_ns:
                    certain.append(row)
                elif not (before.result_digest and row.result_digest and before.result_digest != row.result_digest):
                    likely.append(row)
                else:
                    continue
                gaps.append(gap_ms)
        repeated = [*certain, *likely]
        if len(repeated) >= self.limits.min_duplicates and len(repeated) >= self.limits.min_share * len(known):
            yield self._finding(history, known, variants, certain, likely, gaps)

    def _ticks(self, rows: Sequence[TraceRow]) -> bool:
        """True when these come regularly: a timer of the caller's own, or a parameterless periodic job."""
        if len(rows) < _FEWEST_TICKS:
            return False
        gaps = [(after.created_at_ns - before.created_at_ns) / 1e9 for before, after in pairwise(rows)]
        return median(gaps) >= self.limits.min_tick_s and variation(gaps) < self.limits.max_tick_cv

    def _finding(
        self,
        history: JobHistory,
        known: Sequence[TraceRow],
        variants: dict[str, list[TraceRow]],
        certain: Sequence[TraceRow],
        likely: Sequence[TraceRow],
        gaps: Sequence[float],
    ) -> Finding:
        repeated = [*certain, *likely]
        cost = busy_ms(repeated) / len(known)
        surely = busy_ms(certain) / len(known)
        lines = Counter(row.trigger_callsite for row in repeated if row.trigger_callsite)
        sources = {(row.trigger_callsite, row.parent_job) for row in known}
        one_of_a_kind = len(sources) <= 1 and (len(variants) == 1 or (not certain and _sweeps(known, len(variants))))
        severity = "info" if one_of_a_kind else self.severity(cost, busy_ms(known) / len(known))
        most = max(variants.values(), key=len)
        total = busy_ms(known)
        text = (
            f"{len(repeated)} of {len(known)} enqueues repeat an equal one, {measure.words_ms(median(gaps))} after it "
            f"in the middle, and take {measure.words_share(measure.share(busy_ms(repeated), total))} of the job's "
            f"worker time; {len(certain)} came while the one before was still waiting"
        )
        return self.finding(
            severity=severity,
            confidence=0.5 if one_of_a_kind else (0.95 if len(certain) >= len(repeated) / 2 else 0.75),
            title=f"{len(repeated)} of {len(known)} jobs repeat one with the same arguments",
            cost_ms=cost,
            saving=measure.give_or_take(surely, (surely + cost) / 2, cost),
            text=(
                "Enqueue it once: an id made of what the job is about and unique=True refuse the second one while the "
                "first is there"
            ),
            snippet=(
                "try:\n"
                "    queue.enqueue(this_job, product_id, job_id=f'this_job-{product_id}', unique=True, result_ttl=0)\n"
                "except DuplicateJobError:\n"
                "    pass  # it waits or runs already\n"
                "# or debounce, once in 30 s:\n"
                "if redis.set(f'debounce:this_job:{product_id}', 1, nx=True, ex=30):\n"
                "    queue.enqueue_in(timedelta(seconds=5), this_job, product_id)"
            ),
            callsite=lines.most_common(1)[0][0] if lines else "",
            evidence=[
                Evidence(
                    "trigger",
                    text,
                    {
                        "enqueues": len(known),
                        "repeated": len(repeated),
                        "while_waiting": len(certain),
                        "variants": len(variants),
                        "most_of_one": len(most),
                        "median_gap_ms": round(median(gaps), 3),
                        "worker_time_ms": round(busy_ms(repeated), 3),
                        "worker_time_share": round(measure.share(busy_ms(repeated), total), 4),
                        "callsites": dict(lines.most_common(5)),
                        "not_comparable": len(history.trace) - len(known),
                    },
                )
            ],
        )


def _sweeps(known: Sequence[TraceRow], variants: int) -> bool:
    """Whether the enqueues go round the variants, in the same order each time."""
    order = [row.args_hash for row in sorted(known, key=lambda row: (row.created_at_ns, row.dequeued_at_ns))]
    return len(order) > variants and all(
        before == again for before, again in zip(order, order[variants:], strict=False)
    )
