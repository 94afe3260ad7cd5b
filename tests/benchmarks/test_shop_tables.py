"""The accuracy and the savings tables: what is compared, and how it is counted."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from benchmarks import accuracy, savings
from benchmarks.shop_runs import Pair
from jobdoctor.model import Diagnosis, Finding, Outcome, Profile, Recommendation, Saving, Severity, TraceRow, Verdict
from tests.builders import MS, make_execution, make_history


def finding(code: str, mid: float, *, step: str = "batching", severity: Severity = "warning") -> Finding:
    return Finding(
        code=code, name="a-rule", step=step, severity=severity, confidence=0.9, where="inside", title="", cost_ms=mid,
        saving_ms=Saving(mid * 0.5, mid, mid * 1.2), recommendation=Recommendation("batch", ""),
    )  # fmt: skip


def row(number: int, run_ms: float, wait_ms: float = 0.0, outcome: Outcome = "finished") -> TraceRow:
    begun = number * 10_000 * MS
    return TraceRow(
        execution_id=str(number), job_id=str(number), job="shop.job", queue="q", worker="w", outcome=outcome,
        created_at_ns=begun, enqueued_at_ns=begun - round(wait_ms * MS), dequeued_at_ns=begun,
        reaped_at_ns=begun + round(run_ms * MS),
    )  # fmt: skip


def diagnosis(rows: list[TraceRow], *findings: Finding) -> Diagnosis:
    return Diagnosis(replace(make_history(), trace=rows), Verdict("inside", "", 0.9), [], list(findings), [])


def runs(*milliseconds: float) -> list[TraceRow]:
    return [row(number, each) for number, each in enumerate(milliseconds)]


def test_the_saving_is_worker_time_for_as_much_work() -> None:
    """Three sick executions an order, one of the twin; one execution of each was disturbed."""
    sick = diagnosis(runs(100, 102, 98, 100, 101, 99, 100, 100, 5_000), finding("JD801", 70))
    healthy = diagnosis(runs(104, 102, 103, 4_000))
    [one] = savings.measured([Pair("JD801", sick, healthy, sick_work=3, healthy_work=4)])
    # 9 executions of 100 ms for three orders; the twin takes 3 of 103 ms for them.
    assert one.achieved_ms == pytest.approx((900 - 3 * 103) / 9, rel=0.01)
    assert one.within
    assert one.told
    assert one.off == pytest.approx(abs(70 - one.achieved_ms) / one.achieved_ms)


def test_findings_of_the_queue_are_held_to_the_wait() -> None:
    sick = diagnosis([row(n, 50, wait_ms=900) for n in range(6)], finding("JD701", 850, step="queue"))
    healthy = diagnosis([row(n, 50, wait_ms=20) for n in range(6)])
    [one] = savings.measured([Pair("JD701", sick, healthy)])
    assert one.achieved_ms == pytest.approx(880)


def test_lost_executions_count_as_they_are() -> None:
    rows = [row(n, 200, outcome="failed") for n in range(4)]
    [one] = savings.measured([Pair("JD606", diagnosis(rows, finding("JD606", 200)), diagnosis(runs(200)))])
    assert one.achieved_ms == pytest.approx(200)


def test_a_job_that_nobody_needs_gives_back_all_of_its_time() -> None:
    [one] = savings.measured([Pair("JD802", diagnosis(runs(*[90] * 6), finding("JD802", 90)), diagnosis(runs(80)))])
    assert one.achieved_ms == pytest.approx(90)


def test_shared_work_is_done_when_the_last_slice_is() -> None:
    """Two rounds of 1,000 ms; the twin's slices of each round ran beside one another and ended after 300 and 400."""
    slices = [row(0, 300), row(0, 250), row(1, 400), row(1, 380)]
    sick = diagnosis(runs(1_000, 1_000), finding("JD407", 600))
    [one] = savings.measured([Pair("JD407", sick, diagnosis(slices), sick_work=2, healthy_work=2)])
    assert one.achieved_ms == pytest.approx(1_000 - 350)


def test_profiled_executions_are_left_out_where_others_can_speak() -> None:
    profile = Profile(1.0, 10, MS)
    sick = diagnosis(runs(900, 100, 100, 100), finding("JD401", 60))
    kept = [replace(make_execution(), id="0", profile=profile)]
    sick = replace(sick, history=replace(sick.history, executions=kept))
    [one] = savings.measured([Pair("JD401", sick, diagnosis(runs(*[40] * 4)))])
    assert one.achieved_ms == pytest.approx(60)


def test_executions_that_end_differently_are_no_noise() -> None:
    """Each second one is cut off, by plan: the spread within each kind is what is not known."""
    rows = [row(n, 1_000 if n % 2 else 50, outcome="timeout" if n % 2 else "finished") for n in range(8)]
    [one] = savings.measured([Pair("JD605", diagnosis(rows, finding("JD605", 400)), diagnosis(runs(*[50] * 8)))])
    assert one.achieved_ms == pytest.approx(475)
    assert one.error_ms == 0


def test_a_cure_of_two_findings_is_held_to_both() -> None:
    sick = diagnosis(runs(*[500] * 6), finding("JD405", 200), finding("JD406", 150))
    [one] = savings.measured([Pair("JD406", sick, diagnosis(runs(*[140] * 6)))])
    assert one.predicted.mid == 350
    assert one.achieved_ms == pytest.approx(360)


def test_what_promises_no_time_and_what_cannot_be_compared_has_no_row() -> None:
    pairs = [
        Pair(code, diagnosis(runs(10), finding(code, mid)), diagnosis(runs(10)))
        for code, mid in [("JD202", 0.0), ("JD506", 10.0)]
    ]
    assert savings.measured([*pairs, Pair("JD401", diagnosis(runs(10)), diagnosis(runs(10)))]) == []


def test_the_savings_table_leaves_noise_uncounted() -> None:
    right = savings.Measured("JD401", "sample_app.jobs.a", Saving(50, 100, 120), 110, 5)
    wrong = savings.Measured("JD402", "sample_app.jobs.b", Saving(50, 100, 120), 300, 5)
    noise = savings.Measured("JD102", "sample_app.jobs.c", Saving(0, 1, 2), -8, 30)
    text = savings.table([[right, wrong, noise]], "here.")
    assert "1 of 2 pairs (50%)" in text
    assert "median error of the middle value 38%" in text
    assert "1 more pairs promise less" in text
    assert "| JD102 | c | 0.0 to 2.0 | 1.0 | -8.0 (-8.0 to -8.0) | 30 | cannot be told |  |" in text


def test_the_confusion_table_counts_found_first_and_false_alarms() -> None:
    ill = diagnosis(runs(1), finding("JD402", 90, severity="critical"), finding("JD401", 50))
    well, alarmed = diagnosis(runs(1), finding("JD105", 9, severity="info")), diagnosis(runs(1), finding("JD301", 9))
    text = accuracy.table([[Pair("JD402", ill, well), Pair("JD401", ill, alarmed), Pair("JD404", ill, well)]], "here.")
    assert "Recall 2 of 3 (66.7%); healthy twins with a warning 1 of 3 (33.3%)." in text
    assert "| JD402 | 1 of 1 | 1 of 1 | JD401 (1) | - |" in text
    assert "| JD401 | 1 of 1 | 0 of 1 | JD402 (1) | JD301 (1) |" in text
    assert "| JD404 | 0 of 1 | 0 of 1 | JD401 (1), JD402 (1) | - |" in text
