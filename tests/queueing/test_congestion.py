"""Congested periods, and what tells a burst from an overload."""

from __future__ import annotations

import pytest

from jobdoctor.queueing.congestion import congested_periods, utilisation
from jobdoctor.queueing.workers import seen_workers
from tests.builders import EPOCH_NS, SECOND
from tests.queueing.traces import served


def test_a_burst_arrives_in_no_time_and_drains() -> None:
    [period] = congested_periods(served([(n * 0.01, "mail", 1.0) for n in range(30)]), gap_ns=SECOND)
    assert len(period.rows) == 30
    assert period.arriving_share < 0.02


def test_an_overload_keeps_arriving_and_waits_longer_each_time() -> None:
    """2 jobs a second of 1 s each on one worker: for each second of arrivals the wait grows by one second."""
    [period] = congested_periods(served([(n * 0.5, "mail", 1.0) for n in range(40)]), gap_ns=SECOND)
    assert period.arriving_share == pytest.approx(0.5, abs=0.05)
    found = period.wait_trend()
    assert found.slope == pytest.approx(1.0, abs=0.01)
    assert found.p_value < 0.001


def test_idle_time_ends_a_period_and_a_gap_can_bridge_it() -> None:
    rows = served([(tick * 60 + n * 0.01, "mail", 1.0) for tick in range(3) for n in range(5)])
    assert [len(period.rows) for period in congested_periods(rows, gap_ns=SECOND)] == [5, 5, 5]
    assert len(congested_periods(rows, gap_ns=60 * SECOND)) == 1
    assert congested_periods([]) == []


def test_utilisation_counts_each_worker_while_it_is_seen() -> None:
    workers = seen_workers(served([(0, "a", 10.0), (0, "a", 5.0), (9, "a", 1.0)], workers=2))
    assert utilisation(workers, EPOCH_NS, EPOCH_NS + 10 * SECOND) == pytest.approx(16 / 20)
    assert utilisation([], EPOCH_NS, EPOCH_NS + 1) == 0.0
