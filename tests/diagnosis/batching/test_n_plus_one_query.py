"""JD401: a loop of queries is found whatever its speed; queries for many values, scans and repetitions are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.batching.n_plus_one_query import NPlusOneQuery
from jobdoctor.model import Saving, SpanGroup
from tests.builders import MS, make_execution, make_group
from tests.diagnosis.asking import GRAVE, alike, ask, only

IN_LIST = "SELECT * FROM orders WHERE id IN (?+)"


def test_fires_on_many_lookups_from_one_line() -> None:
    finding = only(ask(NPlusOneQuery, alike(make_group(count=412, ms=3_100), run_ms=3_400)))
    assert finding.severity == "critical"
    assert finding.calls == 412
    assert finding.callsite == "app/tasks.py:41"
    assert finding.cost_ms == pytest.approx(3_100)


def test_fires_on_fast_queries_that_are_the_larger_share_of_a_short_job() -> None:
    assert only(ask(NPlusOneQuery, alike(make_group(count=50, ms=15), run_ms=40))).severity == "warning"


def test_the_same_queries_in_a_long_job_are_trivial() -> None:
    assert only(ask(NPlusOneQuery, alike(make_group(count=50, ms=15), run_ms=4_000))).severity == "info"


def test_counts_that_grow_with_the_input_are_a_warning_although_the_share_is_small() -> None:
    executions = [
        make_execution(groups=[make_group(count=count, ms=0.3 * count)], at_ms=1_000 * count, run_ms=900)
        for count in (20, 40, 80, 160)
    ]
    finding = only(ask(NPlusOneQuery, executions))
    assert finding.severity == "warning"
    series = next(evidence for evidence in finding.evidence if evidence.kind == "series")
    assert "from 20 to 160" in series.text


def test_names_the_query_that_feeds_the_loop() -> None:
    feeding = make_group(
        fingerprint="SELECT id FROM customers", callsite="app/tasks.py:38", rows=412, first_start_ns=-1, ms=4
    )
    finding = only(ask(NPlusOneQuery, alike(feeding, make_group(count=412, ms=900), run_ms=1_000)))
    assert any("412 rows that app/tasks.py:38 fetched" in evidence.text for evidence in finding.evidence)
    assert finding.confidence > only(ask(NPlusOneQuery, alike(make_group(count=412, ms=900), run_ms=1_000))).confidence


def _loop(count: int = 100, **fields: Any) -> SpanGroup:
    """Queries of 30 ms in a loop of 80."""
    return make_group(count=count, ms=30, first_start_ns=0, last_end_ns=80 * MS, **fields)


def _saving(*groups: SpanGroup, cpu: float = 100) -> Saving:
    return next(
        finding.saving_ms
        for finding in ask(NPlusOneQuery, alike(*groups, run_ms=150, ledger={"cpu": cpu, "sql": 30}))
        if finding.callsite == groups[0].callsite
    )


@pytest.mark.parametrize(
    "orm",
    [
        {"relationship": "Order.items"},
        {"fingerprint": "SELECT book.id AS book_id, book.title AS book_title FROM book WHERE book.id = ?"},
        {"fingerprint": 'SELECT "shop_post"."id", "shop_post"."title" FROM "shop_post" WHERE "shop_post"."id" = ?'},
    ],
    ids=["lazy load", "SQLAlchemy", "Django"],
)
def test_an_orms_work_around_its_queries_would_be_saved_too(orm: dict[str, Any]) -> None:
    bare = _saving(_loop(), cpu=0)
    saving = _saving(_loop(**orm))
    assert saving.low == bare.low
    assert saving.mid == pytest.approx(bare.mid + 0.85 * 50)
    assert saving.high == pytest.approx(bare.high + 50)


def test_a_jobs_own_work_between_queries_is_the_widest_guess_only() -> None:
    bare = _saving(_loop(), cpu=0)
    saving = _saving(_loop())
    assert (saving.low, saving.mid) == (bare.low, bare.mid)
    assert saving.high == pytest.approx(bare.high + 50)


def test_no_more_is_between_the_queries_than_was_computed_and_not_spent_in_other_calls() -> None:
    bare = _saving(_loop(), cpu=0)
    assert _saving(_loop(), cpu=20).high == pytest.approx(bare.high + 20)
    asleep = make_group("sleep", count=100, ms=40, first_start_ns=0, last_end_ns=80 * MS, callsite="app/tasks.py:43")
    assert _saving(_loop(), asleep).high == pytest.approx(bare.high + (80 - 30 - 40) / 2)
    beside = _loop(callsite="app/tasks.py:42")
    assert _saving(_loop(), beside).high == pytest.approx(bare.high + (80 - 30 - 30) / 2)


@pytest.mark.parametrize(
    "group",
    [
        make_group(count=9, ms=500),
        make_group(count=3, ms=900),
        make_group(count=40, distinct=4, ms=500),
        make_group(count=100, distinct=19, ms=500),
        make_group(count=10, ms=0.3),
    ],
    ids=["calls", "three queries", "distinct", "distinct share", "milliseconds"],
)
def test_silent_just_below_each_limit(group: SpanGroup) -> None:
    assert ask(NPlusOneQuery, alike(group, run_ms=1_000)) == []


@pytest.mark.parametrize(
    "group",
    [make_group(count=10, ms=500), make_group(count=40, distinct=8, ms=500), make_group(count=10, ms=1.2)],
    ids=["calls", "distinct", "milliseconds"],
)
def test_fires_at_each_limit(group: SpanGroup) -> None:
    assert ask(NPlusOneQuery, alike(group, run_ms=1_000))


@pytest.mark.parametrize(
    "group",
    [
        make_group(fingerprint=IN_LIST, count=40, batched=40, items=20_000, rows=20_000, ms=900),
        make_group(fingerprint=IN_LIST, count=40, ms=900),
        make_group(fingerprint="SELECT * FROM orders WHERE id = ANY(?)", count=40, batched=40, items=4_000, ms=900),
        make_group(count=400, distinct=1, ms=900),
        make_group(operation="UPDATE", effect="write", fingerprint="UPDATE orders SET a = ? WHERE id = ?", count=400),
        make_group(fingerprint="SELECT * FROM orders ORDER BY id LIMIT ? OFFSET ?", count=40, rows=40_000, ms=900),
        make_group(fingerprint="SELECT * FROM orders WHERE id > ? ORDER BY id LIMIT ?", count=40, rows=40_000, ms=900),
        make_group(fingerprint="SELECT * FROM events WHERE day = ?", count=31, rows=31_000, ms=900),
        make_group(fingerprint="SELECT nextval(?)", count=400, ms=400),
        make_group(fingerprint="SELECT pg_advisory_xact_lock(?)", effect="lock", count=400, ms=400),
        make_group(fingerprint="(other)", count=4_000, ms=900),
    ],
    ids=[
        "chunks", "chunks of unknown size", "array", "same parameters", "writes", "offset", "keyset", "days",
        "sequence", "lock", "overflow",
    ],
)  # fmt: skip
def test_silent_on_look_alikes(group: SpanGroup) -> None:
    assert ask(NPlusOneQuery, alike(group, run_ms=1_000)) == []


def test_a_short_constant_list_beside_the_looked_up_id_hides_nothing() -> None:
    shape = "SELECT * FROM lines WHERE order_id = ? AND state IN (?+)"
    group = make_group(fingerprint=shape, count=200, batched=200, items=400, ms=600)
    assert only(ask(NPlusOneQuery, alike(group, run_ms=1_000))).severity in GRAVE


def test_queries_that_ran_beside_one_another_are_info() -> None:
    group = make_group(count=200, concurrent=199, ms=900, last_end_ns=200_000_000)
    assert only(ask(NPlusOneQuery, alike(group, run_ms=300))).severity == "info"


def test_a_thread_that_sleeps_does_not_make_the_loop_concurrent() -> None:
    loop = make_group(count=200, concurrent=200, ms=900)
    beside = make_group("sleep", callsite="app/heartbeat.py:9", ms=950)
    assert only(ask(NPlusOneQuery, alike(loop, beside, run_ms=1_000))).severity == "critical"


def test_an_override_moves_the_limit() -> None:
    executions = alike(make_group(count=50, ms=500), run_ms=1_000)
    assert ask(NPlusOneQuery, executions, {"calls": 51}) == []
    assert ask(NPlusOneQuery, executions, {"calls": 50})


def test_the_whole_finding_of_a_lazy_relationship() -> None:
    group = make_group(
        count=100,
        ms=800,
        min_ns=6_000_000,
        library="sqlalchemy",
        relationship="Order.items",
        fingerprint="SELECT items.id FROM items WHERE ? = items.order_id",
    )
    finding = only(ask(NPlusOneQuery, alike(group, run_ms=1_000)))
    assert (finding.code, finding.name, finding.step, finding.where) == (
        "JD401", "n-plus-one-query", "batching", "inside",
    )  # fmt: skip
    assert finding.title == "100 queries loading Order.items one by one from app/tasks.py:41"
    assert finding.recommendation.kind == "batch"
    assert "select(Order).options(selectinload(Order.items))" in finding.recommendation.snippet
    # 99 calls saved: half of the fastest call each; all but 0.03 ms for each item; all but one call.
    assert (finding.saving_ms.low, finding.saving_ms.mid, finding.saving_ms.high) == (297.0, 791.03, 794.0)
    row = finding.evidence[0].data["groups"][0]
    assert (row["count"], row["distinct"], row["target"]) == (100, 100, "postgresql://db/app")


def test_the_snippet_uses_the_statements_own_names() -> None:
    shape = "SELECT total FROM invoices WHERE customer_id = ? AND open = ?"
    raw = make_group(fingerprint=shape, library="sqlite3", count=100, ms=800)
    snippet = only(ask(NPlusOneQuery, alike(raw, run_ms=1_000))).recommendation.snippet
    assert "FROM invoices WHERE customer_id IN ({marks}) AND open = ?" in snippet
    assert "row.customer_id" in snippet


def test_asyncpgs_snippet_is_awaited_and_numbered() -> None:
    raw = make_group(
        library="asyncpg", fingerprint="SELECT * FROM invoices WHERE customer_id = ? AND open = ?", count=100, ms=500
    )
    snippet = only(ask(NPlusOneQuery, alike(raw, run_ms=1_000))).recommendation.snippet
    assert "await connection.fetch(" in snippet
    assert "WHERE customer_id = ANY($1) AND open = $2" in snippet


@pytest.mark.parametrize(
    ("relationship", "where", "load"),
    [
        ("Order.customer", '"shop_customer"."id" = ?', 'Order.objects.select_related("customer")'),
        ("Order.items", '"shop_item"."order_id" = ?', 'Order.objects.prefetch_related("items")'),
        ("", '"shop_item"."order_id" = ?', "Item.objects.filter(order_id__in=order_ids)"),
    ],
)
def test_djangos_snippet_speaks_django(relationship: str, where: str, load: str) -> None:
    shape = f'SELECT "x"."id" FROM "shop_item" WHERE {where} LIMIT ?'
    raw = make_group(library="django", relationship=relationship, fingerprint=shape, count=100, ms=500)
    assert load in only(ask(NPlusOneQuery, alike(raw, run_ms=1_000))).recommendation.snippet


def test_a_deferred_field_is_to_be_loaded_with_its_row() -> None:
    shape = 'SELECT "shop_order"."id", "shop_order"."notes" FROM "shop_order" WHERE "shop_order"."id" = ? LIMIT ?'
    raw = make_group(
        library="django", relationship="Order.notes", load_strategy="deferred", fingerprint=shape, count=100, ms=500
    )
    advice = only(ask(NPlusOneQuery, alike(raw, run_ms=1_000))).recommendation
    assert "defer() or only()" in advice.text
    assert "select_related" not in advice.snippet


@pytest.mark.parametrize(("relationship", "fires"), [("Supplier.parts", True), ("", False)])
def test_a_lazy_load_is_no_scan_however_many_rows_belong_to_each_object(relationship: str, fires: bool) -> None:
    shape = "SELECT parts.id FROM parts WHERE parts.supplier_id = ?"
    loads = make_group(fingerprint=shape, count=41, rows=6_150, ms=200, relationship=relationship)
    assert bool(ask(NPlusOneQuery, alike(loads, run_ms=500))) is fires
