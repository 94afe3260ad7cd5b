"""growing-backlog: the queue grows and will not drain.

## What it looks for

The number of jobs left in the queue each time one was taken: in the last stretch in which the queue was never empty
it grows all through (Mann-Kendall), while jobs keep arriving, and at its end it is near its highest, and deeper than
any backlog that drained before. From the growth (Theil-Sen) and the rate at which jobs are taken follows when a job
enqueued then will wait too long. A replay that goes on from the end says how many workers, or what time of this job,
would drain the queue within twice the time in which it filled, and when it would be empty then.

## Why it costs time

Each job waits for all before it, and every second there are more. What is taken is older every time, until its result
is worth nothing; and Redis holds the arguments of all that wait in memory, which ends as well.

## What to do

Add workers, or take time out of the job. Or let less arrive: a limit at the door (do not enqueue what is refreshed
soon anyway while so many wait), one job for many items, an expiry for what is too old to be worth doing.

## When it is a false alarm

When the load is known to end soon: an import, or the evening. Then the queue drains afterwards. One that did so
before in the window, from as deep, is passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from jobdoctor import words
from jobdoctor.diagnosis import replays
from jobdoctor.diagnosis.measure import words_count, words_ms
from jobdoctor.diagnosis.rule import Limit, NotChecked
from jobdoctor.diagnosis.waiting import WaitRule, mean_run_ms, mean_wait_ms, queues_of
from jobdoctor.model import DepthPoint, Evidence, Finding, JobHistory, TraceRow
from jobdoctor.queueing.arrivals import service
from jobdoctor.queueing.congestion import Congestion, congested_periods
from jobdoctor.queueing.drain import Cure, Outlook
from jobdoctor.queueing.growth import trend

_NS_PER_S = 1_000_000_000
_SLOTS = 10
#: Samples of the queue, below which they say nothing of its course.
_LEAST_SAMPLES = 3
#: A backlog is to be gone within so many times the time in which it grew.
_IN_TIME = 2.0


@dataclass(frozen=True)
class _Backlog:
    queue: str
    rows: Sequence[TraceRow]  # in the order in which they were taken, their depth known
    per_s: float  # growth, jobs a second
    taken_per_s: float

    @property
    def depth(self) -> int:
        """At the end, by the last three readings: somebody may have emptied the queue."""
        return int(median(row.queue_depth or 0 for row in self.rows[-3:]))

    @property
    def end_ns(self) -> int:
        return self.rows[-1].dequeued_at_ns

    @property
    def grew_s(self) -> float:
        return (self.end_ns - self.rows[0].dequeued_at_ns) / _NS_PER_S

    def wait_s(self, after_s: float = 0.0) -> float:
        """What a job waits that is enqueued so long after the end, if all goes on like this."""
        return (self.depth + self.per_s * after_s) / self.taken_per_s

    def until_s(self, wait_s: float) -> float:
        """Time after the end at which a job would wait that long."""
        return max(0.0, (wait_s * self.taken_per_s - self.depth) / self.per_s)


class GrowingBacklog(WaitRule):
    """JD706."""

    code = "JD706"
    name = "growing-backlog"
    step = "queue"
    kind = "queue"
    where = "around"
    related_to = ("JD702",)

    min_taken = Limit(20, "jobs", "jobs taken in the stretch below which it proves nothing", "own: a rate to a quarter")
    min_span_s = Limit(1, "s", "length of the stretch", "own: longer than any loop of enqueues takes for 20 jobs")
    min_depth = Limit(10, "jobs", "jobs left at the end, below which it is no backlog", "own")
    max_p = Limit(0.01, "p", "Mann-Kendall's p of the growth", "customary")
    near_highest = Limit(
        0.9, "share", "depth at the end over the highest, below which it is draining", "own: a tenth may be chance"
    )
    last_share = Limit(
        0.05, "share", "part of the window after the stretch, in jobs taken, from which it is over", "own"
    )
    max_slot_share = Limit(
        0.4, "share", "share of the arrivals in one tenth of the stretch, above which they are a burst", "as JD702"
    )
    late_s = Limit(
        300, "s", "wait that is too long, when the job has no SLO", "alerts of the field: 300 s in the queue"
    )

    def check(self, history: JobHistory) -> Iterable[Finding]:
        rows = self.rows(history)
        unknown = 0
        unsure: NotChecked | None = None
        for queue in queues_of(rows):
            in_queue = [row for row in history.neighbours if row.queue == queue]
            known = [row for row in in_queue if row.queue_depth is not None]
            if 2 * len(known) < len(in_queue):
                unknown += 1
                continue
            try:
                backlog = self._growing(queue, known)
            except NotChecked as reason:
                unsure = unsure or reason
                continue
            if backlog is not None:
                yield self._finding(history, [row for row in rows if row.queue == queue], backlog)
                return
        if unsure is not None:
            raise unsure
        if unknown:
            raise NotChecked(
                "How many jobs were left in the queue is not recorded: run its workers under `jobdoctor run`"
            )

    def _growing(self, queue: str, rows: Sequence[TraceRow]) -> _Backlog | None:
        gap_ns = int(service(rows).mean_s * _NS_PER_S)
        periods = congested_periods(rows, gap_ns)
        # One job at the window's edge does not end a stretch of hundreds.
        last = next((each for each in reversed(periods) if len(each.rows) > self.limits.last_share * len(rows)), None)
        if last is None:
            return None
        after = sum(row.enqueued_at_ns > last.end_ns for row in rows)
        taken = sorted(last.rows, key=lambda row: row.dequeued_at_ns)
        if after > self.limits.last_share * len(rows) or self._burst([row.enqueued_at_ns for row in taken]):
            return None
        depths = [row.queue_depth or 0 for row in taken]
        growth = trend(
            [
                ((row.dequeued_at_ns - taken[0].dequeued_at_ns) / _NS_PER_S, float(depth))
                for row, depth in zip(taken, depths, strict=True)
            ]
        )
        span_s = (taken[-1].dequeued_at_ns - taken[0].dequeued_at_ns) / _NS_PER_S
        backlog = _Backlog(queue, taken, growth.slope, (len(taken) - 1) / span_s if span_s else 0.0)
        if growth.slope <= 0 or backlog.depth < max(self.limits.min_depth, self.limits.near_highest * max(depths)):
            return None
        if self._drained_before(periods, last, backlog.depth):
            return None
        if len(taken) < self.limits.min_taken or span_s < self.limits.min_span_s:
            raise NotChecked(
                f"More and more jobs were left in queue {queue}, {backlog.depth} at the end, but only {len(taken)} "
                f"were taken meanwhile, in {words_ms(1_000 * span_s)}: {self.limits.min_taken:.0f} in "
                f"{words_ms(1_000 * self.limits.min_span_s)} are needed; look again when more have run"
            )
        return backlog if growth.p_value <= self.limits.max_p else None

    def _drained_before(self, periods: Sequence[Congestion], last: Congestion, depth: int) -> bool:
        """Whether the queue was as deep before and drained: a batch that comes every night."""
        return any(
            max(row.queue_depth or 0 for row in period.rows) >= self.limits.near_highest * depth
            for period in periods
            if period.end_ns <= last.start_ns
        )

    def _burst(self, instants: Sequence[int]) -> bool:
        first, last = min(instants), max(instants)
        if last == first:
            return True
        slots = Counter(min(_SLOTS - 1, (at - first) * _SLOTS // (last - first)) for at in instants)
        return max(slots.values()) > self.limits.max_slot_share * len(instants)

    def _outlook(self, history: JobHistory, backlog: _Backlog) -> Outlook | None:
        """Of what arrived before the newest job that was taken, all is recorded."""
        begin_ns = min(row.enqueued_at_ns for row in backlog.rows)
        complete_ns = max(row.enqueued_at_ns for row in backlog.rows)
        stretch = begin_ns, complete_ns, backlog.end_ns
        return replays.outlook_of(history, backlog.queue, backlog.depth, stretch, _IN_TIME * backlog.grew_s)

    def _finding(self, history: JobHistory, own: Sequence[TraceRow], backlog: _Backlog) -> Finding:
        waited = mean_wait_ms(own) * len(own) / len(history.trace)
        late_s = (history.slo_ms or 1_000 * self.limits.late_s) / 1_000
        until = backlog.until_s(late_s)
        when = (
            f"a job waits {words_ms(1_000 * late_s)} already"
            if until == 0
            else f"from {words.instant(backlog.end_ns + int(until * _NS_PER_S))} on a job would wait "
            f"{words_ms(1_000 * late_s)}"
        )
        outlook = self._outlook(history, backlog)
        cures = _cures(outlook, history.job)
        spared = (
            replays.with_workers(history, backlog.queue, int(outlook.enough.number))
            if outlook is not None and outlook.enough is not None
            else None
        )
        low, mid = waited / 2, 0.9 * waited
        if spared is not None:
            mid = waited * spared.share
            low = min(low, mid)
            if spared.mean_interval is not None:
                low = min(low, max(0.0, 1_000 * spared.mean_interval.low) * len(own) / len(history.trace))
        return self.finding(
            severity=self.severity(waited, waited + mean_run_ms(own)),
            confidence=0.85,
            title=(
                f"Queue {backlog.queue} grows by {words_count(60 * backlog.per_s)} jobs a minute and does not drain: "
                f"{words_count(backlog.depth)} were left at the end"
            ),
            cost_ms=waited,
            saving=(low, mid, waited),
            text=(
                f"Let less arrive on {backlog.queue}, or add workers: {words_count(60 * backlog.taken_per_s)} jobs a "
                f"minute are taken, and {words_count(60 * (backlog.taken_per_s + backlog.per_s))} arrive. As it goes, "
                f"{when}{cures}"
            ),
            snippet=(
                f"if len(queue) < {max(2, round(backlog.taken_per_s * 10))}:  # what is done in 10 s\n"
                "    queue.enqueue(this_job, ...)\n"
                f"$ rq worker-pool {backlog.queue} --num-workers {_number(outlook)}"
            ),
            evidence=[
                Evidence(
                    "queue",
                    f"From {words_count(backlog.rows[0].queue_depth or 0)} to {words_count(backlog.depth)} jobs left "
                    f"in {words_ms((backlog.end_ns - backlog.rows[0].dequeued_at_ns) / 1e6)}; a job enqueued at the "
                    f"end waits {words_ms(1_000 * backlog.wait_s())}, one an hour later "
                    f"{words_ms(1_000 * backlog.wait_s(3_600))}",
                    {
                        "target": f"queue {backlog.queue}",
                        "queue": backlog.queue,
                        "depth": backlog.depth,
                        "growth_per_s": round(backlog.per_s, 4),
                        "taken_per_s": round(backlog.taken_per_s, 4),
                        "wait_at_end_ms": round(1_000 * backlog.wait_s(), 1),
                        "wait_in_an_hour_ms": round(1_000 * backlog.wait_s(3_600), 1),
                        "late_ms": round(1_000 * late_s, 1),
                        "late_from_ns": backlog.end_ns + int(until * _NS_PER_S),
                        "taken": len(backlog.rows),
                        "workers": None if outlook is None else outlook.workers,
                        "enough_workers": _data(outlook and outlook.enough),
                        "fast_enough": _data(outlook and outlook.faster),
                        "replayed": replays.data_of(spared and [spared]),
                    },
                ),
                Evidence(
                    "series",
                    "Jobs left in the queue each time one was taken",
                    {"unit": "jobs", "points": _points(backlog.rows)},
                ),
                *_sampled(history.depths.get(backlog.queue, []), backlog),
            ],
        )


def _cures(outlook: Outlook | None, job: str) -> str:
    """What would drain it, as sentences; empty where nothing was replayed."""
    if outlook is None:
        return ""
    ways = []
    if outlook.enough is not None:
        have = f"{outlook.workers} {'is' if outlook.workers == 1 else 'are'} there"
        ways.append(f"with {outlook.enough.number:.0f} workers ({have}) it is drained in {_when(outlook.enough)}")
    if outlook.faster is not None:
        ways.append(
            f"with {words.share(outlook.faster.number)} of the time that {job.rpartition('.')[2]} takes in "
            f"{_when(outlook.faster)}"
        )
    if not ways:
        return ""
    none = "" if outlook.faster is not None else ". No speed-up of this job alone drains it in time"
    return f". In a replay of what comes then, {', and '.join(ways)}{none}"


def _when(cure: Cure) -> str:
    low, high = (1_000 * end for end in cure.interval)
    least, most, middle = words_ms(low), words_ms(high), words_ms(1_000 * cure.drained_s)
    return middle if least == most else f"{middle} ({least} to {most})"


def _number(outlook: Outlook | None) -> str:
    return "N" if outlook is None or outlook.enough is None else f"{outlook.enough.number:.0f}"


def _data(cure: Cure | None) -> dict[str, Any] | None:
    if cure is None:
        return None
    return {
        "number": cure.number,
        "drained_ms": round(1_000 * cure.drained_s, 1),
        "drained_interval_ms": [round(1_000 * end, 1) for end in cure.interval],
    }


def _sampled(points: Sequence[DepthPoint], backlog: _Backlog) -> list[Evidence]:
    """What workers saw who looked at the queue now and then: also while nobody took anything from it."""
    from_ns = backlog.rows[0].dequeued_at_ns
    seen = [point for point in points if point.at_ns >= from_ns]
    if len(seen) < _LEAST_SAMPLES:
        return []
    first, last = seen[0], seen[-1]
    text = (
        f"Samples of the queue: {words_count(first.depth)} jobs in line at {words.instant(first.at_ns)}, "
        f"{words_count(last.depth)} at {words.instant(last.at_ns)}"
    )
    if last.oldest_s is not None:
        text += f", the oldest {words_ms(1_000 * last.oldest_s)} old"
    data = {
        "target": f"queue {backlog.queue}",
        "queue": backlog.queue,
        "depth": last.depth,
        "oldest_ms": None if last.oldest_s is None else round(1_000 * last.oldest_s, 1),
        "listening": last.workers,
        "points": [[round((point.at_ns - from_ns) / 1e6, 1), float(point.depth)] for point in seen],
    }
    return [Evidence("queue", f"{text}; {words.count(last.workers, 'worker')} listened then", data)]


def _points(rows: Sequence[TraceRow], most: int = 200) -> list[list[float]]:
    """(ms since the first, jobs left), thinned evenly."""
    step = max(1, -(-len(rows) // most))
    first = rows[0].dequeued_at_ns
    return [[round((row.dequeued_at_ns - first) / 1e6, 1), float(row.queue_depth or 0)] for row in rows[::step]]
