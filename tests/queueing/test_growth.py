"""The trend of a series: slope, sign and significance."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobdoctor.queueing.growth import MOST_POINTS, trend


def test_a_line_has_its_slope_and_is_certain() -> None:
    found = trend([(x, 3.0 + 0.5 * x) for x in range(20)])
    assert found.slope == pytest.approx(0.5)
    assert found.tau == 1.0
    assert found.p_value < 0.001


def test_one_wild_value_moves_nothing() -> None:
    points = [(float(x), 0.5 * x) for x in range(20)]
    points[7] = (7.0, 1e9)
    assert trend(points).slope == pytest.approx(0.5, rel=0.05)


def test_noise_has_no_trend() -> None:
    noise = random.Random(11)
    assert trend([(x, noise.random()) for x in range(100)]).p_value > 0.01


def test_mann_kendall_by_hand() -> None:
    """1 2 3 4: S = 6, variance 4*3*13/18 = 8.667, z = 5 / 2.944 = 1.698, p = 0.0895."""
    assert trend([(x, x) for x in range(4)]).p_value == pytest.approx(0.0895, abs=1e-3)


def test_ties_narrow_the_variance_by_hand() -> None:
    """1 1 2 2: S = 4, variance (4*3*13 - 2*2*1*9) / 18 = 6.667, z = 3 / 2.582 = 1.162, p = 0.2453."""
    assert trend([(0, 1), (1, 1), (2, 2), (3, 2)]).p_value == pytest.approx(0.2453, abs=1e-3)


def test_ties_and_few_points_prove_nothing() -> None:
    assert trend([(x, 1.0) for x in range(50)]).p_value == 1.0
    assert trend([(0, 0), (1, 1), (2, 2)]).p_value == 1.0
    assert trend([]).slope == 0.0


@given(st.lists(st.integers(0, 50), min_size=4, max_size=40))
def test_reversing_time_turns_the_trend(values: list[int]) -> None:
    forward = trend(list(enumerate(values)))
    backward = trend(list(enumerate(reversed(values))))
    assert forward.slope == pytest.approx(-backward.slope)
    assert forward.tau == pytest.approx(-backward.tau)
    assert forward.p_value == pytest.approx(backward.p_value)


def test_long_series_are_thinned_evenly() -> None:
    found = trend([(x, 2.0 * x) for x in range(10 * MOST_POINTS)])
    assert found.slope == pytest.approx(2.0)
