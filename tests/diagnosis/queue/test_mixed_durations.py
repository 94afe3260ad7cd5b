"""JD703: short and long kinds in one queue, when the short ones pay for it."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.queue.mixed_durations import MixedDurations
from jobdoctor.model import Finding, Phase, TraceRow
from tests.builders import MS
from tests.diagnosis.asking import GRAVE, only
from tests.diagnosis.traffic import MAIL, REPORT, diagnosed, history_of, served
from tests.queueing.traces import row


def ask(rows: list[TraceRow], job: str = MAIL, **fields: object) -> list[Finding]:
    return list(MixedDurations().check(history_of(job, rows, **fields)))


def mixed(long_s: float = 10.0, *, short_s: float = 0.1, shorts: int = 3, rounds: int = 6) -> list[TraceRow]:
    arrivals = []
    for n in range(rounds):
        arrivals += [(60 * n, REPORT, long_s), *[(60 * n + 0.001, MAIL, short_s)] * shorts]
    return served(arrivals)


def test_fires_with_the_split_and_what_it_gives_back() -> None:
    finding = only(ask(mixed()))
    assert finding.severity == "warning"
    assert "Runs 100 ms but waits 10.1 s" in finding.title
    data = finding.evidence[0].data
    assert data["split"] == {"fast": [MAIL], "slow": [REPORT]}
    assert [kind["job"] for kind in data["kinds"]] == [MAIL, REPORT]
    assert data["kinds"][1]["worker_time_share"] == pytest.approx(10 / 10.3, abs=1e-3)
    assert finding.cost_ms == pytest.approx(9_999, abs=2)
    assert "default-fast" in finding.recommendation.snippet


def test_the_long_job_gets_a_remark_only() -> None:
    finding = only(ask(mixed(), job=REPORT))
    assert finding.severity == "info"
    assert finding.saving_ms.high == 0
    assert "29." in finding.title or "30." in finding.title, "three mails of ten seconds each"


def test_with_stuck_behind_heavy_jobs_there_is_one_main_finding() -> None:
    parts = {finding.code: finding.part_of for finding in diagnosed(MAIL, mixed()).findings}
    assert parts["JD701"] is None
    assert parts["JD703"] == "JD701"


@pytest.mark.parametrize(
    ("rows", "fires"),
    [
        (mixed(0.51), True),
        (mixed(0.48), False),
        (mixed(shorts=1, rounds=6), True),
        (mixed(rounds=2), False),
        (mixed(0.5, short_s=0.02, shorts=1), True),
        (mixed(0.29, short_s=0.02, shorts=1), False),
    ],
    ids=["five times", "less", "half are short", "two long ones", "wait", "wait below"],
)
def test_at_and_just_below_each_limit(rows: list[TraceRow], fires: bool) -> None:
    assert bool(ask(rows)) is fires


def test_a_worker_that_adds_much_to_each_does_not_hide_the_mix() -> None:
    """0.2 s of fork and import around 50 ms of work, beside 1 s of work."""
    rows = mixed(1.2, short_s=0.25)
    body = {"phases": [Phase("body", 200 * MS, 250 * MS)]}
    only(ask(rows, execution=body))
    assert ask(rows) == [], "without that, the runs differ by less than five"
    assert ask(mixed(0.7, short_s=0.25), execution=body) == [], "all told they differ by less than three"


@pytest.mark.parametrize(
    "rows",
    [
        served([a for n in range(9) for a in ((60 * n, REPORT, 10), (60 * n + 20, MAIL, 0.1))]),
        served([a for n in range(9) for a in ((60 * n, REPORT, 1.0), (60 * n, MAIL, 0.6))]),
        [
            *served([(60 * n, REPORT, 10) for n in range(9)], queue="slow", worker_queues=["slow"]),
            *[row(MAIL, 60 * n, 60 * n, 60 * n + 0.1, worker="worker-9") for n in range(9)],
        ],
    ],
    ids=["they never meet", "of like length", "two queues"],
)
def test_look_alikes(rows: list[TraceRow]) -> None:
    assert [finding for finding in ask(rows) if finding.severity in GRAVE] == []
