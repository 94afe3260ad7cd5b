"""JD307: computing jobs that get no processor; jobs that wait, and a moment of business, are not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.checklist.internals.cpu_starved import CpuStarved
from jobdoctor.diagnosis.engine import run_rule
from jobdoctor.model import Execution, LedgerPart
from tests.builders import MS, make_execution, make_history, make_row
from tests.diagnosis.asking import ask, only


def crowd(cpu: float, delay: float, other: float = 10, workers: int = 3, number: int = 6) -> list[Execution]:
    """Executions of so many workers, each time all at once."""
    return [
        make_execution(
            run_ms=cpu + delay + other,
            ledger={"cpu": cpu, "cpu_wait": delay, "sql": other},
            worker=f"worker-{index % workers}",
            host="one",
            at_ms=10_000 * (index // workers),
        )
        for index in range(number)
    ]


@pytest.mark.parametrize(
    ("cpu", "delay", "severity"),
    [(150, 300, "warning"), (150, 149, "info"), (99, 300, "info"), (300, 1_200, "critical"), (300, 999, "warning")],
)
def test_fires_by_how_much_slower_it_computes(cpu: float, delay: float, severity: str) -> None:
    assert only(ask(CpuStarved, crowd(cpu, delay))).severity == severity


def test_without_workers_beside_it_something_else_keeps_the_host_busy() -> None:
    finding = only(ask(CpuStarved, crowd(150, 300, workers=1)))
    assert finding.severity == "info"
    assert "something else keeps the host busy" in finding.evidence[1].text


def test_a_job_that_mostly_waits_is_only_remarked() -> None:
    assert only(ask(CpuStarved, crowd(120, 300, other=900))).severity == "info"


@pytest.mark.parametrize(
    ("cpu", "delay"), [(29.0, 500.0), (60.0, 49.0), (200.0, 99.0)], ids=["demand", "delay", "factor"]
)
def test_silent_just_below_each_limit(cpu: float, delay: float) -> None:
    assert ask(CpuStarved, crowd(cpu, delay)) == []


def test_silent_on_a_look_alike_a_deploy_that_some_executions_met() -> None:
    assert ask(CpuStarved, [*crowd(150, 10), *crowd(150, 900)[:3]]) == []


def test_not_checked_with_two_executions() -> None:
    check, _ = run_rule(CpuStarved(), make_history(crowd(150, 300, number=2)))
    assert check.status == "not_checked"


def test_what_the_worker_does_around_the_job_is_stretched_as_well() -> None:
    """150 ms of CPU took 450: of 90 ms around it, 60 are waits that nobody recorded."""
    executions = crowd(150, 300)
    around = [replace(each, ledger=[*each.ledger, LedgerPart("fork", "", 90 * MS)]) for each in executions]
    finding = only(ask(CpuStarved, around))
    assert finding.saving_ms.mid == pytest.approx(300 + 60 - 15)
    assert finding.cost_ms == finding.saving_ms.mid


def test_the_whole_finding() -> None:
    executions = crowd(150, 300)
    other = make_row(executions[0], execution_id="x", job="app.other", worker="worker-9")
    rows = [*[make_row(each) for each in executions], other]
    finding = only(ask(CpuStarved, executions, neighbours=rows))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD307", "internals", "queue")
    assert finding.where == "around"
    assert finding.title == (
        "Ready to run but without a processor for 300 ms (65% of the run): it computes 3.0 times as slowly"
    )
    assert (finding.saving_ms.low, finding.saving_ms.mid, finding.saving_ms.high) == pytest.approx((81, 285, 330))
    assert finding.evidence[0].data["factor"] == 2.0
    assert finding.evidence[1].text == "4 workers ran jobs beside it at one time, on 1 host"
    assert "jobdoctor run default --workers" in finding.recommendation.snippet
