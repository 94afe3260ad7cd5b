"""slo-missed: the job takes longer from enqueue to done than was promised for it.

## What it looks for

A promise for the job (`@jobdoctor.slo(within="30s")` on its function, or over it `[tool.jobdoctor.slo_ms]`) that the
95th percentile of its time from enqueue to done misses; or, of a few jobs, more than chance can have made late. All
attempts of one enqueue count together, with the pauses between them. It says what the late ones spent their time on:
waiting in the queue, running, or waiting to be tried again. And how many of them were moved to the slowest queue,
because the run alone takes longer than was promised.

## Why it costs time

Somebody waits for the result, and was told how long. A promise that is missed every twentieth time is missed for most
of those who come back often.

## What to do

Where the wait misses it: a queue of its own in front of the long jobs (`jobdoctor.enqueue` chooses it by the promise,
`jobdoctor run --slo` listens in that order), or more workers. Where the run does: the findings inside the job come
first; a job that was moved returns by itself when it is faster. Where retries do: mend what fails. Otherwise change the
promise.

## When it is a false alarm

When nobody needs the job that fast: then the promise is wrong, and not the job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.attempts import Chain, chains
from jobdoctor.diagnosis.measure import words_ms, words_share
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.diagnosis.waiting import queues_of
from jobdoctor.model import Evidence, Finding, JobHistory, RecommendationKind, Where
from jobdoctor.promises import seconds_of_queue, spelt
from jobdoctor.words import count, instant


@dataclass(frozen=True)
class _Taken:
    """What one enqueue took from beginning to end, in ms."""

    whole: float
    wait: float
    run: float

    @property
    def pauses(self) -> float:
        """Neither waiting in the queue nor running: between attempts."""
        return max(0.0, self.whole - self.wait - self.run)


class SloMissed(Rule):
    """JD704."""

    code = "JD704"
    name = "slo-missed"
    step = "queue"
    kind = "queue"
    where = "around"
    related_to = (
        "JD701", "JD702", "JD703", "JD706", "JD201", "JD203", "JD206", "JD301", "JD305", "JD401", "JD402", "JD403",
        "JD404", "JD405", "JD406", "JD407", "JD408", "JD501", "JD502", "JD503", "JD601", "JD602", "JD604",
    )  # fmt: skip

    min_jobs = Limit(20, "jobs", "ended jobs below which a 95th percentile means nothing", "customary: 1 / (1 - 0.95)")
    fewest_jobs = Limit(5, "jobs", "ended jobs below which nothing is said", "own: three of five is no accident")
    max_chance = Limit(
        0.01, "p", "chance of so many late ones among fewer than min_jobs, had the promise been kept", "customary"
    )
    quantile = Limit(0.95, "share", "share of the jobs that must keep the promise", "DESIGN: p95 from enqueue to done")

    def check(self, history: JobHistory) -> Iterable[Finding]:
        slo = history.slo_ms
        if slo is None:
            raise NotChecked(
                f'No time was promised for this job: put @jobdoctor.slo(within="2s") on its function, or write '
                f'"{history.job}" = 2000 (ms) under [tool.jobdoctor.slo_ms]'
            )
        taken = [_taken(chain) for chain in chains(history.trace) if _whole(chain)]
        if len(taken) < self.limits.min_jobs and not self._beyond_chance(taken, slo):
            raise NotChecked(
                f"{len(taken)} ended jobs in the trace, {self.limits.min_jobs:.0f} needed for a 95th percentile: run "
                f"the job more often, or look at a longer window (--since)"
            )
        reached = measure.quantile([each.whole for each in taken], self.limits.quantile)
        if reached > slo:
            yield self._finding(history, taken, slo, reached)

    def _beyond_chance(self, taken: Sequence[_Taken], slo: float) -> bool:
        """Whether so many were late that the promise cannot have been kept, few as they are: a binomial test."""
        late, number, missed = sum(each.whole > slo for each in taken), len(taken), 1 - self.limits.quantile
        chance = sum(comb(number, k) * missed**k * (1 - missed) ** (number - k) for k in range(late, number + 1))
        return number >= self.limits.fewest_jobs and chance < self.limits.max_chance

    def _finding(self, history: JobHistory, taken: Sequence[_Taken], slo: float, reached: float) -> Finding:
        late = [each for each in taken if each.whole > slo]
        parts = {
            "wait": measure.mean(each.wait for each in late),
            "run": measure.mean(each.run for each in late),
            "pauses": measure.mean(each.pauses for each in late),
        }
        demoted = _demoted(history)
        # What was moved waits because it runs for so long.
        too_slow = demoted is not None and measure.quantile([each.run for each in taken], self.limits.quantile) > slo
        most = "run" if too_slow else max(parts, key=lambda name: parts[name])
        share = len(late) / len(taken)
        excess = sum(each.whole - slo for each in late) / len(taken)
        all_of_it = parts[most] * share
        run = measure.mean(each.run for each in taken)
        where, kind, text, snippet = _until_faster(slo, run) if too_slow else _advice(most, history, slo, run)
        low, high = sorted((min(excess, all_of_it), all_of_it))
        return self.finding(
            severity="warning",
            confidence=0.9,
            title=(
                f"The 95th percentile from enqueue to done is {words_ms(reached)}, and {words_ms(slo)} were promised: "
                f"{len(late)} of {len(taken)} jobs were late"
            ),
            cost_ms=excess,
            saving=(low if most == "wait" else 0.0, (low + high) / 2, high),
            text=text,
            snippet=snippet,
            kind=kind,
            where=where,
            evidence=[
                Evidence(
                    "queue",
                    f"Of the late ones' time {words_ms(parts['wait'])} was waiting in the queue, "
                    f"{words_ms(parts['run'])} running, {words_ms(parts['pauses'])} between attempts",
                    {
                        "slo_ms": slo,
                        "p95_ms": round(reached, 3),
                        "p50_ms": round(measure.quantile([each.whole for each in taken], 0.5), 3),
                        "late": len(late),
                        "late_share": round(share, 4),
                        "jobs": len(taken),
                        "late_wait_ms": round(parts["wait"], 3),
                        "late_run_ms": round(parts["run"], 3),
                        "late_pauses_ms": round(parts["pauses"], 3),
                    },
                ),
                *([] if demoted is None else [demoted]),
            ],
        )


def _demoted(history: JobHistory) -> Evidence | None:
    """How many were moved to the slowest queue, out of which, since when."""
    moved = [execution for execution in history.executions if execution.demoted_from]
    if not moved:
        return None
    first = min(moved, key=lambda execution: execution.demoted_at_ns)
    # The trace has them all, and does not say who moved them: whoever ran in that queue from then on.
    ran = sum(row.queue == first.queue and row.dequeued_at_ns >= first.demoted_at_ns for row in history.trace)
    number = max(ran, len(moved))
    return Evidence(
        "queue",
        f"{count(number, 'of its jobs was', 'of its jobs were')} moved from {first.demoted_from} to {first.queue}, and "
        f"run there, since {instant(first.demoted_at_ns)}: its run alone breaks the promise, and others had to wait",
        {
            "moved": number,
            "from_queue": first.demoted_from,
            "to_queue": first.queue,
            "since_at_ns": first.demoted_at_ns,
        },
    )


def _whole(chain: Chain) -> bool:
    """Whether the trace has it from its enqueue to its end; one that a person stopped has none."""
    return chain.rows[0].attempt == 1 and chain.last.outcome in ("finished", "failed", "timeout", "killed")


def _taken(chain: Chain) -> _Taken:
    first = chain.rows[0]
    # What was enqueued for later is awaited from then on.
    begin = first.enqueued_at_ns if first.scheduled else first.created_at_ns
    wait = sum(max(0, row.dequeued_at_ns - row.enqueued_at_ns) for row in chain.rows)
    run = sum(max(0, row.reaped_at_ns - row.dequeued_at_ns) for row in chain.rows)
    return _Taken(max(0, chain.last.reaped_at_ns - begin) / 1e6, wait / 1e6, run / 1e6)


def _until_faster(slo: float, run: float) -> tuple[Where, RecommendationKind, str, str]:
    return (
        "inside",
        "optimize",
        f"Shorten the run, or promise more: it takes {words_ms(run)} on average, of {words_ms(slo)} that were "
        f"promised, so its jobs are moved to the slowest queue. After 20 runs in a row within {words_ms(0.8 * slo)} "
        f"it returns by itself. The findings inside the job say where the time goes",
        "",
    )


def _advice(most: str, history: JobHistory, slo: float, run: float) -> tuple[Where, RecommendationKind, str, str]:
    queue = queues_of(history.trace)[0]
    name = history.job.rpartition(".")[2]
    if most == "wait":
        return (
            "around",
            "queue",
            f"Give it a queue that is looked at before {queue}, or workers of its own: it runs {words_ms(run)}, "
            f"{words_share(run / slo)} of what was promised, and waits for the rest",
            _promised_snippet(name, slo)
            if seconds_of_queue(queue) is None
            else "$ jobdoctor run --slo --workers 4  # more of them; one or more take the fast jobs only",
        )
    if most == "run":
        return (
            "inside",
            "optimize",
            f"Shorten the run: it takes {words_ms(run)} on average, of {words_ms(slo)} that were promised. The "
            f"findings inside the job say where",
            "",
        )
    return (
        "inside",
        "retry",
        "Mend what makes the first attempt fail: the late ones were waiting to be tried again",
        "",
    )


def _promised_snippet(name: str, slo: float) -> str:
    return (
        f'@jobdoctor.slo(within="{spelt(slo / 1_000)}")\ndef {name}(...): ...\n\n'
        f"jobdoctor.enqueue({name}, ...)\n$ jobdoctor run --slo  # the queues of promises, fastest first"
    )
