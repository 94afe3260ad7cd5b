"""Queues and jobs as they were recorded."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobdoctor.queueing.observation import observe
from tests.builders import SECOND
from tests.queueing.traces import row


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
