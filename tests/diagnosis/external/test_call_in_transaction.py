"""JD204: a slow call while rows are locked is grave; after reads only it is mentioned."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.external.call_in_transaction import CallInTransaction
from jobdoctor.model import Span, SpanGroup
from tests.builders import MS, make_group
from tests.diagnosis.asking import alike, ask, only

UPDATE = make_group(operation="UPDATE", effect="write", fingerprint="UPDATE orders SET a = ?", ms=2)
READ = make_group(ms=2)
COMMIT = make_group(operation="COMMIT", effect="transaction", fingerprint="COMMIT", ms=1)


def call(ms: float = 300.0, **fields: object) -> SpanGroup:
    return make_group("http", ms=ms, callsite="app/pay.py:12", **{"in_transaction": 1, **fields})


def log(*order: int, inside: int) -> list[Span]:
    return [Span(group, index * MS, MS, in_transaction=group == inside) for index, group in enumerate(order)]


def test_fires_on_a_request_after_a_write() -> None:
    executions = alike(UPDATE, call(), COMMIT, spans=log(0, 1, 2, inside=1))
    assert only(ask(CallInTransaction, executions)).severity == "warning"


def test_a_second_of_locked_rows_is_critical() -> None:
    executions = alike(UPDATE, call(1_000), COMMIT, spans=log(0, 1, 2, inside=1))
    assert only(ask(CallInTransaction, executions)).severity == "critical"


def test_without_a_log_any_write_counts() -> None:
    assert only(ask(CallInTransaction, alike(UPDATE, call()))).severity == "warning"


@pytest.mark.parametrize(
    ("groups", "spans"),
    [
        ((READ, call(), COMMIT), log(0, 1, 2, inside=1)),
        ((UPDATE, call(), COMMIT, READ), log(0, 2, 3, 1, inside=1)),
        ((READ, call(), UPDATE, COMMIT), log(0, 1, 2, 3, inside=1)),
    ],
    ids=["reads only", "write committed before", "write after"],
)
def test_no_lock_was_held_is_info(groups: tuple[SpanGroup, ...], spans: list[Span]) -> None:
    assert only(ask(CallInTransaction, alike(*groups, spans=spans))).severity == "info"


def test_silent_just_below_the_limit() -> None:
    assert ask(CallInTransaction, alike(UPDATE, call(19.9))) == []
    assert ask(CallInTransaction, alike(UPDATE, call(20.0)))


def test_only_the_calls_inside_count() -> None:
    assert ask(CallInTransaction, alike(UPDATE, call(100, count=10, in_transaction=1))) == []


@pytest.mark.parametrize("group", [call(in_transaction=0), make_group("redis", ms=300, in_transaction=9)])
def test_silent_on_look_alikes(group: SpanGroup) -> None:
    assert ask(CallInTransaction, alike(UPDATE, group)) == []


def test_the_whole_finding() -> None:
    executions = alike(UPDATE, call(), COMMIT, spans=log(0, 1, 2, inside=1))
    finding = only(ask(CallInTransaction, executions))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD204", "external", "isolate")
    assert finding.title == "300 ms of GET to http://api.test from app/pay.py:12 inside an open database transaction"
    assert (finding.cost_ms, finding.saving_ms.mid, finding.saving_ms.high) == (300.0, 0.0, 300.0)
    assert "with rows written or locked" in finding.evidence[0].text
