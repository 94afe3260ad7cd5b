"""The end of a session, in the process that the user started: the baseline and SARIF files, and what the terminal says.

Workers of pytest-xdist tell by the reports of their tests; nothing here needs more than those.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobdoctor import words
from jobdoctor.errors import ConfigError
from jobdoctor.gate import baseline, github, sarif
from jobdoctor.gate.baseline import Baseline, Entry
from jobdoctor.gate.failure import Failure
from jobdoctor.gate.places import Place
from jobdoctor.gate.session import baseline_path

#: Options that leave tests out: (name of the option, how it is written).
_NARROWING = (
    ("keyword", "-k"),
    ("markexpr", "-m"),
    ("deselect", "--deselect"),
    ("ignore", "--ignore"),
    ("ignore_glob", "--ignore-glob"),
    ("lf", "--lf"),
    ("stepwise", "--stepwise"),
)

Told = Sequence[tuple[str, dict[str, Any]]]


def finish(config: pytest.Config, told: Told, ran: Sequence[str], *, why_partial: str) -> tuple[list[str], bool]:
    """Writes the files that were asked for; sentences about it, and whether all could be written."""
    said: list[str] = []
    written = True
    failures = failures_of(told)
    path = config.getoption("jobdoctor_sarif")
    if path:
        file = config.invocation_params.dir / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(sarif.render(failures), encoding="utf-8")
        except OSError as error:
            said.append(f"SARIF not written: {file}: {error.strerror}; give another --jobdoctor-sarif")
            written = False
        else:
            said.append(f"SARIF: {path}, {words.count(len(failures), 'result')}")
    if config.getoption("jobdoctor_update"):
        try:
            said.append(_update(config, told, ran, why_partial))
        except ConfigError as error:
            said.append(f"baseline not written: {error}")
            written = False
    return said, written


def _update(config: pytest.Config, told: Told, ran: Sequence[str], why_partial: str) -> str:
    path = baseline_path(config)
    new = {
        test: msgspec.convert(each["entries"], dict[str, Entry])
        for test, each in told
        if each.get("entries") is not None
    }
    known = {test: jobs for test, jobs in new.items() if jobs}
    with baseline.alone(path):
        old = baseline.read(path) if path.is_file() else Baseline()
        written, stale = baseline.merged(old, known, None if why_partial else ran)
        baseline.write(path, written)
    said = f"baseline: {_shown(path, config)}, {words.count(len(known), 'test')} written"
    if stale:
        said += f", {words.count(len(stale), 'stale one')} removed"
    untouched = len(set(old.tests) - set(known))
    if why_partial and untouched:
        said += f"; {words.count(untouched, 'other')} kept, as {why_partial}"
    return said


def narrowed(config: pytest.Config, *, deselected: int, stopped: bool) -> str:
    """Why not every test there is has run, in words; "" when they all have."""
    for name, option in _NARROWING:
        if config.getoption(name, None):
            return f"{option} was given"
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return "only some paths were given"
    if deselected:
        return "tests were deselected"
    return "the session did not end by itself" if stopped else ""


def failures_of(told: Told) -> list[tuple[str, Failure, Place]]:
    """Every failure at the gate, with its test and where that stands."""
    return [
        (test, msgspec.convert(failure, Failure), Place(each["location"][0], each["location"][1]))
        for test, each in told
        for failure in each["failures"]
    ]


def write(terminal: pytest.TerminalReporter, config: pytest.Config, told: Told, said: Sequence[str]) -> None:
    """The section at the end; nothing when there is nothing to say."""
    if config.getoption("jobdoctor_format") == "github":
        for test, failure, location in failures_of(told):
            for line in github.error_lines(test, [failure], location):
                terminal.write_line(line)
    lines = [*said, *_reports(told), *_remarks(told)]
    if lines:
        terminal.section("jobdoctor")
        for line in lines:
            terminal.write_line(line)


def _reports(told: Told) -> list[str]:
    return list(dict.fromkeys(f"report: {path}" for _, each in told for path in each.get("reports", ())))


def _remarks(told: Told) -> list[str]:
    found = []
    new = sum(len(each.get("new", ())) for _, each in told)
    if new:
        found.append(f"not in the baseline: {words.count(new, 'job')}; --jobdoctor-update adds them")
    less = [line for _, each in told for line in each.get("less", ())]
    if less:
        found.append(f"less than the baseline, which --jobdoctor-update would keep: {less[0]}")
        found += [f"  {line}" for line in less[1:5]]
        if len(less) > 5:
            found.append(f"  and {len(less) - 5} more")
    found += dict.fromkeys(f"time: {remark}" for _, each in told for remark in each.get("timing", ()))
    return found


def _shown(path: Path, config: pytest.Config) -> str:
    try:
        return str(path.relative_to(config.invocation_params.dir))
    except ValueError:
        return str(path)
