"""JD706: a queue that grows to the end of the window; bursts, queues that drain and short ones are not."""

from __future__ import annotations

import random
from bisect import bisect_right
from typing import Any

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.checklist.queue.growing_backlog import GrowingBacklog
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import DepthPoint, Finding, TraceRow
from tests.builders import EPOCH_NS, SECOND
from tests.diagnosis.asking import only
from tests.diagnosis.traffic import MAIL, REPORT, history_of
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


def test_what_was_sampled_of_the_queue_is_evidence() -> None:
    """Samples go on where nobody takes a job any more; those of before the stretch are of something else."""
    points = [DepthPoint(EPOCH_NS + n * 10 * SECOND, max(0, 10 * n), 5.0 * n, 2) for n in range(-3, 12)]
    evidence = only(ask(growing(), depths={"default": points, "other": points})).evidence
    assert len(evidence) == 3
    text, data = evidence[2].text, evidence[2].data
    assert text == (
        "Samples of the queue: 0 jobs in line at 2026-01-01 00:00:00 UTC, 110 at 2026-01-01 00:01:50 UTC, "
        "the oldest 55.0 s old; 2 workers listened then"
    )
    assert (data["depth"], data["oldest_ms"], data["listening"]) == (110, 55_000.0, 2)
    assert data["points"][0] == [0.0, 0.0]
    assert data["points"][-1] == [110_000.0, 110.0]
    assert len(only(ask(growing(), depths={"default": points[:5], "other": points})).evidence) == 2


def test_a_promise_says_what_too_late_is() -> None:
    assert "a job waits 20.0 s already" in only(ask(growing(), slo_ms=20_000)).recommendation.text


def test_one_reading_of_an_emptied_queue_does_not_hide_it() -> None:
    rows = growing()
    only(ask([*rows[:-1], replace(rows[-1], queue_depth=0)]))


def test_a_replay_says_what_drains_it_and_when() -> None:
    """Two workers' worth arrive for one, and 38 are left after 39 s: a third worker takes one a second of them."""
    finding = only(ask(growing()))
    text = finding.recommendation.text
    assert "In a replay of what comes then, with 3 workers (1 is there) it is drained in 3" in text
    data = finding.evidence[0].data
    assert (data["workers"], data["enough_workers"]["number"]) == (1, 3)
    assert data["enough_workers"]["drained_ms"] == pytest.approx(38_000, rel=0.15)
    low, high = data["enough_workers"]["drained_interval_ms"]
    assert 25_000 < low < 38_000 < high < 50_000
    # Alone it must take more than two a second, and 38 within 78 s beside: at 0.4 it would just, or just not.
    assert data["fast_enough"]["number"] in (0.35, 0.4)
    assert f"with {100 * data['fast_enough']['number']:.0f}% of the time that send_mail takes" in text
    assert "--num-workers 3" in finding.recommendation.snippet
    # With three nobody waits: all of it is spared, and half of it at least.
    assert data["replayed"][0]["share"] == 1
    assert finding.saving_ms.mid == finding.saving_ms.high == finding.cost_ms
    assert data["replayed"][0]["mean_spared_interval_ms"][0] < 9_750 < data["replayed"][0]["mean_spared_interval_ms"][1]


def test_when_it_is_drained_comes_true() -> None:
    """Predicted from the first 500 jobs, against the queue that goes on with so many workers. (Of 16 seeds 13 do.)"""
    rng = random.Random(0)
    at, arrivals = 0.0, []
    for _ in range(2_400):
        at += rng.expovariate(2.4)
        arrivals.append((at, MAIL, 3.0) if rng.random() < 0.1 else (at, REPORT, rng.uniform(0.2, 0.6)))
    taken = sorted(served(arrivals), key=lambda each: each.dequeued_at_ns)[:500]
    now_s = (taken[-1].dequeued_at_ns - EPOCH_NS) / SECOND
    moments = [arrived for arrived, _, _ in arrivals]
    rows = [
        replace(each, queue_depth=bisect_right(moments, (each.dequeued_at_ns - EPOCH_NS) / SECOND) - place - 1)
        for place, each in enumerate(taken)
    ]
    data = only(ask(rows)).evidence[0].data
    workers = data["enough_workers"]["number"]
    left = [(max(0.0, arrived - now_s), job, run) for arrived, job, run in arrivals[500:]]
    waits = [
        (each.enqueued_at_ns, each.dequeued_at_ns) for each in served(left, workers) if each.enqueued_at_ns > EPOCH_NS
    ]
    drained_ms = next(enqueued for enqueued, dequeued in waits if enqueued == dequeued) / 1e6 - EPOCH_NS / 1e6
    low, high = data["enough_workers"]["drained_interval_ms"]
    assert low <= drained_ms <= high


