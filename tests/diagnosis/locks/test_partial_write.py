"""JD506: a part was committed before the failure; whole transactions, status rows and logs are not parts."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.locks.partial_write import PartialWrite
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import ExceptionInfo, Execution, Finding, Span
from tests.builders import MS, make_execution, make_group
from tests.diagnosis.asking import ask, only

TAKE = "INSERT INTO stock_movements (sku) VALUES (?)"
NOTE = "UPDATE orders SET status=? WHERE orders.id = ?"
ADD = "UPDATE customers SET points=(customers.points + ?) WHERE customers.id = ?"
START = "UPDATE imports SET state=? WHERE imports.id = ?"
LOG = "INSERT INTO job_log (text) VALUES (?)"


def calls(*statements: str, rows: int = 1) -> dict[str, Any]:
    """Groups and spans of these statements, one after the other, equal ones in one group. ``!``: it failed."""
    shapes = list(dict.fromkeys(statement.lstrip("!") for statement in statements))
    groups, spans = [], []
    for position, statement in enumerate(statements):
        spans.append(Span(shapes.index(statement.lstrip("!")), position * MS, MS, error=statement.startswith("!")))
    for number, shape in enumerate(shapes):
        own = [position for position, statement in enumerate(statements) if statement.lstrip("!") == shape]
        word = shape.split()[0]
        groups.append(
            make_group(
                fingerprint=shape, operation=word, count=len(own), rows=rows, callsite=f"app/stock.py:{number + 1}",
                effect={"SELECT": "read", "COMMIT": "transaction", "ROLLBACK": "transaction"}.get(word, "write"),
                first_start_ns=own[0] * MS, last_end_ns=(own[-1] + 1) * MS,
                errors=sum(statement == f"!{shape}" for statement in statements),
            )
        )  # fmt: skip
    return {"groups": groups, "spans": spans}


def whole(*statements: str, number: int = 4, **fields: Any) -> list[Execution]:
    return [make_execution(at_ms=1_000 * n, **calls(*statements), **fields) for n in range(number)]


def failed(*statements: str, number: int = 2, **fields: Any) -> list[Execution]:
    error = ExceptionInfo("requests.exceptions.HTTPError", callsite="app/stock.py:9", digest="x")
    return [
        make_execution(
            **{"outcome": "retried", "exception": error, "job_id": f"job-{n}", **calls(*statements), **fields}
        )
        for n in range(number)
    ]  # fmt: skip


GOOD = whole(TAKE, "COMMIT", NOTE, "COMMIT")


def found(*executions: Execution) -> list[Finding]:
    return ask(PartialWrite, list(executions))


def test_fires_on_a_card_that_was_taken_and_not_noted() -> None:
    finding = only(found(*GOOD, *failed(TAKE, "COMMIT", "ROLLBACK")))
    assert finding.title == "2 of 2 failed executions had committed writes of stock_movements, but none of orders"
    assert (finding.severity, finding.confidence, finding.callsite) == ("warning", 0.75, "app/stock.py:1")
    assert finding.cost_ms == pytest.approx(100 * 2 / 6, abs=1e-3)
    assert finding.saving_ms.low == finding.saving_ms.mid == 0
    assert "in one transaction" in finding.recommendation.text
    assert "with connection:" in finding.recommendation.snippet
    data = finding.evidence[0].data
    assert data["committed"] == {TAKE: 1}
    assert data["missing"] == [NOTE]
    assert finding.evidence[0].text.startswith("They failed with HTTPError after 1 committed writes")
    assert finding.evidence[1].kind == "execution"


def test_a_retry_that_made_them_again_is_proof() -> None:
    again = whole(TAKE, "COMMIT", NOTE, "COMMIT", number=1, job_id="job-0", attempt=2)
    finding = only(found(*GOOD, *again, *failed(TAKE, "COMMIT")))
    assert finding.title.endswith("; 1 retry made them again")
    assert finding.confidence == 0.85


def test_fires_where_each_write_commits_by_itself() -> None:
    assert only(found(*whole(TAKE, NOTE), *failed(TAKE))).severity == "warning"


def test_below_two_of_them_it_is_a_remark() -> None:
    assert only(found(*GOOD, *failed(TAKE, "COMMIT", number=1))).severity == "info"


@pytest.mark.parametrize(
    ("statement", "severity"),
    [
        (ADD, "warning"),
        ("UPDATE levels SET on_hand=? WHERE id = ?", "info"),
        ("DELETE FROM levels WHERE id = ?", "info"),
        ("INSERT INTO levels VALUES (?) ON CONFLICT (sku) DO NOTHING", "info"),
    ],
    ids=["adds up", "a value", "delete", "upsert"],
)
def test_what_a_retry_may_repeat_is_not_grave(statement: str, severity: str) -> None:
    assert only(found(*whole(statement, "COMMIT", NOTE, "COMMIT"), *failed(statement, "COMMIT"))).severity == severity


def test_just_below_every_second_success_it_is_not_the_jobs_write() -> None:
    some = [*whole(TAKE, "COMMIT", number=3), *whole(TAKE, "COMMIT", NOTE, "COMMIT", number=2)]
    assert found(*some, *failed(TAKE, "COMMIT")) == []
    only(found(*some[1:], *whole(TAKE, "COMMIT", NOTE, "COMMIT", number=1), *failed(TAKE, "COMMIT")))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ([TAKE, NOTE, "COMMIT"], [TAKE, "ROLLBACK"]),
        ([TAKE, NOTE, "COMMIT"], [TAKE]),
        ([TAKE, "COMMIT", NOTE, "COMMIT"], [TAKE, "COMMIT", NOTE, "COMMIT"]),
        ([TAKE, "COMMIT", NOTE, "COMMIT"], [f"!{TAKE}", "COMMIT"]),
        ([TAKE, "COMMIT", NOTE, "COMMIT"], [TAKE, "!COMMIT", "ROLLBACK"]),
        ([START, "COMMIT", TAKE, START, "COMMIT"], [START, "COMMIT", TAKE, "ROLLBACK"]),
        ([START, "COMMIT", TAKE, START, "COMMIT"], [START, "COMMIT", "ROLLBACK", START, "COMMIT"]),
        (
            ["INSERT INTO imports (id) VALUES (?)", "COMMIT", TAKE, START, "COMMIT"],
            ["INSERT INTO imports (id) VALUES (?)", "COMMIT", TAKE, "ROLLBACK"],
        ),
        ([LOG, "COMMIT", TAKE, NOTE, "COMMIT"], [LOG, "COMMIT", TAKE, "ROLLBACK"]),
        (["SELECT id FROM orders", "COMMIT", TAKE, "COMMIT"], ["SELECT id FROM orders", "COMMIT"]),
    ],
    ids=[
        "one transaction", "killed in it", "failed after all", "the write failed", "the commit failed", "a status",
        "a status that says failed", "the record of a run", "a log", "reads",
    ],
)  # fmt: skip
def test_look_alikes(good: list[str], bad: list[str]) -> None:
    assert found(*whole(*good), *failed(*bad)) == []


def test_a_write_that_changed_no_row_is_none_and_healthy() -> None:
    assert found(*GOOD, *failed(number=2, **calls(TAKE, "COMMIT", rows=0))) == []


def test_without_failures_it_is_silent() -> None:
    assert found(*GOOD) == []


def test_what_it_cannot_tell() -> None:
    with pytest.raises(NotChecked, match="No execution succeeded"):
        found(*failed(TAKE, "COMMIT"))
    with pytest.raises(NotChecked, match="none of them is kept"):
        ask(PartialWrite, GOOD, outcomes={"finished": 4, "failed": 3})
