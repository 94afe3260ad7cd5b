"""Queues and jobs as they were recorded."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from jobdoctor.model import TraceRow
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


def test_each_way_into_a_queue_is_told_apart() -> None:
    def came(job: str, at: float, waited: float, created: float | None = None, **fields: Any) -> TraceRow:
        made = row(job, at, at + waited, at + waited + 1, **fields)
        return made if created is None else replace(made, created_at_ns=EPOCH_NS + round(created * SECOND))

    rows = [
        *(came("a", at, 0.1) for at in range(5)),
        came("b", 100, 2, created=40, route="scheduled", scheduled=True),
        came("b", 110, 4, created=90, route="scheduled", scheduled=True),
        came("c", 120, 1, created=115, route="deferred", scheduled=True),
        came("d", 130, 3, job_id="d", outcome="retried"),
        came("d", 164, 5, job_id="d", attempt=2, created=130, route="retried"),
        came("e", 170, 6, created=100, route="requeued"),  # what ran before is not recorded
        came("f", 180, 7, created=100, route="unknown", scheduled=True),
    ]
    whole = observe(rows)["default"].whole
    assert list(whole.routes) == ["straight", "scheduled", "deferred", "retried", "requeued", "unknown"]
    assert {name: each.executions for name, each in whole.routes.items()} == {
        "straight": 6, "scheduled": 2, "deferred": 1, "retried": 1, "requeued": 1, "unknown": 1
    }  # fmt: skip
    straight, scheduled = whole.routes["straight"], whole.routes["scheduled"]
    assert [straight.wait_p50, straight.wait_p95] == pytest.approx([0.1, 3])
    assert straight.held_p50 is None
    assert [scheduled.wait_p50, scheduled.wait_p95, scheduled.held_p50] == pytest.approx([2, 4, 20])
    assert whole.routes["deferred"].held_p50 == pytest.approx(5)
    assert whole.routes["retried"].held_p50 == pytest.approx(30)  # since the attempt before, not since its creation
    assert whole.routes["requeued"].held_p50 is None
    assert whole.routes["unknown"].held_p50 is None


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
