"""Traffic as healthy systems have it. The whole checklist looks at each pattern, and nothing grave may be found."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from jobdoctor.model import TraceRow
from tests.builders import MS, make_group
from tests.diagnosis.asking import GRAVE
from tests.diagnosis.traffic import MAIL, REPORT, attempts, diagnosed, policy, row, served
from tests.queueing.traces import served as serve

Pattern = tuple[list[TraceRow], dict[str, Any]]
PATTERNS: list[Callable[[], Pattern]] = []


def healthy(pattern: Callable[[], Pattern]) -> Callable[[], Pattern]:
    PATTERNS.append(pattern)
    return pattern


def with_args(rows: list[TraceRow]) -> list[TraceRow]:
    """Every job with arguments of its own."""
    return [replace(each, args_hash=f"{number:016x}") for number, each in enumerate(rows)]


def poisson(seed: int, number: int, rate: float) -> list[float]:
    chance = random.Random(seed)
    at, instants = 0.0, []
    for _ in range(number):
        at += chance.expovariate(rate)
        instants.append(at)
    return instants


@healthy
def a_burst_that_drains() -> Pattern:
    return with_args(served([(0.001 * n, MAIL, 0.2) for n in range(45)])), {}


@healthy
def a_burst_of_hundreds_sent_together() -> Pattern:
    return with_args(served([(0.0001 * n, MAIL, 0.05) for n in range(300)], workers=4)), {}


@healthy
def a_burst_each_hour() -> Pattern:
    return with_args(served([(3_600 * tick + 0.001 * n, MAIL, 0.3) for tick in range(24) for n in range(40)])), {}


@healthy
def cron_ticks_each_minute() -> Pattern:
    ticks = served([(60.0 * n, MAIL, 2.0) for n in range(60)], trigger_kind="cron", args_hash="none")
    return ticks, {}


@healthy
def ticks_of_a_timer_without_stamps() -> Pattern:
    return served([(10.0 * n, MAIL, 0.3) for n in range(60)], args_hash="none"), {}


@healthy
def a_cron_job_under_one_id() -> Pattern:
    rows = [row(MAIL, 60 * n, 60 * n + 0.01, 60 * n + 0.5, job_id="nightly", trigger_kind="cron") for n in range(30)]
    return rows, {}


@healthy
def fan_outs_of_twenty() -> Pattern:
    rows = served(
        [(120.0 * n + 0.001 * k, MAIL, 0.1) for n in range(10) for k in range(20)], workers=2, parent_job=REPORT
    )
    return with_args(rows), {}


@healthy
def retries_with_backoff_that_succeed() -> Pattern:
    rows = [r for n in range(60) for r in attempts(f"ok-{n}", ("finished",), at=30.0 * n)]
    rows += [
        r
        for n in range(6)
        for r in attempts(f"again-{n}", ("retried", "retried", "finished"), at=31.0 * n * n, pauses=(10.0, 60.0))
    ]
    return with_args(rows), {"execution": policy(10, 60, 300)}


@healthy
def a_lost_race_that_the_second_attempt_wins() -> Pattern:
    rows = [r for n in range(40) for r in attempts(f"ok-{n}", ("finished",), at=2.0 * n)]
    race = {"error": "sqlalchemy.exc.OperationalError", "digest": "race"}
    rows += [r for n in range(10) for r in attempts(f"lost-{n}", ("retried", "finished"), at=8.0 * n + 1, **race)]
    return with_args(rows), {"execution": policy(0)}


@healthy
def one_failure_among_many() -> Pattern:
    rows = [r for n in range(80) for r in attempts(f"ok-{n}", ("finished",), at=1.0 * n)]
    return with_args([*rows, *attempts("bad", ("failed",), at=40.5, error="builtins.KeyError", digest="k")]), {}


@healthy
def bad_data_that_fails_once_without_retries() -> Pattern:
    rows = [
        r
        for n in range(60)
        for r in attempts(f"j-{n}", ("failed" if n % 12 == 5 else "finished",), at=n, error="builtins.ValueError")
    ]
    return with_args(rows), {}


@healthy
def a_slow_job_alone_on_its_queue() -> Pattern:
    return with_args(served([(100.0 * n, MAIL, 30.0) for n in range(20)], queue="slow", worker_queues=["slow"])), {}


@healthy
def a_slow_job_now_and_then_waits_for_its_own_kind() -> Pattern:
    return with_args(served([(at, MAIL, 30.0) for at in poisson(3, 40, 1 / 90)])), {}


@healthy
def two_workers_of_which_one_is_idle() -> Pattern:
    return with_args(served([(at, MAIL, 0.5) for at in poisson(4, 200, 0.8)], workers=2)), {}


@healthy
def long_jobs_beside_short_ones_with_workers_to_spare() -> Pattern:
    arrivals = [(at, MAIL, 0.1) for at in poisson(5, 300, 1.0)] + [(30.0 * n, REPORT, 15.0) for n in range(10)]
    return with_args(served(arrivals, workers=3)), {}


@healthy
def long_jobs_on_a_queue_of_their_own() -> Pattern:
    mails = serve([(at, MAIL, 0.1) for at in poisson(6, 200, 1.0)], worker_queues=["default"])
    reports = serve([(20.0 * n, REPORT, 18.0) for n in range(10)], queue="slow", worker_queues=["slow"])
    return with_args([*mails, *[replace(each, worker="worker-slow") for each in reports]]), {}


@healthy
def once_behind_a_long_job() -> Pattern:
    return with_args(served([*[(1.0 * n, MAIL, 0.05) for n in range(200)], (50.5, REPORT, 3.0)])), {}


@healthy
def steady_traffic_at_sixty_percent() -> Pattern:
    return with_args(served([(at, MAIL, 0.3) for at in poisson(7, 500, 2.0)])), {}


@healthy
def three_workers_at_seventy_percent() -> Pattern:
    chance = random.Random(9)
    return with_args(served([(at, MAIL, chance.uniform(0.2, 0.8)) for at in poisson(8, 600, 4.2)], workers=3)), {}


@healthy
def a_rush_hour_that_the_workers_can_do() -> Pattern:
    quiet = [(at, MAIL, 0.3) for at in poisson(10, 100, 0.5)]
    rush = [(200 + at, MAIL, 0.3) for at in poisson(11, 300, 2.2)]
    return with_args(served([*quiet, *rush])), {}


@healthy
def a_deploy_with_workers_that_come_and_go() -> Pattern:
    first = serve([(1.0 * n, MAIL, 0.2) for n in range(50)])
    second = serve([(60.0 + 1.0 * n, MAIL, 0.2) for n in range(50)])
    return with_args([*first, *[replace(each, worker="worker-new") for each in second]]), {}


@healthy
def jobs_enqueued_before_the_worker_started() -> Pattern:
    """As tests and ``--burst`` have it: all are there before anybody listens."""
    rows = [row(MAIL, 0.01 * n, 5 + 0.1 * n, 5.1 + 0.1 * n) for n in range(30)]
    return with_args(rows), {}


@healthy
def a_form_that_is_saved_twice_now_and_then() -> Pattern:
    rows = [row(MAIL, 100.0 * n, 100.0 * n, 100.0 * n + 0.1, args_hash=f"p-{n}") for n in range(40)]
    rows += [row(MAIL, 100.0 * n + 2, 100.0 * n + 2, 100.0 * n + 2.1, args_hash=f"p-{n}") for n in (3, 17)]
    return rows, {}


@healthy
def the_same_arguments_an_hour_later() -> Pattern:
    rows = [
        row(MAIL, 3_600.0 * n + 5 * k, 3_600.0 * n + 5 * k, 3_600.0 * n + 5 * k + 0.1, args_hash=f"p-{k}")
        for n in range(8)
        for k in range(10)
    ]
    return rows, {}


@healthy
def a_trial_run_of_one_job_over_and_over() -> Pattern:
    return served([(0.2 * n, MAIL, 0.1) for n in range(20)], args_hash="same"), {}


@healthy
def uncontended_locks_and_first_connections() -> Pattern:
    rows = with_args(served([(1.0 * n, MAIL, 0.2) for n in range(20)]))
    groups = [
        make_group("lock", operation="acquire", fingerprint="lock:{}", library="redis", count=20, ms=12),
        make_group("pool", operation="checkout", count=1, ms=25, new_connections=1),
        make_group("sql", fingerprint="SELECT pg_advisory_xact_lock(?)", effect="lock", count=1, ms=0.6),
    ]
    return rows, {"execution": {"groups": groups}}


@healthy
def a_parent_that_enqueues_in_one_pipeline() -> Pattern:
    rows = with_args(served([(60.0 * n, MAIL, 0.3) for n in range(10)]))
    many = make_group(
        "enqueue", operation="enqueue_many", fingerprint="(many)", count=2, batched=2, items=500, ms=40,
        max_ns=22 * MS, min_ns=18 * MS,
    )  # fmt: skip
    return rows, {"execution": {"groups": [many]}}


@healthy
def jobs_that_were_scheduled_for_later() -> Pattern:
    rows = served([(at, MAIL, 0.1) for at in poisson(12, 100, 0.5)], scheduled=True, trigger_kind="scheduler")
    return with_args(rows), {}


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
def test_nothing_grave_is_found(pattern: Callable[[], Pattern]) -> None:
    rows, fields = pattern()
    diagnosis = diagnosed(MAIL, rows, **fields)
    assert [(each.code, each.title) for each in diagnosis.findings if each.severity in GRAVE] == []
    assert [check for check in diagnosis.checklist if check.status == "crashed"] == []
    assert diagnosis.verdict.where in {"none", "unknown"}
