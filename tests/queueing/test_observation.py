"""Queues and jobs as they were recorded."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobdoctor.queueing.observation import busy_share, observe
from jobdoctor.queueing.workers import seen_workers
from tests.builders import EPOCH_NS, SECOND
from tests.queueing.traces import row


def test_workers_are_busy_for_a_part_of_the_time_that_they_are_there() -> None:
    seen = seen_workers([row("a", 100, 100, 110), row("a", 150, 150, 160, worker="worker-2")])
    begin = EPOCH_NS
    # Alone from its first job to its last; with its birth known, all the time since.
    assert busy_share(seen[:1], {}, begin, begin + 200 * SECOND) == 1.0
    assert busy_share(seen[:1], {"worker-1": begin + 100 * SECOND}, begin, begin + 200 * SECOND) == 0.1
    assert busy_share(seen, {"worker-1": 0}, begin + 100 * SECOND, begin + 200 * SECOND) == pytest.approx(20 / 110)
    assert busy_share([], {}, begin, begin + SECOND) is None


def test_each_queue_with_its_jobs_and_workers() -> None:
    rows = [
        row("a", 0, 0, 1),
        row("a", 1, 1, 2),
        row("b", 2, 2, 8, queue="low", worker_queues=["default", "low"]),
        row("a", 3, 8, 9, attempt=2),
        replace(row("a", 9, 9, 10, scheduled=True), created_at_ns=row("a", 9, 9, 10).created_at_ns - 60 * SECOND),
    ]
    found = observe(rows)
    whole = found["default"].whole
    assert (whole.executions, whole.retried, whole.scheduled) == (4, 1, 1)
    assert whole.held_p50 == pytest.approx(60)
    assert whole.work_s == pytest.approx(4)
    assert whole.wait_p95 == pytest.approx(5)
    assert found["default"].share("a") == 1
    assert found["default"].utilisation == pytest.approx(1.0)
    assert found["low"].jobs["b"].service_p50 == pytest.approx(6)
    assert [worker.name for worker in found["low"].workers] == ["worker-1"]
