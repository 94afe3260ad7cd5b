"""Triage: who comes first, what a day's figures are, and how the table reads."""

from __future__ import annotations

import json

from msgspec.structs import replace

from jobdoctor.model import Diagnosis, Quantiles, Saving
from jobdoctor.report.triage import render_json, render_text, triage
from tests.builders import SECOND
from tests.report import diagnoses

DAY = 86_400 * SECOND


def made(job: str, *findings: object, executions: int = 10, days: float = 0.5, mean_ms: float = 1_000.0) -> Diagnosis:
    rich = diagnoses.rich()
    history = replace(
        rich.history,
        job=job,
        executions_total=executions,
        from_ns=0,
        to_ns=int(days * DAY),
        run_ms=Quantiles(mean=mean_ms, count=executions),
        wait_ms=Quantiles(mean=640.0, count=executions),
    )
    return replace(rich, history=history, findings=list(findings))


def inside(mid: float, **fields: object) -> object:
    return replace(diagnoses.N_PLUS_ONE, saving_ms=Saving(mid / 2, mid, mid * 1.5), **fields)


def test_the_most_worker_time_to_give_back_comes_first() -> None:
    often = made("often", inside(10), executions=1_000, mean_ms=50)
    slow = made("slow", inside(900), executions=5)
    waits = made("waits", diagnoses.BEHIND)
    healthy = made("healthy")
    assert [row.job for row in triage([healthy, waits, slow, often]).rows] == ["often", "slow", "waits", "healthy"]


def test_figures_are_for_a_day_and_a_short_recording_promises_no_more_than_was_seen() -> None:
    [row] = triage([made("one", inside(100), executions=20, days=4)]).rows
    assert (row.worker_ms, row.saving_ms) == (5_000.0, Saving(250.0, 500.0, 750.0))
    [row] = triage([made("one", inside(100), executions=20, days=0.01)]).rows
    assert (row.worker_ms, row.saving_ms.mid) == (20_000.0, 2_000.0)


def test_all_jobs_share_one_window() -> None:
    rows = {row.job: row for row in triage([made("long", days=10), made("new", days=1)]).rows}
    assert rows["long"].worker_ms == rows["new"].worker_ms


def test_no_more_than_the_run_is_given_back_and_hints_and_parts_give_nothing() -> None:
    [row] = triage([made("one", inside(800), inside(700), executions=1)]).rows
    assert row.saving_ms == Saving(750.0, 1_000.0, 1_000.0)
    [row] = triage([made("one", inside(800, severity="info"), inside(700, part_of="JD402"))]).rows
    assert row.saving_ms == Saving(0.0, 0.0, 0.0)
    assert row.finding is None


def test_waits_are_no_worker_time() -> None:
    [row] = triage([made("one", diagnoses.BEHIND, executions=2)]).rows
    assert row.saving_ms.mid == 0
    assert row.waiting_ms == 1_040.0
    assert "wait 1.0 s" in render_text(triage([made("one", diagnoses.BEHIND, executions=2)]))


def test_the_finding_shown_is_the_one_that_gives_worker_time_back() -> None:
    [row] = triage([made("one", diagnoses.BEHIND, inside(300))]).rows
    assert row.finding is not None
    assert row.finding.code == "JD401"


def test_the_table_fits_80_columns_and_names_the_line() -> None:
    found = triage([made("app.tasks.sync_orders", inside(900)), diagnoses.hostile(), made("healthy")])
    text = render_text(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "app.tasks.sync_orders" in text
    assert "app/tasks.py:41" in " ".join(text.split())
    assert "nothing found" in text
    assert "\x1b" not in text


def test_the_table_says_what_it_leaves_out() -> None:
    found = triage([made(f"job{number}", inside(number)) for number in range(1, 5)])
    assert "job1" not in render_text(found, limit=2)
    assert "and 2 more jobs" in render_text(found, limit=2)
    assert "more job" not in render_text(found)


def test_json_has_every_job() -> None:
    data = json.loads(render_json(triage([made("one", inside(100), executions=20, days=4), made("two")])))
    assert data["schema"] == 1
    assert data["days"] == 4
    one, two = data["jobs"]
    assert one["saving_ms_per_day"] == {"low": 250.0, "mid": 500.0, "high": 750.0}
    assert one["finding"]["code"] == "JD401"
    assert two["finding"] is None
