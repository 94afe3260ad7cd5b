"""JD803: the same result again; results that change, statuses, writers and a quick succession are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.trigger.duplicate_enqueues import DuplicateEnqueues
from jobdoctor.diagnosis.checklist.trigger.unchanged_result import UnchangedResult
from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Execution, Finding, ResultInfo, Trigger
from tests.builders import make_execution, make_history, make_row
from tests.diagnosis.asking import only

TARIFFS = ResultInfo("dict", bytes=900, digest="same", ttl_s=500)


def ran(number: int, *, every_s: float = 600.0, result: ResultInfo | None = TARIFFS, **fields: Any) -> list[Execution]:
    return [make_execution(at_ms=1_000 * every_s * n, result=result, **fields) for n in range(number)]


def ask(executions: list[Execution], *, digests: list[str] | None = None, **row: Any) -> list[Finding]:
    words = digests or ["same"] * len(executions)
    rows = [
        make_row(each, **{"args_hash": "a", "writes": 0, "result_digest": digest, **row})
        for each, digest in zip(executions, words, strict=True)
    ]
    return list(UnchangedResult().check(make_history(executions, trace=rows)))


def test_fires_on_the_same_table_every_ten_minutes() -> None:
    finding = only(ask(ran(10)))
    assert finding.severity == "warning"
    assert finding.title == "9 of 10 results were the same as the one before"
    assert finding.cost_ms == pytest.approx(90)
    assert finding.recommendation.kind == "cache"
    assert finding.evidence[0].data["different_results"] == 1


def test_a_timer_is_named_as_what_to_replace() -> None:
    finding = only(ask(ran(10, trigger=Trigger(kind="cron")), trigger_kind="cron"))
    assert "instead of by a timer" in finding.recommendation.text
    assert finding.callsite == ""


def test_within_an_hour_it_is_a_remark() -> None:
    assert only(ask(ran(10, every_s=1))).severity == "info"
    assert only(ask(ran(10, every_s=401))).severity == "warning"


def test_just_below_its_limits_it_is_silent() -> None:
    assert ask(ran(5)) == []
    assert ask(ran(6))
    assert ask(ran(10), digests=["same"] * 9 + ["new"])
    assert ask(ran(10), digests=["same"] * 5 + ["new"] * 3 + ["a", "b"]) == []
    assert ask(ran(10, result=ResultInfo("dict", bytes=32, digest="same")))
    assert ask(ran(10, result=ResultInfo("dict", bytes=31, digest="same"))) == []


@pytest.mark.parametrize(
    ("executions", "row"),
    [
        (ran(10), {"writes": 1}),
        (ran(10), {"writes": None}),
        (ran(10), {"args_hash": ""}),
        (ran(10, result=ResultInfo("NoneType", bytes=4)), {}),
        (ran(10, result=ResultInfo("bool", bytes=400)), {}),
        (ran(10, result=ResultInfo("dict", bytes=900, ttl_s=0)), {}),
    ],
    ids=["writes", "may write", "arguments unknown", "none", "status", "thrown away"],
)
def test_look_alikes(executions: list[Execution], row: dict[str, Any]) -> None:
    assert ask(executions, **row) == []


def test_other_arguments_are_other_results() -> None:
    executions = ran(10)
    rows = [
        make_row(each, args_hash=f"a{number}", writes=0, result_digest="same") for number, each in enumerate(executions)
    ]
    assert list(UnchangedResult().check(make_history(executions, trace=rows))) == []


def test_a_result_that_changes_is_healthy() -> None:
    assert ask(ran(10), digests=[f"d{number}" for number in range(10)]) == []


def test_without_results_it_says_so() -> None:
    with pytest.raises(NotChecked, match="result was not recorded"):
        ask(ran(10, result=None))


def test_it_leads_where_equal_jobs_gave_equal_results_after_one_another() -> None:
    """All the time may be had back by keeping the result; who enqueues it again had one that was there already."""
    executions = [make_execution(at_ms=400.0 * n + 70 * (n % 3), result=TARIFFS) for n in range(12)]
    rows = [make_row(each, args_hash="a", writes=0, result_digest="same") for each in executions]
    rules = [UnchangedResult(), DuplicateEnqueues()]
    found = diagnose(make_history(executions, trace=rows), rules=rules).findings
    assert [(each.code, each.part_of) for each in found] == [("JD803", None), ("JD801", "JD803")]
