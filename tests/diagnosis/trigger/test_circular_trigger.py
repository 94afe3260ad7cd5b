"""JD806: round and round with the same arguments; slices, polls and schedules go somewhere."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.trigger.circular_trigger import CircularTrigger
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Finding, TraceRow
from tests.diagnosis.asking import only
from tests.diagnosis.traffic import diagnosed, history_of
from tests.queueing.traces import row

PUSH, PULL = "app.prices.push", "app.prices.pull"


def ask(rows: list[TraceRow]) -> list[Finding]:
    return list(CircularTrigger().check(history_of(PUSH, rows)))


def circle(
    rounds: int, *, name: str = "a", at: float = 0.0, jobs: tuple[str, ...] = (PUSH, PULL), pause: float = 0.0,
    args: str = "sku-{name}", **fields: object,
) -> list[TraceRow]:  # fmt: skip
    """The first execution and so many more rounds; ``args`` may name the round."""
    rows: list[TraceRow] = []
    for step in range(rounds * len(jobs) + 1):
        job = jobs[step % len(jobs)]
        parent = rows[-1] if rows else None
        began = at + step * (0.1 + pause)
        rows.append(
            row(
                job, began, began, began + 0.1, execution_id=f"{name}-{step}", job_id=f"{name}-{step}",
                args_hash=args.format(name=name, round=step // len(jobs)), trigger_kind="job" if parent else "code",
                trigger_callsite="app/prices.py:31" if parent else "app/views.py:8",
                parent_job=parent.job if parent else "", parent_execution_id=parent.execution_id if parent else "",
                **fields,
            )
        )  # fmt: skip
    return rows


def test_fires_on_two_jobs_that_enqueue_each_other() -> None:
    finding = only(ask([*circle(5), *circle(4, name="b", at=50)]))
    assert finding.severity == "warning"
    assert finding.where == "around"
    assert finding.title == f"9 of 11 executions were enqueued in a circle, by way of {PULL}"
    assert finding.callsite == "app/prices.py:31"
    assert finding.cost_ms == pytest.approx(100 * 9 / 11, abs=0.01)
    data = finding.evidence[0].data
    assert data["circle"] == [PUSH, PULL, PUSH]
    assert (data["chains"], data["longest"], data["executions"]) == (2, 5, 9)


def test_fires_on_a_job_that_enqueues_itself_again() -> None:
    assert "by itself" in only(ask(circle(8, jobs=(PUSH,)))).title


def test_the_other_side_of_the_circle_finds_it_as_well() -> None:
    rows = [*circle(5), *circle(5, name="b", at=50)]
    assert [f.code for f in CircularTrigger().check(history_of(PULL, rows))] == ["JD806"]


@pytest.mark.parametrize(("rounds", "fires"), [(5, False), (6, True)])
def test_below_six_rounds_one_chain_is_silent(rounds: int, fires: bool) -> None:
    assert bool(ask(circle(rounds))) is fires


@pytest.mark.parametrize(("rounds", "fires"), [(2, False), (3, True)])
def test_below_three_rounds_two_chains_are_silent(rounds: int, fires: bool) -> None:
    assert bool(ask([*circle(rounds), *circle(rounds, name="b", at=50)])) is fires


@pytest.mark.parametrize(("pause", "fires"), [(59.0, True), (60.0, False)])
def test_coming_back_after_a_minute_is_a_schedule(pause: float, fires: bool) -> None:
    assert bool(ask(circle(8, pause=pause))) is fires


@pytest.mark.parametrize(
    "rows",
    [
        circle(20, jobs=(PUSH,), args="slice-{round}"),
        circle(20, args="page-{round}"),
        [one for n in range(20) for one in circle(0, name=f"n{n}", at=n)],
        [one for n in range(20) for one in circle(1, name=f"n{n}", at=n)],
        circle(20, args=""),
    ],
    ids=["slices", "pages", "no circle", "one correction each", "arguments unknown"],
)
def test_look_alikes(rows: list[TraceRow]) -> None:
    assert ask(rows) == []


def test_retries_of_one_execution_are_no_rounds() -> None:
    first = circle(0)[0]
    rows = [first, *(row(PUSH, n, n, n + 0.1, execution_id=f"r{n}", job_id=first.job_id, attempt=n + 1, args_hash="x",
                         parent_execution_id="web") for n in range(1, 9))]  # fmt: skip
    assert ask(rows) == []


def test_without_stamps_it_says_so() -> None:
    rows = [row(PUSH, n, n, n + 0.1, args_hash="x") for n in range(9)]
    with pytest.raises(NotChecked, match="Who enqueued the job is not known"):
        ask(rows)


def test_the_duplicates_of_a_circle_are_part_of_it() -> None:
    rows = [one for n in range(4) for one in circle(6, name=f"n{n}", at=20.0 * n)]
    parts = {finding.code: finding.part_of for finding in diagnosed(PUSH, rows).findings}
    assert parts["JD806"] is None
    assert parts["JD801"] == "JD806"
