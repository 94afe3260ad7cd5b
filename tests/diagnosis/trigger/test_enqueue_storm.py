"""JD805: the parent that enqueues one by one, and the jobs that came so; batches and traffic are not storms."""

from __future__ import annotations

import random

import pytest

from jobdoctor.diagnosis.checklist.trigger.enqueue_storm import EnqueueStorm
from jobdoctor.model import Finding, TraceRow
from tests.builders import make_group
from tests.diagnosis.asking import alike, ask, only
from tests.diagnosis.traffic import MAIL, history_of, served


def enqueues(count: int, ms: float, **fields: object) -> object:
    details = {
        "operation": "enqueue", "fingerprint": MAIL, "target": "rq:default", "library": "rq", "effect": "write",
        "callsite": "app/prices.py:20", "count": count, "ms": ms, "items": count,
    }  # fmt: skip
    return make_group("enqueue", **{**details, **fields})


def children(rows: list[TraceRow]) -> list[Finding]:
    return list(EnqueueStorm().check(history_of(MAIL, rows)))


def burst(count: int, gap: float = 0.0007, at: float = 0.0, **fields: object) -> list[TraceRow]:
    details = {"trigger_callsite": "app/prices.py:20"} | fields
    return served([(at + n * gap, MAIL, 0.02) for n in range(count)], **details)


def test_fires_on_the_job_that_enqueues_one_by_one() -> None:
    finding = only(ask(EnqueueStorm, alike(enqueues(200, 140), run_ms=180)))
    assert finding.severity == "warning"
    assert finding.where == "inside"
    assert finding.calls == 200
    assert finding.callsite == "app/prices.py:20"
    assert finding.title == f"Enqueues 200 jobs {MAIL} one by one"
    assert finding.cost_ms == pytest.approx(140)
    assert 0 < finding.saving_ms.low < finding.saving_ms.high < 140
    assert "enqueue_many" in finding.recommendation.snippet
    assert finding.evidence[0].kind == "calls"


def test_fifty_fire_and_forty_nine_do_not() -> None:
    only(ask(EnqueueStorm, alike(enqueues(50, 35), run_ms=100)))
    assert ask(EnqueueStorm, alike(enqueues(49, 35), run_ms=100)) == []


@pytest.mark.parametrize(
    "groups",
    [
        [enqueues(3, 30, operation="enqueue_many", fingerprint="(many)", batched=3, items=3_000)],
        [enqueues(20, 14)],
        [enqueues(5, 3, fingerprint=f"app.tasks.kind_{n}") for n in range(12)],
    ],
    ids=["enqueue_many", "fan-out of 20", "a few of many kinds"],
)
def test_look_alikes_of_the_parent(groups: list[object]) -> None:
    assert ask(EnqueueStorm, alike(*groups, run_ms=60)) == []


def test_the_jobs_that_came_so_carry_a_remark() -> None:
    finding = only(children(burst(120)))
    assert finding.severity == "info"
    assert finding.where == "around"
    assert "120 of these jobs came within 83 ms from app/prices.py:20" in finding.title
    assert finding.callsite == "app/prices.py:20"
    # The enqueue, and what the worker spends around the body: 49 of 50 times, where a job takes 50 items.
    assert finding.cost_ms == pytest.approx(0.98 * (0.7 + 2), abs=0.01)
    data = finding.evidence[0].data
    assert (data["storms"], data["largest"]) == (1, 120)


def test_the_parent_is_named_when_it_is_a_job() -> None:
    rows = burst(60, parent_job="app.tasks.drop_prices", parent_execution_id="p-1", trigger_kind="job")
    assert "from app.tasks.drop_prices" in only(children(rows)).title


def test_without_any_stamp_a_storm_is_seen() -> None:
    assert "one trigger" in only(children(burst(60, trigger_callsite=""))).title


def test_a_stall_within_the_loop_does_not_hide_it() -> None:
    only(children([*burst(60), *burst(60, at=0.15)]))


@pytest.mark.parametrize(
    ("rows", "fires"),
    [
        (burst(50), True),
        (burst(49), False),
        (burst(60, gap=0.0305), True),
        (burst(60, gap=0.0308), False),
        (burst(120, gap=0.00031), True),
        (burst(120, gap=0.00029), False),
    ],
    ids=["50", "49", "within 1.5 s", "slower", "one by one", "together"],
)
def test_at_and_just_below_each_limit(rows: list[TraceRow], fires: bool) -> None:
    assert bool(children(rows)) is fires


chance = random.Random(8)


@pytest.mark.parametrize(
    "rows",
    [
        burst(200, gap=0.0001),
        [r for tick in range(20) for r in burst(20, at=60.0 * tick)],
        burst(200, trigger_kind="cron"),
        burst(200, scheduled=True),
        burst(8_000, gap=0.01),
        served(sorted((chance.uniform(0, 60), MAIL, 0.01) for _ in range(600))),
        [r for n in range(60) for r in burst(1, trigger_callsite=f"app/views.py:{n}")],
    ],
    ids=["enqueue_many", "twenty each minute", "cron", "scheduled", "traffic of 80 s", "10 a second", "many lines"],
)
def test_look_alikes_of_the_children(rows: list[TraceRow]) -> None:
    assert children(rows) == []


def test_a_job_that_is_both_has_one_finding() -> None:
    """A job that enqueues more of its own kind."""
    rows = burst(60)
    history = history_of(MAIL, rows, execution={"groups": [enqueues(60, 40)]})
    assert only(list(EnqueueStorm().check(history))).where == "inside"
