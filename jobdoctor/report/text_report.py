"""The report for a terminal: 80 columns, colours only where they are wanted, everything said in words too."""

from __future__ import annotations

import io
import re
import textwrap

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from jobdoctor import words
from jobdoctor.model import STEP_TITLES, Check, Finding
from jobdoctor.report import deaths, predictions
from jobdoctor.report.context import ReportContext
from jobdoctor.report.findings import LEAST_SAVING_MS, FindingView, StepView
from jobdoctor.report.fitted_code import fitted
from jobdoctor.report.ledger import LedgerEntry

WIDTH = 80
BAR = 28

VERDICTS = {
    "inside": "INSIDE THE JOB",
    "around": "AROUND THE JOB",
    "both": "INSIDE AND AROUND THE JOB",
    "none": "NOTHING WRONG",
    "unknown": "NOT ENOUGH DATA",
}
_SEVERITY_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
_STATUS_MARKS = {
    "found": ("!", "found", "bold red"),
    "clear": ("+", "clear", "green"),
    "not_checked": ("?", "not checked", ""),
    "crashed": ("x", "crashed", "magenta"),
}
#: Around the job is drawn lighter than inside it.
_INSIDE, _AROUND = "█", "░"
#: Of a stack; the HTML report has them all.
_SHOWN_FRAMES = 8
_TOGETHER = "\N{NO-BREAK SPACE}"
_NUMBER_AND_UNIT = re.compile(r"(\d) ((?:ms|s|min|h|d|B|kB|MB|GB|TB|KiB|MiB|GiB)\b)")
_VERDICT_STYLES = {"none": "bold green", "unknown": "bold"}


