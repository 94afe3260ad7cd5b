"""What a change would do to the waits: a replay without it, held against what was recorded, and one with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import Literal, NamedTuple

from jobdoctor.errors import ConfigError
from jobdoctor.model import TraceRow
from jobdoctor.queueing.bootstrap import Interval, intervals, quantile
from jobdoctor.queueing.changes import Change, apply, total_workers
from jobdoctor.queueing.replay import Replayed, replay
from jobdoctor.queueing.traffic import AT_ONCE_S, Pool, Strategy, Traffic, traffic_of

FitWord = Literal["good", "fair", "poor", "unknown"]

#: How far the replay's p95 may be from the recorded one: 10% is what the predictions are measured to keep.
_GOOD, _FAIR = 0.10, 0.25
#: Differences below this are a machine's noise, whatever their share.
_NOISE_S = 0.05
#: Jobs with fewer executions have no 95th percentile to compare.
_COMPARED = 20
#: Share of the choices in which a worker took from a later queue while an earlier one had a job, from which its order
#: is not strict. Some come from clocks and from jobs that were put in the queue at that moment.
_OUT_OF_ORDER = 0.05
#: Promises are kept by this share of the jobs.
SLO_SHARE = 0.95


class Waits(NamedTuple):
    """The waits of one job (or of all: ``job`` empty), in s. inf: nobody takes it."""

    job: str
    queues: tuple[str, ...]
    jobs: int
    p50: float
    p95: float
    p50_interval: Interval | None
    p95_interval: Interval | None
    mean: float
    done_p95: float  # from being put in the queue to done, with retries
    slo_s: float | None

    @property
    def met(self) -> bool | None:
        """Whether the promise is kept; None without one."""
        return None if self.slo_s is None else self.done_p95 <= self.slo_s


class Fit(NamedTuple):
    """How well the replay of the unchanged traffic gives the recorded waits. ``error``: of the p95, relative, worst of
    those compared (all jobs together, and each with enough executions), weighed by nothing."""

    word: FitWord
    recorded_p50: float
    recorded_p95: float
    replayed_p50: float
    replayed_p95: float
    error: float
    worst_job: str


class Baseline(NamedTuple):
    """Traffic, workers and the unchanged replay."""

    traffic: Traffic
    pools: list[Pool]
    replayed: Replayed
    fit: Fit


class Outcome(NamedTuple):
    """Before and after, job by job; the jobs with the longest waits before come first."""

    changes: tuple[Change, ...]
    before: list[Waits]
    after: list[Waits]
    all_before: Waits
    all_after: Waits
    workers_before: int
    workers_after: int
    utilisation_before: float
    utilisation_after: float
    pools_before: list[Pool]
    pools_after: list[Pool]
    traffic: Traffic  # changed
    replayed: Replayed  # changed

    @property
    def missed(self) -> list[Waits]:
        return [waits for waits in self.after if waits.met is False]


def baseline(rows: Sequence[TraceRow]) -> Baseline:
    """The recorded traffic and its replay. ConfigError for an empty trace."""
    if not rows:
        raise ConfigError("there are no executions to replay", "run `jobdoctor run` first, or widen --since")
    traffic, pools = traffic_of(rows)
    strict = of(traffic, pools)
    several = [index for index, pool in enumerate(pools) if len(pool.queues) > 1]
    if not several or _out_of_order(rows) < _OUT_OF_ORDER:
        return strict
    # The order is not recorded: the one that gives the recorded waits best.
    orders: tuple[Strategy, ...] = ("round_robin", "random")
    others = [of(traffic, [_with_order(pool, strategy) for pool in pools]) for strategy in orders]
    return min([strict, *others], key=_distance)


def _with_order(pool: Pool, strategy: Strategy) -> Pool:
    return pool._replace(strategy=strategy) if len(pool.queues) > 1 else pool


def of(traffic: Traffic, pools: Sequence[Pool]) -> Baseline:
    """The unchanged replay of any traffic."""
    replayed = replay(traffic, pools)
    return Baseline(traffic, list(pools), replayed, _fit(traffic, replayed))


def predict(base: Baseline, changes: Sequence[Change], slos_s: Mapping[str, float] | None = None) -> Outcome:
    """The waits with these changes. ConfigError for changes that cannot be."""
    traffic, pools = apply(base.traffic, base.pools, changes)
    replayed = replay(traffic, pools)
    slos = slos_s or {}
    before = waits_by_job(base.traffic, base.replayed, slos)
    after = waits_by_job(traffic, replayed, slos)
    order = {waits.job: position for position, waits in enumerate(before)}
    return Outcome(
        changes=tuple(changes),
        before=before,
        after=sorted(after, key=lambda waits: order.get(waits.job, len(order))),
        all_before=waits_of_all(base.traffic, base.replayed),
        all_after=waits_of_all(traffic, replayed),
        workers_before=total_workers(base.pools),
        workers_after=total_workers(pools),
        utilisation_before=utilisation(base.traffic, base.replayed, base.pools),
        utilisation_after=utilisation(traffic, replayed, pools),
        pools_before=base.pools,
        pools_after=pools,
        traffic=traffic,
        replayed=replayed,
    )


def waits_by_job(traffic: Traffic, replayed: Replayed, slos_s: Mapping[str, float]) -> list[Waits]:
    """Each job's waits, the longest p95 first."""
    members: list[list[int]] = [[] for _ in traffic.jobs]
    for index, job in enumerate(traffic.job):
        members[job].append(index)
    ends, retries = _ends(traffic, replayed), _retries(traffic)
    found = [
        _waits(traffic, replayed, ends, retries, name, own, slos_s.get(name))
        for name, own in zip(traffic.jobs, members, strict=True)
        if own
    ]
    return sorted(found, key=lambda waits: (-waits.p95, waits.job))


