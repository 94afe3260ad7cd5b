"""JD206: one slow statement; many quick ones, lock waits, bulk inserts and a slow connect are not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.checklist.external.slow_query import SlowQuery, compared_columns
from jobdoctor.model import LockWait, SpanGroup
from tests.builders import MS, make_execution, make_group
from tests.diagnosis.asking import alike, ask, only

REPORT = "SELECT country, count(*) FROM orders WHERE lower(status) = ? AND day >= ? GROUP BY country"


def test_fires_on_one_slow_statement() -> None:
    slow = make_group(ms=700, fingerprint=REPORT, rows=5)
    assert only(ask(SlowQuery, alike(slow, run_ms=720))).severity == "critical"


@pytest.mark.parametrize(
    ("ms", "run", "severity"),
    [(120, 400, "warning"), (120, 700, "info"), (520, 8_000, "warning"), (700, 900, "critical")],
)
def test_severity_follows_time_and_share(ms: float, run: float, severity: str) -> None:
    assert only(ask(SlowQuery, alike(make_group(ms=ms, fingerprint=REPORT), run_ms=run))).severity == severity


@pytest.mark.parametrize(
    "group",
    [make_group(ms=99), make_group(ms=1_500, count=10)],
    ids=["milliseconds", "calls"],
)
def test_silent_just_below_each_limit(group: SpanGroup) -> None:
    assert ask(SlowQuery, alike(group, run_ms=1_600)) == []


def test_silent_when_only_some_executions_were_slow() -> None:
    executions = [make_execution(groups=[make_group(ms=400 if n < 2 else 40)], run_ms=450) for n in range(5)]
    assert ask(SlowQuery, executions) == []
    executions = [make_execution(groups=[make_group(ms=400 if n < 3 else 40)], run_ms=450) for n in range(5)]
    assert ask(SlowQuery, executions)


@pytest.mark.parametrize(
    "group",
    [
        make_group(ms=800, blocked_ns=750 * MS),
        make_group(ms=800, fingerprint="SELECT pg_advisory_lock(?)", effect="lock"),
        make_group(ms=800, fingerprint="SELECT * FROM stock WHERE sku = ? FOR UPDATE"),
        make_group(ms=800, operation="CONNECT", fingerprint="CONNECT", effect="none"),
        make_group(ms=800, operation="COMMIT", fingerprint="COMMIT", effect="transaction"),
        make_group(ms=800, operation="INSERT", fingerprint="INSERT INTO rows VALUES (?)", batched=1, items=5_000),
        make_group(ms=800, cpu_ns=750 * MS),
        make_group("http", ms=800),
    ],
    ids=["blocked", "advisory lock", "row lock", "connect", "commit", "bulk insert", "client's CPU", "http"],
)
def test_silent_on_look_alikes(group: SpanGroup) -> None:
    assert ask(SlowQuery, alike(group, run_ms=900)) == []


def test_a_wait_that_the_observer_saw_is_the_locks() -> None:
    executions = [
        replace(each, locks=[LockWait("row", "orders", 380 * MS, group=0)])
        for each in alike(make_group(ms=400, operation="UPDATE", effect="write"), run_ms=450)
    ]
    assert ask(SlowQuery, executions) == []


def test_sqlite_computes_in_the_job_and_its_cpu_is_the_statements() -> None:
    slow = make_group(ms=300, cpu_ns=290 * MS, target="sqlite:///shop.db", library="sqlite3", fingerprint=REPORT)
    finding = only(ask(SlowQuery, alike(slow, run_ms=320)))
    assert "EXPLAIN QUERY PLAN SELECT country" in finding.recommendation.snippet


def test_columns_that_are_compared() -> None:
    statement = 'SELECT a FROM t JOIN u ON t.u_id = u.id WHERE "t"."day" >= ? AND name LIKE ? ORDER BY size'
    assert compared_columns(statement) == ["t.u_id", "t.day", "name"]


def test_the_whole_finding() -> None:
    shape = "SELECT * FROM orders WHERE customer_email = ?"
    finding = only(ask(SlowQuery, alike(make_group(ms=400, fingerprint=shape, rows=3), run_ms=420)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD206", "external", "optimize")
    assert finding.title == "One SELECT of orders takes 400 ms (96% of the job) at app/tasks.py:41"
    assert (finding.saving_ms.low, finding.saving_ms.mid, finding.saving_ms.high) == pytest.approx((90, 340, 440))
    assert finding.recommendation.text.startswith("Look at the statement's plan. Look for an index on customer_email")
    assert f"EXPLAIN (ANALYZE, BUFFERS) {shape};" in finding.recommendation.snippet
    assert "CREATE INDEX ON orders (customer_email);" in finding.recommendation.snippet
    assert finding.evidence[1].text == "It gives 3 rows: what it reads for them, its plan tells"


@pytest.mark.parametrize(
    ("verb", "effect", "rows", "ms", "fires"),
    [
        ("INSERT", "write", 4_000, 399, False),
        ("INSERT", "write", 4_000, 401, True),
        ("INSERT", "write", 999, 110, True),
        ("SELECT", "read", 20_000, 399, False),
        ("SELECT", "read", 20_000, 401, True),
    ],
)
def test_many_rows_as_quick_as_rows_are_make_no_statement_slow(
    verb: str, effect: str, rows: int, ms: float, fires: bool
) -> None:
    shape = "INSERT INTO archive SELECT * FROM orders" if verb == "INSERT" else "SELECT * FROM orders"
    group = make_group(ms=ms, operation=verb, effect=effect, rows=rows, fingerprint=shape)
    assert bool(ask(SlowQuery, alike(group, run_ms=500))) is fires
