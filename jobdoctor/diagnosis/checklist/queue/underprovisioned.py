"""underprovisioned: more work arrives than the workers can do.

## What it looks for

A stretch in which the queue was never empty, jobs kept arriving for a real part of it, the workers were busy, and
each job waited longer than the one before: the wait's slope over the arrivals is the load on each worker less one. Or
a whole window in which the workers were busy nearly all the time and the wait was many runs long. The load, in Erlangs,
is arrivals a second times mean run; workers needed follow from it, with M/M/c (Erlang C) and Allen-Cunneen for the
wait that is left.

## Why it costs time

Above capacity the wait has no limit: it grows for as long as the load lasts. Just below it, it is still many times
the run, because random bunches of arrivals find no slack.

## What to do

Start as many workers as the load asks for, or make the job shorter: both count alike. Then watch the utilisation, and
stay below 80%.

## When it is a false alarm

A burst that drains (a fan-out, a cron tick) is not one: its jobs come all at once, and what they wait is the price of
the burst. When the arrivals were a one-time import, the load will not come back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

from jobdoctor.diagnosis import measure, replays
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.waiting import WaitRule, mean_run_ms, mean_wait_ms, queues_of, wait_ms
from jobdoctor.model import Evidence, Finding, JobHistory, TraceRow
from jobdoctor.queueing.arrivals import Arrivals, arrivals, offered_load, service
from jobdoctor.queueing.capacity import mean_wait_s, workers_needed
from jobdoctor.queueing.congestion import Congestion, congested_periods, utilisation
from jobdoctor.queueing.workers import SeenWorker, present_ns, seen_workers

_NS_PER_S = 1_000_000_000
_SLOTS = 10


@dataclass(frozen=True)
class _Load:
    """What came and what could be done, in a stretch of time."""

    queue: str
    from_ns: int
    to_ns: int  # arrivals are counted up to here
    arrivals: Arrivals  # of everything the queue's workers ran
    mean_service_s: float
    service_cv: float
    workers: float  # present, on average
    utilisation: float
    slope: float | None  # seconds of wait for each second; None: not by growth

    @property
    def erlangs(self) -> float:
        return offered_load(self.arrivals.rate_per_s, self.mean_service_s)

    @property
    def excess(self) -> float:
        """Work that came beyond what the workers could do, in standard deviations of the work that came.

        Waits follow one another, so that random bunches look like growth to Mann-Kendall, which takes its points for
        independent. The work of n arrivals varies by the square root of n (gap_cv^2 + service_cv^2) mean runs.
        """
        beyond_s = (self.erlangs - self.workers) * (self.to_ns - self.from_ns) / _NS_PER_S
        spread = self.arrivals.gap_cv**2 + self.service_cv**2
        deviation_s = sqrt(self.arrivals.count * max(spread, 1e-6)) * self.mean_service_s
        return beyond_s / deviation_s if deviation_s > 0 else 0.0


class Underprovisioned(WaitRule):
    code = "JD702"
    name = "underprovisioned"
    step = "queue"
    kind = "queue"
    where = "around"

    min_arrivals = Limit(25, "jobs", "arrivals in the stretch below which it proves nothing", "own: a rate to 20%")
    min_span_s = Limit(
        1, "s", "time over which they arrived", "own: longer than any loop of enqueues takes for 25 jobs"
    )
    min_arriving_share = Limit(
        0.2,
        "share",
        "share of the congested stretch during which jobs kept arriving; a burst that drains is near 0",
        "own: a burst of more than five times the capacity is a burst",
    )
    max_slot_share = Limit(
        0.4, "share", "share of the arrivals in one tenth of that time, above which they are a burst", "own"
    )
    min_slope = Limit(
        0.05, "s/s", "growth of the wait over the arrivals", "load / workers - 1 by definition: 5% over capacity"
    )
    max_p = Limit(0.01, "p", "Mann-Kendall's p of that growth", "customary")
    min_excess = Limit(
        3, "deviations", "work beyond capacity, in standard deviations of what came by chance", "customary: 3 sigma"
    )
    busy_over = Limit(
        0.7,
        "share",
        "utilisation during growth",
        "own: workers of 15 ms jobs spend a quarter of their time between jobs",
    )
    busy_near = Limit(0.9, "share", "utilisation of the whole window that is near capacity", "own: M/M/1 waits 9 runs")
    near_wait_ratio = Limit(
        3, "times its run", "mean wait near capacity, in runs of the job", "own: beyond M/M/1 at 75%"
    )
    near_wait_ms = Limit(1_000, "ms", "mean wait near capacity", "own")
    steady_runs = Limit(10, "times", "length of the window in longest runs, so that averages mean something", "own")
    target_utilisation = Limit(0.8, "share", "utilisation that workers are recommended for", "customary")

    def check(self, history: JobHistory) -> Iterable[Finding]:
        rows = self.rows(history)
        for queue in queues_of(rows):
            own = [row for row in rows if row.queue == queue]
            if max(wait_ms(row) for row in own) < self.limits.min_wait_ms:
                continue
            workers = seen_workers(history.neighbours, queue)
            if not workers:
                continue
            names = {worker.name for worker in workers}
            served = [row for row in history.neighbours if row.worker in names]
            load = self._over_capacity(queue, own, served, workers) or self._near(queue, own, served, workers)
            if load is not None:
                yield self._finding(history, own, load)
                return

    def _over_capacity(
        self, queue: str, own: Sequence[TraceRow], served: Sequence[TraceRow], workers: Sequence[SeenWorker]
    ) -> _Load | None:
        """The stretch with most arrivals in which the wait grew with each of them."""
        in_queue = [row for row in served if row.queue == queue]
        gap_ns = int(service(in_queue).mean_s * _NS_PER_S)
        periods = congested_periods(in_queue, gap_ns)
        own_ids = {row.execution_id for row in own}
        for period in sorted(periods, key=lambda period: -len(period.rows))[:5]:
            if not self._keeps_arriving(period) or not any(row.execution_id in own_ids for row in period.rows):
                continue
            growth = period.wait_trend()
            if growth.slope < self.limits.min_slope or growth.p_value > self.limits.max_p:
                continue
            last = period.rows[-max(1, len(period.rows) // 4) :]
            if mean_wait_ms(last) < max(self.limits.min_wait_ms, self.limits.min_wait_ratio * mean_run_ms(period.rows)):
                continue
            load = _load(queue, served, workers, period.arrivals.first_ns, period.arrivals.last_ns, growth.slope)
            if load.utilisation >= self.limits.busy_over and load.excess >= self.limits.min_excess:
                return load
        return None

    def _keeps_arriving(self, period: Congestion) -> bool:
        if len(period.rows) < self.limits.min_arrivals or period.arrivals.span_ns < self.limits.min_span_s * _NS_PER_S:
            return False
        if period.arriving_share < self.limits.min_arriving_share:
            return False
        parents = Counter(row.parent_execution_id for row in period.rows if row.parent_execution_id)
        # One job's fan-out is a burst, however long its loop takes.
        return not parents or parents.most_common(1)[0][1] <= len(period.rows) / 2

    def _steady(self, instants: Sequence[int]) -> bool:
        """True when the arrivals are spread over their time: no tenth of it holds most of them, few are empty."""
        first, last = min(instants), max(instants)
        if last == first:
            return False
        slots = Counter(min(_SLOTS - 1, (at - first) * _SLOTS // (last - first)) for at in instants)
        return max(slots.values()) <= self.limits.max_slot_share * len(instants) and len(slots) >= 0.7 * _SLOTS

    def _near(
        self, queue: str, own: Sequence[TraceRow], served: Sequence[TraceRow], workers: Sequence[SeenWorker]
    ) -> _Load | None:
        """The whole window, when the workers were hardly ever free in it and waits were long all the same."""
        waited = mean_wait_ms(own)
        if waited < self.limits.near_wait_ms or waited < self.limits.near_wait_ratio * mean_run_ms(own):
            return None
        from_ns = min(worker.first_ns for worker in workers)
        to_ns = max(worker.last_ns for worker in workers)
        times = service(served)
        arrived = [row.enqueued_at_ns for row in served]
        if (
            len(served) < 2 * self.limits.min_arrivals
            or to_ns - from_ns < self.limits.steady_runs * times.longest_s * _NS_PER_S
            or max(arrived) - min(arrived) < (to_ns - from_ns) / 2
            or not self._steady(arrived)
        ):
            return None
        if utilisation(workers, from_ns, to_ns) < self.limits.busy_near:
            return None
        return _load(queue, served, workers, from_ns, to_ns, None)

    def _finding(self, history: JobHistory, own: Sequence[TraceRow], load: _Load) -> Finding:
        waited = mean_wait_ms(own) * len(own) / len(history.trace)
        objective_s = load.mean_service_s
        if history.slo_ms:
            objective_s = max(0.01, (history.slo_ms - mean_run_ms(own)) / 1_000)
        needed = max(
            round(load.workers) + 1,
            workers_needed(
                load.arrivals.rate_per_s,
                load.mean_service_s,
                objective_s,
                gap_cv=load.arrivals.gap_cv,
                service_cv=load.service_cv,
                max_utilisation=self.limits.target_utilisation,
            ),
        )
        left = 1_000 * mean_wait_s(
            load.arrivals.rate_per_s,
            load.mean_service_s,
            needed,
            gap_cv=load.arrivals.gap_cv,
            service_cv=load.service_cv,
        )
        how = "Allen-Cunneen"
        replayed = replays.with_workers(history, load.queue, needed)
        if replayed is not None:
            left, how = waited * (1 - replayed.share), f"a replay of {replayed.executions:,} executions"
        mid = max(waited / 2, waited - left)
        if load.slope is not None:
            growth = f"the wait grew by {measure.words_ms(1_000 * load.slope)} with every second of arrivals"
        else:
            growth = f"the workers were busy {measure.words_share(load.utilisation)} of the window"
        have = round(load.workers)
        return self.finding(
            severity=self.severity(mid, waited + mean_run_ms(own)),
            confidence=0.9 if load.slope is not None else 0.8,
            title=(
                f"{load.erlangs:.1f} workers' worth of jobs arrive on queue {load.queue}, {have} "
                f"{'worker is' if have == 1 else 'workers are'} there"
            ),
            cost_ms=waited,
            saving=(waited / 2, mid, waited),
            text=(
                f"Run {needed} workers on {load.queue}, or take so much time out of its jobs. "
                f"{measure.words_count(load.arrivals.rate_per_s)} jobs a second of "
                f"{measure.words_ms(1_000 * load.mean_service_s)} need {load.erlangs:.1f} workers at every moment"
            ),
            snippet=f"$ rq worker-pool {load.queue} --num-workers {needed}",
            evidence=[
                Evidence(
                    "queue",
                    f"{load.arrivals.count} jobs in {measure.words_ms((load.to_ns - load.from_ns) / 1e6)}: {growth}; "
                    f"with {needed} workers the mean wait would be about {measure.words_ms(left)} ({how}). The "
                    f"saving is from half of the wait to all of it",
                    {
                        "target": f"queue {load.queue}",
                        "queue": load.queue,
                        "arrivals": load.arrivals.count,
                        "arrivals_per_s": round(load.arrivals.rate_per_s, 4),
                        "gap_cv": round(load.arrivals.gap_cv, 3),
                        "mean_run_ms": round(1_000 * load.mean_service_s, 3),
                        "run_cv": round(load.service_cv, 3),
                        "erlangs": round(load.erlangs, 3),
                        "workers": have,
                        "workers_needed": needed,
                        "utilisation": round(load.utilisation, 4),
                        "wait_growth_s_per_s": None if load.slope is None else round(load.slope, 4),
                        "mean_wait_ms": round(waited, 3),
                        "predicted_wait_ms": round(left, 3),
                        "replayed": replays.data_of(replayed and [replayed]),
                        "from_ns": load.from_ns,
                        "to_ns": load.to_ns,
                    },
                ),
                Evidence(
                    "series",
                    "Queue wait of each execution, by the time it was enqueued",
                    {"unit": "ms", "points": _points(own)},
                ),
            ],
        )


def _load(
    queue: str,
    served: Sequence[TraceRow],
    workers: Sequence[SeenWorker],
    from_ns: int,
    to_ns: int,
    slope: float | None,
) -> _Load:
    came = [row for row in served if from_ns <= row.enqueued_at_ns <= to_ns]
    times = service(came)
    # A worker is first seen when it takes its first job: until then it counts as there, for jobs were waiting for it.
    begin_ns = max(from_ns, min(worker.first_ns for worker in workers))
    there = present_ns(workers, begin_ns, to_ns) / (to_ns - begin_ns) if to_ns > begin_ns else float(len(workers))
    return _Load(
        queue=queue,
        from_ns=from_ns,
        to_ns=to_ns,
        arrivals=arrivals([row.enqueued_at_ns for row in came]),
        mean_service_s=times.mean_s,
        service_cv=times.cv,
        workers=max(1.0, there),
        utilisation=utilisation(workers, begin_ns, to_ns),
        slope=slope,
    )


def _points(rows: Sequence[TraceRow], most: int = 200) -> list[list[float]]:
    """(ms since the first, wait in ms), thinned evenly."""
    ordered = sorted(rows, key=lambda row: row.enqueued_at_ns)
    step = max(1, -(-len(ordered) // most))
    first = ordered[0].enqueued_at_ns
    return [[round((row.enqueued_at_ns - first) / 1e6, 1), round(wait_ms(row), 1)] for row in ordered[::step]]
