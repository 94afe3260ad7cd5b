"""JD505: equal jobs at one time that both wrote; guards, retries, other arguments and queues of their own are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.locks.overlapping_duplicates import OverlappingDuplicates
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Finding, SpanGroup, TraceRow
from tests.builders import make_group
from tests.diagnosis.asking import only
from tests.diagnosis.traffic import MAIL, history_of
from tests.queueing.traces import row

ADD = "UPDATE customers SET points=(customers.points + ?) WHERE customers.id = ?"


def adding(statement: str = ADD, **fields: Any) -> SpanGroup:
    defaults = {"operation": statement.split()[0], "effect": "write", "rows": 1, "callsite": "app/points.py:7"}
    return make_group(**{"fingerprint": statement, **defaults, **fields})


def run(order: int, at: float = 0.0, *, created: float | None = None, number: int = 0, **fields: Any) -> TraceRow:
    begin = 10.0 * order + at
    asked = begin if created is None else 10.0 * order + created
    name = fields.pop("job_id", f"order-{order}-{number}")
    return row(
        MAIL, asked, begin, begin + 1.0,
        **{"job_id": name, "execution_id": f"{name}@{at}", "args_hash": f"order-{order}", "writes": 1, **fields},
    )  # fmt: skip


def twice(order: int, **second: Any) -> list[TraceRow]:
    """The same order on two workers, half a second apart."""
    return [run(order), run(order, 0.5, number=1, **{"worker": "worker-2", **second})]


def ask(rows: list[TraceRow], *groups: SpanGroup, **fields: Any) -> list[Finding]:
    history = history_of(MAIL, rows, execution={"groups": list(groups or [adding()])}, **fields)
    return list(OverlappingDuplicates().check(history))


SINGLE = [run(number) for number in range(50, 56)]


def test_fires_on_orders_that_were_rewarded_twice() -> None:
    finding = only(ask([*twice(1), *twice(2, trigger_callsite="app/views.py:3"), *SINGLE]))
    assert finding.title == "2 of 10 jobs did again what an equal one was just doing, and wrote again"
    assert (finding.severity, finding.where, finding.callsite) == ("warning", "inside", "app/points.py:7")
    assert finding.cost_ms == pytest.approx(200)
    assert finding.saving_ms.low == 0
    assert finding.saving_ms.high == pytest.approx(200)
    assert "Guard UPDATE at app/points.py:7" in finding.recommendation.text
    assert "pg_advisory_xact_lock" in finding.recommendation.snippet
    data = finding.evidence[0].data
    assert (data["overlapping"], data["variants"], data["adding_up"]) == (2, 8, 2)
    assert data["callsite"] == "app/views.py:3"
    assert data["pairs"][0] == ["order-1-0@0.0", "order-1-1@0.5"]


def test_fires_on_one_that_waited_behind_and_wrote_once_more() -> None:
    behind = [run(n, k * 1.0, created=k * 0.9, number=k) for n in (1, 2) for k in (0, 1)]
    finding = only(ask([*behind, *SINGLE]))
    assert finding.evidence[0].data["overlapping"] == 0
    later = [run(n, k * 1.0, created=k * 1.0, number=k) for n in (1, 2) for k in (0, 1)]
    assert ask([*later, *SINGLE]) == []


def test_below_two_repeats_it_is_silent() -> None:
    assert ask([*twice(1), *SINGLE]) == []


@pytest.mark.parametrize(("others", "severity"), [(96, "warning"), (97, "info")])
def test_just_below_two_in_a_hundred_it_is_a_remark(others: int, severity: str) -> None:
    rows = [*twice(1), *twice(2), *(run(n) for n in range(50, 50 + others))]
    assert only(ask(rows)).severity == severity


@pytest.mark.parametrize(("writes", "fires"), [(5, False), (6, True)])
def test_just_below_half_of_the_writes_it_was_guarded(writes: int, fires: bool) -> None:
    rows = [run(n, 0.5 * k, number=k, writes=(10, writes)[k]) for n in range(2) for k in range(2)]
    assert bool(ask([*rows, *SINGLE])) is fires


@pytest.mark.parametrize(
    "write",
    [
        adding("INSERT INTO vouchers (order_id) VALUES (?)"),
        adding('UPDATE "app_customer" SET "points" = ("app_customer"."points" + ?)'),
        make_group("http", operation="POST", effect="write"),
        make_group("redis", operation="INCRBY", effect="write"),
        make_group("mail", effect="write"),
    ],
    ids=["insert", "django", "post", "counter", "mail"],
)
def test_what_adds_up_is_grave_and_fires(write: SpanGroup) -> None:
    assert only(ask([*twice(1), *twice(2), *SINGLE], write)).severity == "warning"


@pytest.mark.parametrize(
    "write",
    [
        adding("UPDATE orders SET status = ? WHERE id = ?"),
        adding("INSERT INTO levels VALUES (?) ON CONFLICT (sku) DO UPDATE SET on_hand = ?"),
        make_group("http", operation="POST", effect="write", idempotency_keys=1),
        make_group("http", operation="PUT", effect="write"),
        make_group("redis", operation="SET", effect="write"),
    ],
    ids=["a status", "upsert", "a key", "put", "set"],
)
def test_what_does_not_add_up_is_a_remark_and_not_grave(write: SpanGroup) -> None:
    assert only(ask([*twice(1), *twice(2), *SINGLE], write)).severity == "info"


def test_one_variant_of_arguments_is_not_grave() -> None:
    """As a load test does it, or a job without arguments."""
    rows = [run(0, 0.1 * n, number=n) for n in range(20)]
    assert only(ask(rows)).severity == "info"


@pytest.mark.parametrize(
    ("rows", "groups"),
    [
        ([*twice(1, writes=0), *twice(2, writes=0)], [adding()]),
        ([*twice(1), *twice(2)], [adding(rows=0)]),
        ([*twice(1, job_id="order-1-0"), *twice(2, job_id="order-2-0")], [adding()]),
        ([*twice(1, args_hash="a"), *twice(2, args_hash="b")], [adding()]),
        ([*twice(1), *twice(2)], [adding(), make_group(fingerprint="SELECT id FROM t FOR UPDATE SKIP LOCKED")]),
        ([*twice(1), *twice(2)], [adding(), make_group("redis", operation="BLPOP", effect="write")]),
        ([*twice(1, outcome="stopped"), *twice(2, outcome="stopped")], [adding()]),
    ],
    ids=["guarded", "no row changed", "a retry", "other arguments", "skip locked", "a list", "stopped"],
)
def test_look_alikes(rows: list[TraceRow], groups: list[SpanGroup]) -> None:
    assert ask([*rows, *SINGLE], *groups) == []


def test_what_it_cannot_tell() -> None:
    with pytest.raises(NotChecked, match="serializer"):
        ask([*twice(1, args_hash=""), run(3, args_hash="")][1:])
    with pytest.raises(NotChecked, match="not all probes"):
        ask([run(n, 0.5 * k, number=k, writes=None) for n in range(3) for k in range(2)])
