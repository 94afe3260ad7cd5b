"""What the demo found, held against what was planted: as a table and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobdoctor import words
from jobdoctor.model import STEP_TITLES, Diagnosis, Finding

if TYPE_CHECKING:
    from jobdoctor.report.context import ReportContext

#: The table is for any terminal.
WIDTH = 80
#: A healthy job may carry hints of severity info.
ALARMS = frozenset({"critical", "warning"})


@dataclass(frozen=True)
class Patient:
    """One job of the shop with its diagnosis."""

    name: str
    diagnosis: Diagnosis
    report: Path
    context: ReportContext

    def finding(self, code: str) -> Finding | None:
        return next((finding for finding in self.diagnosis.findings if finding.code == code), None)

    @property
    def alarms(self) -> list[Finding]:
        return [finding for finding in self.diagnosis.findings if finding.severity in ALARMS]


@dataclass(frozen=True)
class Outcome:
    """All pairs of (planted code, sick job, healthy twin)."""

    cases: list[tuple[str, Patient, Patient]]
    index: Path
    seconds: float = 0.0

    def after(self, seconds: float) -> Outcome:
        return replace(self, seconds=seconds)

    @property
    def missed(self) -> list[tuple[str, Patient]]:
        return [(code, sick) for code, sick, _ in self.cases if sick.finding(code) is None]

    @property
    def false_alarms(self) -> list[tuple[Patient, list[Finding]]]:
        return [(healthy, healthy.alarms) for _, _, healthy in self.cases if healthy.alarms]

    @property
    def all_right(self) -> bool:
        return not self.missed and not self.false_alarms

    def sentences(self) -> list[str]:
        """The result in words, the summary last."""
        lines = [
            f"missed: {code} in {sick.name} (found: {', '.join(f.code for f in sick.diagnosis.findings) or 'nothing'})"
            for code, sick in self.missed
        ]
        lines += [
            f"false alarm: {', '.join(f'{f.code} {f.name} ({f.severity})' for f in alarms)} in {healthy.name}"
            for healthy, alarms in self.false_alarms
        ]
        planted, wrong = len(self.cases), len(self.false_alarms)
        alarms = f"false alarms in {wrong} of" if wrong else "no false alarm in"
        lines.append(
            f"{planted - len(self.missed)} of {planted} planted illnesses found; {alarms} {planted} healthy twins"
        )
        return lines


def to_json(outcome: Outcome) -> str:
    """Schema 1: ``planted``, ``found``, ``missed``, ``false_alarms``, ``seconds``, ``index`` and ``cases``."""
    return json.dumps(
        {
            "schema": 1,
            "planted": len(outcome.cases),
            "found": len(outcome.cases) - len(outcome.missed),
            "missed": [{"code": code, "job": sick.diagnosis.history.job} for code, sick in outcome.missed],
            "false_alarms": [
                {"job": healthy.diagnosis.history.job, "codes": [finding.code for finding in alarms]}
                for healthy, alarms in outcome.false_alarms
            ],
            "seconds": round(outcome.seconds, 1),
            "index": str(outcome.index),
            "cases": [
                {"code": code, "sick": _patient(sick), "healthy": _patient(healthy)}
                for code, sick, healthy in outcome.cases
            ],
        },
        indent=2,
    )


def _patient(patient: Patient) -> dict[str, Any]:
    diagnosis = patient.diagnosis
    return {
        "job": diagnosis.history.job,
        "executions": diagnosis.history.executions_total,
        "where": diagnosis.verdict.where,
        "headline": diagnosis.verdict.headline,
        "saving_ms": round(patient.context.saving_ms, 3),
        "findings": [
            {"code": f.code, "name": f.name, "severity": f.severity, "where": f.where, "title": f.title}
            for f in diagnosis.findings
        ],
        "report": str(patient.report),
    }


def print_table(outcome: Outcome) -> None:
    """One table, sick jobs and their twins, on standard output."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=WIDTH, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, width=WIDTH, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("job and its report\n[dim]report of its healthy twin[/dim]", overflow="fold", ratio=1)
    table.add_column("found, where, saving each time", overflow="fold", width=33)
    step = ""
    for code, sick, healthy in outcome.cases:
        planted = sick.finding(code)
        here = _step_of(sick, code)
        if here != step:
            step = here
            table.add_section()
            table.add_row(f"[bold]{STEP_TITLES.get(step, step)}[/bold]", "")
        if planted is None:
            found = f"[red]{code} was not found[/red]"
        else:
            others = len({f.code for f in sick.diagnosis.findings} - {code})
            more = f"[dim] +{others}[/dim]" if others else ""
            found = f"[{_colour(planted)}]{planted.code}[/] {planted.name}{more}"
        table.add_row(escape(sick.name), found)
        table.add_row(_linked(sick.report), _where(sick, planted))
        table.add_row(_linked(healthy.report), _health(healthy))
    console.print(table)
    for sentence in outcome.sentences()[:-1]:
        console.print(sentence[:1].upper() + sentence[1:], style="red", markup=False)
    console.print(f"All reports: {outcome.index} ({outcome.seconds:.0f} s)", markup=False)
    if not outcome.all_right:
        console.print("On a busy machine jobs disturb one another: `--one-by-one` takes pair by pair", markup=False)
    console.print(outcome.sentences()[-1], style="bold green" if outcome.all_right else "bold red", markup=False)


def _linked(report: Path) -> str:
    """The name of a file, which leads to it on terminals that know links; its folder is said below the table."""
    from rich.markup import escape

    return f"[dim][link={report.resolve().as_uri()}]{escape(report.name)}[/link][/dim]"


def _step_of(patient: Patient, code: str) -> str:
    return next((check.step for check in patient.diagnosis.checklist if check.code == code), "")


def _colour(finding: Finding) -> str:
    return {"critical": "bold red", "warning": "yellow"}.get(finding.severity, "cyan")


def _where(patient: Patient, planted: Finding | None) -> str:
    """Where this illness sits: the verdict weighs all findings, and says "none" where they are hints."""
    if planted is None:
        return patient.diagnosis.verdict.where
    hint = " (a hint)" if planted.severity == "info" else ""
    saving = planted.saving_ms.mid
    return f"{planted.where}{f', saves {words.duration(saving)}' if saving else ''}{hint}"


def _health(patient: Patient) -> str:
    if patient.alarms:
        return "[red]" + ", ".join(f"{finding.code} {finding.name}" for finding in patient.alarms) + "[/red]"
    hints = len(patient.diagnosis.findings)
    return "[green]nothing wrong[/green]" + (f"[dim], {hints} hint{'s' * (hints > 1)}[/dim]" if hints else "")
