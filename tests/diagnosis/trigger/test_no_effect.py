"""JD802: a job that only reads and returns nothing; any effect, or a doubt about one, is enough to be silent."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.trigger.no_effect import NoEffect
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Execution, FileIO, Finding, ResultInfo, SpanGroup
from tests.builders import make_execution, make_group, make_history, make_row
from tests.diagnosis.asking import only

NOTHING = ResultInfo("NoneType", bytes=4, ttl_s=500)
READ = make_group("sql", effect="read", count=3, ms=30)


def ran(*groups: SpanGroup, number: int = 60, run_ms: float = 100.0, **fields: Any) -> list[Execution]:
    defaults = {"result": NOTHING, "ledger": {"sql": 30.0, "cpu": run_ms - 30.0}}
    return [
        make_execution(run_ms=run_ms, at_ms=1_000 * n, groups=list(groups), **{**defaults, **fields})
        for n in range(number)
    ]


def ask(executions: list[Execution], *, writes: int | None = 0, **fields: Any) -> list[Finding]:
    rows = [make_row(each, writes=writes) for each in executions]
    return list(NoEffect().check(make_history(executions, **{"trace": rows, **fields})))


def test_fires_on_a_job_that_only_reads() -> None:
    finding = only(ask(ran(READ)))
    assert finding.severity == "warning"
    assert finding.title == "60 executions of 100 ms wrote nothing and returned nothing"
    assert finding.cost_ms == pytest.approx(100)
    assert finding.recommendation.kind == "delete"
    assert "app/views.py:88" in finding.recommendation.text
    assert finding.evidence[0].data["reads"] == {"sql": 180}


def test_fires_on_a_result_that_is_thrown_away() -> None:
    only(ask(ran(READ, result=ResultInfo("dict", bytes=900, ttl_s=0))))


def test_a_few_executions_are_a_remark() -> None:
    assert only(ask(ran(READ, number=49))).severity == "info"
    assert only(ask(ran(READ, number=50))).severity == "warning"


def test_below_its_limits_it_is_silent_or_says_why() -> None:
    assert ask(ran(READ, run_ms=31, ledger={"cpu": 31}))
    assert ask(ran(READ, run_ms=19, ledger={"cpu": 19})) == []
    with pytest.raises(NotChecked, match="4 executions finished, 5 needed"):
        ask(ran(READ, number=4))
    assert ask(ran(READ, ledger={"other_wait": 9.9, "cpu": 90}))
    with pytest.raises(NotChecked, match="10 ms of each run were spent waiting"):
        ask(ran(READ, ledger={"other_wait": 10.0, "cpu": 90}))


@pytest.mark.parametrize(
    "fields",
    [
        {"groups": [READ, make_group("sql", effect="write", operation="UPDATE")]},
        {"groups": [READ, make_group("redis", effect="write", operation="SET")]},
        {"groups": [READ, make_group("http", effect="write", operation="POST")]},
        {"groups": [READ, make_group("http", effect="unknown")]},
        {"groups": [READ, make_group("mail", effect="write")]},
        {"groups": [READ, make_group("enqueue", effect="write")]},
        {"groups": [READ, make_group("subprocess", effect="unknown")]},
        {"file_io": FileIO(written_bytes=1)},
        {"result": ResultInfo("dict", bytes=80, ttl_s=500)},
        {"result": None},
    ],
    ids=["update", "set", "post", "unknown effect", "mail", "enqueue", "process", "file", "result", "result unknown"],
)
def test_look_alikes(fields: dict[str, Any]) -> None:
    groups = fields.pop("groups", [READ])
    assert ask(ran(*groups, **fields)) == []


def test_one_execution_that_did_something_is_enough() -> None:
    acting = make_execution(groups=[make_group("sql", effect="write")], result=NOTHING, run_ms=100)
    assert ask([*ran(READ), acting]) == []
    assert ask(ran(READ), writes=None) == []
    executions = ran(READ)
    rows = [make_row(each, writes=0) for each in executions]
    assert (
        list(NoEffect().check(make_history(executions, trace=[*rows[:-1], make_row(executions[-1], writes=2)]))) == []
    )


def test_while_it_fails_nothing_is_said() -> None:
    assert ask([*ran(READ), make_execution(outcome="failed")]) == []