def waits_of_all(traffic: Traffic, replayed: Replayed) -> Waits:
    """All jobs as one."""
    return _waits(
        traffic, replayed, _ends(traffic, replayed), _retries(traffic), "", range(len(traffic)), None
    )  # fmt: skip


def missing(traffic: Traffic, replayed: Replayed, slos_s: Mapping[str, float]) -> tuple[str, ...]:
    """The jobs whose promise is not kept."""
    ends, retries = _ends(traffic, replayed), _retries(traffic)
    whole: dict[int, list[float]] = {index: [] for index, name in enumerate(traffic.jobs) if name in slos_s}
    for index, job in enumerate(traffic.job):
        if job in whole and index not in retries:
            whole[job].append(ends[index] - replayed.arrival[index])
    return tuple(
        traffic.jobs[job]
        for job, times in whole.items()
        if quantile(sorted(times), SLO_SHARE) > slos_s[traffic.jobs[job]]
    )


def _waits(
    traffic: Traffic,
    replayed: Replayed,
    ends: Sequence[float],
    retries: set[int],
    job: str,
    own: Sequence[int],
    slo_s: float | None,
) -> Waits:
    waits = [replayed.taken[index] - replayed.arrival[index] for index in own]
    ordered = sorted(waits)
    both = intervals(waits, (0.5, 0.95))
    whole = sorted(ends[index] - replayed.arrival[index] for index in own if index not in retries)
    queues = Counter(traffic.queues[traffic.queue[index]] for index in own)
    return Waits(
        job=job,
        queues=tuple(name for name, _ in queues.most_common()),
        jobs=len(own),
        p50=quantile(ordered, 0.5),
        p95=quantile(ordered, 0.95),
        p50_interval=both[0] if both else None,
        p95_interval=both[1] if both else None,
        mean=sum(waits) / len(waits) if waits else 0.0,
        done_p95=quantile(whole, SLO_SHARE),
        slo_s=slo_s,
    )


def _retries(traffic: Traffic) -> set[int]:
    return {link.to for links in traffic.links.values() for link in links if link.from_end}


