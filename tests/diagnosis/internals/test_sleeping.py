"""JD305: long sleeps and polling; a short backoff, and a thread that sleeps beside the work, are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.internals.sleeping import Sleeping
from jobdoctor.model import SpanGroup
from tests.builders import MS, make_group
from tests.diagnosis.asking import alike, ask, only


def test_fires_on_a_long_sleep() -> None:
    executions = alike(make_group("sleep", ms=2_500), run_ms=3_000, ledger={"sleep": 2_500, "cpu": 500})
    assert only(ask(Sleeping, executions)).severity == "critical"


def test_fires_on_sleeps_that_only_the_ledger_saw() -> None:
    finding = only(ask(Sleeping, alike(run_ms=1_000, ledger={"sleep": 600, "cpu": 400})))
    assert (finding.severity, finding.callsite) == ("warning", "")


@pytest.mark.parametrize(("slept", "run"), [(249.0, 300.0), (300.0, 1_501.0)], ids=["milliseconds", "share"])
def test_silent_just_below_each_limit(slept: float, run: float) -> None:
    assert ask(Sleeping, alike(make_group("sleep", ms=slept), run_ms=run)) == []


@pytest.mark.parametrize(("slept", "run"), [(250.0, 300.0), (300.0, 1_500.0), (5_000.0, 60_000.0)])
def test_fires_at_each_limit(slept: float, run: float) -> None:
    assert only(ask(Sleeping, alike(make_group("sleep", ms=slept), run_ms=run)))


def poll(**fields: Any) -> SpanGroup:
    defaults: dict[str, Any] = {"count": 4, "distinct": 1, "fingerprint": "GET http://api.test/exports/{}", "ms": 20}
    return make_group("http", **{**defaults, **fields})


def test_polling_counts_from_a_lower_limit_on() -> None:
    assert ask(Sleeping, alike(make_group("sleep", count=3, ms=100), poll(), run_ms=200))
    assert ask(Sleeping, alike(make_group("sleep", count=3, ms=99), poll(), run_ms=200)) == []


@pytest.mark.parametrize(
    "call",
    [poll(distinct=4), poll(errors=3), poll(statuses={"503": 3, "200": 1}), poll(statuses={"429": 3, "200": 1})],
    ids=["different questions", "errors", "unavailable", "too many requests"],
)
def test_retries_and_pauses_between_different_calls_are_no_polling(call: SpanGroup) -> None:
    assert ask(Sleeping, alike(make_group("sleep", count=3, ms=240), call, run_ms=300)) == []


def test_a_busy_host_does_not_hide_it() -> None:
    ledger = {"sleep": 300, "cpu": 100, "cpu_wait": 1_600}
    assert only(ask(Sleeping, alike(make_group("sleep", ms=300), run_ms=2_000, ledger=ledger)))


def test_a_short_backoff_is_healthy() -> None:
    assert ask(Sleeping, alike(make_group("sleep", count=2, ms=150), run_ms=300)) == []


def test_a_thread_that_sleeps_beside_the_work_is_healthy() -> None:
    executions = alike(make_group("sleep", ms=900), run_ms=1_000, ledger={"cpu": 960, "sleep": 40})
    assert ask(Sleeping, executions) == []


def test_a_thread_that_sleeps_beside_requests_is_healthy() -> None:
    sleeps = make_group("sleep", count=9, concurrent=9, ms=900)
    executions = alike(sleeps, make_group("http", ms=950), run_ms=1_000, ledger={"http": 950, "cpu": 50})
    assert ask(Sleeping, executions) == []


def test_the_whole_finding_of_a_poll() -> None:
    poll = make_group("http", count=21, distinct=1, fingerprint="GET http://api.test/exports/{}", ms=100)
    sleeps = make_group("sleep", count=20, ms=2_000, callsite="app/exports.py:30")
    finding = only(ask(Sleeping, alike(sleeps, poll, run_ms=2_200)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD305", "internals", "schedule")
    assert finding.title == (
        "2.0 s asleep (91% of the run) at app/exports.py:30, polling GET http://api.test/exports/{}"
    )
    assert (finding.severity, finding.calls, finding.cost_ms) == ("critical", 20, pytest.approx(2_000 + 100 * 20 / 21))
    assert finding.saving_ms.mid == finding.cost_ms
    assert finding.saving_ms.high == pytest.approx(1.1 * finding.saving_ms.mid, abs=0.01)
    assert "queue.enqueue_in(" in finding.recommendation.snippet


def test_a_job_that_is_scheduled_instead_is_one_more_execution() -> None:
    sleeps = make_group("sleep", count=1, ms=600)
    executions = alike(sleeps, run_ms=700, ledger={"sleep": 600, "fork": 40, "persist": 20, "cpu": 40})
    saving = only(ask(Sleeping, executions)).saving_ms
    assert (saving.low, saving.mid, saving.high) == pytest.approx((540 * 0.9, 570, 660))


def test_what_a_client_computes_between_the_questions_goes_with_them() -> None:
    """From the first question to the last 660 ms: 500 asleep, 110 asking, and 50 of the client's CPU."""
    poll = make_group("http", count=11, distinct=1, ms=110, first_start_ns=0, last_end_ns=660 * MS)
    sleeps = make_group("sleep", count=10, ms=500, callsite="app/exports.py:30")
    finding = only(ask(Sleeping, alike(sleeps, poll, run_ms=700, ledger={"sleep": 500, "http": 110, "cpu": 90})))
    assert finding.saving_ms.mid == pytest.approx(500 + 100 + 25)
