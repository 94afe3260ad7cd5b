"""Changes over the window: steps, creeping growth, the mark beside them, and noise that is none of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.diagnosis.over_time import changes, mann_kendall, pettitt
from jobdoctor.model import Bucket, JobHistory, Mark, Quantiles
from tests.builders import EPOCH_NS, SECOND, make_execution, make_history, make_row

MINUTE = 60 * SECOND


def ran(runs_ms: Sequence[float], *, waits_ms: Sequence[float] | None = None, marks: Sequence[Mark] = ()) -> JobHistory:
    """One execution a minute."""
    waits = waits_ms or [5.0] * len(runs_ms)
    executions = [
        make_execution(run_ms=run, wait_ms=wait, at_ms=number * 60_000)
        for number, (run, wait) in enumerate(zip(runs_ms, waits, strict=True))
    ]
    return make_history(executions, trace=[make_row(each) for each in executions], marks=list(marks))


def noisy(level: float, number: int, seed: int = 1) -> list[float]:
    chosen = random.Random(seed)
    return [level * chosen.lognormvariate(0, 0.15) for _ in range(number)]


def test_a_step_is_found_where_it_is() -> None:
    [change] = changes(ran(noisy(100, 30) + noisy(200, 25, 2)))
    assert (change.kind, change.metric, change.quantile) == ("step", "run", "p50")
    assert abs(change.at_ns - (EPOCH_NS + 30 * MINUTE)) <= 2 * MINUTE
    assert change.before_ms == pytest.approx(100, rel=0.1)
    assert change.after_ms == pytest.approx(200, rel=0.1)
    assert change.executions_before + change.executions_after == 55
    assert change.mark is None


def test_down_and_up_again_are_two() -> None:
    found = changes(ran(noisy(100, 30) + noisy(40, 30, 2) + noisy(90, 30, 3)))
    assert [change.after_ms < change.before_ms for change in found] == [True, False]


@pytest.mark.parametrize(("minute", "explains"), [(29, True), (31, True), (15, False), (40, False)])
def test_the_deploy_beside_it_is_named(minute: int, explains: bool) -> None:
    deploy = Mark("deploy", "3f9c2ab", EPOCH_NS + minute * MINUTE)
    [change] = changes(ran(noisy(100, 30) + noisy(200, 25, 2), marks=[deploy]))
    assert (change.mark == deploy) is explains


def test_growth_without_a_step_is_told_as_such() -> None:
    grown = [level * noise / 100 for level, noise in zip(range(100, 220, 2), noisy(100, 60), strict=True)]
    [change] = changes(ran(grown))
    assert change.kind == "creep"
    assert change.before_ms == pytest.approx(100, rel=0.15)
    assert change.after_ms == pytest.approx(218, rel=0.15)


def test_waits_have_their_own_changes() -> None:
    found = changes(ran(noisy(100, 60), waits_ms=noisy(50, 30, 4) + noisy(400, 30, 5)))
    assert [(change.metric, change.kind) for change in found] == [("wait", "step")]


@pytest.mark.parametrize(("ratio", "least"), [(1.25, 100), (1.6, 2)])
def test_what_is_not_worth_a_sentence_is_left_out(ratio: float, least: float) -> None:
    assert not changes(ran([least] * 30 + [least * ratio] * 30))


def test_too_few_say_nothing() -> None:
    assert not changes(ran([100.0] * 7 + [200.0] * 7))
    assert changes(ran([100.0] * 8 + [200.0] * 8))
    assert not changes(ran([100.0] * 3 + [200.0] * 57)), "three at the beginning are no level"


def test_noise_is_no_change() -> None:
    alarms = sum(bool(changes(ran(noisy(100, 60, seed)))) for seed in range(100))
    assert alarms <= 3


def test_outliers_move_nothing() -> None:
    runs = noisy(100, 60)
    runs[17] = runs[40] = runs[41] = 60_000.0
    assert not changes(ran(runs))


def test_a_longer_tail_is_seen_when_the_median_stands_still() -> None:
    quiet = [100.0 + number % 7 for number in range(500)]
    tailed = [3_000.0 if number % 12 == 5 else 100.0 + number % 7 for number in range(500)]
    [change] = changes(ran(quiet + tailed))
    assert (change.quantile, change.kind) == ("p95", "step")
    assert change.after_ms > 1_000


def test_buckets_speak_when_the_rows_are_gone() -> None:
    def bucket(number: int, p50: float, queue: str) -> Bucket:
        run = Quantiles(p50=p50, p95=p50 * 2, p99=p50 * 2, mean=p50, max=p50 * 2, count=10)
        return Bucket(EPOCH_NS + number * 60 * MINUTE, queue, 10, 0, Quantiles(count=10), run)

    levels = [100.0] * 12 + [300.0] * 12
    history = make_history(
        buckets=[bucket(number, level, queue) for number, level in enumerate(levels) for queue in ("a", "b")],
        executions_total=480,
        trace=[],
    )
    [change] = changes(history)
    assert (change.before_ms, change.after_ms) == (100.0, 300.0)
    assert change.at_ns == EPOCH_NS + 12 * 60 * MINUTE
    assert change.executions_before == change.executions_after == 240


def test_the_diagnosis_has_them() -> None:
    assert diagnose(ran([100.0] * 20 + [200.0] * 20)).changes
    assert not diagnose(ran([100.0] * 40)).changes


def test_a_healthy_job_that_became_slower_is_said_in_the_headline() -> None:
    slower = diagnose(ran([100.0] * 20 + [200.0] * 20)).verdict
    assert slower.where == "none"
    assert slower.headline.endswith(". But runs take 200 ms since 2026-01-01 00:20:00 UTC, 100 ms before (median)")
    assert "But" not in diagnose(ran([200.0] * 20 + [100.0] * 20)).verdict.headline


def test_pettitt_on_a_separated_series() -> None:
    at, chance = pettitt([1.0] * 10 + [2.0] * 10)
    assert at == 10
    # K = 100, n = 20: 2 exp(-6 K^2 / (n^3 + n^2))
    assert chance == pytest.approx(2 * 2.718281828 ** (-60_000 / 8_400), rel=1e-6)
    assert pettitt([])[1] == pettitt([5.0] * 30)[1] == 1.0


def test_mann_kendall_against_known_values() -> None:
    # n = 10 without ties, S = 45: variance 125, z = 44 / sqrt(125)
    assert mann_kendall(list(range(10))) == pytest.approx(8.303e-5, rel=1e-2)
    assert mann_kendall([3.0] * 20) == 1.0
    assert mann_kendall([1.0, 2.0, 3.0]) == 1.0
