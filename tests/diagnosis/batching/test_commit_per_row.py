"""JD406: a commit for each item; commits of chunks, of reads, and those that guard payments are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.batching.commit_per_row import CommitPerRow
from jobdoctor.model import SpanGroup
from tests.builders import make_group
from tests.diagnosis.asking import alike, ask, only


def commit(**fields: Any) -> SpanGroup:
    defaults: dict[str, Any] = {
        "operation": "COMMIT",
        "effect": "transaction",
        "fingerprint": "COMMIT",
        "callsite": "app/tasks.py:44",
        "distinct": 0,
    }
    return make_group(**{**defaults, **fields})


def update(**fields: Any) -> SpanGroup:
    defaults: dict[str, Any] = {
        "operation": "UPDATE",
        "effect": "write",
        "fingerprint": "UPDATE orders SET a = ? WHERE id = ?",
    }
    return make_group(**{**defaults, **fields})


def test_fires_on_a_commit_for_each_row() -> None:
    executions = alike(commit(count=100, ms=500), update(count=100, ms=50), run_ms=600)
    assert only(ask(CommitPerRow, executions)).severity == "critical"


@pytest.mark.parametrize(
    ("commits", "writes", "ms"),
    [(9, 9, 500.0), (10, 51, 500.0), (10, 4, 500.0), (10, 10, 0.3)],
    ids=["commits", "rows per commit", "reads", "milliseconds"],
)
def test_silent_just_below_each_limit(commits: int, writes: int, ms: float) -> None:
    assert ask(CommitPerRow, alike(commit(count=commits, ms=ms), update(count=writes, ms=5), run_ms=600)) == []


@pytest.mark.parametrize(("commits", "writes"), [(10, 10), (10, 50), (10, 5)])
def test_fires_at_each_limit(commits: int, writes: int) -> None:
    assert ask(CommitPerRow, alike(commit(count=commits, ms=500), update(count=writes, ms=5), run_ms=600))


@pytest.mark.parametrize(
    "groups",
    [
        [commit(count=20, ms=500), update(count=20, batched=20, items=10_000, ms=50)],
        [commit(count=20, ms=500), make_group(count=20, ms=50)],
        [commit(count=1, ms=20), update(count=100, ms=50)],
        [commit(count=100, operation="ROLLBACK", ms=20), update(count=100, ms=50)],
    ],
    ids=["chunks", "reads only", "one commit", "rollbacks"],
)
def test_silent_on_look_alikes(groups: list[SpanGroup]) -> None:
    assert ask(CommitPerRow, alike(*groups, run_ms=600)) == []


def test_commits_that_follow_a_payment_each_are_info() -> None:
    pay = make_group("http", operation="POST", fingerprint="POST http://pay.test/charges", count=100, ms=4_000)
    executions = alike(commit(count=100, ms=500), update(count=100, ms=50), pay, run_ms=5_000)
    assert only(ask(CommitPerRow, executions)).severity == "info"


def test_the_whole_finding() -> None:
    finding = only(ask(CommitPerRow, alike(commit(count=100, ms=500), update(count=100, ms=50), run_ms=600)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD406", "batching", "batch")
    assert finding.title == "100 commits from app/tasks.py:44, one for each row"
    assert (finding.callsite, finding.calls, finding.cost_ms) == ("app/tasks.py:44", 100, 500.0)
    assert "connection.commit()" in finding.recommendation.snippet


def save(**fields: Any) -> SpanGroup:
    return update(**{"library": "django", "callsite": "app/tasks.py:44", "count": 100, "ms": 500, **fields})


def test_a_write_that_commits_by_itself_is_a_commit() -> None:
    executions = alike(save(), make_group(library="django", count=1, ms=0.5), run_ms=600)
    finding = only(ask(CommitPerRow, executions))
    assert finding.title.startswith("100 writes that commit by themselves from app/tasks.py:44, one for each row")
    assert "transaction.atomic()" in finding.recommendation.snippet
    assert finding.cost_ms == pytest.approx(500)
    assert finding.saving_ms.high < 460  # what a query takes remains


@pytest.mark.parametrize(
    "fields",
    [{"in_transaction": 100}, {"library": "psycopg"}, {"count": 9}, {"batched": 100, "items": 10_000}],
    ids=["in a transaction", "a driver that opens one", "few", "many rows each"],
)
def test_a_write_that_does_not_commit_or_writes_many_is_none(fields: dict[str, Any]) -> None:
    assert ask(CommitPerRow, alike(save(**fields), run_ms=600)) == []
