"""The smallest change that keeps every promise: changes are tried in the order of what they cost.

Costs are our own, and say only what comes before what: settings before workers, workers before code.

=======  ==========================================================================
cost     change
=======  ==========================================================================
1        a job moves to a queue that exists
2        a queue is split by length
3        each worker more, for all queues of its pool or for one alone
5        a job takes three quarters of its time; 7: half; 10: a quarter
=======  ==========================================================================

Combinations cost the sum. A job whose run alone is longer than it promises is made faster in all of them. What is tried
is bounded: the candidates are those that can matter (the jobs that miss their promise, those that take most of their
workers' time, and their queues), and so are the replays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import product
from typing import NamedTuple

from jobdoctor.errors import ConfigError
from jobdoctor.queueing.bootstrap import quantile
from jobdoctor.queueing.changes import FAST, Change, Move, Reserve, Speedup, Split, Workers, apply, named
from jobdoctor.queueing.replay import replay
from jobdoctor.queueing.traffic import Traffic
from jobdoctor.queueing.whatif import SLO_SHARE, Baseline, missing

_MOVE, _SPLIT, _WORKER = 1.0, 2.0, 3.0
_SPEEDUPS = ((0.75, 5.0), (0.5, 7.0), (0.25, 10.0))
_LEAST_FACTOR = 0.25
#: Replays that a search makes at most, and jobs that they run over at most: about half a minute.
MOST_REPLAYS = 150
MOST_JOBS_REPLAYED = 15_000_000
#: Changes at once.
_DEPTH = 3
#: Jobs that are candidates, of each kind.
_HEAVY = 3
_MORE_WORKERS = 8
_RESERVED = 2


class Tried(NamedTuple):
    changes: tuple[Change, ...]
    cost: float
    missed: tuple[str, ...]  # jobs


class Hopeless(NamedTuple):
    """A job whose run alone takes longer than it promises, with any change that is tried. In s."""

    job: str
    run_p95: float
    slo_s: float


class Found(NamedTuple):
    """``changes`` None: nothing that was tried keeps all promises; ``nearest`` then misses fewest, beside those of the
    ``hopeless``, which nothing keeps."""

    changes: tuple[Change, ...] | None
    nearest: tuple[Change, ...]
    tried: list[Tried]
    exhausted: bool  # all candidates were tried
    hopeless: tuple[Hopeless, ...] = ()


class _Option(NamedTuple):
    cost: float
    changes: tuple[Change, ...]
    subject: str  # options of one subject exclude each other


def find(
    base: Baseline,
    slos_s: Mapping[str, float],
    *,
    given: Sequence[Change] = (),
    most: int = MOST_REPLAYS,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Searches, with ``given`` as part of every change. ConfigError when there is no promise."""
    if not slos_s:
        raise ConfigError(
            "--find needs promises to keep, and there are none",
            "give --slo JOB=30s, or write them under [tool.jobdoctor.slo_ms]",
        )
    given = [named(base.traffic, change) for change in given]
    runs = _run_p95(base, given, slos_s)
    faster = {change.job for change in given if isinstance(change, Speedup)}
    hopeless = tuple(
        Hopeless(job, run_s, slos_s[job])
        for job, run_s in runs.items()
        if (1.0 if job in faster else _LEAST_FACTOR) * run_s > slos_s[job]
    )
    slos_s = {job: slo_s for job, slo_s in slos_s.items() if all(job != each.job for each in hopeless)}
    late = _missed(base, given, slos_s)
    tried = [Tried(tuple(given), 0.0, late)]
    if not late:
        return Found(None if hopeless else tuple(given), tuple(given), tried, True, hopeless)
    options = sorted(_options(base, late, given), key=lambda option: (option.cost, str(option.changes)))
    budget = min(most, max(10, MOST_JOBS_REPLAYED // max(1, len(base.traffic))))
    # A job whose run alone is too long has to be faster, whatever else is changed.
    needed = [
        [(cost, Speedup(job, factor)) for factor, cost in _SPEEDUPS if factor * runs[job] <= slos_s[job]]
        for job in slos_s
        if runs[job] > slos_s[job]
    ]
    starts = [
        (sum(cost for cost, _ in each), tuple(change for _, change in each)) for each in product(*needed)
    ]  # fmt: skip
    queue: list[tuple[float, int, tuple[int, ...]]] = []  # cost, which start, which options
    for number, (cost, _) in enumerate(starts):
        heappush(queue, (cost, number, ()))
    best = tried[0]
    while queue and len(tried) <= budget:
        cost, number, chosen = heappop(queue)
        start = starts[number][1]
        changes = (*given, *start, *(change for index in chosen for change in options[index].changes))
        if start or chosen:  # without any it was tried
            try:
                missed = _missed(base, changes, slos_s)
            except ConfigError:
                continue  # options that exclude each other
            tried.append(Tried(changes, cost, missed))
            if progress is not None:
                progress(len(tried), budget)
            if not missed:
                return Found(None if hopeless else changes, changes, tried, False, hopeless)
            if len(missed) < len(best.missed):
                best = tried[-1]
        if len(chosen) < _DEPTH:
            subjects = {options[index].subject for index in chosen} | {f"speed {change.job}" for change in start}
            for index in range(chosen[-1] + 1 if chosen else 0, len(options)):
                if options[index].subject not in subjects:
                    heappush(queue, (cost + options[index].cost, number, (*chosen, index)))
    return Found(None, best.changes, tried, not queue, hopeless)


def _run_p95(base: Baseline, given: Sequence[Change], slos_s: Mapping[str, float]) -> dict[str, float]:
    """Of each promised job, how long it keeps a worker, in s."""
    traffic, _ = apply(base.traffic, base.pools, given)
    times: dict[str, list[float]] = {job: [] for job in slos_s}
    for job, service in zip(traffic.job, traffic.service, strict=True):
        if traffic.jobs[job] in times:
            times[traffic.jobs[job]].append(service)
    return {job: quantile(sorted(own), SLO_SHARE) for job, own in times.items()}


def _missed(base: Baseline, changes: Sequence[Change], slos_s: Mapping[str, float]) -> tuple[str, ...]:
    traffic, pools = apply(base.traffic, base.pools, changes)
    return missing(traffic, replay(traffic, pools), slos_s)


def _options(base: Baseline, late: Sequence[str], given: Sequence[Change]) -> list[_Option]:
    traffic, pools = base.traffic, base.pools
    home = _queues_by_job(traffic)
    concerned = {queue for job in late for queue in home.get(job, ())}
    serving = [pool for pool in pools if concerned & set(pool.queues)]
    share = _work_by_job(traffic, {queue for pool in serving for queue in pool.queues})
    heaviest = sorted(share, key=lambda job: -share[job])[:_HEAVY]
    split = {change.queue for change in given if isinstance(change, Split)}
    heard = sorted({queue for pool in pools for queue in pool.queues} - split)
    found: list[_Option] = []
    for job in dict.fromkeys([*late, *heaviest]):
        if any(isinstance(change, Move) and change.job == job for change in given):
            continue
        found += [_Option(_MOVE, (Move(job, queue),), f"job {job}") for queue in heard if queue not in home[job]]
    for queue in sorted(concerned - split):
        found.append(_Option(_SPLIT, (Split(queue),), f"split {queue}"))
        found.append(_Option(_SPLIT + _WORKER, (Split(queue), Reserve(queue + FAST, 1)), f"split {queue}"))
        now = sum(pool.size for pool in serving if queue in pool.queues)
        for more in range(1, _MORE_WORKERS + 1):
            found.append(_Option(_WORKER * more, (Workers((queue,), now + more),), f"workers {queue}"))
            if more <= _RESERVED and any(len(pool.queues) > 1 for pool in serving):
                found.append(_Option(_WORKER * more, (Reserve(queue, more),), f"workers {queue}"))
    for job in dict.fromkeys([*heaviest, *late]):
        found += [_Option(cost, (Speedup(job, factor),), f"speed {job}") for factor, cost in _SPEEDUPS]
    return found


def _queues_by_job(traffic: Traffic) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for job, queue in zip(traffic.job, traffic.queue, strict=True):
        found.setdefault(traffic.jobs[job], set()).add(traffic.queues[queue])
    return found


def _work_by_job(traffic: Traffic, queues: set[str]) -> dict[str, float]:
    """Worker time of each job on these queues, in s."""
    wanted = {index for index, name in enumerate(traffic.queues) if name in queues}
    found: dict[str, float] = {}
    for job, queue, service in zip(traffic.job, traffic.queue, traffic.service, strict=True):
        if queue in wanted:
            found[traffic.jobs[job]] = found.get(traffic.jobs[job], 0.0) + service
    return found