def _ends(traffic: Traffic, replayed: Replayed) -> list[float]:
    """When each job was done, its later attempts included."""
    ends = list(replayed.done)
    # Later attempts have later arrivals: from the back, each hands its end to the one before it.
    for index in sorted(traffic.links, key=replayed.arrival.__getitem__, reverse=True):
        for link in traffic.links[index]:
            if link.from_end:
                ends[index] = max(ends[index], ends[link.to])
    return ends


def utilisation(traffic: Traffic, replayed: Replayed, pools: Sequence[Pool]) -> float:
    """Share of the workers' time that jobs take, while jobs arrive and until the last is done; 0 without workers."""
    if not len(traffic):
        return 0.0
    begin = traffic.arrival[0]
    end = max((each for each in replayed.done if isfinite(each)), default=begin)
    there = sum(max(0.0, min(until, end) - max(since, begin)) for pool in pools for since, until in pool.spans)
    return min(1.0, replayed.busy_s / there) if there > 0 else 0.0


# ----------------------------------------------------------------------------------------------------------------- fit


def _fit(traffic: Traffic, replayed: Replayed) -> Fit:
    again = sorted(replayed.waits())
    replayed_p50, replayed_p95 = quantile(again, 0.5), quantile(again, 0.95)
    if not traffic.waited:
        return Fit("unknown", 0.0, 0.0, replayed_p50, replayed_p95, 0.0, "")
    recorded = sorted(traffic.waited)
    worst, worst_job = _error(quantile(recorded, 0.95), replayed_p95), ""
    members: dict[int, list[int]] = {}
    for index, job in enumerate(traffic.job):
        members.setdefault(job, []).append(index)
    for job, own in members.items():
        if len(own) < _COMPARED:
            continue
        was = quantile(sorted(traffic.waited[index] for index in own), 0.95)
        now = quantile(sorted(replayed.taken[index] - replayed.arrival[index] for index in own), 0.95)
        error = _error(was, now)
        if error > worst:
            worst, worst_job = error, traffic.jobs[job]
    word: FitWord = "good" if worst <= _GOOD else "fair" if worst <= _FAIR else "poor"
    return Fit(word, quantile(recorded, 0.5), quantile(recorded, 0.95), replayed_p50, replayed_p95, worst, worst_job)


def _error(recorded: float, replayed: float) -> float:
    if not isfinite(replayed):
        return inf
    apart = abs(replayed - recorded)
    return 0.0 if apart <= _NOISE_S else apart / max(recorded, _NOISE_S)


def _distance(base: Baseline) -> float:
    """Mean difference of the waits, job by job: what chooses between orders."""
    waits = base.replayed.waits()
    return sum(abs(now - was) for now, was in zip(waits, base.traffic.waited, strict=True)) / max(1, len(waits))


def _out_of_order(rows: Sequence[TraceRow]) -> float:
    """Of the jobs that workers of several queues took while an earlier queue of theirs had one waiting: the share of
    all that they took."""
    slack = int(AT_ONCE_S * 1e9)
    events: list[tuple[int, int, TraceRow]] = []
    for row in rows:
        if row.dequeued_at_ns - row.enqueued_at_ns > 2 * slack:
            events.append((row.enqueued_at_ns + slack, 0, row))
            events.append((row.dequeued_at_ns - slack, 1, row))
        if len(row.worker_queues) > 1 and row.queue in row.worker_queues:
            events.append((row.dequeued_at_ns, 2, row))
    events.sort(key=lambda event: (event[0], event[1]))
    waiting: Counter[str] = Counter()
    taken = wrong = 0
    for _, kind, row in events:
        if kind == 0:
            waiting[row.queue] += 1
        elif kind == 1:
            waiting[row.queue] -= 1
        else:
            taken += 1
            place = row.worker_queues.index(row.queue)
            wrong += any(waiting[name] > 0 for name in row.worker_queues[:place])
    return wrong / taken if taken else 0.0
