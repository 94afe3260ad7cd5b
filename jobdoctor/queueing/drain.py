"""When will a backlog be gone: the queue is played on from the end of what was recorded, under several cures.

What comes next is drawn from what came before: whole stretches of the recorded arrivals, with their times (the block
bootstrap, see ``bootstrap``). They are drawn from a draw of them, for what was recorded is itself but one. The backlog
is drawn in the same way. Each cure is played against the same draws; the range of the moments at which the queue is
empty is the interval. Large traffic is played with several jobs in a row as one, so that an answer takes some tenths of
a second whatever the load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, inf, isfinite
from random import Random
from typing import NamedTuple

from jobdoctor.queueing.bootstrap import LEAST, Interval, blocks_of, quantile
from jobdoctor.queueing.replay import replay
from jobdoctor.queueing.traffic import Pool, Traffic

#: How often it is played, and jobs in each play, about.
_PLAYS, _JOBS = 40, 600
#: Jobs of a backlog that are drawn; of a deeper one each stands for several.
_DRAWN = 1_000
#: A cure counts when in so many plays the queue was empty in time: all up to the upper end of the interval.
_SURE = 0.975
#: Numbers of workers tried from the first that could do; and jobs played for each worker at least, so that those which
#: are played as one do not all begin at once.
_TRIED, _JOBS_A_WORKER = 12, 10
#: Times of a job that are tried, as factors.
_FACTORS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1)


class Backlog(NamedTuple):
    """Jobs that wait in a queue. Times are seconds since the traffic's origin."""

    queue: str
    depth: int
    begin_s: float  # the stretch that what comes next is drawn from
    end_s: float  # of that stretch: up to here all arrivals are recorded
    now_s: float


class Cure(NamedTuple):
    """``number``: workers of the queue in all, or the factor of a job's time. ``drained_s``: from now on."""

    number: float
    drained_s: float  # median
    interval: Interval  # 95%


class Outlook(NamedTuple):
    workers: int  # that listen to the queue now
    horizon_s: float
    enough: Cure | None  # the fewest workers that drain it within the horizon; None: none of those that were tried
    faster: Cure | None  # the job's largest factor that does


