"""JD704: the 95th percentile from enqueue to done against the promise; and what the late ones did meanwhile."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.checklist.queue.slo_missed import SloMissed
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Finding, TraceRow
from tests.builders import EPOCH_NS, SECOND
from tests.diagnosis.asking import only
from tests.diagnosis.traffic import MAIL, attempts, history_of
from tests.queueing.traces import row


def ask(rows: list[TraceRow], slo_ms: float | None = 1_000) -> list[Finding]:
    return list(SloMissed().check(history_of(MAIL, rows, slo_ms=slo_ms)))


def jobs(number: int, *, wait: float = 0.1, run: float = 0.2, first: int = 0) -> list[TraceRow]:
    return [row(MAIL, 10.0 * n, 10.0 * n + wait, 10.0 * n + wait + run) for n in range(first, first + number)]


def test_fires_on_a_wait_that_misses_it() -> None:
    finding = only(ask(jobs(30, wait=2.0)))
    assert finding.title == (
        "The 95th percentile from enqueue to done is 2.2 s, and 1.0 s were promised: 30 of 30 jobs were late"
    )
    assert (finding.severity, finding.where, finding.recommendation.kind) == ("warning", "around", "queue")
    assert finding.cost_ms == pytest.approx(1_200)
    assert finding.saving_ms.low == pytest.approx(1_200)
    assert finding.saving_ms.high == pytest.approx(2_000)
    assert finding.recommendation.snippet == (
        '@jobdoctor.slo(within="1s")\ndef send_mail(...): ...\n\n'
        "jobdoctor.enqueue(send_mail, ...)\n$ jobdoctor run --slo  # the queues of promises, fastest first"
    )
    data = finding.evidence[0].data
    assert (data["slo_ms"], data["late"], data["jobs"]) == (1_000, 30, 30)
    assert (data["late_wait_ms"], data["late_run_ms"], data["late_pauses_ms"]) == (2_000, 200, 0)


def test_in_a_queue_of_promises_more_workers_help() -> None:
    rows = [row(MAIL, 10.0 * n, 10.0 * n + 2, 10.0 * n + 2.2, queue="within_1_second") for n in range(30)]
    assert "jobdoctor run --slo --workers 4" in only(ask(rows)).recommendation.snippet


def test_says_how_many_were_moved_and_since_when() -> None:
    own = [row(MAIL, 10.0 * n, 10.0 * n, 10.0 * n + 3, queue="within_1_second") for n in range(5)]
    moved = [row(MAIL, 10.0 * n, 10.0 * n + 500, 10.0 * n + 503, queue="within_24_hours") for n in range(5, 30)]
    history = history_of(MAIL, [*own, *moved], slo_ms=1_000)
    executions = [
        replace(each, demoted_from="within_1_second", demoted_at_ns=EPOCH_NS + 60 * SECOND)
        if each.queue == "within_24_hours"
        else each
        for each in history.executions
    ]
    assert sum(each.demoted_from != "" for each in executions) == 25
    finding = only(list(SloMissed().check(replace(history, executions=executions[-20:]))))
    assert (finding.where, finding.recommendation.kind) == ("inside", "optimize")
    assert "After 20 runs in a row within 800 ms it returns by itself" in finding.recommendation.text
    assert finding.evidence[1].text.startswith("25 of its jobs were moved from within_1_second to within_24_hours")
    assert finding.evidence[1].data == {
        "moved": 25, "from_queue": "within_1_second", "to_queue": "within_24_hours",
        "since_at_ns": EPOCH_NS + 60 * SECOND,
    }  # fmt: skip


def test_fires_on_a_run_that_misses_it() -> None:
    finding = only(ask(jobs(30, run=3.0)))
    assert (finding.where, finding.recommendation.kind) == ("inside", "optimize")
    assert finding.saving_ms.low == 0
    assert finding.recommendation.snippet == ""


def test_fires_on_retries_that_miss_it() -> None:
    rows = [each for n in range(20) for each in attempts(f"j-{n}", ("retried", "finished"), at=60.0 * n, pauses=[5.0])]
    finding = only(ask(rows))
    assert (finding.where, finding.recommendation.kind) == ("inside", "retry")
    assert finding.evidence[0].data["late_pauses_ms"] == pytest.approx(5_000)


@pytest.mark.parametrize(("number", "fires"), [(2, False), (3, True)])
def test_just_below_one_in_twenty(number: int, fires: bool) -> None:
    late = jobs(number, wait=5.0, first=38)
    assert bool(ask([*jobs(40 - number + 1), *late])) is fires


@pytest.mark.parametrize(("run", "fires"), [(0.89, False), (0.91, True)])
def test_just_below_the_promise(run: float, fires: bool) -> None:
    assert bool(ask(jobs(20, run=run))) is fires


def test_below_twenty_jobs_it_cannot_tell() -> None:
    mixed = jobs(17), jobs(3, wait=9.0, first=17)
    with pytest.raises(NotChecked, match="19 ended jobs"):
        ask([*mixed[0], *mixed[1][:2]])
    only(ask([*mixed[0], *mixed[1]]))


@pytest.mark.parametrize(
    ("late", "of", "fires"), [(3, 5, True), (2, 5, False), (4, 4, False), (4, 12, True), (3, 12, False)]
)
def test_of_a_few_more_are_late_than_chance_allows(late: int, of: int, fires: bool) -> None:
    rows = [*jobs(late, wait=9.0), *jobs(of - late, first=late)]
    if fires:
        assert f"{late} of {of} jobs were late" in only(ask(rows)).title
    else:
        with pytest.raises(NotChecked, match=f"{of} ended jobs"):
            ask(rows)


def test_without_a_promise_it_says_how_to_make_one() -> None:
    with pytest.raises(NotChecked, match=r'"app\.tasks\.send_mail" = 2000 \(ms\) under \[tool\.jobdoctor\.slo_ms\]'):
        ask(jobs(30, wait=9.0), slo_ms=None)


def test_what_was_scheduled_for_later_is_not_late_and_healthy() -> None:
    created = EPOCH_NS - 3_600 * SECOND
    rows = [row(MAIL, 10.0 * n, 10.0 * n, 10.0 * n + 0.2, created_at_ns=created, scheduled=True) for n in range(30)]
    assert ask(rows) == []


def test_what_a_person_stopped_or_what_is_still_tried_does_not_count_look_alike() -> None:
    stopped = [row(MAIL, 900.0 + n, 950.0, 960.0, outcome="stopped") for n in range(20)]
    pending = [each for n in range(20) for each in attempts(f"j-{n}", ("retried",), at=2_000.0 + n, run=9.0)]
    assert ask([*jobs(25), *stopped, *pending]) == []
