"""Predicted against achieved: each sick job of the sample shop beside the twin that had the recommended cure.

The pairs run one by one, the sick job and its twin in turns, with nothing beside them. What was achieved is
- of findings about the queue: the difference of the twins' times from enqueue to done;
- of findings about executions that fail and are not made up for: the time of those without a result;
- of jobs that nobody needs: all of their time;
- of work that is shared among workers: the time from a round's first enqueue to its last end, and
- of all others: worker time. What the twin's executions took for as much work is taken from what the sick ones took,
  and shared among them. A cure that saves whole executions (duplicates, retries, tiny jobs) is so held to the same
  measure as one that makes each shorter.

Executions that were profiled are left out where three others can speak, as the rules leave them out: they are slower
by the profiler's own cost, which no cure gives back. Executions that end differently (a timeout, a success) are two
kinds, as often as the catalogue plans them: each kind's mean is winsorised by itself, because on a busy machine a few
executions are far off, and has its own standard error. Where the difference is within twice that error, nothing can be
said: such pairs are listed, and are not counted as right or wrong.

``python benchmarks/savings.py --runs 3 --output benchmarks/savings.md`` takes 7 to 9 minutes.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.machine import heading
from benchmarks.shop_runs import Pair, pairs, recorded
from jobdoctor.diagnosis.measure import winsorised
from jobdoctor.model import JobHistory, Saving, TraceRow
from sample_app.catalogue import CASES

#: Their executions end without a result, and the cure lets them do their work in the same time: what is given back is
#: the time that was for nothing.
LOST = frozenset({"JD306", "JD606"})
#: The cure is that the job is not there: all of its time is given back.
DELETED = frozenset({"JD802"})
#: The cure shares the work among workers: what counts is the time from the enqueue to the end of all of a round.
SHARED = frozenset({"JD407"})
#: Pairs that take long, and are told by one run: waits of a second and more, or a hundred executions.
ONCE = frozenset({"JD701", "JD702", "JD703", "JD704", "JD705", "JD706", "JD805"})
#: Findings that promise no time: what they save is memory, errors, or the time of others.
NO_TIME = frozenset({"JD201", "JD202", "JD204", "JD303"})
#: Pairs whose twins do something else, and why.
NOT_COMPARABLE = {
    "JD208": "the twin's print shop is less often busy",
    "JD506": "what is saved is a broken state",
    "JD602": "the twin's bank fails less often",
    "JD603": "the twin does not fail, and asks as often",
}
#: Executions of a kind that were not profiled from which the profiled ones are left out.
ENOUGH = 3
#: Twins that had the cure of another finding as well: both promise together, for calls that are not the same.
CURED_TOO = {"JD406": "JD405"}


@dataclass(frozen=True)
class Measured:
    """One pair in one run, ms for each execution of the sick job."""

    code: str
    job: str
    predicted: Saving
    achieved_ms: float
    error_ms: float  # standard error of what was achieved

    @property
    def told(self) -> bool:
        """False where the machine's noise is as large as what was promised or achieved."""
        return max(abs(self.achieved_ms), self.predicted.mid) > 2 * self.error_ms

    @property
    def within(self) -> bool:
        """As far as the measurement is exact: one standard error either way."""
        return self.predicted.low - self.error_ms <= self.achieved_ms <= self.predicted.high + self.error_ms

    @property
    def off(self) -> float:
        """The error of the middle of the range, as a share of what was achieved."""
        return abs(self.predicted.mid - self.achieved_ms) / max(abs(self.achieved_ms), 0.001)

    @property
    def width(self) -> float:
        """Of the range, as a share of its middle."""
        return (self.predicted.high - self.predicted.low) / self.predicted.mid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few executions of each job, once")
    parser.add_argument("--stores", type=Path, nargs="+", help="of demos that were kept, instead of new runs")
    parser.add_argument("--output", type=Path, help="write the table there, too")
    options = parser.parse_args()
    if options.quick:
        options.runs = 1
    loads = [os.getloadavg()[0]]
    shops = map(recorded, options.stores) if options.stores else _shops(options.runs, options.quick)
    every = [measured(shop) for shop in shops]
    text = table(every, heading("python benchmarks/savings.py", [*loads, os.getloadavg()[0]]))
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")


def _shops(number: int, quick: bool) -> Iterator[list[Pair]]:
    """Runs of the pairs that promise time and can be compared; those that take long are in the first run only."""
    for done in range(number):
        left_out = {*NOT_COMPARABLE, *NO_TIME, *(ONCE if done else ())}
        words = [word for case in CASES if case.code not in left_out for word in ("--only", case.code)]
        print(f"run {done + 1} of {number}", file=sys.stderr)
        yield pairs(*(["--quick"] if quick else []), *words)


def measured(shop: Sequence[Pair]) -> list[Measured]:
    """The pairs whose planted finding promises time. Several findings of its rule promise together."""
    found = []
    for pair in shop:
        planted = [f for f in pair.sick.findings if f.code == pair.code and f.saving_ms.mid > 0]
        if not planted or pair.code in NOT_COMPARABLE:
            continue
        promising = [f for f in pair.sick.findings if f.code in (pair.code, CURED_TOO.get(pair.code))]
        low, mid, high = (sum(getattr(f.saving_ms, end) for f in promising) for end in ("low", "mid", "high"))
        if planted[0].step == "queue":
            value, error = _waits_ms(pair)
        elif pair.code in LOST:
            value, error = _lost_ms(pair, lambda row: row.outcome != "finished")
        elif pair.code in DELETED:
            value, error = _lost_ms(pair, lambda _: True)
        elif pair.code in SHARED:
            value, error = _rounds_ms(pair)
        else:
            value, error = _worker_ms(pair)
        found.append(Measured(pair.code, pair.sick.history.job, Saving(low, mid, high), value, error))
    return found


