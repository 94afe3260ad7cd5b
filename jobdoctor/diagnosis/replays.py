"""What a change of the queues would spare, by a replay of what was recorded: for rules and for the engine.

The newest ``MOST_ROWS`` rows around the job are replayed, so that a diagnosis stays quick. Where the replay without a
change does not give the recorded waits (a poor fit), it says nothing, and the rules go by their formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean
from typing import Any, NamedTuple

from msgspec.structs import replace

from jobdoctor.diagnosis.measure import words_ms
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.errors import ConfigError
from jobdoctor.model import Evidence, Finding, JobHistory, TraceRow
from jobdoctor.queueing.bootstrap import Interval, mean_interval, quantile
from jobdoctor.queueing.changes import FAST, Workers, apart, apply
from jobdoctor.queueing.drain import Backlog, Outlook, outlook
from jobdoctor.queueing.replay import Replayed, replay
from jobdoctor.queueing.traffic import Pool, Traffic, in_order, steady
from jobdoctor.queueing.whatif import Baseline, baseline, utilisation

#: Rows replayed at most: a replay of as many takes some hundredths of a second.
MOST_ROWS = 5_000
#: Fewer of the job say nothing about its waits.
_LEAST_OWN = 5
#: For other jobs: how many of them there must be for a 95th percentile, ...
_LEAST_OTHERS = 20
#: ... how busy the workers: below this, jobs seldom meet (M/M/1 at 20% waits a quarter of a run), ...
_LEAST_BUSY = 0.2
#: ... and how much of their wait must go, and in ms, to be worth a sentence.
_LEAST_DROP, _LEAST_DROP_S = 0.05, 0.05
#: Findings that get one: each is a replay. More than a report has, as a rule.
_PRICED = 20


class Spared(NamedTuple):
    """The waits of a job before and after a change. ``share``: of its mean wait, what goes; 0 to 1."""

    share: float
    p95_before_s: float
    p95_after_s: float
    executions: int  # replayed
    mean_s: float  # what goes of the mean wait
    mean_interval: Interval | None  # of that, 95%, by a block bootstrap; None: too few of the job


#: Going first on the same workers; and with one worker more that takes nothing else.
GoingFirst = tuple[Spared, Spared]


def replayable(history: JobHistory) -> Baseline | None:
    """The traffic around the job; None when there is too little of it, or the replay does not fit."""
    rows = _newest(history)
    if sum(row.job == history.job for row in rows) < _LEAST_OWN:
        return None
    base = baseline(rows)
    return base if base.fit.word in ("good", "fair") else None


def _newest(history: JobHistory) -> list[TraceRow]:
    return sorted(history.neighbours, key=lambda row: row.reaped_at_ns)[-MOST_ROWS:]


def going_first(history: JobHistory, queue: str, jobs: Sequence[str]) -> GoingFirst | None:
    """These jobs of the queue in one that its workers look at first."""
    base = replayable(history)
    if base is None or queue not in base.traffic.queues or not set(jobs) <= set(base.traffic.jobs):
        return None
    traffic = base.traffic.copy()
    fast = queue + FAST
    pools = apart(traffic, base.pools, queue, jobs, fast, queue)
    first = _spared(history.job, base, traffic, pools)
    reserved = _spared(history.job, base, traffic, [*pools, steady([fast], 1)])
    return (first, reserved) if first is not None and reserved is not None else None


def with_workers(history: JobHistory, queue: str, number: int) -> Spared | None:
    """So many workers for the queue."""
    base = replayable(history)
    if base is None:
        return None
    try:
        traffic, pools = apply(base.traffic, base.pools, [Workers((queue,), number)])
    except ConfigError:  # workers listen to it in several ways: no number says which
        return None
    return _spared(history.job, base, traffic, pools)


def with_listeners(
    history: JobHistory, pools: Sequence[tuple[Sequence[str], Sequence[tuple[int, int]]]]
) -> Spared | None:
    """Workers more, by their queues and the stretches in which each is there (ns since the epoch)."""
    base = replayable(history)
    if base is None:
        return None
    origin = base.traffic.origin_ns
    more = [
        Pool(tuple(queues), tuple(((since - origin) / 1e9, (until - origin) / 1e9) for since, until in spans))
        for queues, spans in pools
    ]
    return _spared(history.job, base, base.traffic, [*base.pools, *more])


def outlook_of(
    history: JobHistory, queue: str, depth: int, stretch_ns: tuple[int, int, int], horizon_s: float
) -> Outlook | None:
    """What would drain a backlog. ``stretch_ns``: since when it grew, up to when all arrivals are recorded, and now."""
    base = replayable(history)
    if base is None or queue not in base.traffic.queues:
        return None
    begin_s, end_s, now_s = ((at - base.traffic.origin_ns) / 1e9 for at in stretch_ns)
    backlog = Backlog(queue, depth, max(begin_s, base.traffic.arrival[0]), end_s, now_s)
    return outlook(base.traffic, base.pools, backlog, history.job, horizon_s)


def words_of(replayed: GoingFirst | None) -> str:
    """The end of a sentence."""
    if replayed is None:
        return ""
    first, reserved = replayed
    return (
        f". In a replay of {first.executions:,} executions the p95 wait goes from {_s(first.p95_before_s)} to "
        f"{_s(first.p95_after_s)} by going first, and to {_s(reserved.p95_after_s)} with that worker"
    )


def data_of(replayed: Sequence[Spared] | None) -> list[dict[str, Any]] | None:
    """JSON-like; None where nothing was replayed."""
    if replayed is None:
        return None
    return [
        {
            "share": round(each.share, 4),
            "p95_before_ms": round(1_000 * each.p95_before_s, 3),
            "p95_after_ms": round(1_000 * each.p95_after_s, 3),
            "executions": each.executions,
            "mean_spared_ms": round(1_000 * each.mean_s, 3),
            "mean_spared_interval_ms": each.mean_interval and [round(1_000 * end, 3) for end in each.mean_interval],
        }
        for each in replayed
    ]


def _spared(job: str, base: Baseline, traffic: Traffic, pools: Sequence[Pool]) -> Spared | None:
    before = _waits(base.traffic, base.replayed, job)
    after = _waits(traffic, replay(traffic, pools), job)
    if not all(map(isfinite, after)) or not before or fmean(before) <= 0:
        return None
    spared = [was - now for was, now in zip(before, after, strict=True)]
    return Spared(
        share=max(0.0, 1 - fmean(after) / fmean(before)),
        p95_before_s=quantile(sorted(before), 0.95),
        p95_after_s=quantile(sorted(after), 0.95),
        executions=len(traffic),
        mean_s=fmean(spared),
        mean_interval=mean_interval(spared),
    )


def _waits(traffic: Traffic, replayed: Replayed, job: str) -> list[float]:
    number = traffic.jobs.index(job)
    return [
        replayed.taken[index] - replayed.arrival[index] for index, own in enumerate(traffic.job) if own == number
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------------- other jobs


def priced(history: JobHistory, findings: Sequence[Finding]) -> list[Finding]:
    """The findings, those inside the job with the wait that acting would save other jobs of its queues: a virtual
    speedup. (The name and the idea are those of C. Curtsinger and E. Berger, "Coz", SOSP 2015; here it is computed by a
    replay.) Nothing is added where nobody would notice."""
    chosen = [
        position
        for position, finding in enumerate(findings)
        if finding.where == "inside"
        and finding.saving_ms.mid >= TimeRule.trivial_ms.default
        and not any("other_job" in evidence.data for evidence in finding.evidence)
    ][:_PRICED]
    if not chosen or all(row.job == history.job for row in history.neighbours):
        return list(findings)
    base = replayable(history)
    if base is None or not _busy(base):
        return list(findings)
    told = list(findings)
    number = base.traffic.jobs.index(history.job)
    for position in chosen:
        saving_ms = findings[position].saving_ms.mid
        service = [
            max(0.1 * each, each - saving_ms / 1_000) if own == number else each
            for own, each in zip(base.traffic.job, base.traffic.service, strict=True)
        ]
        other = _others(history.job, base, service)
        if other is not None:
            evidence = other.evidence(f"were this job {words_ms(saving_ms)} faster", {"faster_ms": round(saving_ms, 3)})
            told[position] = replace(told[position], evidence=[*told[position].evidence, evidence])
    return told


def without_stalls(history: JobHistory, stalled: Sequence[str], usual_ms: float) -> Evidence | None:
    """What others would wait, had these executions (their ids) taken no longer than usual. None where it is not known,
    or nobody would notice."""
    base = replayable(history)
    if base is None:
        return None
    stood = set(stalled)
    found = [row.execution_id in stood for row in in_order(_newest(history))]
    if not any(found):
        return None
    service = [
        min(each, usual_ms / 1_000) if still else each
        for still, each in zip(found, base.traffic.service, strict=True)
    ]  # fmt: skip
    other = _others(history.job, base, service)
    if other is None:
        return None
    each_ms = 1_000 * other.spared_s / sum(found)
    return other.evidence(
        f"each that stood still made the jobs behind it wait {words_ms(each_ms)} in all; without them",
        {"stalled": sum(found), "waited_for_each_ms": round(each_ms, 3)},
    )


class _Other(NamedTuple):
    """The other job whose 95th percentile would fall most, in s, and what all others would wait less, in s together."""

    job: str
    before_s: float
    after_s: float
    spared_s: float
    executions: int

    def evidence(self, if_: str, data: dict[str, Any]) -> Evidence:
        return Evidence(
            "queue",
            f"Others wait less, too: {if_}, the p95 wait of {self.job} would drop from {_s(self.before_s)} to "
            f"{_s(self.after_s)} (replay of {self.executions:,} executions)",
            {
                "other_job": self.job,
                **data,
                "p95_before_ms": round(1_000 * self.before_s, 3),
                "p95_after_ms": round(1_000 * self.after_s, 3),
                "executions": self.executions,
            },
        )


def _busy(base: Baseline) -> bool:
    return utilisation(base.traffic, base.replayed, base.pools) >= _LEAST_BUSY


def _others(job: str, base: Baseline, service: list[float]) -> _Other | None:
    """With these service times; None where no other job would wait noticeably less."""
    number = base.traffic.jobs.index(job)
    queues = {queue for own, queue in zip(base.traffic.job, base.traffic.queue, strict=True) if own == number}
    names = {base.traffic.queues[queue] for queue in queues}
    # Workers that look into one of its queues connect it with others.
    near = {name for pool in base.pools if names & set(pool.queues) for name in pool.queues}
    faster = base.traffic.copy()
    faster.service = service
    replayed = replay(faster, base.pools)
    members: dict[int, list[int]] = {}
    for index, other in enumerate(base.traffic.job):
        if other != number and base.traffic.queues[base.traffic.queue[index]] in near:
            members.setdefault(other, []).append(index)
    best: tuple[float, str, float, float] | None = None
    spared_s = 0.0
    for other, own in members.items():
        waits, shorter = (
            [each.taken[index] - each.arrival[index] for index in own] for each in (base.replayed, replayed)
        )
        spared_s += sum(waits) - sum(shorter)
        before, after = quantile(sorted(waits), 0.95), quantile(sorted(shorter), 0.95)
        drop = before - after
        if len(own) < _LEAST_OTHERS or drop < _LEAST_DROP_S or drop < _LEAST_DROP * before:
            continue
        if best is None or (drop, base.traffic.jobs[other]) > best[:2]:
            best = (drop, base.traffic.jobs[other], before, after)
    return None if best is None else _Other(*best[1:], spared_s, len(faster))


def _s(seconds: float) -> str:
    return words_ms(1_000 * seconds)
