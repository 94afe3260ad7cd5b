"""Statistics of pairs: what a slow round does to all arms alike says nothing about one of them."""

from __future__ import annotations

import pytest

from benchmarks import pairs


def test_a_ratio_is_that_of_single_rounds() -> None:
    plain = [10.0, 20.0, 40.0, 10.0, 30.0]  # the machine was busy in some rounds
    other = [each * 1.5 for each in plain]
    seen = pairs.compare(plain, other)
    assert seen.ratio == pytest.approx(1.5)
    assert (seen.low, seen.high) == pytest.approx((1.5, 1.5))
    assert seen.quartiles == pytest.approx((1.5, 1.5))
    assert seen.added == pytest.approx(10.0)


def test_the_interval_holds_the_median_and_is_the_same_every_time() -> None:
    plain = [10.0] * 21
    other = [10.0 + number / 10 for number in range(21)]
    seen = pairs.compare(plain, other)
    assert seen.ratio == pytest.approx(1.1)
    assert 1.0 < seen.low < 1.1 < seen.high < 1.2
    assert pairs.compare(plain, other) == seen


def test_one_round_is_a_comparison_too() -> None:
    seen = pairs.compare([10.0], [12.0])
    assert (seen.ratio, seen.low, seen.high, *seen.quartiles) == pytest.approx((1.2,) * 5)


def test_sums_see_what_few_executions_pay() -> None:
    never = [10.0] * 20
    auto = [10.0] * 19 + [30.0]
    ratio, low, high = pairs.of_sums(never, auto)
    assert ratio == pytest.approx(1.1)
    assert low == pytest.approx(1.0)
    assert high > 1.1
    assert pairs.compare(never, auto).ratio == 1.0
