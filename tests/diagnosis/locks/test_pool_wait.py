"""JD503: waiting for a connection is found; opening the first one is not waiting."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.locks.pool_wait import PoolWait
from tests.builders import MS, make_execution, make_group
from tests.diagnosis.asking import ask, only


def checkouts(count: int, ms: float, **fields: object) -> object:
    details = {
        "operation": "checkout", "fingerprint": "checkout", "target": "postgresql://db/app", "library": "sqlalchemy",
        "callsite": "app/reports.py:40", "count": count, "ms": ms,
    }  # fmt: skip
    return make_group("pool", **{**details, **fields})


def test_fires_on_known_waits() -> None:
    group = checkouts(6, 900, blocked_ns=900 * MS)
    executions = [make_execution(run_ms=1_000, groups=[group], ledger={"pool": 600, "sql": 400}) for _ in range(5)]
    finding = only(ask(PoolWait, executions))
    assert finding.cost_ms == pytest.approx(900)
    assert (finding.saving_ms.low, finding.saving_ms.mid) == (0.0, pytest.approx(750))  # a busy database gives nothing
    assert finding.saving_ms.high == pytest.approx(900)
    assert finding.callsite == "app/reports.py:40"
    assert "pool_size" in finding.recommendation.snippet
    assert "postgresql://db/app" in finding.title


def test_what_more_connections_give_follows_littles_law() -> None:
    """Six threads, one connection, 100 ms: in the mean 3.6 wait while 0.9 ask. With a connection for each, the asking
    takes a fifth of the time."""
    line = checkouts(6, 360, blocked_ns=360 * MS, first_start_ns=0, last_end_ns=80 * MS, concurrent=6)
    queries = make_group("sql", count=6, ms=90, first_start_ns=10 * MS, last_end_ns=100 * MS,
                         target="postgresql://db/app")  # fmt: skip
    finding = only(ask(PoolWait, [make_execution(run_ms=150, groups=[line, queries]) for _ in range(5)]))
    assert finding.saving_ms.high == pytest.approx(100 * 360 / 450)
    assert finding.saving_ms.mid == pytest.approx(40)
    assert finding.saving_ms.low == 0


def test_threads_wait_longer_than_the_run_and_cost_the_run() -> None:
    group = checkouts(30, 9_000, blocked_ns=9_000 * MS)
    finding = only(ask(PoolWait, [make_execution(run_ms=1_000, groups=[group]) for _ in range(5)]))
    assert finding.cost_ms == pytest.approx(1_000)


def test_without_knowledge_all_but_the_longest_count() -> None:
    group = checkouts(9, 1_000, max_ns=200 * MS)
    finding = only(ask(PoolWait, [make_execution(run_ms=1_200, groups=[group]) for _ in range(5)]))
    assert finding.cost_ms == pytest.approx(800)


def test_a_pool_that_has_no_name_yet_is_the_one_that_gets_one() -> None:
    groups = [checkouts(2, 300, blocked_ns=300 * MS, target=""), checkouts(2, 200, blocked_ns=200 * MS)]
    finding = only(ask(PoolWait, [make_execution(run_ms=1_000, groups=groups) for _ in range(5)]))
    assert finding.cost_ms == pytest.approx(500)
    assert "postgresql://db/app" in finding.title
    other = checkouts(2, 200, blocked_ns=200 * MS, target="postgresql://db/other")
    found = ask(PoolWait, [make_execution(run_ms=1_000, groups=[*groups, other]) for _ in range(5)])
    assert len(found) == 3


def test_checkouts_that_gave_up_are_sure() -> None:
    group = checkouts(1, 800, errors=1)
    finding = only(ask(PoolWait, [make_execution(run_ms=1_000, groups=[group]) for _ in range(5)]))
    assert finding.confidence == 0.95
    assert "gave up" in finding.evidence[0].text


@pytest.mark.parametrize(("ms", "run_ms"), [(49, 400), (99, 1_000)], ids=["milliseconds", "share"])
def test_just_below_each_limit(ms: float, run_ms: float) -> None:
    group = checkouts(4, ms, blocked_ns=int(ms * MS))
    assert ask(PoolWait, [make_execution(run_ms=run_ms, groups=[group]) for _ in range(5)]) == []
    at = checkouts(4, ms + 1, blocked_ns=int((ms + 1) * MS))
    only(ask(PoolWait, [make_execution(run_ms=run_ms, groups=[at]) for _ in range(5)]))


@pytest.mark.parametrize(
    "group",
    [
        checkouts(1, 300),
        checkouts(1, 300, new_connections=1),
        checkouts(5, 500, new_connections=5),
        checkouts(50, 302, max_ns=300 * MS, new_connections=1),
    ],
    ids=["first checkout", "opens a connection", "opens five", "opens one of fifty"],
)
def test_opening_connections_is_not_waiting(group: object) -> None:
    assert ask(PoolWait, [make_execution(run_ms=400, groups=[group]) for _ in range(5)]) == []
