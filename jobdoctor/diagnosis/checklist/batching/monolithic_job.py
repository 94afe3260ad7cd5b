"""monolithic-job: one long execution that goes through many items, one after the other.

## What it looks for

Executions that take a large part of their timeout, or minutes, and most of that in one loop: calls from one line, one
or a few for each of many items, from near the beginning of the job to near its end. Shorter ones that outlive the pause
which a deploy leaves them (`remark_s`) are only remarked.

## Why it costs time

All items wait for the ones before them, on one worker, while others are free; other jobs of the queue wait for the
whole of it. With every item the end comes nearer to the timeout, and when that cuts it, or a deploy does, or one item
fails, all is done again.

## What to do

Slice it: one job that cuts the items into slices of some seconds to a minute and enqueues them (`enqueue_many`), each
with its own retry; progress in Redis or in `job.meta`; and a last job with `depends_on=` them all that closes the run.

## When it is a false alarm

When each item needs what the one before it gave, or when the job has workers of its own and nobody waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from jobdoctor.diagnosis import measure, round_trips
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms, words_share
from jobdoctor.diagnosis.rule import Limit, Rule
from jobdoctor.model import Evidence, Finding, JobHistory, Severity, SpanGroup
from jobdoctor.queueing.workers import seen_workers

_ITEMS = frozenset({"sql", "http", "redis", "file", "mail", "subprocess"})


class MonolithicJob(Rule):
    """JD407."""

    code = "JD407"
    name = "monolithic-job"
    step = "batching"
    kind = "batch"
    #: JD201 and JD605 name this rule, too: whichever would give back more is the main one.
    related_to = ("JD401", "JD402", "JD403", "JD404", "JD405", "JD406", "JD203", "JD305", "JD201", "JD605")

    timeout_share = Limit(
        0.5, "share", "share of its timeout that a run takes, from which it is long",
        "own: twice the items, and it is cut; 90 s of RQ's 180 s",
    )  # fmt: skip
    long_s = Limit(300, "s", "run that is long whatever the timeout", "alerts of the field: a worker silent for 5 min")
    remark_s = Limit(
        10,
        "s",
        "run from which the loop is remarked, while it is not long yet",
        "`docker stop` kills after 10 s: a deploy",
    )
    least_s = Limit(1, "s", "run below which it is not long whatever the timeout", "own: a hundred forks")
    items = Limit(20, "items", "calls of the loop for each execution, below which it is no loop over many", "own")
    loop_share = Limit(
        0.6, "share", "share of the job from the first of those calls to the last", "own: clearly the larger part"
    )
    slice_share = Limit(0.1, "share", "share of the timeout that a slice should take", "own: room for a tenfold item")
    slice_s = Limit(60, "s", "longest slice that is recommended", "own: what a deploy waits for, and a retry repeats")

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        run_s = measure.run_ms(executions) / 1_000
        timeouts = [execution.timeout_s for execution in executions if execution.timeout_s and execution.timeout_s > 0]
        timeout_s = min(timeouts) if timeouts else math.inf
        if run_s < self.limits.least_s:
            return
        is_long = run_s >= min(self.limits.timeout_share * timeout_s, self.limits.long_s)
        if not is_long and run_s < self.limits.remark_s:
            return
        loops = [
            calls
            for calls in measure.merge_calls(executions, where=_one_by_one)
            if calls.unbatched >= self.limits.items and self._runs_through(calls)
        ]
        if loops:
            # An item may make several calls: the fewest of those that go through all of the job are the items.
            severity: Severity = "warning" if is_long else "info"
            yield self._describe(history, min(loops, key=lambda calls: calls.count), run_s, timeout_s, severity)

    def _runs_through(self, calls: Calls) -> bool:
        if measure.mostly_concurrent(calls):
            return False
        stretch = sum(measure.stretch_ns(group) for group in calls.groups) / calls.executions / measure.NS_PER_MS
        return stretch >= self.limits.loop_share * measure.body_ms(calls.owners)

    def _describe(
        self, history: JobHistory, calls: Calls, run_s: float, timeout_s: float, severity: Severity
    ) -> Finding:
        first = calls.first
        growth = round_trips.growth(calls)
        slice_s = min(self.limits.slice_s, self.limits.slice_share * timeout_s)
        slices = max(2, math.ceil(run_s / slice_s))
        size = max(1, math.floor(calls.count / slices))
        whole_ms = 1_000 * run_s
        workers = _workers(history, calls)
        slice_ms = whole_ms / slices + measure.around_ms(measure.typical(history))
        of_timeout = f", {words_share(run_s / timeout_s)} of its timeout" if timeout_s < math.inf else ""
        evidence = [
            measure.calls_evidence(
                f"{words_count(calls.count)} items of {words_ms(whole_ms / calls.count)} each take "
                f"{words_ms(whole_ms)}{of_timeout}",
                [calls],
            )
        ]
        if growth.proven:
            evidence.append(Evidence("series", growth.text, {"calls": calls.counts()}))
        evidence.append(
            Evidence(
                "queue",
                f"{words_count(workers)} {'worker' if workers == 1 else 'workers'} of its queue at a time: {slices} "
                f"slices take about {words_ms(_sliced_ms(slices, slice_ms, workers))} on them",
                {"workers": workers, "slices": slices},
            )
        )
        evidence.append(measure.execution_evidence(calls.largest_execution, "The longest loop"))
        return self.finding(
            severity=severity,
            confidence=0.9 if growth.proven else 0.8,
            title=f"One execution of {words_ms(whole_ms)}{of_timeout} for {words_count(calls.count)} items, one after "
            f"the other",
            cost_ms=whole_ms,
            saving=_saving(whole_ms, slices, slice_ms, workers),
            text=f"Cut it into {slices} slices of about {size} items, with progress and a job at the end that depends "
            f"on all of them. Free workers then share it, and a failure repeats one slice",
            snippet=(
                f"slices = [items[n : n + {size}] for n in range(0, len(items), {size})]\n"
                "jobs = queue.enqueue_many([\n"
                "    Queue.prepare_data(do_slice, [run_id, each], retry=Retry(max=3)) for each in slices\n"
                "])  # each slice: redis.hincrby(f'run:{run_id}', 'done', len(each))\n"
                "queue.enqueue(finish, run_id, depends_on=jobs)"
            ),
            callsite=first.callsite,
            calls=round(calls.count),
            evidence=evidence,
        )


def _workers(history: JobHistory, calls: Calls) -> int:
    """How many workers of its queue are there at a time, as far as their executions show: a median."""
    queue = calls.largest_execution.queue
    seen = seen_workers(history.neighbours, queue)
    there = [
        sum(worker.first_ns <= each.reaped_at_ns and worker.last_ns >= each.dequeued_at_ns for worker in seen)
        for each in history.executions
    ]
    return max(1, round(measure.quantile(there, 0.5)))


def _sliced_ms(slices: int, slice_ms: float, workers: int) -> float:
    """From the first slice's start to the last one's end."""
    return math.ceil(slices / workers) * slice_ms


def _saving(whole_ms: float, slices: int, slice_ms: float, workers: int) -> tuple[float, float, float]:
    """(low, mid, high) in ms, of the time from the start to the end of it all, and not of worker time: slices take as
    much, and what is around each of them. Mid: the workers that are there share them. High: there is one for each.
    Low: the workers have half of their time for them. A single worker is done no sooner; others wait less behind it."""
    mid = max(0.0, whole_ms - _sliced_ms(slices, slice_ms, workers))
    return measure.give_or_take(mid / 2, mid, max(mid, whole_ms - slice_ms))


def _one_by_one(group: SpanGroup) -> bool:
    return group.channel in _ITEMS and group.effect != "transaction" and group.batched <= 0.5 * group.count