def test_where_this_job_is_not_what_fills_the_queue() -> None:
    rows = [replace(each, job=MAIL if n % 10 == 0 else REPORT) for n, each in enumerate(growing(80))]
    finding = only(ask(rows))
    assert finding.evidence[0].data["fast_enough"] is None
    assert "No speed-up of this job alone drains it in time" in finding.recommendation.text


def test_where_the_replay_does_not_fit_it_goes_by_halves() -> None:
    """What else the worker did was not recorded."""
    rows = [each for n, each in enumerate(growing(80)) if n % 7 in (0, 1, 4)]
    finding = only(ask(rows))
    assert finding.evidence[0].data["enough_workers"] is None
    assert "In a replay" not in finding.recommendation.text
    assert finding.saving_ms.mid == pytest.approx(0.9 * finding.cost_ms, abs=0.01)


def test_below_twenty_jobs_taken_it_does_not_know() -> None:
    only(ask(growing(20)))
    with pytest.raises(NotChecked, match=r"17 at the end, but only 19 were taken meanwhile, in 18.0 s: 20 in 1.0 s"):
        ask(growing(19))


def test_just_below_a_second_it_does_not_know() -> None:
    only(ask(growing(20, run=0.053)))
    with pytest.raises(NotChecked, match=r"20 in 1.0 s are needed"):
        ask(growing(20, run=0.051))


def test_what_it_does_not_know_of_one_queue_hides_no_other() -> None:
    elsewhere = {"queue": "other", "worker": "w-2", "worker_queues": ["other"]}
    few = [replace(each, **elsewhere) for each in growing(19)]
    assert "Queue default" in only(ask([*few, *growing()])).title
    with pytest.raises(NotChecked, match="queue other"):
        ask([*few, *steady()])


def test_just_below_ten_jobs_left() -> None:
    assert ask(growing(40, rate=1.2)) == []
    only(ask(growing(40, rate=1.4)))


def burst() -> list[TraceRow]:
    return measured(served([(0.001 * n, MAIL, 0.5) for n in range(60)]))


def then_drained() -> list[TraceRow]:
    return measured(served([(n * 0.5, MAIL, 1.0) for n in range(60)]))


def steady() -> list[TraceRow]:
    return measured([row(MAIL, n * 1.0, n * 1.0 + 12.0, n * 1.0 + 13.0) for n in range(60)])


def every_night(nights: int = 3) -> list[TraceRow]:
    """A batch that comes faster than it is done, each night; the window ends within the last one."""
    rows: list[TraceRow] = []
    for night in range(nights):
        batch = served([(n * 0.5, MAIL, 1.0) for n in range(60)])
        moved = [
            replace(
                each,
                enqueued_at_ns=each.enqueued_at_ns + night * 86_400 * SECOND,
                dequeued_at_ns=each.dequeued_at_ns + night * 86_400 * SECOND,
                reaped_at_ns=each.reaped_at_ns + night * 86_400 * SECOND,
                execution_id=f"{night}-{each.execution_id}",
            )
            for each in batch
        ]
        rows += measured(moved)[: 30 if night == nights - 1 else 60]
    return rows


def test_a_batch_that_is_larger_than_any_before_it_is_found() -> None:
    last = every_night()[-30:]
    only(ask(last))  # the first that is seen
    deeper = [replace(each, queue_depth=(each.queue_depth or 0) * 2 + 5) for each in last]
    only(ask([*every_night()[:-30], *deeper]))


def over_long_ago() -> list[TraceRow]:
    return [*growing(), *(row(MAIL, 500.0 + n, 500.0 + n, 500.5 + n, queue_depth=0) for n in range(10))]


@pytest.mark.parametrize("rows", [burst(), then_drained(), steady(), every_night(), over_long_ago()])
def test_look_alikes(rows: list[TraceRow]) -> None:
    assert ask(rows) == []


def test_what_it_cannot_tell() -> None:
    with pytest.raises(NotChecked, match="not recorded"):
        ask([replace(each, queue_depth=None) for each in growing()])
    with pytest.raises(NotChecked, match="5 needed"):
        ask(growing()[:4])
