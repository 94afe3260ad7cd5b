"""JD502: contended application locks are found once; uncontended ones and waiting for one's own threads are not."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.locks.application_lock_wait import ApplicationLockWait
from jobdoctor.model import Execution, LockWait
from tests.builders import MS, make_execution, make_group
from tests.diagnosis.asking import ask, only


def redis_lock(ms: float, **fields: object) -> object:
    details = {
        "operation": "acquire", "fingerprint": "lock:gateway", "library": "redis", "target": "redis://cache/0",
        "effect": "lock", "callsite": "app/mail.py:14", "ms": ms,
    }  # fmt: skip
    return make_group("lock", **{**details, **fields})


def waiting(ms: float, *, run_ms: float = 500, locks: list[LockWait] | None = None) -> Execution:
    group = redis_lock(ms, blocked_ns=int(ms * MS))
    return make_execution(run_ms=run_ms, groups=[group] if ms else [], locks=locks or [])


def test_fires_on_a_contended_redis_lock() -> None:
    finding = only(ask(ApplicationLockWait, [waiting(400) for _ in range(6)]))
    assert finding.severity == "critical"
    assert finding.cost_ms == pytest.approx(400)
    assert finding.callsite == "app/mail.py:14"
    assert "the Redis lock lock:gateway" in finding.title
    assert "blocking=False" in finding.recommendation.snippet
    assert finding.calls == 1


def test_the_call_and_its_recorded_wait_are_one_and_the_wait_names_the_holder() -> None:
    """The recorder notes a contended acquire twice: as a call, and as a wait that can know the holder."""
    own = make_execution().job
    note = LockWait("redis", "redis://cache/0 lock:gateway", 400 * MS, blocking_job=own)
    finding = only(ask(ApplicationLockWait, [waiting(400, locks=[note]) for _ in range(6)]))
    assert finding.cost_ms == pytest.approx(400)
    assert "other executions of this job" in finding.title


def test_a_file_lock_known_only_from_its_wait() -> None:
    waits = [LockWait("file", "/var/lock/export", 300 * MS)]
    finding = only(ask(ApplicationLockWait, [make_execution(run_ms=400, locks=waits) for _ in range(5)]))
    assert "file lock /var/lock/export" in finding.title
    assert "os.replace" in finding.recommendation.snippet


def test_threads_that_queue_at_one_lock_cost_the_run_at_most() -> None:
    group = make_group(
        "lock", operation="acquire", fingerprint="Lock of app/x.py:3", library="threading", count=40,
        ms=4_000, blocked_ns=4_000 * MS, last_end_ns=900 * MS,
    )  # fmt: skip
    finding = only(ask(ApplicationLockWait, [make_execution(run_ms=1_000, groups=[group]) for _ in range(5)]))
    assert finding.cost_ms == pytest.approx(1_000)
    assert "thread lock" in finding.title


def test_each_execution_counts_with_its_own_run_at_most() -> None:
    group = redis_lock(9_000, count=9, blocked_ns=9_000 * MS)
    executions = [make_execution(run_ms=1_000, groups=[group]), *[make_execution(run_ms=1_000) for _ in range(4)]]
    assert only(ask(ApplicationLockWait, executions)).cost_ms == pytest.approx(200)


@pytest.mark.parametrize(("ms", "run_ms"), [(19, 100), (49, 1_000)], ids=["milliseconds", "share"])
def test_just_below_each_limit(ms: float, run_ms: float) -> None:
    assert ask(ApplicationLockWait, [waiting(ms, run_ms=run_ms) for _ in range(5)]) == []


@pytest.mark.parametrize(("ms", "run_ms"), [(20, 100), (50, 1_000)])
def test_just_at_each_limit(ms: float, run_ms: float) -> None:
    only(ask(ApplicationLockWait, [waiting(ms, run_ms=run_ms) for _ in range(5)]))


@pytest.mark.parametrize(
    "group",
    [
        redis_lock(400, count=100),
        redis_lock(300, count=150, max_ns=4 * MS),
        redis_lock(900, operation="wait", library="threading"),
        redis_lock(900, operation="join", library="threading"),
        make_group("sleep", count=1, ms=900),
    ],
    ids=["uncontended", "round trips", "event", "join", "sleep"],
)
def test_look_alikes(group: object) -> None:
    assert ask(ApplicationLockWait, [make_execution(run_ms=1_000, groups=[group]) for _ in range(5)]) == []


def test_one_long_wait_among_many_uncontended_acquisitions_is_found() -> None:
    group = redis_lock(900, count=200, min_ns=MS // 2, max_ns=800 * MS)
    finding = only(ask(ApplicationLockWait, [make_execution(run_ms=1_000, groups=[group]) for _ in range(5)]))
    assert finding.cost_ms == pytest.approx(800, abs=5)
