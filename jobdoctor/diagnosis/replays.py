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
from jobdoctor.model import Evidence, Finding, JobHistory
from jobdoctor.queueing.bootstrap import quantile
from jobdoctor.queueing.changes import FAST, Workers, apart, apply
from jobdoctor.queueing.replay import Replayed, replay
from jobdoctor.queueing.traffic import Pool, Traffic, steady
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
#: Findings that get one: each is a replay.
_PRICED = 5


class Spared(NamedTuple):
    """The waits of a job before and after a change. ``share``: of its mean wait, what goes; 0 to 1."""

    share: float
    p95_before_s: float
    p95_after_s: float
    executions: int  # replayed


#: Going first on the same workers; and with one worker more that takes nothing else.
GoingFirst = tuple[Spared, Spared]


def replayable(history: JobHistory) -> Baseline | None:
    """The traffic around the job; None when there is too little of it, or the replay does not fit."""
    rows = sorted(history.neighbours, key=lambda row: row.reaped_at_ns)[-MOST_ROWS:]
    if sum(row.job == history.job for row in rows) < _LEAST_OWN:
        return None
    base = baseline(rows)
    return base if base.fit.word in ("good", "fair") else None


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
        }
        for each in replayed
    ]


def _spared(job: str, base: Baseline, traffic: Traffic, pools: Sequence[Pool]) -> Spared | None:
    before = _waits(base.traffic, base.replayed, job)
    after = _waits(traffic, replay(traffic, pools), job)
    if not all(map(isfinite, after)) or not before or fmean(before) <= 0:
        return None
    return Spared(
        share=max(0.0, 1 - fmean(after) / fmean(before)),
        p95_before_s=quantile(sorted(before), 0.95),
        p95_after_s=quantile(sorted(after), 0.95),
        executions=len(traffic),
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
        and finding.part_of is None
        and finding.severity != "info"
        and finding.saving_ms.mid >= TimeRule.trivial_ms.default
    ][:_PRICED]
    if not chosen or all(row.job == history.job for row in history.neighbours):
        return list(findings)
    base = replayable(history)
    if base is None or utilisation(base.traffic, base.replayed, base.pools) < _LEAST_BUSY:
        return list(findings)
    told = list(findings)
    for position in chosen:
        evidence = _others(history.job, base, findings[position].saving_ms.mid)
        if evidence is not None:
            told[position] = replace(told[position], evidence=[*told[position].evidence, evidence])
    return told


def _others(job: str, base: Baseline, saving_ms: float) -> Evidence | None:
    """The other job whose 95th percentile would fall most."""
    number = base.traffic.jobs.index(job)
    queues = {queue for own, queue in zip(base.traffic.job, base.traffic.queue, strict=True) if own == number}
    names = {base.traffic.queues[queue] for queue in queues}
    # Workers that look into one of its queues connect it with others.
    near = {name for pool in base.pools if names & set(pool.queues) for name in pool.queues}
    faster = base.traffic.copy()
    faster.service = [
        max(0.1 * service, service - saving_ms / 1_000) if own == number else service
        for own, service in zip(faster.job, faster.service, strict=True)
    ]
    replayed = replay(faster, base.pools)
    best: tuple[float, str, float, float] | None = None
    for other, name in enumerate(base.traffic.jobs):
        members = [
            index
            for index, own in enumerate(base.traffic.job)
            if own == other and base.traffic.queues[base.traffic.queue[index]] in near
        ]
        if other == number or len(members) < _LEAST_OTHERS:
            continue
        before, after = (
            quantile(sorted(each.taken[index] - each.arrival[index] for index in members), 0.95)
            for each in (base.replayed, replayed)
        )
        drop = before - after
        if drop >= _LEAST_DROP_S and drop >= _LEAST_DROP * before and (best is None or drop > best[0]):
            best = (drop, name, before, after)
    if best is None:
        return None
    _, name, before, after = best
    return Evidence(
        "queue",
        f"Others wait less, too: were this job {words_ms(saving_ms)} faster, the p95 wait of {name} would drop from "
        f"{_s(before)} to {_s(after)} (replay of {len(faster):,} executions)",
        {
            "other_job": name,
            "faster_ms": round(saving_ms, 3),
            "p95_before_ms": round(1_000 * before, 3),
            "p95_after_ms": round(1_000 * after, 3),
            "executions": len(faster),
        },
    )


def _s(seconds: float) -> str:
    return words_ms(1_000 * seconds)
