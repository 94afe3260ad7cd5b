"""JD408: thousands of rows for next to nothing; rows that are written on, worked on or bounded are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.batching.over_fetching import OverFetching
from jobdoctor.model import FileIO, Finding, ResultInfo, SpanGroup
from tests.builders import make_group
from tests.diagnosis.asking import alike, ask, only

SELECT = "SELECT order_items.quantity, order_items.price_cents FROM order_items WHERE order_items.day >= ?"


def fetch(rows: int | None = 8_000, statement: str = SELECT, **fields: Any) -> SpanGroup:
    return make_group(**{"fingerprint": statement, "rows": rows, "max_rows": rows, "ms": 20, "distinct": 1, **fields})


def found(*groups: SpanGroup, cpu: float = 60, run_ms: float = 120, **fields: Any) -> list[Finding]:
    ledger = {"cpu": cpu, "sql": 20}
    return ask(OverFetching, alike(*groups, ledger=ledger, run_ms=run_ms, **fields))


def test_fires_on_a_sum_in_python() -> None:
    finding = only(found(fetch(library="sqlalchemy"), make_group("redis", effect="write", sent_bytes=12)))
    assert finding.title == "8,000 rows of order_items fetched at app/tasks.py:41, and next to nothing done with each"
    assert finding.severity == "warning"
    assert finding.cost_ms == pytest.approx(80)
    assert finding.saving_ms.low == pytest.approx(24)
    assert finding.saving_ms.mid == pytest.approx(52)
    assert finding.saving_ms.high == pytest.approx(78)
    assert finding.recommendation.kind == "batch"
    assert "func.sum" in finding.recommendation.snippet
    assert finding.evidence[0].data["groups"][0]["rows"] == 8_000
    assert finding.evidence[1].text == "What it wrote, sent and returned instead: 12 B (items: 1)"


def test_the_snippet_of_a_driver_is_sql() -> None:
    snippet = only(found(fetch())).recommendation.snippet
    assert snippet.endswith("SELECT sum(...), count(*) FROM order_items WHERE order_items.day >= ?")


@pytest.mark.parametrize(("rows", "fires"), [(1_999, False), (2_000, True)])
def test_below_two_thousand_rows_it_is_silent(rows: int, fires: bool) -> None:
    assert bool(found(fetch(rows))) is fires


@pytest.mark.parametrize(("written", "fires"), [(399, True), (400, False)])
def test_just_below_one_in_twenty_written_on(written: int, fires: bool) -> None:
    insert = make_group(operation="INSERT", effect="write", fingerprint="INSERT INTO t", batched=1, items=written)
    assert bool(found(fetch(), insert)) is fires


@pytest.mark.parametrize(("written", "fires"), [(31_999, True), (32_000, False)])
def test_just_below_four_bytes_a_row(written: int, fires: bool) -> None:
    assert bool(found(fetch(), file_io=FileIO(write_calls=4, written_bytes=written))) is fires


@pytest.mark.parametrize(("cpu", "fires"), [(799, True), (800, False)])
def test_just_below_a_hundred_microseconds_a_row(cpu: float, fires: bool) -> None:
    assert bool(found(fetch(), cpu=cpu, run_ms=1_000)) is fires


def test_just_below_two_milliseconds_nothing_is_said() -> None:
    assert found(fetch(ms=1), cpu=0.9) == []
    assert only(found(fetch(ms=1), cpu=1.1)).severity == "info"


@pytest.mark.parametrize(
    "groups",
    [
        [fetch(statement=f"{SELECT} LIMIT ?")],
        [fetch(statement=f"{SELECT} GROUP BY order_items.day")],
        [fetch(statement="SELECT id FROM orders WHERE id IN (?+)")],
        [fetch(statement="SELECT id FROM orders WHERE id = ANY(?)")],
        [fetch(statement="SELECT " + "c, " * 700)],
        [fetch(statement="FETCH FORWARD ? FROM c", operation="FETCH", count=40, rows=8_000, max_rows=200)],
        [fetch(rows=8_000, count=40, max_rows=200)],
        [fetch(), make_group("http", operation="POST", effect="write", sent_bytes=90_000)],
        [fetch(), make_group("enqueue", effect="write", count=500)],
        [fetch(operation="UPDATE", effect="write")],
        [fetch(rows=None)],
    ],
    ids=["limit", "groups", "in", "any", "cut", "server side", "pages", "sent", "enqueued", "update", "not known"],
)  # fmt: skip
def test_look_alikes(groups: list[SpanGroup]) -> None:
    assert found(*groups) == []


def test_rows_that_are_returned_are_used_and_healthy() -> None:
    assert found(fetch(), result=ResultInfo("list", bytes=64_000)) == []
