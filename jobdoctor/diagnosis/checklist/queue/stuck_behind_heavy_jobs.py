"""stuck-behind-heavy-jobs: the job waits while the workers run long jobs of other kinds.

## What it looks for

A queue wait that is long in itself and long against the job's own run, and most of which the workers that listen to
its queue spent on jobs of other kinds that take several times as long. Each kind's share is exact: it is the overlap
of the wait with what each worker ran meanwhile, also when that came from another queue.

## Why it costs time

A worker runs one job at a time and does not interrupt it. One report of a minute in front of a hundred mails costs
a hundred minutes of waiting, and none of it shows in the job's own run time.

## What to do

Give the short job a queue of its own, and name that queue first: `rq worker fast slow`. That takes away the wait
behind long jobs that had not begun. What remains is the one that is under way; one worker that listens to the short
queue alone takes that away, too. Or cut the long job into slices.

## When it is a false alarm

When the job is background work that may wait: that is what a low-priority queue is for. Waiting behind jobs of its own
kind, or of its own length, is underprovisioned or a burst, and not this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jobdoctor.diagnosis import measure, replays
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.waiting import (
    WaitRule,
    mean_run_ms,
    mean_wait_ms,
    names,
    occupants_table,
    queues_of,
    wait_ms,
)
from jobdoctor.model import Evidence, Finding, JobHistory, TraceRow
from jobdoctor.queueing.arrivals import Service, service_by_job
from jobdoctor.queueing.occupancy import WaitShares, wait_shares

_NS_PER_MS = 1_000_000


#: Of the wait behind heavy jobs that are under way, what a worker of its own takes away, where no replay says it. Own:
#: nearly all of it, for the short jobs are seldom behind one another.
_OWN_WORKER = 0.9


class StuckBehindHeavyJobs(WaitRule):
    code = "JD701"
    name = "stuck-behind-heavy-jobs"
    step = "queue"
    kind = "queue"
    where = "around"
    related_to = ("JD702",)

    heavy_ratio = Limit(
        3,
        "times",
        "mean run of another kind, in runs of this job, from which that kind is heavy",
        "own: clearly longer",
    )
    min_share = Limit(
        0.5, "share", "share of the wait that heavy jobs must account for", "own: most of it, so that moving helps"
    )

    def check(self, history: JobHistory) -> Iterable[Finding]:
        rows = self.rows(history)
        if not self.waits_long(rows):
            return
        shares = wait_shares(rows, history.neighbours)
        services = service_by_job(history.neighbours)
        own = mean_run_ms(rows)
        heavy = [
            occupant.job
            for occupant in shares.occupants
            if services[occupant.job].mean_s * 1_000 >= self.limits.heavy_ratio * own
        ]
        if shares.share(heavy) >= self.limits.min_share:
            yield self._finding(history, rows, shares, services, heavy)

    def _finding(
        self,
        history: JobHistory,
        rows: Sequence[TraceRow],
        shares: WaitShares,
        services: dict[str, Service],
        heavy: list[str],
    ) -> Finding:
        waited = mean_wait_ms(rows)
        cost = shares.overlap_ns(heavy) / shares.waits / _NS_PER_MS
        under_way = shares.residual_ns(heavy) / shares.waits / _NS_PER_MS
        low, high = max(0.0, cost - under_way), max(cost, waited)  # with a worker of its own it is behind nobody
        queue = queues_of(rows)[0]
        mid = low + _OWN_WORKER * (cost - low)
        replayed = replays.going_first(history, queue, [history.job])
        if replayed is not None:
            low, mid = (waited * spared.share for spared in replayed)
            high = max(high, mid)
        main = heavy[0]
        worst = max(rows, key=wait_ms)
        return self.finding(
            severity=self.severity((low + high) / 2, waited + mean_run_ms(rows)),
            confidence=0.95,
            title=(
                f"{measure.words_share(shares.share(heavy))} of the {measure.words_ms(waited)} in queue {queue} is "
                f"waiting behind {names(heavy)}"
            ),
            cost_ms=cost,
            # The advice is a worker of its own, beside going first.
            saving=(low, mid, high),
            text=(
                f"Give the job a queue of its own, before {queue} in the workers' order, and one worker that takes "
                f"nothing else. {main} takes {measure.words_ms(services[main].mean_s * 1_000)} each time, "
                f"this job {measure.words_ms(mean_run_ms(rows))}"
            ),
            snippet=(
                f"Queue('{queue}-fast', connection=redis).enqueue(this_job, *args)\n"
                f"# workers take the short jobs first; one takes nothing else:\n"
                f"$ rq worker {queue}-fast {queue}\n"
                f"$ rq worker {queue}-fast"
            ),
            evidence=[
                Evidence(
                    "queue",
                    f"While the job waited, the {shares.workers} "
                    f"{'worker' if shares.workers == 1 else 'workers'} of the queue ran: "
                    + ", ".join(f"{job} ({measure.words_share(shares.share([job]))} of the wait)" for job in heavy[:3])
                    + f". The lower saving is for going first on the same workers: "
                    f"{measure.words_ms(under_way)} is behind jobs already under way; the higher for a worker of "
                    f"its own",
                    {
                        "target": f"queue {queue}",
                        "queue": queue,
                        "workers": shares.workers,
                        "mean_wait_ms": round(waited, 3),
                        "mean_run_ms": round(mean_run_ms(rows), 3),
                        "replayed": replays.data_of(replayed),
                        "occupants": occupants_table(shares, services),
                        "idle_share": round(shares.idle_ns / shares.waited_ns, 4),
                        "unseen_share": round(shares.unseen_ns / shares.waited_ns, 4),
                    },
                ),
                Evidence(
                    "execution",
                    f"The longest wait, {measure.words_ms(wait_ms(worst))}: {worst.execution_id}",
                    {"execution_id": worst.execution_id},
                ),
            ],
        )
