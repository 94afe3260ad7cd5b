"""Predicted against achieved: each sick job of the sample shop beside the twin that had the recommended cure.

Achieved is the difference of the twins' mean runs (for a finding inside the job) or of their means from enqueue to
done (around it), in one run of the shop. Findings that promise no time (a missing timeout, a killed job) have no row.

``python benchmarks/savings.py --runs 5 --output benchmarks/savings.md``
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.shop_runs import Pair, runs
from jobdoctor.diagnosis.predictions import mean_ms
from jobdoctor.model import Saving


@dataclass(frozen=True)
class Measured:
    """One pair in one run, ms for each execution."""

    code: str
    job: str
    predicted: Saving
    achieved_ms: float

    @property
    def within(self) -> bool:
        return self.predicted.low <= self.achieved_ms <= self.predicted.high

    @property
    def error(self) -> float:
        """Of the middle of the range, as a share of what was achieved."""
        return abs(self.predicted.mid - self.achieved_ms) / max(abs(self.achieved_ms), 0.001)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the table there, too")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    text = table([measured(one) for one in runs(options.runs)], load)
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")


def measured(pairs: list[Pair]) -> list[Measured]:
    """The pairs whose planted finding promises time. Several findings of its rule promise together."""
    found = []
    for pair in pairs:
        planted = [f for f in pair.sick.findings if f.code == pair.code and f.saving_ms.mid > 0]
        if not planted:
            continue
        where = planted[0].where
        low, mid, high = (sum(getattr(f.saving_ms, end) for f in planted) for end in ("low", "mid", "high"))
        achieved = mean_ms(pair.sick.history, where) - mean_ms(pair.healthy.history, where)
        found.append(Measured(pair.code, pair.sick.history.job, Saving(low, mid, high), achieved))
    return found


def table(measured: list[list[Measured]], load: float) -> str:
    """Markdown: medians over the runs, one row a rule."""
    by_code: dict[str, list[Measured]] = {}
    for one in measured:
        for row in one:
            by_code.setdefault(row.code, []).append(row)
    rows = []
    for code, several in sorted(by_code.items()):
        low, mid, high = (
            statistics.median(getattr(row.predicted, end) for row in several) for end in ("low", "mid", "high")
        )
        achieved = [row.achieved_ms for row in several]
        rows.append(
            f"| {code} | {several[0].job.removeprefix('sample_app.jobs.')} | {low:.0f} to {high:.0f} ms | {mid:.0f} ms "
            f"| {statistics.median(achieved):.0f} ms ({min(achieved):.0f} to {max(achieved):.0f}) "
            f"| {sum(row.within for row in several)} of {len(several)} "
            f"| {statistics.median(row.error for row in several):.0%} |"
        )
    everything = [row for one in measured for row in one]
    within = sum(row.within for row in everything)
    middle = statistics.median(row.error for row in everything) if everything else 0.0
    return "\n".join(
        [
            "# Predicted and achieved savings",
            "",
            f"`python benchmarks/savings.py`, {datetime.now(UTC):%Y-%m-%d}: {len(measured)} runs of the sample shop "
            f"on {os.cpu_count()} cores, load {load:.1f} at the start. Medians over the runs; in brackets the spread.",
            f"Within the predicted range: {within} of {len(everything)} ({within / max(1, len(everything)):.0%}). "
            f"Median error of the middle value: {middle:.0%}.",
            "",
            "| rule | job | predicted | middle | achieved | within | error of the middle |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
