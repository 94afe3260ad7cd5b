"""JD603: failures that bunch, and what they came with; scattered ones and constant ones are other illnesses."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.retries.failure_cluster import FailureCluster, _likelihood_ratio
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Finding, Mark, TraceRow
from tests.builders import EPOCH_NS, SECOND, make_execution, make_group, make_history
from tests.diagnosis.asking import only
from tests.diagnosis.traffic import MAIL, history_of
from tests.queueing.traces import row

OTHER = "app.tasks.other"
HTTP = {"error_type": "requests.exceptions.HTTPError", "error_digest": "http-503"}


def ran(pattern: str, *, every: float = 60.0, wait: float = 0.0, **fields: Any) -> list[TraceRow]:
    """One execution a minute; ``x`` fails."""
    return [
        row(
            MAIL, n * every, n * every + wait, n * every + wait + 0.1, job_id=f"job-{n}", execution_id=f"job-{n}",
            **({"outcome": "failed", **HTTP, **fields} if mark == "x" else {}),
        )
        for n, mark in enumerate(pattern)
    ]  # fmt: skip


def ask(rows: list[TraceRow], **fields: Any) -> list[Finding]:
    return list(FailureCluster().check(history_of(MAIL, rows, **fields)))


BUNCH = "." * 20 + "x" * 8 + "." * 20


def test_fires_on_failures_that_bunch() -> None:
    finding = only(ask(ran(BUNCH)))
    assert finding.severity == "warning"
    assert finding.title == "8 of 8 failures came within 7 min, with HTTPError"
    data = finding.evidence[0].data
    assert (data["failures"], data["executions"], data["executions_outside"]) == (8, 8, 40)
    assert data["from_ns"] == EPOCH_NS + 20 * 60 * SECOND
    assert finding.cost_ms == pytest.approx(100 * 8 / 48, abs=0.01)


def test_some_successes_within_do_not_hide_it() -> None:
    assert only(ask(ran("." * 20 + "xx.xxx.xx.x" + "." * 20))).evidence[0].data["failures"] == 8


@pytest.mark.parametrize(("seconds", "explains"), [(-10, True), (-890, True), (-960, False), (600, False)])
def test_a_deploy_just_before_it_is_named(seconds: float, explains: bool) -> None:
    deploy = Mark("deploy", "3f9c2ab", EPOCH_NS + int((20 * 60 + seconds) * SECOND))
    finding = only(ask(ran(BUNCH, every=60), marks=[deploy]))
    assert finding.title.endswith("after deploy 3f9c2ab") is (explains and seconds > -300)
    if seconds == -10:
        assert finding.where == "inside"
        assert "roll it back" in finding.recommendation.text


def test_an_outage_is_named_by_the_host_whose_calls_failed() -> None:
    down = make_group("http", count=1, errors=1, target="https://bank.example", statuses={"503": 1})
    finding = only(ask(ran(BUNCH), execution={"groups": [down]}))
    assert finding.where == "around"
    assert finding.title.endswith(": an outage of https://bank.example")
    assert "Put the work off while https://bank.example is down" in finding.recommendation.text


def test_other_jobs_that_failed_alike_tell_of_an_outage() -> None:
    other = [row(OTHER, 60 * n + 5, 60 * n + 5, 60 * n + 6, outcome="failed", **HTTP) for n in range(21, 26)]
    assert only(ask([*ran(BUNCH), *other])).title.endswith(": other jobs failed alike")
    unlike = [row(OTHER, 60 * n + 5, 60 * n + 5, 60 * n + 6, outcome="failed", error_type="KeyError") for n in range(5)]
    assert "alike" not in only(ask([*ran(BUNCH), *unlike])).title


def test_long_waits_and_timeouts_are_congestion() -> None:
    rows = ran("." * 20)
    late = ran("." * 20 + "x" * 8, wait=30.0, outcome="timeout", error_type="", error_digest="")[20:]
    finding = only(ask([*rows, *late]))
    assert finding.title.endswith(": waits of 30.0 s instead of 0 ms")


@pytest.mark.parametrize(("failures", "fires"), [(4, False), (5, True)])
def test_below_five_it_is_silent(failures: int, fires: bool) -> None:
    assert bool(ask(ran("." * 20 + "x" * failures + "." * 20))) is fires


@pytest.mark.parametrize(("outside", "fires"), [(9, False), (10, True)])
def test_below_ten_outside_there_is_nothing_to_compare_with(outside: int, fires: bool) -> None:
    assert bool(ask(ran("." * outside + "x" * 8))) is fires


def test_below_a_factor_of_five_it_is_no_other_state() -> None:
    assert ask(ran("...x" * 10 + "x" * 6 + "...x" * 10)) == []


@pytest.mark.parametrize(
    "pattern",
    ["." * 60, ".........x" * 8, "x" * 40, "xx" + "." * 40, "x...." * 12],
    ids=["healthy", "now and then", "always", "two", "one in five"],
)
def test_look_alikes(pattern: str) -> None:
    assert ask(ran(pattern)) == []


def test_scattered_failures_are_no_cluster() -> None:
    alarms = 0
    for seed in range(100):
        chosen = random.Random(seed)
        alarms += bool(ask(ran("".join("x" if chosen.random() < 0.1 else "." for _ in range(150)))))
    assert alarms <= 1


def test_without_a_trace_it_says_so() -> None:
    history = make_history([make_execution(outcome="failed") for _ in range(6)], trace=[])
    with pytest.raises(NotChecked, match="6 executions failed"):
        list(FailureCluster().check(history))


def test_the_statistic() -> None:
    # 8 of 8 within 48: log-likelihoods 0 and 0 against 8 ln(1/6) + 40 ln(5/6)
    assert _likelihood_ratio(8, 8, 8, 48) == pytest.approx(-(8 * math.log(1 / 6) + 40 * math.log(5 / 6)))
    assert _likelihood_ratio(1, 10, 8, 48) == 0.0, "fewer failures than outside"
    assert _likelihood_ratio(8, 48, 8, 48) == 0.0
