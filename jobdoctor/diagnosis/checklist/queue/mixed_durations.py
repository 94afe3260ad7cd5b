"""mixed-durations: short and long jobs share a queue, and the short ones pay.

## What it looks for

Job kinds in one queue whose median work (the run without what the worker adds to each) differs by a large factor, with
enough of both: the long ones take a real part of the workers' time, the short ones are a real part of the executions,
and the short ones' wait is long and owed to the long ones. The split that is proposed puts the line between them.

## Why it costs time

In first-come-first-served order the mean wait grows with the square of the run times (Pollaczek-Khinchine): a few long
jobs set the wait of all. A short job then takes minutes from enqueue to done, for milliseconds of work.

## What to do

Split the queue by length: the short kinds into one that workers name first. Keep at least one worker for the short ones
alone. The long ones lose little: the short ones' work is small.

## When it is a false alarm

When nobody waits for the short jobs, or when order matters and a short job must not overtake a long one before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jobdoctor.diagnosis import measure, replays
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.waiting import WaitRule, mean_run_ms, mean_wait_ms, names, queues_of
from jobdoctor.model import Evidence, Finding, JobHistory, TraceRow
from jobdoctor.queueing.arrivals import Service, service_by_job
from jobdoctor.queueing.occupancy import WaitShares, wait_shares

_NS_PER_MS = 1_000_000


#: Of the wait behind heavy jobs that are under way, what a worker of its own takes away, where no replay says it. Own:
#: nearly all of it, for the short jobs are seldom behind one another.
_OWN_WORKER = 0.9


class MixedDurations(WaitRule):
    code = "JD703"
    name = "mixed-durations"
    step = "queue"
    kind = "queue"
    where = "around"
    related_to = ("JD701", "JD702")

    min_ratio = Limit(
        5,
        "times",
        "median work of a long kind, in works of a short one: runs without what the worker adds",
        "own: on a busy machine the sample shop's 20 ms of work grow to 100, its 400 ms of waiting only to 900",
    )
    min_run_ratio = Limit(
        3, "times", "median run of a long kind, in runs of a short one, all told", "own: what a fork cannot blur"
    )
    min_long_share = Limit(0.2, "share", "share of the queue's worker time that long kinds take", "own: a fifth")
    min_long_runs = Limit(3, "executions", "executions of long kinds", "own: not one exception")
    min_short_share = Limit(0.2, "share", "share of the queue's executions that short kinds are", "own: a fifth")
    min_wait_share = Limit(0.3, "share", "share of the short ones' wait that long kinds account for", "own: a third")

    def check(self, history: JobHistory) -> Iterable[Finding]:
        rows = self.rows(history)
        for queue in queues_of(rows):
            everything = [row for row in history.neighbours if row.queue == queue]
            services = service_by_job(everything)
            if history.job not in services:
                continue
            around_s = _around_s(history)
            own = services[history.job].median_s
            longer = [job for job, kind in services.items() if self._longer(kind.median_s, own, around_s)]
            shorter = [job for job, kind in services.items() if self._longer(own, kind.median_s, around_s)]
            if longer:
                found = self._check_short(
                    history, [row for row in rows if row.queue == queue], services, longer, around_s
                )
            elif shorter:
                found = self._check_long(history, everything, services, shorter, around_s)
            else:
                found = None
            if found is not None:
                yield found

    def _longer(self, long_s: float, short_s: float, around_s: float) -> bool:
        """True when one median run is that of a long kind beside the other, whatever the worker adds to both."""
        if short_s <= 0:
            return False
        works = [max(run_s - around_s, 0.1 * run_s) for run_s in (long_s, short_s)]
        return long_s >= self.limits.min_run_ratio * short_s and works[0] >= self.limits.min_ratio * works[1]

    def _enough_of_both(self, services: dict[str, Service], short: Sequence[str], long: Sequence[str]) -> bool:
        executions = sum(kind.count for kind in services.values())
        time = sum(kind.total_s for kind in services.values())
        return (
            sum(services[job].count for job in short) >= self.limits.min_short_share * executions
            and sum(services[job].count for job in long) >= self.limits.min_long_runs
            and sum(services[job].total_s for job in long) >= self.limits.min_long_share * time
        )

    def _check_short(
        self, history: JobHistory, rows: list[TraceRow], services: dict[str, Service], long: list[str], around_s: float
    ) -> Finding | None:
        least = min(services[job].median_s for job in long)
        short = [job for job, kind in services.items() if self._longer(least, kind.median_s, around_s)]
        if not self._enough_of_both(services, short, long) or not self.waits_long(rows):
            return None
        shares = wait_shares(rows, history.neighbours)
        if shares.share(long) < self.limits.min_wait_share:
            return None
        queue = rows[0].queue
        waited = mean_wait_ms(rows)
        cost = shares.overlap_ns(long) / shares.waits / _NS_PER_MS * len(rows) / len(history.trace)
        under_way = shares.residual_ns(long) / shares.waits / _NS_PER_MS * len(rows) / len(history.trace)
        low = max(0.0, cost - under_way)
        severity = self.severity((low + cost) / 2, waited + mean_run_ms(rows))
        mid = low + _OWN_WORKER * (cost - low)
        whole = waited * len(rows) / len(history.trace)
        replayed = replays.going_first(history, queue, short)
        if replayed is not None:
            low, mid = (whole * spared.share for spared in replayed)
        return self.finding(
            severity=severity,
            confidence=0.9,
            title=(
                f"Runs {measure.words_ms(services[history.job].median_s * 1_000)} but waits {measure.words_ms(waited)} "
                f"in a queue with jobs of up to {measure.words_ms(max(services[job].median_s for job in long) * 1_000)}"
            ),
            cost_ms=cost,
            # The advice is a worker for the short ones alone, beside going first.
            saving=(low, mid, max(cost, mid, whole)),
            text=(
                f"Split {queue} by length: {names(sorted(short))} into a queue that workers take from first, "
                f"{names(long)} into the other, with one worker for the short ones alone"
            ),
            snippet=_split(queue),
            evidence=[_table(queue, services, short, long, shares, waited, replayed)],
        )

    def _check_long(
        self,
        history: JobHistory,
        everything: list[TraceRow],
        services: dict[str, Service],
        short: list[str],
        around_s: float,
    ) -> Finding | None:
        """The long job's own report: it loses nothing itself, so that this is never more than a remark."""
        most = max(services[each].median_s for each in short)
        long = [job for job, kind in services.items() if self._longer(kind.median_s, most, around_s)]
        victims = [row for row in everything if row.job in set(short)]
        if not self._enough_of_both(services, short, long) or not self.waits_long(victims):
            return None
        shares = wait_shares(victims, history.neighbours)
        if shares.share([history.job]) < self.limits.min_wait_share:
            return None
        queue = everything[0].queue
        inflicted = shares.overlap_ns([history.job]) / services[history.job].count / _NS_PER_MS
        return self.finding(
            severity="info",
            confidence=0.9,
            title=(f"Each execution costs shorter jobs of its queue {measure.words_ms(inflicted)} of waiting in all"),
            cost_ms=0.0,
            saving=(0.0, 0.0, 0.0),
            text=(
                f"Move this job out of {queue}, or {names(sorted(short))} into a queue that workers take from first. "
                f"This job gains nothing by it; the others do"
            ),
            snippet=_split(queue),
            evidence=[_table(queue, services, short, long, shares, mean_wait_ms(victims))],
        )


