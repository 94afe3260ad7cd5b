"""What-if as text and as JSON: waits before and after a change, their intervals, and the promises."""

from __future__ import annotations

import io
import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from math import isfinite
from typing import Any

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobdoctor import words
from jobdoctor.queueing.bootstrap import Interval
from jobdoctor.queueing.changes import Reserve, Split, Workers
from jobdoctor.queueing.search import Found
from jobdoctor.queueing.traffic import Pool
from jobdoctor.queueing.whatif import Fit, Outcome, Waits

WIDTH = 80
#: The column of the jobs, beside the figures.
_JOB = 36
#: Jobs in the table; JSON has all.
SHOWN_JOBS = 20
_STYLES = {True: "green", False: "bold red"}


class WhatIf(Struct, frozen=True):
    """A change and what would come of it. ``source``: where the traffic is from, in words."""

    source: str
    from_ns: int  # 0: the traffic has no dates
    to_ns: int
    fit: Fit
    outcome: Outcome
    found: Found | None = None  # of a search


# ---------------------------------------------------------------------------------------------------------------- text


def render_text(whatif: WhatIf, *, color: bool = False) -> str:
    """For any terminal, with a final newline."""
    outcome = whatif.outcome
    console = Console(
        file=io.StringIO(),
        width=WIDTH,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
    )
    console.print(Text(heading(whatif)))
    if whatif.found is not None:
        console.print(Text(search_words(whatif.found)))
    else:
        console.print(Text(change_words(outcome), style="bold"))
    console.print(Text(textwrap.fill(fit_words(whatif.fit), WIDTH), style="yellow" if _doubtful(whatif.fit) else ""))
    console.print()
    console.print(_table(outcome))
    if len(outcome.before) > SHOWN_JOBS:
        console.print(
            Text(f"and {len(outcome.before) - SHOWN_JOBS:,} jobs that wait less in all; --format json has them")
        )
    console.print()
    console.print(Text(workers_words(outcome)))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _table(outcome: Outcome) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, width=WIDTH)
    table.add_column("job", ratio=1, overflow="fold")
    table.add_column("wait p50", width=8)
    table.add_column("wait p95", width=8)
    table.add_column("95% interval", width=19)
    after = {waits.job: waits for waits in outcome.after} if outcome.changes else {}
    for before in shown(outcome):
        _rows(table, before, after.get(before.job))
    if len(outcome.before) > 1:
        _rows(table, outcome.all_before, outcome.all_after if outcome.changes else None)
    return table


def shown(outcome: Outcome) -> list[Waits]:
    """The jobs of the table: those that the changes name first, those with a promise, then those that wait most of all
    together."""
    named = [f".{change.job}" for change in outcome.changes if not isinstance(change, Workers | Reserve | Split)]

    def rank(waits: Waits) -> tuple[bool, bool, float, str]:
        apart = not any(f".{waits.job}".endswith(name) for name in named)
        return apart, waits.slo_s is None, -waits.mean * waits.jobs, waits.job

    ranked = sorted(outcome.before, key=rank)
    return ranked[:SHOWN_JOBS]


def _rows(table: Table, before: Waits, after: Waits | None) -> None:
    table.add_row(
        Text(words.folded(words.clean(before.job), _JOB) or "all jobs", style="bold"),
        seconds(before.p50), seconds(before.p95), interval_words(before.p95_interval),
    )  # fmt: skip
    if after is None:  # no change, or one that took the last of them away
        if before.slo_s is not None:
            table.add_row(_promise(before))
        return
    note = Text("  after")
    if after.queues != before.queues and before.job:
        note.append(f", on {words.clean(', '.join(after.queues))}")
    if before.slo_s is not None:
        note.append("\n").append(_promise(after))
        if before.met != after.met:
            note.append(f"\n  before: p95 {seconds(before.done_p95)}, {'kept' if before.met else 'missed'}")
    table.add_row(note, seconds(after.p50), seconds(after.p95), interval_words(after.p95_interval))


def _promise(waits: Waits) -> Text:
    note = Text(f"  {seconds(waits.slo_s)} promised, p95 {seconds(waits.done_p95)}: ")
    return note.append("kept" if waits.met else "missed", style=_STYLES[bool(waits.met)])


