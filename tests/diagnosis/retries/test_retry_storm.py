"""JD602: retries at once that fail again, and retries that come together; retries that help or pause are healthy."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.checklist.retries.retry_storm import RetryStorm
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Finding, TraceRow
from tests.builders import make_execution, make_history
from tests.diagnosis.asking import only
from tests.diagnosis.traffic import MAIL, attempts, history_of, policy

AGAIN = ("retried", "retried", "finished")


def ask(rows: list[TraceRow], **fields: object) -> list[Finding]:
    return list(RetryStorm().check(history_of(MAIL, rows, **fields)))


def jobs(
    number: int, outcomes: tuple[str, ...], pauses: tuple[float, ...] = (0.0,), gap: float = 1.0
) -> list[TraceRow]:
    return [r for n in range(number) for r in attempts(f"job-{n}", outcomes, at=n * gap, pauses=pauses)]


def test_fires_on_retries_at_once_that_fail_again() -> None:
    finding = only(ask(jobs(8, AGAIN), execution=policy(0)))
    assert finding.severity == "warning"
    assert "16 retries" in finding.title
    assert "8 of them failed again" in finding.title
    assert finding.cost_ms == pytest.approx(8 * 50 / 24, abs=1e-3)
    assert finding.saving_ms.high == pytest.approx(finding.cost_ms)
    assert finding.where == "around"
    assert "pauses none" in finding.evidence[0].text
    assert finding.evidence[0].data["attempts"] == {"3": 8}
    assert finding.evidence[0].data["callsite"] == "app/tasks.py:12"
    assert "random.uniform" in finding.recommendation.snippet


def test_two_wasted_attempts_are_below_the_limit_three_are_not() -> None:
    assert ask(jobs(2, AGAIN)) == []
    only(ask(jobs(3, AGAIN)))


def test_the_share_that_fails_again() -> None:
    """Three wasted among ten retries at once fire, among eleven not."""
    wasted = jobs(3, AGAIN)
    only(ask([*wasted, *_helped(4)]))
    assert ask([*wasted, *_helped(5)]) == []


def _helped(number: int) -> list[TraceRow]:
    return [r for n in range(number) for r in attempts(f"helped-{n}", ("retried", "finished"), at=100 + n)]


def test_retries_that_are_few_among_many_executions_are_silent() -> None:
    good = [r for n in range(300) for r in attempts(f"good-{n}", ("finished",), at=n)]
    assert ask([*jobs(8, AGAIN), *good]) == []


def test_a_fixed_pause_brings_the_retries_of_an_outage_together() -> None:
    outage = jobs(12, ("retried", "retried", "finished"), pauses=(60.0,), gap=0.05)
    finding = only(ask(outage, execution=policy(60)))
    assert "12 retries of different jobs came within" in finding.title
    assert "60 s" in finding.evidence[0].text


def test_a_pause_that_the_scheduler_cut_short_is_one() -> None:
    """`Retry(interval=1)` is due at the next whole second: less than a second may be left of it."""
    rows = [
        replace(each, scheduled=each.attempt > 1)
        for n in range(12)
        for each in attempts(f"job-{n}", ("retried", "retried"), at=0.01 * n, pauses=(0.9,))
    ]
    assert "12 retries of different jobs came within" in only(ask(rows, execution=policy(1))).title


def test_nine_together_are_below_the_limit() -> None:
    assert ask(jobs(9, ("retried", "finished"), pauses=(60.0,), gap=0.05), execution=policy(60)) == []


def test_growing_pauses_are_healthy_although_jobs_failed_together() -> None:
    outage = jobs(12, ("retried", "retried", "finished"), pauses=(10.0, 60.0), gap=0.01)
    assert ask(outage, execution=policy(10, 60, 300)) == []


@pytest.mark.parametrize(
    "rows",
    [
        jobs(10, ("retried", "retried", "finished"), pauses=(10.0, 60.0), gap=20.0),
        jobs(20, ("retried", "finished")),
        jobs(20, ("failed",)),
        jobs(20, ("finished",)),
        jobs(1, ("retried", "retried", "retried", "failed"), pauses=(10.0,)),
    ],
    ids=["backoff", "helped at once", "no retries", "a policy nobody needed", "one job with pauses"],
)
def test_look_alikes(rows: list[TraceRow]) -> None:
    assert ask(rows, execution=policy(0)) == []


def test_a_job_id_that_is_used_again_is_not_a_retry() -> None:
    """A cron job keeps its id; each run is a first attempt."""
    rows = [r for n in range(10) for r in attempts("nightly", ("failed",), at=n * 0.06)]
    assert ask(rows) == []


def test_without_a_trace_it_says_so() -> None:
    history = make_history([make_execution(attempt=2)], trace=[])
    with pytest.raises(NotChecked, match="--since"):
        list(RetryStorm().check(history))
    assert list(RetryStorm().check(make_history([make_execution()], trace=[]))) == []
