"""JD804: bodies of next to nothing behind a fork; jobs that call something, or that a timer starts, are not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.checklist.trigger.too_small_to_queue import TooSmallToQueue
from jobdoctor.diagnosis.engine import run_rule
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Execution, Finding, Phase, ProbeStatus, Profile, Trigger
from tests.builders import MS, make_execution, make_group, make_history
from tests.diagnosis.asking import only


def ask(executions: Sequence[Execution], **fields: object) -> list[Finding]:
    return list(TooSmallToQueue().check(make_history(list(executions), **fields)))


def small(number: int = 8, *, body_ms: float = 0.5, run_ms: float = 14.0, **fields: object) -> list[Execution]:
    body = Phase("body", 5 * MS, int((5 + body_ms) * MS))
    return [
        make_execution(
            at_ms=1_000 * n, run_ms=run_ms, phases=[body],
            ledger={"fork": 6, "import": 3, "persist": 2, "cpu": body_ms}, **fields,
        )
        for n in range(number)
    ]  # fmt: skip


def test_fires_when_the_queueing_costs_more_than_the_work() -> None:
    finding = only(ask(small()))
    assert finding.severity == "info", "few executions do not matter"
    assert finding.title == "0.50 ms of work cost 14 ms of a worker around it"
    assert finding.cost_ms == pytest.approx(13.5)
    assert finding.where == "around"
    assert finding.recommendation.kind == "delete"
    assert "app/views.py:88" in finding.recommendation.text
    assert finding.evidence[0].data["around"] == {"fork": 6.0, "import": 3.0, "persist": 2.0}


def test_many_of_them_are_a_warning() -> None:
    window = {"from_ns": 0, "to_ns": 60_000 * MS}
    assert only(ask(small(), executions_total=1_000, **window)).severity == "warning"
    assert only(ask(small(), executions_total=99, **window)).severity == "info"
    assert only(ask(small(), executions_total=200, from_ns=0, to_ns=60_000_000 * MS)).severity == "info"


@pytest.mark.parametrize(
    ("executions", "fires"),
    [
        (small(body_ms=2.0, run_ms=20), True),
        (small(body_ms=2.1, run_ms=20), False),
        (small(body_ms=2.0, run_ms=12), True),
        (small(body_ms=2.0, run_ms=11.9), False),
        ([*small(7, body_ms=0.1, run_ms=40), *small(1, body_ms=9.9, run_ms=40)], True),
        ([*small(7, body_ms=0.1, run_ms=40), *small(1, body_ms=10.1, run_ms=40)], False),
    ],
    ids=["body", "more", "ratio", "less", "slowest", "slower"],
)
def test_at_and_just_below_each_limit(executions: list[Execution], fires: bool) -> None:
    assert bool(ask(executions)) is fires


@pytest.mark.parametrize(
    "executions",
    [
        small(groups=[make_group("sql", ms=0.3)]),
        small(groups=[make_group("http", ms=0.3)]),
        small(groups=[make_group("redis", ms=0.1)]),
        small(groups=[make_group("file", ms=0.1)]),
        [*small(7), *small(1, groups=[make_group("enqueue", ms=0.1)])],
        small(trigger=Trigger(kind="cron")),
        small(trigger=Trigger(kind="scheduler")),
        small(scheduled=True),
    ],
    ids=["query", "request", "redis", "file", "enqueues once", "cron", "scheduler", "enqueue_in"],
)
def test_look_alikes(executions: list[Execution]) -> None:
    assert ask(executions) == []


def test_without_a_fork_or_a_body_it_cannot_judge() -> None:
    with pytest.raises(NotChecked, match="forking worker"):
        ask(small(worker_kind="simple"))
    with pytest.raises(NotChecked, match="body"):
        ask([make_execution(phases=[], at_ms=n) for n in range(6)])


def test_a_profiled_execution_counts_among_the_recorded() -> None:
    executions = small()[:5]
    executions[0] = replace(executions[0], profile=Profile(1.0, 1, 1))
    assert only(ask(executions)).code == "JD804"


def test_a_failed_probe_leaves_it_open() -> None:
    blind = small(probes=[ProbeStatus("sql", "psycopg", "failed", "unsupported version")])
    check, found = run_rule(TooSmallToQueue(), make_history(blind))
    assert (check.status, found) == ("not_checked", [])
    assert "psycopg" in str(check.reason)
    assert run_rule(TooSmallToQueue(), make_history(small(4)))[0].status == "not_checked"


def test_a_busy_host_makes_no_work_of_it() -> None:
    """What the body waited for a processor is not its work, and never all of it."""
    waits = {"fork": 6, "persist": 2, "cpu": 0.5, "cpu_wait": 20}
    body = Phase("body", 5 * MS, 20 * MS)
    busy = [
        make_execution(at_ms=1_000 * n, run_ms=60, phases=[body], ledger=waits) if n % 3 == 0 else each
        for n, each in enumerate(small(9))
    ]
    assert only(ask(busy)).title.startswith("0.50 ms of work")
    asleep = [make_execution(at_ms=1_000 * n, run_ms=60, phases=[body], ledger={"cpu": 0.5}) for n in range(9)]
    assert ask(asleep) == [], "15 ms of who knows what"
