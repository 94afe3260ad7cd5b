"""Erlang C against its textbook formula, and the number of workers for an objective."""

from __future__ import annotations

from math import factorial, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobdoctor.queueing.capacity import erlang_c, mean_wait_s, workers_needed


def textbook_erlang_c(workers: int, load: float) -> float:
    tail = load**workers / factorial(workers) * workers / (workers - load)
    return tail / (sum(load**k / factorial(k) for k in range(workers)) + tail)


@given(st.integers(1, 20), st.floats(0.01, 0.99))
def test_erlang_c_is_the_closed_formula(workers: int, utilisation: float) -> None:
    load = workers * utilisation
    assert erlang_c(workers, load) == pytest.approx(textbook_erlang_c(workers, load), rel=1e-9)


def test_one_worker_waits_as_m_m_1() -> None:
    """M/M/1: W = rho / (1 - rho) * S."""
    assert mean_wait_s(0.8, 1.0, 1) == pytest.approx(4.0)
    assert erlang_c(1, 0.8) == pytest.approx(0.8)


def test_deterministic_service_halves_the_wait() -> None:
    """Allen-Cunneen is exact for M/D/1 (Pollaczek-Khinchine)."""
    assert mean_wait_s(0.8, 1.0, 1, service_cv=0.0) == pytest.approx(2.0)


def test_no_load_no_wait_and_overload_never_ends() -> None:
    assert mean_wait_s(0.0, 1.0, 1) == 0.0
    assert mean_wait_s(3.0, 1.0, 3) == inf
    assert erlang_c(2, 5.0) == 1.0
    assert erlang_c(2, 0.0) == 0.0


def test_workers_needed_by_utilisation_and_by_objective() -> None:
    assert workers_needed(3.0, 1.0, objective_s=100.0) == 4, "3 Erlangs at 80% at most: 3.75"
    assert workers_needed(4.0, 1.0, objective_s=100.0) == 5, "exactly 80%"
    tight = workers_needed(3.0, 1.0, objective_s=0.01)
    assert mean_wait_s(3.0, 1.0, tight) <= 0.01 < mean_wait_s(3.0, 1.0, tight - 1)
    assert workers_needed(1.0, 1.0, objective_s=0.0) > 1, "ends although an objective of 0 is never reached"


@given(st.floats(0.01, 50), st.floats(0.01, 5))
def test_one_worker_fewer_would_miss(rate: float, service: float) -> None:
    needed = workers_needed(rate, service, objective_s=service)
    assert rate * service <= needed * 0.8 + 1e-6
    fewer = needed - 1
    if fewer >= 1:
        assert rate * service > fewer * 0.8 or mean_wait_s(rate, service, fewer) > service
