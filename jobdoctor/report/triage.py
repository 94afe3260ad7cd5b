"""Triage: every job, ranked by the worker time that fixing it would give back a day.

A day's figures are the recorded ones divided by the days that were recorded, all jobs by the same; what was recorded
for less than a day counts as one, so that ten busy minutes promise nothing that was not seen.
"""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobdoctor import words
from jobdoctor.diagnosis import measure
from jobdoctor.model import Diagnosis, Finding, Saving, VerdictWhere, Where

WIDTH = 80
_DAY_NS = 86_400 * 1_000_000_000
_FIGURE = 12
_SEVERITY_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


class TriageRow(Struct, frozen=True):
    """One job. Times are ms a day, over all its executions."""

    job: str
    executions: int  # recorded, not a day
    where: VerdictWhere
    headline: str
    worker_ms: float  # how long workers are busy with it
    saving_ms: Saving  # of that: what its findings inside the job would give back
    waiting_ms: float  # what its findings around the job would take off its waits
    finding: Finding | None  # what gives back most worker time, or else the first one; hints aside


class Triage(Struct, frozen=True):
    """Best first. ``days``: what the figures were divided by."""

    rows: list[TriageRow]
    from_ns: int
    to_ns: int
    days: float


def triage(diagnoses: Sequence[Diagnosis]) -> Triage:
    """The jobs of these diagnoses, the most worker time to give back first, then the most waiting."""
    return of_rows(
        [row_of(each) for each in diagnoses],
        min((each.history.from_ns for each in diagnoses), default=0),
        max((each.history.to_ns for each in diagnoses), default=0),
    )


def of_rows(rows: Sequence[TriageRow], from_ns: int, to_ns: int) -> Triage:
    """The same of rows that were made one by one, whose times are over the whole window."""
    days = max(1.0, (to_ns - from_ns) / _DAY_NS)
    daily = [
        replace(
            row,
            worker_ms=row.worker_ms / days,
            saving_ms=Saving(*(getattr(row.saving_ms, end) / days for end in ("low", "mid", "high"))),
            waiting_ms=row.waiting_ms / days,
        )
        for row in rows
    ]
    daily.sort(key=lambda row: (-row.saving_ms.mid, -row.waiting_ms, -row.worker_ms, row.job))
    return Triage(daily, from_ns, to_ns, days)


def row_of(diagnosis: Diagnosis) -> TriageRow:
    """One job, with its times over the whole window: they are not divided by its days yet."""
    history = diagnosis.history
    number = history.executions_total
    each_ms = history.run_ms.mean or measure.run_ms(history.executions)
    mains = [one for one in diagnosis.findings if one.part_of is None and one.severity != "info"]

    def together(where: Where, at_most_ms: float) -> Saving:
        savings = [one.saving_ms for one in mains if one.where == where]
        low, mid, high = (
            min(at_most_ms, sum(getattr(one, end) for one in savings)) * number for end in ("low", "mid", "high")
        )
        return Saving(low, mid, high)

    return TriageRow(
        job=history.job,
        executions=history.executions_total,
        where=diagnosis.verdict.where,
        headline=diagnosis.verdict.headline,
        worker_ms=each_ms * number,
        saving_ms=together("inside", each_ms),
        waiting_ms=together("around", each_ms + history.wait_ms.mean).mid,
        finding=max(mains, key=lambda one: one.saving_ms.mid if one.where == "inside" else 0.0, default=None),
    )


def render_json(found: Triage) -> str:
    """Schema 1, with a final newline. Times are ms a day."""
    return json.dumps(
        {
            "schema": 1,
            "window": {"from": words.iso(found.from_ns), "to": words.iso(found.to_ns)},
            "days": round(found.days, 3),
            "jobs": [_job_json(row) for row in found.rows],
        },
        indent=2,
    ) + "\n"  # fmt: skip


def _job_json(row: TriageRow) -> dict[str, Any]:
    finding = row.finding
    return {
        "job": row.job,
        "executions": row.executions,
        "where": row.where,
        "headline": row.headline,
        "worker_ms_per_day": round(row.worker_ms, 1),
        "saving_ms_per_day": {end: round(getattr(row.saving_ms, end), 1) for end in ("low", "mid", "high")},
        "waiting_ms_per_day": round(row.waiting_ms, 1),
        "finding": finding
        and {
            "code": finding.code,
            "name": finding.name,
            "severity": finding.severity,
            "title": finding.title,
            "callsite": finding.callsite,
        },
    }


def render_text(found: Triage, *, color: bool = False, limit: int | None = None) -> str:
    """A table for any terminal, with a final newline."""
    shown = found.rows[:limit]
    console = Console(
        file=io.StringIO(),
        width=WIDTH,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, width=WIDTH)
    table.add_column("gives back", width=_FIGURE)
    table.add_column("worker time", width=_FIGURE)
    table.add_column("job, and what to look at first", ratio=1, overflow="fold")
    for row in shown:
        table.add_row(_gives_back(row), words.duration(row.worker_ms), _what(row))
    console.print(Text(_title(found)))
    console.print()
    console.print(table)
    if len(shown) < len(found.rows):
        console.print(
            Text(f"\nand {words.count(len(found.rows) - len(shown), 'more job', 'more jobs')}; --limit 0 shows all")
        )
    if shown:
        # In one line whatever its width, to be copied.
        console.print(Text(f"\nNext: jobdoctor report {words.clean(shown[0].job)}"), soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _title(found: Triage) -> str:
    jobs = words.count(len(found.rows), "job")
    window = f"{words.instant(found.from_ns).removesuffix(' UTC')} to {words.instant(found.to_ns)}"
    recorded_ms = (found.to_ns - found.from_ns) / 1e6
    recorded = words.duration(recorded_ms).replace(" ", "\N{NO-BREAK SPACE}")
    per = "for each day" if found.days > 1 else f"in the {recorded} that were recorded"
    return textwrap.fill(f"{jobs}, {window}. Worker time {per}:", WIDTH).replace("\N{NO-BREAK SPACE}", " ")


def _gives_back(row: TriageRow) -> Text:
    saving = row.saving_ms
    if saving.mid >= 0.05:
        of = f" {words.share(measure.share(saving.mid, row.worker_ms))}" if row.worker_ms else ""
        return Text(words.duration(saving.mid) + of, style="bold")
    if row.waiting_ms >= 0.05:
        return Text(f"wait {words.duration(row.waiting_ms)}")
    return Text("-")


def _what(row: TriageRow) -> Text:
    text = Text(words.clean(row.job), style="bold")
    finding = row.finding
    if finding is None:
        said = row.headline if row.where == "unknown" else "nothing found"
        return text.append(f"\n{words.clean(said)}", style="not bold dim")
    at = f" at {finding.callsite}" if finding.callsite and finding.callsite not in finding.title else ""
    text.append(words.clean(f"\n{finding.code} {finding.name}"), style=_SEVERITY_STYLES[finding.severity])
    return text.append(words.clean(f": {finding.title}{at}"), style="not bold")
