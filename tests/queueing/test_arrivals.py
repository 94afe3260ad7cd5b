"""Rates, variability and bursts of small series, by hand."""

from __future__ import annotations

import pytest

from jobdoctor.queueing.arrivals import arrivals, bursts, offered_load, service, service_by_job, variation
from tests.builders import SECOND
from tests.queueing.traces import row


def test_regular_arrivals() -> None:
    seen = arrivals([4 * SECOND, 0, 2 * SECOND])
    assert (seen.count, seen.span_ns, seen.rate_per_s, seen.gap_cv) == (3, 4 * SECOND, 0.5, 0.0)


def test_few_arrivals_have_no_rate() -> None:
    assert arrivals([]).rate_per_s == 0.0
    assert arrivals([5]).rate_per_s == 0.0
    assert arrivals([5, 5, 5]).rate_per_s == 0.0


def test_variation_by_hand() -> None:
    assert variation([1.0, 3.0]) == pytest.approx(0.5)
    assert variation([2.0]) == variation([0.0, 0.0]) == 0.0


def test_service_times() -> None:
    rows = [row("a", 0, 0, 1), row("a", 0, 1, 4), row("b", 0, 4, 6)]
    both = service(rows)
    assert (both.count, both.mean_s, both.median_s, both.longest_s, both.total_s) == (3, 2.0, 2.0, 3.0, 6.0)
    kinds = service_by_job(rows)
    assert kinds["a"].median_s == 2.0
    assert kinds["b"].mean_s == 2.0
    assert service([]).mean_s == 0.0
    assert offered_load(2.0, 0.25) == 0.5


def test_bursts_split_at_the_gap() -> None:
    assert bursts([0, 1, 2, 10, 11, 30], gap_ns=1) == [(0, 2), (3, 4), (5, 5)]
    assert bursts([], gap_ns=1) == []
