"""What is found of what was planted, over several runs of the sample shop: the confusion table by rule.

``python benchmarks/accuracy.py --runs 5 --output benchmarks/accuracy.md``
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.machine import heading
from benchmarks.shop_runs import Pair, recorded, runs

ALARMS = ("critical", "warning")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--stores", type=Path, nargs="+", help="of demos that were kept, instead of new runs")
    parser.add_argument("--output", type=Path, help="write the table there, too")
    options = parser.parse_args()
    loads = [os.getloadavg()[0]]
    every = list(map(recorded, options.stores) if options.stores else runs(options.runs))
    text = table(every, heading("python benchmarks/accuracy.py", [*loads, os.getloadavg()[0]]))
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")


def table(measured: Sequence[Sequence[Pair]], where: str) -> str:
    """Markdown: for each rule how often its sick job was found ill with it, and alarms in healthy twins."""
    found: Counter[str] = Counter()
    first: Counter[str] = Counter()
    beside: dict[str, Counter[str]] = {}
    alarms: dict[str, Counter[str]] = {}
    planted: Counter[str] = Counter()
    for one in measured:
        for pair in one:
            planted[pair.code] += 1
            codes = [finding.code for finding in pair.sick.findings]
            found[pair.code] += pair.code in codes
            mains = [f.code for f in pair.sick.findings if f.part_of is None and f.severity in ALARMS]
            first[pair.code] += bool(mains) and mains[0] == pair.code
            beside.setdefault(pair.code, Counter()).update({code for code in mains if code != pair.code})
            wrong = {f.code for f in pair.healthy.findings if f.severity in ALARMS}
            alarms.setdefault(pair.code, Counter()).update(wrong)
    rows = [
        f"| {code} | {found[code]} of {planted[code]} | {first[code]} of {planted[code]} "
        f"| {_listed(beside[code])} | {_listed(alarms[code])} |"
        for code in planted
    ]
    total, wrong = sum(planted.values()), sum(bool(_alarmed(pair)) for one in measured for pair in one)
    return "\n".join(
        [
            "# What is found of what was planted",
            "",
            f"{where} {len(measured)} runs of the sample shop, {len(planted)} pairs.",
            "",
            f"Recall {sum(found.values())} of {total} ({sum(found.values()) / total:.1%}); "
            f"healthy twins with a warning {wrong} of {total} ({wrong / total:.1%}).",
            "",
            "*First*: the planted illness heads the report. *Beside it*: other main findings of the sick job, which "
            "need not be wrong: a job may have two illnesses.",
            "",
            "| planted | found | first | beside it | warnings in its healthy twin |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _alarmed(pair: Pair) -> list[str]:
    return [finding.code for finding in pair.healthy.findings if finding.severity in ALARMS]


def _listed(codes: Counter[str]) -> str:
    return (
        ", ".join(f"{code} ({number})" for code, number in sorted(codes.items(), key=lambda each: (-each[1], each[0])))
        or "-"
    )


if __name__ == "__main__":
    main()
