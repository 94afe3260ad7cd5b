"""JD405: writes of one row each; executemany, multi-row VALUES and writes to many rows are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.batching.row_by_row_write import RowByRowWrite
from jobdoctor.model import SpanGroup
from tests.builders import make_group
from tests.diagnosis.asking import alike, ask, only


def insert(**fields: Any) -> SpanGroup:
    defaults: dict[str, Any] = {
        "operation": "INSERT",
        "effect": "write",
        "fingerprint": "INSERT INTO lines (a, b) VALUES (?+)",
    }
    return make_group(**{**defaults, **fields})


def test_fires_on_inserts_one_by_one() -> None:
    assert only(ask(RowByRowWrite, alike(insert(count=200, rows=200, ms=300), run_ms=400))).severity == "critical"


@pytest.mark.parametrize("operation", ["UPDATE", "DELETE"])
def test_fires_on_the_other_writes(operation: str) -> None:
    assert ask(RowByRowWrite, alike(insert(operation=operation, count=200, ms=300), run_ms=400))


@pytest.mark.parametrize(
    "group",
    [insert(count=9, ms=300), insert(count=20, rows=31, ms=300), insert(count=10, ms=0.3)],
    ids=["calls", "rows per call", "milliseconds"],
)
def test_silent_just_below_each_limit(group: SpanGroup) -> None:
    assert ask(RowByRowWrite, alike(group, run_ms=400)) == []


@pytest.mark.parametrize("group", [insert(count=10, ms=300), insert(count=20, rows=30, ms=300)])
def test_fires_at_each_limit(group: SpanGroup) -> None:
    assert ask(RowByRowWrite, alike(group, run_ms=400))


@pytest.mark.parametrize(
    "group",
    [
        insert(count=20, batched=20, items=20_000, rows=20_000, ms=300),
        insert(operation="UPDATE", fingerprint="UPDATE a SET b = ? WHERE c = ?", count=20, rows=8_000, ms=300),
        make_group(count=200, ms=300),
    ],
    ids=["executemany", "many rows", "reads"],
)
def test_silent_on_look_alikes(group: SpanGroup) -> None:
    assert ask(RowByRowWrite, alike(group, run_ms=400)) == []


def test_progress_written_now_and_then_is_info() -> None:
    progress = insert(operation="UPDATE", fingerprint="UPDATE runs SET done = ? WHERE id = ?", count=20, rows=20, ms=20)
    assert only(ask(RowByRowWrite, alike(progress, run_ms=20_000))).severity == "info"


def test_the_whole_finding() -> None:
    finding = only(ask(RowByRowWrite, alike(insert(count=200, rows=200, ms=300), run_ms=400)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD405", "batching", "batch")
    assert finding.title == "200 INSERTs of lines from app/tasks.py:41, one row at a time"
    assert finding.saving_ms.mid == pytest.approx(298.5 - 199 * 0.03)
    assert "executemany" in finding.recommendation.snippet
    assert "INSERT INTO lines (a, b)" in finding.recommendation.snippet


def test_psycopg2_sends_each_row_of_executemany_by_itself() -> None:
    batch = insert(library="psycopg2", count=1, items=400, distinct=1, rows=None, ms=120)
    finding = only(ask(RowByRowWrite, alike(batch, run_ms=200)))
    assert (finding.severity, finding.calls) == ("warning", 400)
    assert finding.title.startswith("400 INSERTs of ")
    assert "execute_values(" in finding.recommendation.snippet
    few = insert(library="psycopg2", count=1, items=9, distinct=1, rows=None, ms=120)
    assert ask(RowByRowWrite, alike(few, run_ms=200)) == []
    values = insert(library="psycopg2", count=10, batched=10, items=2_000, rows=2_000, ms=120)
    assert ask(RowByRowWrite, alike(values, run_ms=200)) == [], "execute_values() sends 200 rows with each statement"


def test_asyncpgs_placeholders_are_numbered() -> None:
    snippet = only(
        ask(RowByRowWrite, alike(insert(library="asyncpg", count=200, ms=300), run_ms=400))
    ).recommendation.snippet
    assert 'await connection.executemany("""INSERT INTO lines (a, b) VALUES ($1, ...)""", rows)' in snippet
