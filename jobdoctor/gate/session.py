"""What one process of a test session keeps: the server, the baseline it compares with, what its tests told."""

from __future__ import annotations

import re
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobdoctor.errors import ConfigError
from jobdoctor.gate import baseline, budgets
from jobdoctor.gate.baseline import Baseline
from jobdoctor.gate.budgets import Budget
from jobdoctor.gate.doctor import Doctor, Surroundings
from jobdoctor.gate.embedded_server import EmbeddedServer
from jobdoctor.gate.failure import Failure, GateError
from jobdoctor.gate.timing import Timing
from jobdoctor.pytest_plugin import BASELINE, BUDGET, DOCTOR, FAILURES


class GateSession:
    """Made when the first test uses the plugin."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.updates = bool(config.getoption("jobdoctor_update"))
        self._server = EmbeddedServer()
        self._surroundings = Surroundings(
            redis_url=config.getoption("jobdoctor_redis") or config.getini("jobdoctor_redis") or None,
            worker=config.getini("jobdoctor_worker"),
            server=self._server,
        )
        self._notes: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        """Stops the server."""
        self._server.stop()

    def doctor(self, item: pytest.Item) -> Doctor:
        """The fixture's value for one test."""
        return Doctor(
            self._surroundings,
            item.stash.get(BUDGET, None) or Budget(),
            lambda job: self._timing(item.nodeid, job),
            writes=self.updates,
        )

    @cached_property
    def baseline(self) -> Baseline | None:
        """What to compare with; None while it is written, and where there is none. ConfigError when it is unusable."""
        path = baseline_path(self.config)
        return baseline.read(path) if not self.updates and path.is_file() else None

    def _timing(self, test: str, job: str) -> dict[str, Timing] | None:
        known = self.baseline
        if known is None:
            return None
        entry = known.tests.get(test, {}).get(job)
        return entry.timing if entry is not None else None

    # ---------------------------------------------------------------------------------------------------------- checks

    def check(self, item: pytest.Item, doctor: Doctor | None) -> list[Failure]:
        """What a test that has otherwise passed fails at: its budget, and the baseline."""
        profiles = doctor.profiles if doctor is not None else []
        budget = item.stash.get(BUDGET, None)
        if budget is not None and not profiles:
            how = "call jobdoctor.run() in it" if doctor is not None else "use the fixture jobdoctor in it"
            return [Failure("marker", f"marked with jobdoctor, and nothing was recorded: {how}")]
        failures = []
        for profile in profiles:
            if budget is not None:
                failures += budgets.check(budget, profile)
        if doctor is not None and budget is not None and budget.max_slowdown is not None and not doctor.timings:
            failures.append(Failure("max_slowdown", "no job was timed: call jobdoctor.timed() in it"))
        return failures + self._compare(item.nodeid, doctor)

    def _compare(self, test: str, doctor: Doctor | None) -> list[Failure]:
        if doctor is None:
            return []
        try:
            known = self.baseline
        except ConfigError as error:
            return [Failure("baseline", str(error))]
        if known is None:
            return []
        failures: list[Failure] = []
        before = known.tests.get(test, {})
        notes = self._notes[test] = {"less": [], "new": []}
        for name, profile in baseline.named(doctor.profiles).items():
            entry = before.get(name)
            if entry is None:
                notes["new"].append(name)
                continue
            compared = baseline.compare(entry, profile)
            failures += compared.failures
            notes["less"] += compared.less
        return failures

    # ------------------------------------------------------------------------------------------------------- reporting

    def told(self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> dict[str, Any]:
        """What a test tells the process that writes files, as plain data."""
        doctor = item.stash.get(DOCTOR, None)
        failures: list[Failure] = item.stash.get(FAILURES, [])
        error = call.excinfo.value if call.excinfo is not None else None
        if isinstance(error, GateError):
            failures = error.failures
        told: dict[str, Any] = {
            "failures": msgspec.to_builtins(list(failures)),
            "location": [item.location[0], (item.location[1] or 0) + 1],
            **self._notes.pop(item.nodeid, {}),
        }
        if doctor is None:
            return told
        told["timing"] = [measured.remark for measured in doctor.timings.values() if measured.remark]
        if self.updates and report.passed:
            entries = {name: baseline.entry_of(profile) for name, profile in baseline.named(doctor.profiles).items()}
            for job, measured in doctor.timings.items():
                entries[job].timing = {measured.machine: measured.timing}
            told["entries"] = msgspec.to_builtins(entries)
        folder = self.config.getoption("jobdoctor_report")
        if folder and report.failed:
            told["reports"] = self._write_reports(self.config.invocation_params.dir / folder, item, doctor)
        return told

    def _write_reports(self, folder: Path, item: pytest.Item, doctor: Doctor) -> list[str]:
        """One HTML file a job of the failed test; where each was written, or why not."""
        from jobdoctor.report.context import build_context
        from jobdoctor.report.html_report import render

        said = []
        by_job: dict[str, list[Any]] = {}
        for profile in doctor.profiles:
            by_job.setdefault(profile.job, []).extend(profile.executions)
        for job, executions in by_job.items():
            path = folder / _file_name(f"{item.nodeid}-{job}")
            try:
                from jobdoctor.gate.history import diagnosis_of

                text = render(build_context(diagnosis_of(executions), Path.cwd()))
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            except ConfigError as error:
                said.append(f"not written: {error}")
            except OSError as error:
                said.append(f"not written: {folder}: {error.strerror}; give another --jobdoctor-report")
            else:
                said.append(str(path))
        return said


def baseline_path(config: pytest.Config) -> Path:
    """The baseline's file: an option is relative to where pytest was started, a setting to the root directory."""
    given = config.getoption("jobdoctor_baseline")
    if given:
        return config.invocation_params.dir / str(given)
    return config.rootpath / str(config.getini("jobdoctor_baseline") or BASELINE)


def _file_name(text: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:120]
    return f"{safe}-{blake2b(text.encode('utf-8', 'replace'), digest_size=4).hexdigest()}.html"
