"""JD201: waiting for one target that dominates the run; client CPU, locks and short calls are not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.checklist.external.slow_dependency import SlowDependency
from jobdoctor.model import LedgerPart, SpanGroup
from tests.builders import MS, make_group
from tests.diagnosis.asking import alike, ask, only


def test_fires_on_a_slow_host() -> None:
    assert only(ask(SlowDependency, alike(make_group("http", count=2, ms=900), run_ms=1_000))).severity == "warning"


def test_very_slow_is_critical() -> None:
    assert only(ask(SlowDependency, alike(make_group("http", ms=5_000), run_ms=6_000))).severity == "critical"


def test_one_quick_request_that_is_all_the_job_does_is_info() -> None:
    assert only(ask(SlowDependency, alike(make_group("http", ms=180), run_ms=220))).severity == "info"


@pytest.mark.parametrize(("waited", "run"), [(99.0, 120.0), (499.0, 1_000.0)], ids=["milliseconds", "share"])
def test_silent_just_below_each_limit(waited: float, run: float) -> None:
    assert ask(SlowDependency, alike(make_group("http", ms=waited), run_ms=run)) == []


@pytest.mark.parametrize(("waited", "run"), [(100.0, 120.0), (500.0, 1_000.0)])
def test_fires_at_each_limit(waited: float, run: float) -> None:
    assert ask(SlowDependency, alike(make_group("http", ms=waited), run_ms=run))


@pytest.mark.parametrize(
    "group",
    [
        make_group(ms=900, cpu_ns=600 * MS),
        make_group(ms=900, blocked_ns=800 * MS),
        make_group("http", count=50, ms=5_000, concurrent=49, last_end_ns=100 * MS),
        make_group("lock", ms=900, target="orders"),
    ],
    ids=["client CPU", "blocked", "beside one another", "lock"],
)
def test_silent_on_look_alikes(group: SpanGroup) -> None:
    assert ask(SlowDependency, alike(group, run_ms=1_000)) == []


def test_the_ledger_bounds_calls_that_overlap() -> None:
    executions = alike(
        make_group("http", ms=800),
        make_group("http", ms=800, callsite="app/other.py:3"),
        run_ms=1_000,
    )
    ledger = [LedgerPart("http", "http://api.test", 700 * MS), LedgerPart("cpu", "", 300 * MS)]
    assert only(ask(SlowDependency, [replace(each, ledger=ledger) for each in executions])).cost_ms == pytest.approx(
        700
    )


def test_a_busy_host_does_not_hide_it() -> None:
    ledger = {"http": 560, "cpu": 100, "cpu_wait": 700}
    finding = only(ask(SlowDependency, alike(make_group("http", ms=900), run_ms=1_360, ledger=ledger)))
    assert (finding.severity, finding.cost_ms) == ("warning", 560)


def test_calls_beside_one_another_already_are_mentioned_only() -> None:
    lines = [make_group("http", ms=600, concurrent=1, callsite=f"app/tasks.py:{line}") for line in (1, 2)]
    ledger = [LedgerPart("http", "http://api.test", 700 * MS), LedgerPart("cpu", "", 100 * MS)]
    executions = [replace(each, ledger=ledger) for each in alike(*lines, run_ms=800)]
    assert only(ask(SlowDependency, executions)).severity == "info"


def test_time_of_many_small_calls_is_mentioned_only() -> None:
    assert only(ask(SlowDependency, alike(make_group(count=400, ms=900), run_ms=1_000))).severity == "info"


def test_many_calls_that_are_slow_each_are_a_slow_dependency() -> None:
    assert only(ask(SlowDependency, alike(make_group(count=20, ms=900), run_ms=1_000))).severity == "warning"


def test_the_whole_finding() -> None:
    group = make_group("http", count=3, ms=900, min_ns=100 * MS, max_ns=700 * MS)
    finding = only(ask(SlowDependency, alike(group, run_ms=1_000)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD201", "external", "isolate")
    assert finding.title == "http://api.test takes 900 ms of 1.0 s (90%) in 3 calls"
    # What is left of 900 ms when each of the three calls is as fast as the fastest.
    assert (finding.saving_ms.low, finding.saving_ms.mid, finding.saving_ms.high) == (0.0, 600.0, 900.0)
    assert finding.evidence[0].data["groups"][0]["target"] == "http://api.test"


def test_imports_and_the_workers_own_work_do_not_hide_it() -> None:
    ledger = {"dispatch": 20, "fork": 20, "import": 360, "http": 400, "cpu": 30, "persist": 20}
    call = make_group("http", count=1, ms=400)
    executions = [
        replace(each, ledger=[replace(part, detail=call.target if part.name == "http" else "") for part in each.ledger])
        for each in alike(call, run_ms=850, ledger=ledger)
    ]
    assert only(ask(SlowDependency, executions)).cost_ms == pytest.approx(400)


def test_a_program_that_the_job_waits_for_is_remarked() -> None:
    """It has a name and no address, and is mostly what the job is for."""
    program = make_group("subprocess", operation="wait", fingerprint="ffmpeg", target="", ms=4_000)
    finding = only(ask(SlowDependency, alike(program, run_ms=4_200)))
    assert finding.severity == "info"
    assert finding.title == "ffmpeg takes 4.0 s of 4.2 s (95%) in 1 call"
