"""Findings as a report shows them: main ones with the related ones below, and by step of the checklist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from jobdoctor import words
from jobdoctor.model import STEP_TITLES, STEPS, Check, Finding, Severity, Status
from jobdoctor.report.source import Source, read_source

#: Below it a saving is said not to be one of time.
LEAST_SAVING_MS = 0.05


class FindingView(Struct, frozen=True):
    finding: Finding
    anchor: str
    saving_share: float  # of the wall time, the middle of the range
    source: Source | None
    no_source: str  # why the lines of its callsite are not shown; empty where they are, or where it has none
    related: list[FindingView]


class StepView(Struct, frozen=True):
    step: str
    number: int
    title: str
    checks: list[Check]
    findings: list[FindingView]
    counts: dict[Status, int]

    @property
    def severity(self) -> Severity | None:
        """The gravest of its findings."""
        graves = {view.finding.severity for view in self.findings}
        order: tuple[Severity, ...] = ("critical", "warning", "info")
        return next((severity for severity in order if severity in graves), None)

    @property
    def gist(self) -> str:
        """The step in one line."""
        if self.findings:
            first = next((view for view in self.findings if view.finding.severity == self.severity), self.findings[0])
            return first.finding.title
        if not self.checks:
            return "This version has no rule for this step"
        told = next((check.reason for check in self.checks if check.status == self.status and check.reason), "")
        return told or f"{words.count(self.counts.get('clear', 0), 'check')}, nothing found"

    @property
    def status(self) -> Status:
        """The most telling status of its checks."""
        if self.counts.get("found"):
            return "found"
        if self.counts.get("crashed"):
            return "crashed"
        # One rule that could not look does not hide that the others did; most of them do.
        return "clear" if self.counts.get("clear", 0) > self.counts.get("not_checked", 0) else "not_checked"


def finding_views(findings: Sequence[Finding], wall_ms: float, root: Path | None) -> list[FindingView]:
    """Main findings with the related ones below them; a related one whose main is not here stands by itself."""
    anchors: dict[str, int] = {}

    def view(finding: Finding, related: list[FindingView]) -> FindingView:
        anchors[finding.code] = anchors.get(finding.code, 0) + 1
        number = anchors[finding.code]
        return FindingView(
            finding=finding,
            anchor=finding.code if number == 1 else f"{finding.code}-{number}",
            saving_share=min(1.0, finding.saving_ms.mid / wall_ms) if wall_ms else 0.0,
            source=(source := read_source(root, finding.callsite) if root and finding.callsite else None),
            no_source=_no_source(root) if finding.callsite and source is None else "",
            related=related,
        )

    mains = [finding for finding in findings if finding.part_of is None]
    below: dict[int, list[Finding]] = {}
    alone: list[Finding] = []
    for finding in findings:
        if finding.part_of is None:
            continue
        of_code = [index for index, main in enumerate(mains) if main.code == finding.part_of]
        same_line = [index for index in of_code if mains[index].callsite == finding.callsite]
        if of_code:
            below.setdefault((same_line or of_code)[0], []).append(finding)
        else:
            alone.append(finding)
    views = [view(main, [view(one, []) for one in below.get(index, [])]) for index, main in enumerate(mains)]
    return views + [view(finding, []) for finding in alone]


def _no_source(root: Path | None) -> str:
    if root is None:
        return "Your lines around it were not asked for."
    return "Your lines around it are not shown: the file was not found here. Run the report where the code lies."


def step_views(checklist: Sequence[Check], findings: Sequence[FindingView]) -> list[StepView]:
    """The eight steps, with their checks and the findings of each."""
    flat = [one for view in findings for one in (view, *view.related)]
    steps = []
    for number, step in enumerate(STEPS, 1):
        checks = [check for check in checklist if check.step == step]
        counts: dict[Status, int] = {}
        for check in checks:
            counts[check.status] = counts.get(check.status, 0) + 1
        mine = [view for view in flat if view.finding.step == step]
        steps.append(StepView(step, number, STEP_TITLES[step], checks, mine, counts))
    return steps