def _around_s(history: JobHistory) -> float:
    """What the worker adds to a run of the job: fork, import, bookkeeping. Other kinds pay about the same."""
    executions = [execution for execution in measure.typical(history) if execution.body_ns > 0]
    return max(0.0, measure.mean((each.run_ns - each.body_ns) / 1e9 for each in executions))


def _table(
    queue: str,
    services: dict[str, Service],
    short: Sequence[str],
    long: Sequence[str],
    shares: WaitShares,
    waited: float,
    replayed: replays.GoingFirst | None = None,
) -> Evidence:
    total = sum(kind.total_s for kind in services.values()) or 1.0
    kinds = sorted(services, key=lambda job: services[job].median_s)
    return Evidence(
        "queue",
        f"{measure.words_share(shares.share(long))} of the short jobs' wait of {measure.words_ms(waited)} is behind "
        f"{names(list(long))}. The lower saving is for going first on the same workers, the higher for a worker that "
        f"takes short jobs only{replays.words_of(replayed)}",
        {
            "target": f"queue {queue}",
            "queue": queue,
            "workers": shares.workers,
            "replayed": replays.data_of(replayed),
            "split": {"fast": sorted(short), "slow": sorted(long)},
            "kinds": [
                {
                    "job": job,
                    "executions": services[job].count,
                    "median_run_ms": round(services[job].median_s * 1_000, 3),
                    "worker_time_share": round(services[job].total_s / total, 4),
                    "wait_share": round(shares.share([job]), 4),
                }
                for job in kinds[:20]
            ],
        },
    )


def _split(queue: str) -> str:
    return (
        f"fast, slow = Queue('{queue}-fast', connection=redis), Queue('{queue}-slow', connection=redis)\n"
        f"$ rq worker {queue}-fast {queue}-slow   # short jobs first\n"
        f"$ rq worker {queue}-fast                # and one that no long job can occupy"
    )
