"""Savings by replay, and what acting on a job would spare the others."""

from __future__ import annotations

import random

import pytest

from jobdoctor.diagnosis import replays
from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.model import Finding, JobHistory, Recommendation, Saving, TraceRow
from tests.diagnosis.traffic import MAIL, REPORT, history_of, served


def traffic(report_s: float = 4.0, *, count: int = 400, apart_s: float = 1.0, workers: int = 1) -> list[TraceRow]:
    """Every tenth job is a report, the others are mails of 0.2 s."""
    rng = random.Random(6)
    at, arrivals = 0.0, []
    for number in range(count):
        at += rng.expovariate(1 / apart_s)
        arrivals.append((at, REPORT if number % 10 == 0 else MAIL, report_s if number % 10 == 0 else 0.2))
    return served(arrivals, workers)


def finding(saving_ms: float, **fields: object) -> Finding:
    defaults: dict[str, object] = {
        "code": "JD401", "name": "n-plus-one-query", "step": "batching", "severity": "critical", "confidence": 0.9,
        "where": "inside", "title": "many queries", "cost_ms": saving_ms,
        "saving_ms": Saving(saving_ms / 2, saving_ms, saving_ms), "recommendation": Recommendation("batch", "Batch."),
    }  # fmt: skip
    return Finding(**{**defaults, **fields})  # type: ignore[arg-type]


def priced(rows: list[TraceRow], *findings: Finding, job: str = REPORT) -> list[Finding]:
    return replays.priced(history_of(job, rows), findings)


def test_a_finding_says_what_others_would_wait_less() -> None:
    (told,) = priced(traffic(), finding(3_000.0))
    (evidence,) = told.evidence
    assert evidence.kind == "queue"
    assert evidence.data["other_job"] == MAIL
    assert evidence.data["faster_ms"] == 3_000
    # What a replay by hand says: the same traffic with reports of 1 s.
    waits = sorted((row.dequeued_at_ns - row.enqueued_at_ns) / 1e6 for row in traffic(1.0) if row.job == MAIL)
    assert evidence.data["p95_after_ms"] == pytest.approx(waits[int(0.95 * len(waits)) - 1], rel=0.02)
    assert evidence.data["p95_before_ms"] > 2 * evidence.data["p95_after_ms"]
    assert "the p95 wait of app.tasks.send_mail would drop from" in evidence.text


@pytest.mark.parametrize("fields", [{"part_of": "JD201"}, {"severity": "info"}])
def test_every_inside_finding_says_it(fields: dict[str, object]) -> None:
    (told,) = priced(traffic(), finding(3_000.0, **fields))
    assert told.evidence[0].data["other_job"] == MAIL


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (traffic(apart_s=30.0), finding(3_000.0)),  # the worker is idle: they seldom meet
        (traffic(), finding(3_000.0, where="around")),
        (traffic(), finding(5.0)),
        ([row for row in traffic() if row.job == REPORT], finding(3_000.0)),  # nobody else is there
        (traffic(workers=12), finding(3_000.0)),
    ],
)
def test_where_nobody_would_notice_nothing_is_said(rows: list[TraceRow], found: Finding) -> None:
    assert priced(rows, found) == [found]


def test_where_the_replay_does_not_fit_nothing_is_said() -> None:
    """The reports that the mails waited for were not recorded."""
    rows = [row for row in traffic() if row.job == MAIL]
    assert replays.replayable(history_of(MAIL, rows)) is None


def test_going_first_and_a_worker_of_its_own() -> None:
    history = history_of(MAIL, traffic())
    found = replays.going_first(history, "default", [MAIL])
    assert found is not None
    first, reserved = found
    assert 0 < first.share < reserved.share <= 1
    assert reserved.p95_after_s < first.p95_after_s < first.p95_before_s
    assert "In a replay of 400 executions" in replays.words_of(found)
    assert replays.going_first(history, "default", ["app.nobody"]) is None


def test_more_workers() -> None:
    history = history_of(MAIL, traffic())
    two = replays.with_workers(history, "default", 2)
    assert two is not None
    waits = [(row.dequeued_at_ns - row.enqueued_at_ns) for row in traffic(workers=2) if row.job == MAIL]
    one = [(row.dequeued_at_ns - row.enqueued_at_ns) for row in traffic() if row.job == MAIL]
    assert two.share == pytest.approx(1 - sum(waits) / sum(one), abs=0.01)
    assert replays.with_workers(history, "nowhere", 2) is None


def test_many_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "MOST_ROWS", 100)
    base = replays.replayable(history_of(MAIL, traffic()))
    assert base is not None
    assert len(base.traffic) == 100


def test_a_replay_that_fails_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(history: JobHistory, findings: list[Finding]) -> list[Finding]:
        raise ZeroDivisionError

    monkeypatch.setattr(replays, "priced", broken)
    assert diagnose(history_of(MAIL, traffic())).findings