def heading(whatif: WhatIf) -> str:
    """What was replayed."""
    traffic = sum(waits.jobs for waits in whatif.outcome.before)
    kinds = words.count(len(whatif.outcome.before), "job")
    window = ""
    if whatif.from_ns:
        window = f", {words.instant(whatif.from_ns).removesuffix(' UTC')} to {words.instant(whatif.to_ns)}"
    return textwrap.fill(f"{words.count(traffic, 'execution')} of {kinds} from {whatif.source}{window}", WIDTH)


def change_words(outcome: Outcome) -> str:
    """The options that were given."""
    if not outcome.changes:
        return "No change: the waits as they are"
    return textwrap.fill("What if: " + " ".join(str(change) for change in outcome.changes), WIDTH)


def search_words(found: Found) -> str:
    """What a search came to, and what it tried."""
    tried = words.count(len(found.tried), "change", "changes") + " tried, the cheapest first"
    if found.changes is not None and not found.changes:
        said = "Every promise is kept as it is: nothing to change"
    elif found.changes is not None:
        said = "The smallest change that keeps every promise: " + " ".join(map(str, found.changes))
        tried += f"; cost {found.tried[-1].cost:g}"
    else:
        late = next(each for each in found.tried if each.changes == found.nearest).missed
        nearest = " ".join(map(str, found.nearest)) or "no change"
        if late:
            said = f"Nothing that was tried keeps every promise. Nearest: {nearest}, which misses {', '.join(late)}"
            tried += "" if found.exhausted else "; others were left out"
        else:
            said = f"No change keeps every promise. The smallest that keeps all others: {nearest}"
    lines = [textwrap.fill(words.clean(said), WIDTH), textwrap.fill(f"({tried})", WIDTH)]
    lines += [
        textwrap.fill(
            words.clean(
                f"{each.job} cannot keep its promise in any queue: its run alone takes {seconds(each.run_p95)} (p95), "
                f"and {seconds(each.slo_s)} are promised"
            ),
            WIDTH,
        )
        for each in found.hopeless
    ]
    for each in found.tried[1:9]:
        verdict = "keeps all" if not each.missed else f"misses {', '.join(each.missed)}"
        line = words.clean(f"{' '.join(map(str, each.changes))}: {verdict}")
        lines.append(textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent="      "))
    if len(found.tried) > 9:
        lines.append(f"  and {len(found.tried) - 9} more")
    return "\n".join(lines)


def fit_words(fit: Fit) -> str:
    """How well the unchanged replay gives what was recorded."""
    if fit.word == "unknown":
        return "The traffic has no recorded waits: nothing says how well the replay fits"
    where = f" (of {words.clean(fit.worst_job)})" if fit.worst_job else ""
    off = f"at most {words.share(fit.error)} off{where}" if isfinite(fit.error) else "jobs that it never takes"
    said = (
        f"Fit: {fit.word}. The unchanged replay gives a p95 wait of {seconds(fit.replayed_p95)}, "
        f"{seconds(fit.recorded_p95)} was recorded; {off}"
    )
    if fit.word == "poor":
        said += (
            ". Something held the jobs up that is not in the recordings (workers that were not there or not recorded): "
            "take the figures below for no more than a direction"
        )
    return said


def workers_words(outcome: Outcome) -> str:
    """Who is there, and how busy."""
    before = f"Workers: {_pools(outcome.pools_before)}; {words.share(outcome.utilisation_before)} busy"
    after = f"After:   {_pools(outcome.pools_after)}; {words.share(outcome.utilisation_after)} busy"
    return "\n".join(
        textwrap.fill(words.clean(line), WIDTH, subsequent_indent=" " * 9)
        for line in ([before, after] if outcome.changes else [before])
    )


def _pools(pools: Sequence[Pool]) -> str:
    alike: Counter[tuple[tuple[str, ...], str]] = Counter()
    for pool in pools:
        alike[pool.queues, pool.strategy] += pool.size
    named = [
        f"{size} on {', '.join(queues)}" + (f" ({strategy.replace('_', '-')})" if strategy != "default" else "")
        for (queues, strategy), size in alike.items()
    ]
    return "; ".join(named) or "none"


