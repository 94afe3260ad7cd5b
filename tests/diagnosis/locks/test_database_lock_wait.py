"""JD501: time blocked in the database is found with who held the lock; slow or uncontended statements are not."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.locks.database_lock_wait import DatabaseLockWait
from jobdoctor.model import Execution, LockWait
from tests.builders import MS, make_execution, make_group
from tests.diagnosis.asking import alike, ask, only

UPDATE = "UPDATE stock_levels SET on_hand = ? WHERE sku = ?"
DATABASE = "postgresql://db/app"


def blocked(ms: float, *, run_ms: float = 500, **fields: object) -> Execution:
    details = {
        "kind": "row", "target": DATABASE, "group": 0, "blocking_statement": "SELECT ... FOR UPDATE",
        "blocking_job": "app.tasks.recount",
    }  # fmt: skip
    wait = LockWait(waited_ns=int(ms * MS), **{**details, **fields})  # type: ignore[arg-type]
    group = make_group(fingerprint=UPDATE, operation="UPDATE", effect="write", callsite="app/stock.py:9", ms=ms + 1)
    return make_execution(run_ms=run_ms, groups=[group], locks=[wait] if ms else [])


def test_fires_and_names_the_holder() -> None:
    finding = only(ask(DatabaseLockWait, [blocked(400) for _ in range(6)]))
    assert finding.severity == "critical"
    assert finding.cost_ms == pytest.approx(400)
    assert finding.callsite == "app/stock.py:9"
    assert "row lock held by app.tasks.recount" in finding.title
    assert "SELECT" not in finding.title
    assert "; what held it: SELECT" in finding.evidence[0].text
    assert "FOR UPDATE" in finding.evidence[0].text
    assert finding.recommendation.kind == "lock"
    assert "skip_locked" in finding.recommendation.snippet
    assert finding.saving_ms.low < finding.saving_ms.mid < finding.saving_ms.high == pytest.approx(400)
    table = finding.evidence[0].data["locks"][0]
    assert table["executions_affected"] == 6
    assert table["holders"][0]["job"] == "app.tasks.recount"


def test_executions_that_did_not_wait_count_in_the_mean() -> None:
    finding = only(ask(DatabaseLockWait, [*[blocked(400) for _ in range(2)], *[blocked(0) for _ in range(6)]]))
    assert finding.cost_ms == pytest.approx(100)
    assert "2 of 8 executions" in finding.evidence[0].text


def test_blocked_by_its_own_kind_is_said() -> None:
    own = make_execution().job
    finding = only(ask(DatabaseLockWait, [blocked(300, blocking_job=own) for _ in range(5)]))
    assert "other executions of this job" in finding.title


def test_an_advisory_lock_statement_is_found_without_an_observer() -> None:
    group = make_group(fingerprint="SELECT pg_advisory_lock(?)", effect="lock", count=1, ms=600)
    finding = only(ask(DatabaseLockWait, [make_execution(run_ms=700, groups=[group]) for _ in range(5)]))
    assert "advisory" in finding.title
    assert "pg_try_advisory" in finding.recommendation.snippet


def test_one_statement_is_not_counted_twice() -> None:
    """The observer's wait and the statement's own time are one wait."""
    group = make_group(fingerprint="SELECT pg_advisory_lock(?)", effect="lock", count=1, ms=600, blocked_ns=600 * MS)
    wait = LockWait("advisory", DATABASE, 600 * MS, group=0)
    executions = [make_execution(run_ms=700, groups=[group], locks=[wait]) for _ in range(5)]
    assert only(ask(DatabaseLockWait, executions)).cost_ms == pytest.approx(600)


def test_a_wait_that_has_no_statement_is_found() -> None:
    wait = LockWait("sqlite", "sqlite:///app.db", 300 * MS)
    finding = only(ask(DatabaseLockWait, [make_execution(run_ms=400, locks=[wait]) for _ in range(5)]))
    assert "SQLite" in finding.title
    assert "WAL" in finding.recommendation.snippet


@pytest.mark.parametrize(
    ("kind", "words"),
    [("row", "skip_locked"), ("advisory", "SELECT GET_LOCK(:key, 0)"), ("table", "SET SESSION lock_wait_timeout = 2")],
)
def test_advice_in_the_words_of_mysql(kind: str, words: str) -> None:
    target = "mysql://db:3306/app"
    finding = only(ask(DatabaseLockWait, [blocked(300, kind=kind, target=target) for _ in range(5)]))
    assert words in finding.recommendation.snippet
    assert "pg_" not in finding.recommendation.snippet
    assert "SET LOCAL" not in finding.recommendation.snippet
    assert ("ALTER TABLE" in finding.recommendation.text) == (kind == "table")
    assert "held by app.tasks.recount" in finding.title


def test_get_lock_is_found_without_an_observer() -> None:
    group = make_group(
        fingerprint="SELECT GET_LOCK(?, ?)", effect="lock", count=1, ms=600, target="mysql://db:3306/app"
    )
    finding = only(ask(DatabaseLockWait, [make_execution(run_ms=700, groups=[group]) for _ in range(5)]))
    assert "advisory" in finding.title
    assert "GET_LOCK" in finding.recommendation.snippet


@pytest.mark.parametrize(("ms", "run_ms"), [(19, 100), (49, 1_000)], ids=["milliseconds", "share"])
def test_just_below_each_limit(ms: float, run_ms: float) -> None:
    assert ask(DatabaseLockWait, [blocked(ms, run_ms=run_ms) for _ in range(5)]) == []


@pytest.mark.parametrize(("ms", "run_ms"), [(20, 100), (50, 1_000)])
def test_just_at_each_limit(ms: float, run_ms: float) -> None:
    only(ask(DatabaseLockWait, [blocked(ms, run_ms=run_ms) for _ in range(5)]))


def test_a_single_long_wait_is_said_although_it_is_rare() -> None:
    executions = [blocked(1_200, run_ms=60_000), *[blocked(0, run_ms=60_000) for _ in range(9)]]
    assert only(ask(DatabaseLockWait, executions)).severity == "info"


@pytest.mark.parametrize(
    "group",
    [
        make_group(fingerprint="SELECT pg_advisory_lock(?)", effect="lock", count=20, ms=20),
        make_group(fingerprint="SELECT pg_try_advisory_lock(?)", effect="lock", count=1, ms=900),
        make_group(fingerprint="SELECT pg_advisory_unlock(?)", effect="lock", count=1, ms=900),
        make_group(fingerprint="SELECT * FROM orders FOR UPDATE", count=1, ms=900),
        make_group(channel="redis", fingerprint="SET lock:{}", effect="lock", count=1, ms=900),
    ],
    ids=["uncontended", "try", "unlock", "slow query", "redis"],
)
def test_look_alikes(group: object) -> None:
    assert ask(DatabaseLockWait, [make_execution(run_ms=1_000, groups=[group]) for _ in range(5)]) == []


def test_application_locks_are_another_rule() -> None:
    wait = LockWait("redis", "lock:gateway", 300 * MS)
    assert ask(DatabaseLockWait, [make_execution(run_ms=400, locks=[wait]) for _ in range(5)]) == []


def test_a_starved_host_and_cold_imports_do_not_hide_it() -> None:
    ledger = {"cpu_wait": 500, "import": 300, "dispatch": 50, "lock": 50, "sql": 200}
    assert ask(DatabaseLockWait, alike(run_ms=1_100, ledger=ledger, locks=[LockWait("row", "db", 50 * MS)]))
