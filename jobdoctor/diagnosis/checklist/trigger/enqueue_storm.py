"""enqueue-storm: one trigger enqueues very many jobs, one by one.

## What it looks for

In the job that does it: a line from which one execution enqueues at least `jobs` jobs of a kind in as many calls,
instead of together. This is the main finding, with the time of those calls.

In the jobs that were so enqueued: as many of them from one execution of a parent, or from one line within moments,
each a round trip after the other. Theirs is a remark only: the trigger pays, and it may be no job at all. Jobs that
came together (`enqueue_many`) lie closer to one another than a round trip takes and are left out.

## Why it costs time

Each enqueue is several commands and a round trip to Redis: half a millisecond on one machine, more between two.
Each small job costs a fork and its bookkeeping. All of them stand in the queue in front of everybody else's.

## What to do

Enqueue them together: `Queue.enqueue_many` sends them in one pipeline. Better, when each is small: one job for a slice
of fifty or a hundred of the items.

## When it is a false alarm

When the items come one by one by nature (a stream of events): then they do not come within moments from one trigger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.attempts import chains
from jobdoctor.diagnosis.measure import Calls
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.diagnosis.waiting import mean_run_ms, mean_wait_ms
from jobdoctor.model import Evidence, Finding, JobHistory, SpanGroup, TraceRow
from jobdoctor.queueing.arrivals import bursts

_NS_PER_MS = 1_000_000
_TICKING = frozenset({"scheduler", "cron"})


#: Items that one job takes. Own: a mail gateway's or a database's batch.
_SLICE = 50


class EnqueueStorm(TimeRule):
    code = "JD805"
    name = "enqueue-storm"
    step = "trigger"
    kind = "batch"

    jobs = Limit(50, "jobs", "jobs of one kind from one trigger", "own: 50 enqueues are 30 ms of round trips locally")
    within_ms = Limit(
        1_500, "ms", "time within which so many came", "measured: 0.6 ms for each locally, 10 on a busy machine"
    )
    max_gap_ms = Limit(200, "ms", "pause that ends a burst", "own: longer than any stall of one enqueue")
    max_burst_s = Limit(60, "s", "a burst that lasts longer is traffic, unless one execution made it", "own")
    together_ms = Limit(
        0.3,
        "ms",
        "middle pause below which they were enqueued together",
        "measured: enqueue_many makes a job each 0.1 ms, a loop of enqueue one each 0.64 ms (RQ 3.0, local server)",
    )

    def check(self, history: JobHistory) -> Iterable[Finding]:
        found = list(self._as_parent(history))
        if not found:
            found = list(self._as_children(history))
        return found

    # ------------------------------------------------------------------------------------------------ the one who does

    def _as_parent(self, history: JobHistory) -> Iterable[Finding]:
        executions = measure.typical(history)

        def one_by_one(group: SpanGroup) -> bool:
            return group.count - group.batched > 0

        for calls in measure.merge_calls(executions, "enqueue", where=one_by_one):
            if calls.unbatched >= self.limits.jobs:
                yield self._parent_finding(measure.run_ms(executions), calls)

    def _parent_finding(self, run: float, calls: Calls) -> Finding:
        first = calls.first
        saving = measure.batching_saving(calls.unbatched, calls.total_ms, calls.fastest_ms, 100)
        count = measure.words_count(calls.unbatched)
        return self.finding(
            severity=self.severity(saving[1], run),
            confidence=0.95,
            where="inside",
            title=f"Enqueues {count} jobs {first.fingerprint} one by one",
            cost_ms=calls.total_ms,
            saving=saving,
            text=(
                "Enqueue them together with enqueue_many, in one pipeline. Where each is small, make one job of a "
                "slice of the items"
            ),
            snippet=_SNIPPET,
            callsite=first.callsite,
            calls=round(calls.count),
            evidence=[
                measure.calls_evidence(
                    f"{count} enqueues of {first.fingerprint} in an execution, {measure.words_ms(calls.total_ms)} in "
                    f"all, {measure.words_ms(calls.fastest_ms)} at the fastest",
                    [calls],
                ),
                measure.execution_evidence(calls.largest_execution, "The execution with the most"),
            ],
        )

    # ----------------------------------------------------------------------------------------- those that were enqueued

    def _as_children(self, history: JobHistory) -> Iterable[Finding]:
        enqueues = [chain.rows[0] for chain in chains(history.trace) if chain.rows[0].attempt == 1]
        triggers: dict[tuple[str, str], list[TraceRow]] = {}
        for row in enqueues:
            if row.trigger_kind not in _TICKING and not row.scheduled:
                triggers.setdefault((row.parent_execution_id, row.trigger_callsite), []).append(row)
        storms: list[list[TraceRow]] = []
        for rows in triggers.values():
            rows.sort(key=lambda row: row.created_at_ns)
            for first, last in bursts([row.created_at_ns for row in rows], int(self.limits.max_gap_ms * _NS_PER_MS)):
                burst = rows[first : last + 1]
                if self._is_storm(burst):
                    storms.append(burst)
        if storms:
            yield self._child_finding(history, enqueues, storms)

    def _is_storm(self, burst: Sequence[TraceRow]) -> bool:
        """True when enough came close to one another, one by one, and then no more."""
        jobs = int(self.limits.jobs)
        if len(burst) < jobs or _middle_gap_ms(burst) < self.limits.together_ms:
            return False
        lasted_ms = (burst[-1].created_at_ns - burst[0].created_at_ns) / _NS_PER_MS
        if lasted_ms > 1_000 * self.limits.max_burst_s and not burst[0].parent_execution_id:
            return False
        return any(
            (last.created_at_ns - first.created_at_ns) / _NS_PER_MS <= self.limits.within_ms
            for first, last in zip(burst, burst[jobs - 1 :], strict=False)
        )

    def _child_finding(
        self, history: JobHistory, enqueues: Sequence[TraceRow], storms: Sequence[Sequence[TraceRow]]
    ) -> Finding:
        largest = max(storms, key=len)
        rows = [row for storm in storms for row in storm]
        lasted = (largest[-1].created_at_ns - largest[0].created_at_ns) / _NS_PER_MS
        parents = Counter(row.parent_job for row in rows if row.parent_job)
        lines = Counter(row.trigger_callsite for row in rows if row.trigger_callsite)
        parent = parents.most_common(1)[0][0] if parents else ""
        line = lines.most_common(1)[0][0] if lines else ""
        source = parent or line or "one trigger"
        # What the jobs of a slice share: the round trip of the enqueue and what a worker spends around each body. Of
        # the bodies, what each does once whatever its size (connections, a client's first call) goes in any case, and
        # the calls where one statement or request does for all: most, for such jobs are small.
        gap = _middle_gap_ms(largest)
        run = mean_run_ms(rows)
        around = max(0.0, run - measure.body_ms(measure.typical(history)))
        stormy = (1 - 1 / _SLICE) * len(rows) / len(enqueues)
        cost = (gap + around) * stormy
        most = (gap + run) * stormy
        return self.finding(
            severity="info",
            where="around",
            confidence=0.9 if parent or line else 0.7,
            title=f"{len(largest)} of these jobs came within {measure.words_ms(lasted)} from {source}, one by one",
            cost_ms=cost,
            saving=measure.give_or_take(0.9 * cost, cost + 0.7 * (most - cost), most),
            text=(
                f"Where they are enqueued{f' ({line})' if line else ''}, use enqueue_many, or give one job a slice of "
                f"the items: {measure.words_count(len(largest))} jobs of {measure.words_ms(mean_run_ms(largest))} each "
                f"pay for a fork and stand in front of everybody else"
            ),
            snippet=_SNIPPET,
            callsite=line,
            evidence=[
                Evidence(
                    "trigger",
                    f"{len(rows)} of {len(enqueues)} enqueues came in {len(storms)} "
                    f"{'burst' if len(storms) == 1 else 'bursts'}, one each {measure.words_ms(gap)}; the jobs of a "
                    f"burst waited {measure.words_ms(mean_wait_ms(rows))} on average",
                    {
                        "storms": len(storms),
                        "largest": len(largest),
                        "lasted_ms": round(lasted, 3),
                        "median_gap_ms": round(gap, 3),
                        "mean_wait_ms": round(mean_wait_ms(rows), 3),
                        "parent_job": parent,
                        "parent_execution_id": largest[0].parent_execution_id,
                        "callsites": dict(lines.most_common(5)),
                    },
                )
            ],
        )


def _middle_gap_ms(rows: Sequence[TraceRow]) -> float:
    gaps = [after.created_at_ns - before.created_at_ns for before, after in pairwise(rows)]
    return median(gaps) / _NS_PER_MS if gaps else 0.0


_SNIPPET = (
    "queue.enqueue_many([Queue.prepare_data(notify, (item.id,)) for item in items])\n"
    "# or one job for each hundred items:\n"
    "slices = [ids[start : start + 100] for start in range(0, len(ids), 100)]\n"
    "queue.enqueue_many([Queue.prepare_data(notify_all, (part,)) for part in slices])"
)