def seconds(value: float | None) -> str:
    """A time in s in few characters; one that never ends says so."""
    if value is not None and value == float("inf"):
        return "never"
    if value is None or not 59.95 <= value < 172_800:
        return words.duration(None if value is None else 1_000 * value)
    return f"{value / 60:.1f} min" if value < 3_597 else f"{value / 3_600:.1f} h"


def interval_words(interval: Interval | None) -> str:
    return f"{seconds(interval.low)} to {seconds(interval.high)}" if interval else "too few"


def _doubtful(fit: Fit) -> bool:
    return fit.word in ("poor", "fair")


# ---------------------------------------------------------------------------------------------------------------- JSON


def render_json(whatif: WhatIf) -> str:
    """Schema 1, with a final newline. Times are ms; null: unknown, or never."""
    outcome = whatif.outcome
    after = {waits.job: waits for waits in outcome.after}
    return json.dumps(
        {
            "schema": 1,
            "source": whatif.source,
            "window": {"from": words.iso(whatif.from_ns), "to": words.iso(whatif.to_ns)} if whatif.from_ns else None,
            "changes": [str(change) for change in outcome.changes],
            "fit": {
                "word": whatif.fit.word,
                "recorded_wait_ms": {"p50": _ms(whatif.fit.recorded_p50), "p95": _ms(whatif.fit.recorded_p95)}
                if whatif.fit.word != "unknown"
                else None,
                "replayed_wait_ms": {"p50": _ms(whatif.fit.replayed_p50), "p95": _ms(whatif.fit.replayed_p95)},
                "error": round(whatif.fit.error, 4) if isfinite(whatif.fit.error) else None,
                "worst_job": whatif.fit.worst_job or None,
            },
            "workers": {
                "before": outcome.workers_before,
                "after": outcome.workers_after,
                "pools_before": [_pool_json(pool) for pool in outcome.pools_before],
                "pools_after": [_pool_json(pool) for pool in outcome.pools_after],
            },
            "utilisation": {
                "before": round(outcome.utilisation_before, 4),
                "after": round(outcome.utilisation_after, 4),
            },
            "jobs": [_job_json(before, after.get(before.job)) for before in outcome.before],
            "all": _job_json(outcome.all_before, outcome.all_after),
            "slos_met": None if all(each.met is None for each in outcome.after) else not outcome.missed,
            "find": whatif.found and _found_json(whatif.found),
        },
        indent=2,
    ) + "\n"  # fmt: skip


def _job_json(before: Waits, after: Waits | None) -> dict[str, Any]:
    return {
        "job": before.job or None,
        "executions": before.jobs,
        "slo_ms": _ms(before.slo_s),
        "before": _waits_json(before),
        "after": after and _waits_json(after),
    }


def _waits_json(waits: Waits) -> dict[str, Any]:
    return {
        "queues": list(waits.queues),
        "executions": waits.jobs,
        "wait_ms": {
            "p50": _ms(waits.p50),
            "p95": _ms(waits.p95),
            "mean": _ms(waits.mean),
            "p50_interval": _interval_json(waits.p50_interval),
            "p95_interval": _interval_json(waits.p95_interval),
        },
        "done_ms": {"p95": _ms(waits.done_p95)},
        "slo_met": waits.met,
    }


def _interval_json(interval: Interval | None) -> list[float | None] | None:
    return [_ms(interval.low), _ms(interval.high)] if interval else None


def _pool_json(pool: Pool) -> dict[str, Any]:
    return {"queues": list(pool.queues), "workers": pool.size, "order": pool.strategy}


def _found_json(found: Found) -> dict[str, Any]:
    return {
        "changes": None if found.changes is None else [str(change) for change in found.changes],
        "nearest": [str(change) for change in found.nearest],
        "exhausted": found.exhausted,
        "hopeless": [
            {"job": each.job, "run_p95_ms": _ms(each.run_p95), "slo_ms": _ms(each.slo_s)} for each in found.hopeless
        ],
        "tried": [
            {"changes": [str(change) for change in each.changes], "cost": each.cost, "missed": list(each.missed)}
            for each in found.tried
        ],
    }


def _ms(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else round(1_000 * value, 3)