def _worker_ms(pair: Pair) -> tuple[float, float]:
    sick, sick_error = _total(pair.sick.history, _run_ms)
    healthy, healthy_error = _total(pair.healthy.history, _run_ms)
    as_much = pair.sick_work / pair.healthy_work
    number = len(pair.sick.history.trace)
    return (sick - as_much * healthy) / number, math.hypot(sick_error, as_much * healthy_error) / number


def _lost_ms(pair: Pair, where: Callable[[TraceRow], bool]) -> tuple[float, float]:
    lost, error = _total(pair.sick.history, _run_ms, where)
    number = len(pair.sick.history.trace)
    return lost / number, error / number


def _waits_ms(pair: Pair) -> tuple[float, float]:
    (sick, sick_error), (healthy, healthy_error) = (
        (total / len(side.history.trace), error / len(side.history.trace))
        for side in (pair.sick, pair.healthy)
        for total, error in [_total(side.history, _sojourn_ms)]
    )
    return sick - healthy, math.hypot(sick_error, healthy_error)


def _rounds_ms(pair: Pair) -> tuple[float, float]:
    means, variance = [], 0.0
    for side, rounds in ((pair.sick, pair.sick_work), (pair.healthy, pair.healthy_work)):
        rows = sorted(side.history.trace, key=lambda row: row.created_at_ns)
        size = max(1, round(len(rows) / rounds))
        lasted = [
            (max(row.reaped_at_ns for row in part) - min(row.enqueued_at_ns for row in part)) / 1e6
            for part in (rows[start : start + size] for start in range(0, len(rows), size))
        ]
        means.append(statistics.mean(lasted))
        variance += statistics.variance(lasted) / len(lasted) if len(lasted) > 1 else 0.0
    return means[0] - means[1], math.sqrt(variance)


def _run_ms(row: TraceRow) -> float:
    return (row.reaped_at_ns - row.dequeued_at_ns) / 1e6


def _sojourn_ms(row: TraceRow) -> float:
    return (row.reaped_at_ns - row.enqueued_at_ns) / 1e6


def _total(
    history: JobHistory, value: Callable[[TraceRow], float], where: Callable[[TraceRow], bool] = lambda _: True
) -> tuple[float, float]:
    """The sum over all executions, robustly, and its standard error."""
    profiled = {execution.id for execution in history.executions if execution.profile is not None}
    kinds: dict[str, list[TraceRow]] = {}
    for row in filter(where, history.trace):
        kinds.setdefault(row.outcome, []).append(row)
    total, variance = 0.0, 0.0
    for rows in kinds.values():
        unprofiled = [value(row) for row in rows if row.execution_id not in profiled]
        kept = winsorised(unprofiled if len(unprofiled) >= ENOUGH else [value(row) for row in rows])
        total += statistics.mean(kept) * len(rows)
        if len(kept) > 1:
            variance += statistics.variance(kept) / len(kept) * len(rows) ** 2
    return total, math.sqrt(variance)


def table(measured: Sequence[Sequence[Measured]], where: str) -> str:
    """Markdown: medians over the runs, one row a rule."""
    by_code: dict[str, list[Measured]] = {}
    for one in measured:
        for row in one:
            by_code.setdefault(row.code, []).append(row)
    middles = {code: _middle(several) for code, several in sorted(by_code.items())}
    told = [row for row in middles.values() if row.told]
    within = sum(row.within for row in told)
    rows = [
        f"| {code} | {row.job.removeprefix('sample_app.jobs.')} | {_ms(row.predicted.low)} to "
        f"{_ms(row.predicted.high)} | {_ms(row.predicted.mid)} | {_ms(row.achieved_ms)} "
        f"({_spread([each.achieved_ms for each in by_code[code]])}) | {_ms(row.error_ms)} "
        f"| {('yes' if row.within else 'no') if row.told else 'cannot be told'} "
        f"| {f'{row.off:.0%}' if row.told else ''} |"
        for code, row in middles.items()
    ]
    return "\n".join(
        [
            "# Predicted and achieved savings",
            "",
            f"{where} {len(measured)} runs of the sample shop, one pair at a time"
            + (f" ({', '.join(sorted(ONCE))}: the first run only)." if len(measured) > 1 else "."),
            "",
            f"Within the predicted range: {within} of {len(told)} pairs ({within / max(1, len(told)):.0%}); median "
            f"error of the middle value {_median([row.off for row in told]):.0%}; median width of a range "
            f"{_median([row.width for row in told]):.0%} of its middle. {len(middles) - len(told)} more pairs promise "
            f"less than this machine's noise.",
            "",
            "Milliseconds for each execution of the sick job, medians over the runs; in brackets the spread over them. "
            "*Noise* is the standard error of what was achieved in one run.",
            "",
            "| rule | job | predicted | middle | achieved | noise | within | error of the middle |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "Not compared: " + "; ".join(f"{code} ({why})" for code, why in NOT_COMPARABLE.items()) + ".",
            "",
        ]
    )


def _middle(several: Sequence[Measured]) -> Measured:
    low, mid, high = (
        statistics.median(getattr(row.predicted, end) for row in several) for end in ("low", "mid", "high")
    )
    return Measured(
        several[0].code,
        several[0].job,
        Saving(low, mid, high),
        statistics.median(row.achieved_ms for row in several),
        statistics.median(row.error_ms for row in several),
    )


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def _ms(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 10 else f"{value:,.0f}"


def _spread(values: Sequence[float]) -> str:
    return f"{_ms(min(values))} to {_ms(max(values))}"


if __name__ == "__main__":
    main()