def render(report: ReportContext, *, color: bool = False, width: int = WIDTH) -> str:
    """The report of one job, with a final newline. Plain text unless ``color``."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        no_color=not color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
        markup=False,
        legacy_windows=False,
    )
    _head(console, report)
    _ledger(console, report)
    _what_to_do(console, report)
    _deaths(console, report)
    _over_time(console, report)
    _checklist(console, report)
    _capture(console, report)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _print(console: Console, text: str, style: str = "", indent: int = 0) -> None:
    lines = [
        line.replace(_TOGETHER, " ")
        for whole in words.clean(text).splitlines() or [""]
        for line in textwrap.wrap(_unbroken(whole), console.width - indent, break_on_hyphens=False) or [""]
    ]
    for line in lines:
        console.print(Padding(Text(line, style=style, overflow="fold"), (0, 0, 0, indent)))


def _item(console: Console, mark: str, text: str, style: str = "", indent: int = 0) -> None:
    """A text whose lines stand below one another, behind its mark. A no-break space in it is printed as a space."""
    room = console.width - indent - len(mark)
    lines = textwrap.wrap(_unbroken(words.clean(text)), room, break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        _print(console, (" " * len(mark) if number else mark) + line.replace(_TOGETHER, " "), style, indent)


def _unbroken(text: str) -> str:
    """A number stays on the line of its unit."""
    return _NUMBER_AND_UNIT.sub(rf"\1{_TOGETHER}\2", text)


def _heading(console: Console, text: str) -> None:
    console.print()
    _print(console, text, "bold underline" if console.is_terminal else "bold")


def _head(console: Console, report: ReportContext) -> None:
    _print(console, report.job, "bold")
    failed_with = f": {', '.join(report.failed_with)}" if report.failed_with else ""
    failures = f" ({words.number(report.failures)} did not finish{failed_with})" if report.failures else ""
    _print(console, f"{words.count(report.executions, 'execution')}{failures}")
    _print(console, f"{words.instant(report.from_ns).removesuffix(' UTC')} to {words.instant(report.to_ns)}", "dim")
    console.print()
    verdict = report.verdict
    _print(
        console,
        f"{VERDICTS[verdict.where]}  ({words.share(verdict.confidence)} sure)",
        _VERDICT_STYLES.get(verdict.where, "bold red"),
    )
    _print(console, report.headline.problem, "bold")
    gain = f"{report.headline.gain} {report.headline.gain_of}".strip()
    for label, text in (("do:", report.headline.action), ("gain:", gain)):
        if text:
            _item(console, f"{label:<6}", text)
    console.print()
    for label, quantiles in (("runs", report.run_ms), ("waits", report.wait_ms)):
        if quantiles.count:
            _print(
                console,
                f"{label:<7}p50 {words.duration(quantiles.p50):<13}p95 {words.duration(quantiles.p95):<13}"
                f"p99 {words.duration(quantiles.p99)}",
            )


def _ledger(console: Console, report: ReportContext) -> None:
    ledger = report.ledger
    if not ledger.bar:
        return
    _heading(console, f"Where {words.duration(ledger.wall_ms)} go, from enqueue to reap")
    around = f"{_AROUND} around it {words.duration(ledger.around_ms)} {words.share(ledger.around_ms / ledger.wall_ms)}"
    inside = f"{_INSIDE} inside the job {words.duration(ledger.inside_ms)}"
    _print(console, f"{inside} {words.share(ledger.inside_ms / ledger.wall_ms)}, {around}", "", 2)
    _parts(console, ledger.bar, ledger.entries)
    if ledger.run_bar:
        _print(console, f"The run alone, {words.duration(ledger.run_ms)}:", "", 2)
        _parts(console, ledger.run_bar, ledger.entries)


def _parts(console: Console, bar: list[LedgerEntry], entries: list[LedgerEntry]) -> None:
    for entry in bar:
        if entry.share >= 0.01:
            _ledger_line(console, entry, entries)
    rest = [entry for entry in bar if entry.share < 0.01]
    if rest:
        _print(
            console,
            f"{words.count(len(rest), 'smaller part')}, {words.duration(sum(entry.ms for entry in rest))} together",
            "",
            2,
        )


def _ledger_line(console: Console, entry: LedgerEntry, entries: list[LedgerEntry]) -> None:
    bar = max(1, round(entry.share * BAR))
    drawn = (_AROUND if entry.around else _INSIDE) * bar
    details = [one.detail for one in entries if one.name == entry.name and one.detail]
    line = f"{entry.title:<19}{words.duration(entry.ms):>11} {words.share(entry.share):>5}  {drawn}"
    _print(console, line, "", 2)
    if details:
        more = f" and {len(details) - 1} more" if len(details) > 1 else ""
        _print(console, f"{details[0]}{more}", "dim", 6)


def _what_to_do(console: Console, report: ReportContext) -> None:
    if not report.findings:
        return
    _heading(console, "What to do")
    for number, view in enumerate(report.findings, 1):
        if number > 1:
            console.print()
        _finding(console, number, view)


def _finding(console: Console, number: int, view: FindingView) -> None:
    finding = view.finding
    _item(console, f"{f'{number}.':<3}", finding.title, "bold")
    _print(console, f"{finding.severity}, {finding.code} {finding.name}", _SEVERITY_STYLES.get(finding.severity, ""), 3)
    if finding.callsite:
        _print(console, f"at {finding.callsite}", "", 3)
    _print(console, _saving(finding, view.saving_share), "", 3)
    console.print()
    _print(console, finding.recommendation.text, "", 3)
    if finding.recommendation.snippet:
        console.print()
        snippet = words.clean(finding.recommendation.snippet).rstrip("\n")
        for line in fitted(snippet, console.width - 6):
            console.print(Padding(Text(line, style="cyan", overflow="fold"), (0, 0, 0, 6)))
    if finding.evidence:
        console.print()
        for evidence in finding.evidence[:4]:
            _item(console, "- ", evidence.text, "", 3)
    for related in view.related:
        _item(console, "with it: ", f"{related.finding.code} {related.finding.name}: {related.finding.title}", "", 3)


def _saving(finding: Finding, share: float) -> str:
    saving = finding.saving_ms
    if saving.mid < LEAST_SAVING_MS:
        return f"{words.share(finding.confidence)} sure"
    of_all = f" ({words.share(share)} of it)" if share >= 0.01 else ""
    spread = f", {words.duration(saving.low)} to {words.duration(saving.high)}" if saving.high > saving.low else ""
    return f"saves {words.duration(saving.mid)} each time{of_all}{spread}; {words.share(finding.confidence)} sure"


def _over_time(console: Console, report: ReportContext) -> None:
    if report.over_time.changes:
        _heading(console, "What changed")
        for change in report.over_time.changes:
            _item(console, "- ", change, "", 2)
    if report.kept:
        _heading(console, "What became of predictions")
        for kept in report.kept:
            _item(console, "- ", predictions.sentence(kept), "", 2)


def _deaths(console: Console, report: ReportContext) -> None:
    if not report.deaths:
        return
    _heading(console, deaths.heading(report.deaths))
    for card in report.deaths:
        executions = words.count(card.executions, "execution")
        _item(console, "- ", f"{card.title} ({executions}): {card.suspect}", "bold", 2)
        for term, text in card.facts:
            _item(console, f"{term}: ", text, "", 4)
        if card.stack:
            _print(console, f"{card.stack_title}:", "", 4)
        for frame in card.stack[:_SHOWN_FRAMES]:
            _item(console, "", f"{frame.callsite} {frame.function}", "" if frame.application else "dim", 6)


def _checklist(console: Console, report: ReportContext) -> None:
    _heading(console, "Checklist")
    for step in report.steps:
        _step(console, step)


def _step(console: Console, step: StepView) -> None:
    _print(console, f"{step.number} {STEP_TITLES[step.step]}", "bold", 2)
    if not step.checks:
        _print(console, "? not checked: this version has no rule for this step", "", 4)
    for check in step.checks:
        if check.status != "clear":
            _check(console, check)
    clear = [f"{check.code}{_TOGETHER}{check.name}" for check in step.checks if check.status == "clear"]
    if clear:
        mark, word, style = _STATUS_MARKS["clear"]
        _item(console, f"{mark} {word + ':':<13}", ", ".join(clear), style, 4)


def _check(console: Console, check: Check) -> None:
    mark, word, style = _STATUS_MARKS[check.status]
    _print(console, f"{mark} {word + ':':<13}{check.code} {check.name}", style, 4)
    if check.reason:
        _print(console, check.reason, "dim", 19)


def _capture(console: Console, report: ReportContext) -> None:
    capture = report.capture
    _heading(console, "Capture")
    overhead = f", jobdoctor's own cost {words.duration(capture.overhead_ms)} each" if capture.looked_at else ""
    _print(console, f"{words.number(capture.looked_at)} of {words.number(capture.total)} looked at{overhead}", "", 2)
    if capture.lost:
        _print(console, f"{words.count(capture.lost, 'recording')} lost before reaching the store", "", 2)
    if capture.truncated:
        _print(console, "at least one recording was cut to its bound", "", 2)
    seen = [f"{row.channel} ({', '.join(row.libraries)})" for row in capture.probes if row.status == "active"]
    if seen:
        _item(console, "calls seen: ", ", ".join(seen), "", 2)
    for probe in capture.probes:
        for reason in probe.reasons:
            _print(console, f"{probe.channel} calls not seen: {reason}", "", 2)
    for sentence, executions in capture.not_captured:
        _print(console, f"{sentence} ({words.count(executions, 'execution')})", "", 2)
