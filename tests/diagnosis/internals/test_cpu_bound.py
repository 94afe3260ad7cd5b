"""JD301: the job's own computation; client-side CPU of calls and short jobs are not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.checklist.internals.cpu_bound import CpuBound, hot_path
from jobdoctor.model import LedgerPart, Profile, ProfileFrame
from tests.builders import MS, make_execution
from tests.diagnosis.asking import alike, ask, only

PROFILE = Profile(
    1.0,
    900,
    1_000 * MS,
    [
        ProfileFrame(-1, "perform", "rq/job.py:1", 1_000 * MS, application=False),
        ProfileFrame(0, "monthly", "app/reports.py:10", 980 * MS, application=True),
        ProfileFrame(1, "load", "app/reports.py:20", 80 * MS, application=True),
        ProfileFrame(1, "map", "functools.py:1", 870 * MS, application=False),
        ProfileFrame(3, "score", "app/scoring.py:7", 860 * MS, application=True),
        ProfileFrame(4, "a", "app/scoring.py:9", 300 * MS, application=True),
        ProfileFrame(4, "b", "app/scoring.py:11", 310 * MS, application=True),
    ],
)


def test_fires_on_own_cpu() -> None:
    assert only(ask(CpuBound, alike(run_ms=1_000, ledger={"cpu": 950}))).severity == "warning"


@pytest.mark.parametrize(("cpu", "severity"), [(200, "info"), (499, "info"), (500, "warning"), (5_000, "critical")])
def test_severity_follows_the_time(cpu: float, severity: str) -> None:
    assert only(ask(CpuBound, alike(run_ms=cpu, ledger={"cpu": cpu}))).severity == severity


@pytest.mark.parametrize(("cpu", "run"), [(199.0, 210.0), (599.0, 1_000.0)], ids=["milliseconds", "share"])
def test_silent_just_below_each_limit(cpu: float, run: float) -> None:
    assert ask(CpuBound, alike(run_ms=run, ledger={"cpu": cpu, "sql": run - cpu})) == []


def test_cpu_of_calls_is_not_the_jobs_own() -> None:
    ledger = [LedgerPart("cpu", "sql", 900 * MS), LedgerPart("cpu", "", 100 * MS)]
    assert ask(CpuBound, [replace(each, ledger=ledger) for each in alike(run_ms=1_000)]) == []


def test_a_busy_host_does_not_hide_it() -> None:
    ledger = {"cpu": 600, "cpu_wait": 800, "sql": 100}
    assert only(ask(CpuBound, alike(run_ms=1_500, ledger=ledger))).severity == "warning"


def test_what_a_worker_does_around_the_job_does_not_hide_it() -> None:
    ledger = {"dispatch": 100, "fork": 60, "cpu": 330, "persist": 100, "other_wait": 40}
    assert only(ask(CpuBound, alike(run_ms=630, ledger=ledger))).severity == "info"


def test_the_hot_path_passes_through_libraries_and_ends_where_time_spreads() -> None:
    assert [frame.function for frame in hot_path(PROFILE, 0.4)] == ["monthly", "score"]


def test_imports_are_no_hot_path() -> None:
    frames = [
        ProfileFrame(-1, "import_module", "importlib/__init__.py:1", 600 * MS, application=False),
        ProfileFrame(0, "<module>", "app/reports.py:3", 600 * MS, application=True),
        ProfileFrame(1, "<module>", "requests/__init__.py:1", 500 * MS, application=False),
        ProfileFrame(-1, "monthly", "app/reports.py:10", 400 * MS, application=True),
    ]
    executions = alike(run_ms=1_100, ledger={"import": 600, "cpu": 450, "persist": 50})
    executions.append(make_execution(run_ms=1_100, profile=Profile(1.0, 900, 1_000 * MS, frames)))
    assert [frame.function for frame in hot_path(executions[-1].profile or Profile(1.0, 0, 0), 0.4)] == ["monthly"]


def test_says_that_no_profile_was_taken() -> None:
    finding = only(ask(CpuBound, alike(run_ms=1_000, ledger={"cpu": 950})))
    assert any("No profile was taken" in evidence.text for evidence in finding.evidence)
    assert finding.callsite == ""


def test_the_whole_finding() -> None:
    executions = alike(run_ms=1_000, ledger={"cpu": 950})
    executions.append(make_execution(run_ms=1_300, ledger={"cpu": 1_250}, profile=PROFILE))
    finding = only(ask(CpuBound, executions))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD301", "internals", "extract")
    assert finding.title == (
        "950 ms of CPU in the job's own code (95% of the run), 86% of it in score (app/scoring.py:7)"
    )
    assert (finding.callsite, finding.cost_ms) == ("app/scoring.py:7", 950.0)
    assert (finding.saving_ms.low, finding.saving_ms.mid) == pytest.approx((817 / 6, 817 * 2 / 3), abs=1e-3)
    assert finding.evidence[1].data["path"][1]["share"] == 0.86
