"""JD702: more arrives than the workers can do; bursts that drain are not that."""

from __future__ import annotations

import random

import pytest

from jobdoctor.diagnosis.checklist.queue.underprovisioned import Underprovisioned
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Finding, TraceRow
from tests.diagnosis.asking import only
from tests.diagnosis.traffic import MAIL, history_of, served


def ask(rows: list[TraceRow], **fields: object) -> list[Finding]:
    return list(Underprovisioned().check(history_of(MAIL, rows, **fields)))


def steady(number: int, gap: float, run: float, workers: int = 1) -> list[TraceRow]:
    return served([(n * gap, MAIL, run) for n in range(number)], workers)


def poisson(number: int, rate: float, mean_run: float, workers: int = 1, seed: int = 1) -> list[TraceRow]:
    chance = random.Random(seed)
    at, arrivals = 0.0, []
    for _ in range(number):
        at += chance.expovariate(rate)
        arrivals.append((at, MAIL, chance.expovariate(1 / mean_run)))
    return served(arrivals, workers)


def test_fires_on_twice_the_load_that_one_worker_can_do() -> None:
    finding = only(ask(steady(60, 0.5, 1.0)))
    assert finding.title.startswith("2.0 workers' worth of jobs arrive on queue default, 1 worker is there")
    data = finding.evidence[0].data
    assert data["erlangs"] == pytest.approx(2.0)
    assert data["wait_growth_s_per_s"] == pytest.approx(1.0, abs=0.01)
    assert data["workers_needed"] == 3
    assert data["utilisation"] == pytest.approx(1.0)
    assert finding.where == "around"
    assert "--num-workers 3" in finding.recommendation.snippet
    assert finding.cost_ms == pytest.approx(1_000 * sum(range(60)) * 0.5 / 60)
    assert finding.saving_ms.low == pytest.approx(finding.cost_ms / 2)
    assert finding.evidence[1].kind == "series"


def test_the_sample_shops_case_of_short_jobs_at_a_quick_pace() -> None:
    """60 jobs, 36 ms apart, of 70 ms each: two seconds of arrivals."""
    only(ask(steady(60, 0.036, 0.07)))


def test_two_workers_where_three_are_needed() -> None:
    data = only(ask(steady(120, 0.4, 1.0, workers=2))).evidence[0].data
    assert data["workers"] == 2
    assert data["erlangs"] == pytest.approx(2.5)
    assert data["workers_needed"] == 4


def test_an_objective_asks_for_more_workers() -> None:
    rows = poisson(300, 2.0, 1.0)
    modest = only(ask(rows)).evidence[0].data["workers_needed"]
    strict = only(ask(rows, slo_ms=1_100)).evidence[0].data["workers_needed"]
    assert strict > modest


def test_near_capacity_for_a_whole_window() -> None:
    """Neither growth nor calm: M/M/1 at 97%, long enough for averages."""
    finding = only(ask(poisson(800, 0.97, 1.0, seed=5)))
    assert finding.severity in {"warning", "critical"}


@pytest.mark.parametrize(
    ("rows", "fires"),
    [
        (steady(60, 0.95, 1.0), True),
        (steady(60, 0.97, 1.0), False),
        (steady(25, 0.5, 1.0), True),
        (steady(24, 0.5, 1.0), False),
        (steady(60, 0.25, 1.0), True),
        (steady(60, 0.15, 1.0), False),
    ],
    ids=["5% over", "3% over", "25 arrivals", "24", "a quarter of the time", "a sixth: a burst"],
)
def test_at_and_just_below_each_limit(rows: list[TraceRow], fires: bool) -> None:
    assert bool(ask(rows)) is fires


@pytest.mark.parametrize(
    "rows",
    [
        served([(n * 0.001, MAIL, 1.0) for n in range(100)]),
        served([*[(n * 0.001, MAIL, 1.0) for n in range(60)], (40.0, MAIL, 1.0)]),
        served([(60 * tick + n * 0.01, MAIL, 1.0) for tick in range(10) for n in range(40)]),
        served([(n * 0.01, MAIL, 0.5) for n in range(20)]),
        poisson(400, 0.7, 1.0),
        steady(400, 1.0, 0.99),
        served([(n * 0.5, MAIL, 1.0) for n in range(60)], parent_execution_id="import-1"),
    ],
    ids=["burst", "burst and a straggler", "cron ticks", "fan-out of 20", "70%", "paced to 99%", "one job's fan-out"],
)
def test_look_alikes(rows: list[TraceRow]) -> None:
    assert ask(rows) == []


def test_too_few_executions() -> None:
    with pytest.raises(NotChecked, match="5 needed"):
        ask(steady(4, 0.1, 1.0))
