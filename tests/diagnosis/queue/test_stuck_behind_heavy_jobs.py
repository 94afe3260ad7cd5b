"""JD701: waiting behind long jobs of other kinds, each with its share; waits that are short or one's own are not."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.queue.stuck_behind_heavy_jobs import StuckBehindHeavyJobs
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Finding, TraceRow
from tests.builders import make_execution, make_history
from tests.diagnosis.asking import only
from tests.diagnosis.traffic import MAIL, REPORT, history_of, served

EXPORT = "app.tasks.export_books"


def ask(rows: list[TraceRow], **fields: object) -> list[Finding]:
    return list(StuckBehindHeavyJobs().check(history_of(MAIL, rows, **fields)))


def behind(
    report_s: float, *, rounds: int = 6, mail_s: float = 0.05, workers: int = 1, later: float = 0.001
) -> list[TraceRow]:
    """Each minute a report is ordered, and right after it a mail."""
    return served(
        [arrival for n in range(rounds) for arrival in ((60 * n, REPORT, report_s), (60 * n + later, MAIL, mail_s))],
        workers,
    )


def test_fires_and_names_the_heavy_job_with_its_share() -> None:
    finding = only(ask(behind(20)))
    assert finding.severity == "warning"
    assert finding.where == "around"
    assert finding.title == f"100% of the 20.0 s in queue default is waiting behind {REPORT}"
    assert finding.cost_ms == pytest.approx(19_999)
    occupant = finding.evidence[0].data["occupants"][0]
    assert occupant["job"] == REPORT
    assert occupant["share"] == 1.0
    assert occupant["mean_run_ms"] == 20_000
    assert finding.evidence[0].data["workers"] == 1
    assert "rq worker default-fast default" in finding.recommendation.snippet


def test_the_saving_tells_going_first_from_a_worker_of_its_own() -> None:
    """All of the wait is behind a report that is under way already: going first in the queue saves nothing of it."""
    under_way = only(ask(behind(20)))
    assert under_way.saving_ms.low == pytest.approx(0, abs=1)
    assert under_way.saving_ms.high == pytest.approx(19_999)
    # Two reports in front: the second had not begun, and going first would have passed it by.
    rows = served(
        [a for n in range(6) for a in ((60 * n, REPORT, 10), (60 * n, EXPORT, 10), (60 * n + 0.001, MAIL, 0.05))]
    )
    queued = only(ask(rows))
    assert queued.saving_ms.low == pytest.approx(10_000, abs=2)
    assert queued.saving_ms.high == pytest.approx(19_999, abs=2)
    assert {o["job"] for o in queued.evidence[0].data["occupants"]} == {REPORT, EXPORT}


def test_waits_behind_another_queue_of_the_same_worker_count() -> None:
    rows = [
        row if row.job == MAIL else type(row)(**{f: getattr(row, f) for f in row.__struct_fields__} | {"queue": "bulk"})
        for row in behind(20)
    ]
    rows = [
        type(row)(**{f: getattr(row, f) for f in row.__struct_fields__} | {"worker_queues": ["bulk", "default"]})
        for row in rows
    ]
    assert only(ask(rows)).title.startswith("100% of the")


@pytest.mark.parametrize(
    ("rows", "fires"),
    [
        (behind(0.302), True),
        (behind(0.299), False),
        (behind(1.0, mail_s=0.33), True),
        (behind(1.0, mail_s=0.34), False),
        (behind(3.0, mail_s=0.7, later=1.4), True),
        (behind(3.0, mail_s=0.7, later=1.8), False),
    ],
    ids=["wait", "wait below", "three times its run", "less", "two runs of wait", "less than two"],
)
def test_at_and_just_below_each_limit(rows: list[TraceRow], fires: bool) -> None:
    assert bool(ask(rows)) is fires


def test_the_share_of_the_wait() -> None:
    """Behind 1 s of reports and as long, or longer, behind mails of its own kind."""
    few = served([a for n in range(6) for a in ((60 * n, REPORT, 1.0), *[(60 * n + 0.001, MAIL, 0.05)] * 20)])
    many = served([a for n in range(6) for a in ((60 * n, REPORT, 1.0), *[(60 * n + 0.001, MAIL, 0.05)] * 60)])
    assert only(ask(few)).evidence[0].data["occupants"][1]["job"] == MAIL
    assert ask(many) == []


@pytest.mark.parametrize(
    "rows",
    [
        served([(60 * n + 0.001 * k, MAIL, 1.0) for n in range(4) for k in range(10)]),
        behind(20, workers=2),
        served([*[(n, MAIL, 0.05) for n in range(100)], (50.5, REPORT, 1.0)]),
        served([*[(100 * n, MAIL, 0.05) for n in range(100)], (4_950, REPORT, 100)]),
        served([a for n in range(6) for a in ((60 * n, REPORT, 20), (60 * n + 30, MAIL, 0.05))]),
    ],
    ids=[
        "a burst of its own",
        "a second worker is free",
        "once in a hundred",
        "once for long",
        "the report is done by then",
    ],
)
def test_look_alikes(rows: list[TraceRow]) -> None:
    assert ask(rows) == []


def test_too_few_executions_or_no_neighbours_are_not_checked() -> None:
    with pytest.raises(NotChecked, match="5 needed"):
        ask(behind(20, rounds=4))
    alone = make_history([make_execution(at_ms=1_000 * n) for n in range(6)], neighbours=[])
    with pytest.raises(NotChecked, match="every worker of the queue"):
        list(StuckBehindHeavyJobs().check(alone))
