"""What a job waits that is enqueued now, from what stands in line, what runs, and how long such jobs took.

The line is played through many times (``replay``), each time with service times drawn from the recorded ones: of each
job its own kind's, of what a worker runs now one that is longer than it has run already. Where workers listen to
several queues, more jobs arrive meanwhile, as often as they did. A job of no length stands at the end of each queue:
its wait is the answer. Long lines are played with several jobs as one, so that a line of 200,000 takes as long as one
of some hundreds; the sum of so many times is drawn as a normal one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf, isfinite, sqrt
from random import Random
from statistics import fmean, pstdev
from typing import NamedTuple

from jobdoctor.queueing.bootstrap import quantile
from jobdoctor.queueing.replay import replay
from jobdoctor.queueing.traffic import Pool, Traffic

#: Times the line is played through, at most and at least, and jobs that all of them may come to together.
_PLAYS, _LEAST_PLAYS = 200, 30
_EVENTS = 400_000
#: Jobs of a queue that are played one by one, and jobs that arrive meanwhile.
_SINGLY = 400
_ARRIVING = 1_000


class Worker(NamedTuple):
    queues: tuple[str, ...]
    job: str = ""  # what it runs; empty: nothing
    ran_s: float = 0.0  # for so long


class Line(NamedTuple):
    """A queue: how deep it is, the jobs that are next, and a sample of those behind them, in order."""

    depth: int
    next: tuple[str, ...]
    behind: tuple[str, ...] = ()

    def counts(self) -> Counter[str]:
        """Jobs by name; those of the sample count for as many as they stand for."""
        found: Counter[str] = Counter(self.next)
        each = (self.depth - len(self.next)) / len(self.behind) if self.behind else 0.0
        for job in self.behind:
            found[job] += each  # type: ignore[assignment]
        return found


class Ahead(NamedTuple):
    """Jobs of one kind in a line. ``work_s`` None: never recorded."""

    job: str
    jobs: float
    work_s: float | None


class Expected(NamedTuple):
    """inf: nobody takes from the queue; None in its place: not known."""

    p50: float
    p95: float
    ahead: list[Ahead]
    unknown_share: float  # of the line: kinds that were never recorded, taken to be like the others


class Times:
    """Recorded service times, by job."""

    def __init__(self, by_job: Mapping[str, Sequence[float]]) -> None:
        self.by_job = {job: sorted(times) for job, times in by_job.items() if times}
        self.all = sorted(time for times in self.by_job.values() for time in times)
        self._moments = {job: (fmean(times), pstdev(times)) for job, times in self.by_job.items()}
        self._all_moments = (fmean(self.all), pstdev(self.all)) if self.all else (0.0, 0.0)

    def one(self, job: str, rng: Random) -> float:
        return rng.choice(self.by_job.get(job, self.all))

    def several(self, job: str, number: int, rng: Random) -> float:
        """The sum of so many."""
        if number == 1:
            return self.one(job, rng)
        mean, deviation = self._moments.get(job, self._all_moments)
        return max(0.0, rng.gauss(number * mean, sqrt(number) * deviation))

    def rest(self, job: str, ran_s: float, rng: Random) -> float:
        """What is left of one that has run for so long; beyond all that was recorded: as long again, at most."""
        longer = [time for time in self.by_job.get(job, self.all) if time > ran_s]
        return rng.choice(longer) - ran_s if longer else rng.uniform(0.0, ran_s)

    def mean(self, job: str) -> float | None:
        return self._moments[job][0] if job in self._moments else None


def expected(
    lines: Mapping[str, Line],
    workers: Sequence[Worker],
    times: Times,
    rates: Mapping[tuple[str, str], float],
    *,
    seed: int = 1,
) -> dict[str, Expected | None]:
    """By queue. ``rates``: arrivals a second by (queue, job). None without any recorded time."""
    if not times.all:
        return dict.fromkeys(lines)
    heard = {queue for worker in workers for queue in worker.queues}
    jobs = sorted({*times.by_job, *(job for line in lines.values() for job in (*line.next, *line.behind)), ""})
    number = {job: index for index, job in enumerate(jobs)}
    order = list(lines)
    busy_s = sum(
        count * (times.mean(job) or 0.0)
        for name, line in lines.items()
        if name in heard
        for job, count in line.counts().items()
    )
    horizon = 3.0 * (busy_s / max(1, len(workers)) + times.all[-1])
    arriving = {key: rate for key, rate in rates.items() if _matters(key[0], workers)}
    horizon = min(horizon, _ARRIVING / (sum(arriving.values()) or inf)) if arriving else 0.0
    size = sum(min(line.depth, _SINGLY) for line in lines.values()) + horizon * sum(arriving.values()) + len(order)
    plays = max(_LEAST_PLAYS, min(_PLAYS, int(_EVENTS / max(1.0, size))))
    rng = Random(seed)  # noqa: S311 -- no secret
    waits: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(plays):
        traffic = Traffic(jobs, order)
        probes: dict[str, int] = {}
        for index, (name, line) in enumerate(lines.items()):
            for job, together in _grouped(line):
                _add(traffic, 0.0, number[job], index, times.several(job, together, rng))
            probes[name] = len(traffic)
            _add(traffic, 0.0, number[""], index, 0.0)
        coming: list[tuple[float, str, str]] = []
        for (queue, job), rate in arriving.items():
            at = rng.expovariate(rate)
            while at < horizon and queue in lines:
                coming.append((at, queue, job))
                at += rng.expovariate(rate)
        for at, queue, job in sorted(coming):
            _add(traffic, at, number.get(job, number[""]), order.index(queue), times.one(job, rng))
        pools = [
            Pool(worker.queues, ((times.rest(worker.job, worker.ran_s, rng) if worker.job else 0.0, inf),))
            for worker in workers
        ]
        taken = replay(traffic, pools, seed=rng.randrange(1 << 30)).taken
        for name, index in probes.items():
            waits[name].append(taken[index])
    return {name: _answer(sorted(waits[name]), lines[name], times) for name in order}


def _add(traffic: Traffic, at: float, job: int, queue: int, service: float) -> None:
    traffic.arrival.append(at)
    traffic.job.append(job)
    traffic.queue.append(queue)
    traffic.service.append(service)
    traffic.overhead.append(0.0)


def _matters(queue: str, workers: Sequence[Worker]) -> bool:
    """Whether jobs that come to this queue later can be taken before what is in others now."""
    return any(queue in worker.queues[:-1] for worker in workers)


def _grouped(line: Line) -> list[tuple[str, int]]:
    """(job, how many as one), in the line's order."""
    singly = line.next[: line.depth]
    left = line.depth - len(singly)
    found = [(job, 1) for job in singly]
    if left <= 0:
        return found
    behind = line.behind or singly or ("",)
    pieces = min(left, max(1, _SINGLY - len(singly)))
    for piece in range(pieces):
        together = (piece + 1) * left // pieces - piece * left // pieces
        found.append((behind[piece * len(behind) // pieces], together))
    return found


def _answer(waits: list[float], line: Line, times: Times) -> Expected:
    ahead = []
    counts = line.counts()
    for job, count in counts.most_common():
        mean = times.mean(job)
        ahead.append(Ahead(job, count, None if mean is None else mean * count))
    ahead.sort(key=lambda one: -(one.work_s or 0.0))
    unknown = sum(count for job, count in counts.items() if job not in times.by_job) / max(1, line.depth)
    finite = [wait for wait in waits if isfinite(wait)]
    if not finite:
        return Expected(inf, inf, ahead, unknown)
    return Expected(quantile(waits, 0.5), quantile(waits, 0.95), ahead, unknown)
