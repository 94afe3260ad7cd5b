"""JD706: a queue that grows to the end of the window; bursts, queues that drain and short ones are not."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.checklist.queue.growing_backlog import GrowingBacklog
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Finding, TraceRow
from tests.diagnosis.asking import only
from tests.diagnosis.traffic import MAIL, history_of
from tests.queueing.traces import row, served


def measured(rows: list[TraceRow], left: int = 0) -> list[TraceRow]:
    """The rows with the depth of the queue as each was taken; ``left``: jobs that were enqueued and not taken yet."""
    end = max(each.dequeued_at_ns for each in rows)
    first = min(each.enqueued_at_ns for each in rows)
    gap = (end - first) / max(1, left)
    waiting = [first + gap * n for n in range(left)]
    return [
        replace(
            each,
            queue_depth=sum(other.enqueued_at_ns <= each.dequeued_at_ns < other.dequeued_at_ns for other in rows)
            + sum(at <= each.dequeued_at_ns for at in waiting),
        )
        for each in rows
    ]


def growing(number: int = 40, rate: float = 2.0, run: float = 1.0) -> list[TraceRow]:
    """So many jobs of ``run`` seconds were taken, while ``rate`` times as many arrived, until the window's end."""
    arrived = served([(n * run / rate, MAIL, run) for n in range(round(number * rate))])
    end = arrived[number - 1].dequeued_at_ns
    return [
        replace(
            each,
            queue_depth=sum(other.enqueued_at_ns <= each.dequeued_at_ns < other.dequeued_at_ns for other in arrived),
        )
        for each in arrived
        if each.dequeued_at_ns <= end
    ]


def ask(rows: list[TraceRow], **fields: Any) -> list[Finding]:
    return list(GrowingBacklog().check(history_of(MAIL, rows, **fields)))


def test_fires_on_a_queue_that_fills_twice_as_fast_as_it_is_emptied() -> None:
    finding = only(ask(growing()))
    assert finding.title == "Queue default grows by 60 jobs a minute and does not drain: 38 were left at the end"
    assert (finding.where, finding.recommendation.kind) == ("around", "queue")
    assert finding.severity == "warning"
    assert finding.cost_ms == pytest.approx(9_750, rel=0.01)
    assert finding.saving_ms.low == pytest.approx(finding.cost_ms / 2, abs=0.01)
    assert "60 jobs a minute are taken, and 120 arrive" in finding.recommendation.text
    assert "if len(queue) < 10:" in finding.recommendation.snippet
    data = finding.evidence[0].data
    assert data["growth_per_s"] == pytest.approx(1.0, abs=0.02)
    assert data["wait_in_an_hour_ms"] == pytest.approx(3_638_000, rel=0.02)
    # At 300 jobs in the queue, 262 s after the end.
    assert data["late_from_ns"] == pytest.approx(growing()[-1].dequeued_at_ns + 262e9, abs=5e9)
    assert finding.evidence[1].data["points"][-1][1] == 39


def test_a_promise_says_what_too_late_is() -> None:
    assert "a job waits 20.0 s already" in only(ask(growing(), slo_ms=20_000)).recommendation.text


def test_one_reading_of_an_emptied_queue_does_not_hide_it() -> None:
    rows = growing()
    only(ask([*rows[:-1], replace(rows[-1], queue_depth=0)]))


@pytest.mark.parametrize(("number", "fires"), [(19, False), (20, True)])
def test_below_twenty_jobs_taken_it_is_silent(number: int, fires: bool) -> None:
    assert bool(ask(growing(number))) is fires


@pytest.mark.parametrize(("run", "fires"), [(0.051, False), (0.053, True)])
def test_just_below_a_second(run: float, fires: bool) -> None:
    assert bool(ask(growing(20, run=run))) is fires


def test_just_below_ten_jobs_left() -> None:
    assert ask(growing(40, rate=1.2)) == []
    only(ask(growing(40, rate=1.4)))


def burst() -> list[TraceRow]:
    return measured(served([(0.001 * n, MAIL, 0.5) for n in range(60)]))


def then_drained() -> list[TraceRow]:
    return measured(served([(n * 0.5, MAIL, 1.0) for n in range(60)]))


def steady() -> list[TraceRow]:
    return measured([row(MAIL, n * 1.0, n * 1.0 + 12.0, n * 1.0 + 13.0) for n in range(60)])


def over_long_ago() -> list[TraceRow]:
    return [*growing(), *(row(MAIL, 500.0 + n, 500.0 + n, 500.5 + n, queue_depth=0) for n in range(10))]


@pytest.mark.parametrize("rows", [burst(), then_drained(), steady(), over_long_ago()])
def test_look_alikes(rows: list[TraceRow]) -> None:
    assert ask(rows) == []


def test_what_it_cannot_tell() -> None:
    with pytest.raises(NotChecked, match="not recorded"):
        ask([replace(each, queue_depth=None) for each in growing()])
    with pytest.raises(NotChecked, match="5 needed"):
        ask(growing()[:4])