def outlook(
    traffic: Traffic, pools: Sequence[Pool], backlog: Backlog, job: str, horizon_s: float, *, seed: int = 1
) -> Outlook | None:
    """None when too little arrived to draw from, or when nobody listens now."""
    there = [_now(pool, backlog.now_s) for pool in pools]
    there = [pool for pool in there if pool.spans]
    listening = [pool for pool in there if backlog.queue in pool.queues]
    if not listening:
        return None
    near = {name for pool in listening for name in pool.queues}
    there = [pool for pool in there if near & set(pool.queues)]
    heard = {name for pool in there for name in pool.queues}
    source = [
        index
        for index in range(len(traffic))
        if backlog.begin_s <= traffic.arrival[index] <= backlog.end_s and traffic.queues[traffic.queue[index]] in heard
    ]
    own = traffic.queues.index(backlog.queue)
    arrived = sum(traffic.queue[index] == own for index in source)
    span_s = backlog.end_s - backlog.begin_s
    if arrived < LEAST or span_s <= 0:
        return None
    plays = _Plays(traffic, source, backlog, traffic.jobs.index(job), horizon_s, Random(seed))  # noqa: S311 -- no secret
    now = sum(len(pool.spans) for pool in listening)
    main = max(listening, key=lambda pool: (len(pool.spans), -len(pool.queues)))
    between = traffic.between or traffic.overhead
    busy_s = sum(traffic.service[index] + between[index] for index in source)
    arriving = busy_s / span_s * horizon_s
    waiting = backlog.depth * sum(traffic.service[index] for index in source if traffic.queue[index] == own) / arrived
    workers = sum(len(pool.spans) for pool in there)
    first = max(workers + 1, int(0.9 * (arriving + waiting) / horizon_s))
    enough = None
    for number in range(first, min(first + _TRIED, plays.jobs // _JOBS_A_WORKER)):
        more = [*there, Pool(main.queues, ((0.0, inf),) * (number - workers), main.strategy)]
        enough = plays.cure(now + number - workers, more)
        if enough is not None:
            break
    return Outlook(now, horizon_s, enough, plays.fastest(there))


def _now(pool: Pool, now_s: float) -> Pool:
    """The workers that are there now, from now on."""
    there = sum(since <= now_s <= until for since, until in pool.spans)
    return pool._replace(spans=((0.0, inf),) * there)


class _Piece(NamedTuple):
    """Some jobs in a row of one queue."""

    after_s: float  # the first of them, from the beginning of its block
    queue: int
    job: int  # of the first
    jobs: int
    took_s: float  # with overheads
    own_s: float  # of that, the service times of the job whose factor is tried


class _Played(NamedTuple):
    """What waits and what comes, drawn once; ``own_s``: what of the service times is the job's."""

    traffic: Traffic
    own_s: list[float]

    def add(self, at_s: float, piece: _Piece, scale: float = 1.0) -> None:
        self.traffic.arrival.append(at_s)
        self.traffic.job.append(piece.job)
        self.traffic.queue.append(piece.queue)
        self.traffic.service.append(scale * piece.took_s)
        self.traffic.overhead.append(0.0)
        self.own_s.append(scale * piece.own_s)

    def with_times(self, factor: float) -> Traffic:
        changed = self.traffic.copy()
        changed.service = [
            each - (1.0 - factor) * own for each, own in zip(self.traffic.service, self.own_s, strict=True)
        ]  # fmt: skip
        return changed


class _Plays:
    """All that was drawn."""

    def __init__(
        self, traffic: Traffic, source: Sequence[int], backlog: Backlog, job: int, horizon_s: float, rng: Random
    ) -> None:
        self.traffic, self.job, self.horizon_s = traffic, job, horizon_s
        self.queue = traffic.queues.index(backlog.queue)
        span_s = backlog.end_s - backlog.begin_s
        number = blocks_of(len(source))
        length_s = span_s / number
        blocks: list[list[int]] = [[] for _ in range(number)]
        for index in source:
            place = int((traffic.arrival[index] - backlog.begin_s) / length_s)
            blocks[min(number - 1, place)].append(index)
        deep = min(backlog.depth, _DRAWN)
        expected = deep + len(source) / span_s * horizon_s
        together = max(1, ceil(expected / _JOBS))
        self.jobs = int(expected / together)
        pieces = [
            self._pieces(block, backlog.begin_s + place * length_s, together) for place, block in enumerate(blocks)
        ]
        self.drawn = []
        some = [block for block in pieces if any(piece.queue == self.queue for piece in block)]
        for _ in range(_PLAYS):
            # Drawn twice: what was recorded is itself but a draw of what comes in general.
            known, full = rng.choices(pieces, k=number), rng.choices(some, k=number)
            waiting: list[_Piece] = []
            missing = deep
            while missing > 0:
                for piece in rng.choice(full):
                    if piece.queue == self.queue and missing > 0:
                        waiting.append(piece)
                        missing -= piece.jobs
            # Too many were drawn where several are one.
            scale = backlog.depth / (deep - missing)
            played = _Played(Traffic(traffic.jobs, traffic.queues), [])
            for piece in waiting:
                played.add(0.0, piece, scale)
            for block in range(ceil(horizon_s / length_s)):
                for piece in rng.choice(known):
                    played.add(block * length_s + piece.after_s, piece)
            self.drawn.append(played)

    def _pieces(self, block: Sequence[int], begin_s: float, together: int) -> list[_Piece]:
        """So many jobs in a row of one queue as one."""
        source = self.traffic
        found: list[_Piece] = []
        last: dict[int, int] = {}  # of each queue: the newest
        for index in block:
            queue = source.queue[index]
            service = source.service[index]
            own_s = service if source.job[index] == self.job else 0.0
            took_s = service + (source.between or source.overhead)[index]
            place = last.get(queue, -1)
            if place >= 0 and found[place].jobs < together:
                piece = found[place]
                found[place] = piece._replace(
                    jobs=piece.jobs + 1, took_s=piece.took_s + took_s, own_s=piece.own_s + own_s
                )
            else:
                last[queue] = len(found)
                found.append(
                    _Piece(source.arrival[index] - begin_s, queue, source.job[index], 1, took_s, own_s)
                )  # fmt: skip
        return found

    def cure(self, number: float, pools: Sequence[Pool], factor: float = 1.0) -> Cure | None:
        """None when the queue is not empty in time. ``factor``: of the job's time."""
        ends: list[float] = []
        late = 0
        for played in self.drawn:
            ends.append(self._drained(played.with_times(factor), pools))
            late += not isfinite(ends[-1])
            if late > (1 - _SURE) * _PLAYS:
                return None
        ends.sort()
        return Cure(number, quantile(ends, 0.5), Interval(quantile(ends, 0.025), quantile(ends, 0.975)))

    def fastest(self, pools: Sequence[Pool]) -> Cure | None:
        """The largest factor of the job's time that is a cure: by halving, for a shorter time is never worse."""
        return _first(_FACTORS, lambda factor: self.cure(factor, pools, factor))

    def _drained(self, played: Traffic, pools: Sequence[Pool]) -> float:
        replayed = replay(played, pools)
        members = [index for index, queue in enumerate(played.queue) if queue == self.queue]
        taken = sorted(replayed.taken[index] for index in members)
        for place, at in enumerate(taken):
            # The queue is empty once as many were taken as had come.
            if place + 1 == len(members) or at < played.arrival[members[place + 1]]:
                return at if at <= self.horizon_s else inf
        return 0.0


def _first(factors: Sequence[float], ask: Callable[[float], Cure | None]) -> Cure | None:
    low, high, found = 0, len(factors), None
    while low < high:
        middle = (low + high) // 2
        answer = ask(factors[middle])
        if answer is None:
            low = middle + 1
        else:
            found, high = answer, middle
    return found
