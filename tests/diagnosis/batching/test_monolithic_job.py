"""JD407: a loop over many items that fills a long run; short runs, few items and calls beside one another are not."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.checklist.batching.monolithic_job import MonolithicJob
from jobdoctor.diagnosis.checklist.external.slow_dependency import SlowDependency
from jobdoctor.diagnosis.checklist.retries.timeout_misfit import TimeoutMisfit
from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.model import ExceptionInfo, Finding, SpanGroup
from tests.builders import MS, make_group, make_history, make_row
from tests.diagnosis.asking import alike, ask, only


def loop(count: int = 50, stretch_ms: float = 90_000, channel: str = "http", **fields: Any) -> SpanGroup:
    defaults = {"operation": "POST", "effect": "write", "callsite": "app/billing.py:12", "ms": 0.8 * stretch_ms}
    return make_group(channel, count=count, last_end_ns=int(stretch_ms * MS), **{**defaults, **fields})


def found(*groups: SpanGroup, run_ms: float = 100_000, timeout_s: float | None = 180, **fields: Any) -> list[Finding]:
    return ask(MonolithicJob, alike(*groups, number=3, run_ms=run_ms, timeout_s=timeout_s, **fields))


def test_fires_on_a_loop_that_takes_half_of_the_timeout() -> None:
    finding = only(found(loop()))
    assert finding.title == "One execution of 1 min 40 s, 56% of its timeout for 50 items, one after the other"
    assert (finding.severity, finding.where, finding.callsite) == ("warning", "inside", "app/billing.py:12")
    assert finding.cost_ms == pytest.approx(100_000)
    # Slices of a tenth of the timeout: six of them. One worker is done no sooner, six of them in a sixth of the time.
    assert finding.saving_ms.low == finding.saving_ms.mid == 0
    assert finding.saving_ms.high == pytest.approx(1.1 * 100_000 * 5 / 6, abs=1)
    assert "6 slices of about 8 items" in finding.recommendation.text
    assert "items[n : n + 8]" in finding.recommendation.snippet
    assert "depends_on=jobs" in finding.recommendation.snippet
    assert finding.evidence[0].data["groups"][0]["count"] == 50


@pytest.mark.parametrize(("workers", "turns"), [(2, 3), (3, 2), (4, 2), (6, 1), (9, 1)])
def test_the_workers_that_are_there_share_the_slices(workers: int, turns: int) -> None:
    """Six slices, each with 60 ms around it: as many turns as the workers need for them."""
    executions = alike(loop(), number=3, run_ms=100_000, timeout_s=180, ledger={"http": 99_940, "fork": 60})
    rows = [make_row(executions[0], execution_id=f"{n}", worker=f"worker-{n}") for n in range(workers)]
    finding = only(ask(MonolithicJob, executions, neighbours=rows))
    assert finding.saving_ms.mid == pytest.approx(100_000 - turns * (100_000 / 6 + 60), abs=1)
    assert finding.saving_ms.low == pytest.approx(0.45 * finding.saving_ms.mid, abs=1)


def test_workers_of_other_queues_and_of_other_times_share_nothing() -> None:
    executions = alike(loop(), number=3, run_ms=100_000, timeout_s=180)
    other = make_row(executions[0], execution_id="a", worker="worker-a", queue="other", worker_queues=["other"])
    then = 2 * 10**18
    later = make_row(executions[0], execution_id="b", worker="worker-b", dequeued_at_ns=then, reaped_at_ns=then)
    own = make_row(executions[0])
    assert only(ask(MonolithicJob, executions, neighbours=[other, later, own])).saving_ms.mid == 0


def test_a_loop_that_meets_its_timeout_is_one_illness() -> None:
    """Some are cut in one line of the loop, some in another: the loop is too long, and nothing hangs."""
    finished = alike(loop(), number=6, run_ms=150_000, timeout_s=180)
    cut = [
        replace(each, outcome="timeout", exception=ExceptionInfo("JobTimeoutException", "", callsite="app/other.py:3"))
        for each in alike(loop(), number=2, run_ms=180_000, timeout_s=180)
    ]
    found = diagnose(make_history([*finished, *cut]), rules=[MonolithicJob(), TimeoutMisfit()]).findings
    assert sorted(f.code for f in found) == ["JD407", "JD605"]
    assert sum(f.part_of is None for f in found) == 1


@pytest.mark.parametrize("call_ms", [60, 110])
def test_a_dependency_that_takes_the_loops_time_is_one_story_with_it(call_ms: int) -> None:
    """Grave or not: the dependency is critical when it takes five seconds and more, the loop never is."""
    calls = loop(90, 90 * call_ms * 1.05, ms=90 * call_ms, min_ns=call_ms * MS, target="http://mail.test")
    run = 90 * call_ms * 1.1
    executions = alike(calls, number=3, run_ms=run, timeout_s=10, ledger={"http": 0.9 * run, "cpu": 0.1 * run})
    found = diagnose(make_history(executions), rules=[MonolithicJob(), SlowDependency()]).findings
    assert {f.code for f in found} == {"JD201", "JD407"}
    assert sum(f.part_of is None for f in found) == 1


def test_the_items_are_the_calls_that_come_least_often() -> None:
    assert "25 items" in only(found(loop(50), loop(25, callsite="app/billing.py:14"))).title


def test_a_number_that_grows_with_the_input_is_surer() -> None:
    runs = [*alike(loop(30), number=2, run_ms=100_000), *alike(loop(90), number=2, run_ms=100_000)]
    assert only(ask(MonolithicJob, runs)).confidence > only(found(loop())).confidence


@pytest.mark.parametrize(("run_ms", "fires"), [(89_999, False), (90_000, True)])
def test_just_below_half_of_the_timeout(run_ms: float, fires: bool) -> None:
    assert (only(found(loop(), run_ms=run_ms)).severity == "warning") is fires


@pytest.mark.parametrize("timeout_s", [3_600.0, None, -1.0])
@pytest.mark.parametrize(("run_ms", "fires"), [(299_999, False), (300_000, True)])
def test_just_below_five_minutes(run_ms: float, timeout_s: float | None, fires: bool) -> None:
    (finding,) = found(loop(stretch_ms=290_000), run_ms=run_ms, timeout_s=timeout_s)
    assert (finding.severity == "warning") is fires


@pytest.mark.parametrize(("run_ms", "severity"), [(9_999, []), (10_000, ["info"]), (89_999, ["info"])])
def test_what_outlives_the_pause_before_a_kill_is_remarked(run_ms: float, severity: list[str]) -> None:
    assert [each.severity for each in found(loop(stretch_ms=9_000 * run_ms / 10_000), run_ms=run_ms)] == severity


@pytest.mark.parametrize(("run_ms", "fires"), [(999, False), (1_000, True)])
def test_just_below_a_second(run_ms: float, fires: bool) -> None:
    assert bool(found(loop(stretch_ms=950), run_ms=run_ms, timeout_s=1)) is fires


@pytest.mark.parametrize(("count", "fires"), [(19, False), (20, True)])
def test_just_below_twenty_items(count: int, fires: bool) -> None:
    assert bool(found(loop(count))) is fires


@pytest.mark.parametrize(("stretch_ms", "fires"), [(59_900, False), (60_100, True)])
def test_just_below_the_larger_part_of_the_job(stretch_ms: float, fires: bool) -> None:
    assert bool(found(loop(stretch_ms=stretch_ms))) is fires


@pytest.mark.parametrize(
    "groups",
    [
        [make_group("http", ms=95_000)],
        [loop(concurrent=50, ms=400_000)],
        [loop(channel="lock")],
        [loop(batched=50, items=5_000)],
        [],
    ],
    ids=["one slow call", "beside one another", "locks", "batches", "no calls"],
)
def test_look_alikes(groups: list[SpanGroup]) -> None:
    assert found(*groups) == []
