"""JD303: memory that follows the input, or grows in one process; noise, forks and warm-up are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.internals.memory_growth import MemoryGrowth, kendall_tau, theil_sen
from jobdoctor.diagnosis.engine import run_rule
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Execution, Payload, Rusage, Sample
from tests.builders import make_execution, make_group, make_history
from tests.diagnosis.asking import ask, only

MB = 1_000_000


def reading(*points: tuple[int, float], **fields: Any) -> list[Execution]:
    """Executions that read so many rows and took so many MB."""
    return [
        make_execution(
            rusage=Rusage(max_rss_bytes=int((80 + megabytes) * MB), baseline_rss_bytes=80 * MB),
            groups=[make_group(rows=rows, callsite="app/reports.py:30")],
            at_ms=1_000 * number,
            **fields,
        )
        for number, (rows, megabytes) in enumerate(points)
    ]


def in_one_process(*megabytes: float) -> list[Execution]:
    return [
        make_execution(
            worker_kind="simple", host="h", pid=7, at_ms=1_000 * number, samples=[Sample(0, 0, int(each * MB), 0)]
        )
        for number, each in enumerate(megabytes)
    ]


GROWING = [(100, 8.0), (200, 15.0), (300, 24.0), (400, 33.0), (500, 39.0), (600, 48.0), (700, 57.0)]


def test_fires_when_memory_follows_the_rows() -> None:
    assert only(ask(MemoryGrowth, reading(*GROWING))).severity == "warning"


def test_fires_when_memory_follows_the_arguments() -> None:
    executions = [
        make_execution(
            rusage=Rusage(max_rss_bytes=(80 + 10 * n) * MB, baseline_rss_bytes=80 * MB),
            payload=Payload(1_000 * n, 1_000 * n),
        )
        for n in range(1, 8)
    ]
    assert "bytes of arguments" in only(ask(MemoryGrowth, executions)).evidence[0].text.replace("byte of", "bytes of")


def test_fires_on_a_leak_of_a_simple_worker() -> None:
    executions = in_one_process(*[100 + 2 * n for n in range(12)])
    finding = only(ask(MemoryGrowth, executions))
    assert finding.title == "Each execution leaves 2.0 MB behind in its worker"
    assert "tracemalloc" in finding.recommendation.snippet


@pytest.mark.parametrize(
    "points",
    [
        [(rows, megabytes * 0.2) for rows, megabytes in GROWING],
        [(rows + 700, megabytes) for rows, megabytes in GROWING],
        [(100, 40), (200, 8), (300, 57), (400, 12), (500, 39), (600, 48), (700, 50)],
    ],
    ids=["bytes", "input that varies", "tau"],
)
def test_silent_just_below_each_limit(points: list[tuple[int, float]]) -> None:
    assert ask(MemoryGrowth, reading(*points)) == []


def test_silent_on_a_look_alike_memory_of_one_page_whatever_the_input() -> None:
    assert ask(MemoryGrowth, reading(*[(rows, 9 + rows % 7) for rows in range(1_000, 50_000, 7_000)])) == []


@pytest.mark.parametrize(
    "megabytes",
    [
        [60, 90, *[100.0] * 10],
        [100 + 30 * (n % 2) for n in range(12)],
        [100 + 0.09 * n for n in range(12)],
        [100 + 2 * n for n in range(7)],
    ],
    ids=["warm-up", "sawtooth", "bytes of a leak", "few"],
)
def test_silent_on_a_simple_worker_that_keeps_its_size(megabytes: list[float]) -> None:
    executions = [*in_one_process(*megabytes), *reading(*[(100, 5.0)] * 6)]
    assert ask(MemoryGrowth, executions) == []


def test_a_forked_horse_carries_nothing_over() -> None:
    """Memory that rises over time in forked horses of one worker is no leak."""
    executions = reading(*[(100, 10 + 3 * number) for number in range(12)], samples=[Sample(0, 0, 90 * MB, 0)])
    assert ask(MemoryGrowth, executions) == []


def test_not_checked_with_few_executions_or_without_memory() -> None:
    check, _ = run_rule(MemoryGrowth(), make_history(reading(*GROWING[:5])))
    assert (check.status, check.reason) == ("not_checked", "5 executions recorded, 6 needed: run the job more often")
    with pytest.raises(NotChecked, match="memory of 0 executions is known"):
        ask(MemoryGrowth, [make_execution() for _ in range(8)])


def test_robust_trend() -> None:
    line = [(float(x), 3.0 * x) for x in range(9)]
    assert (kendall_tau(line), theil_sen(line)) == (1.0, 3.0)
    assert theil_sen([*line[:-1], (8.0, 900.0)]) == pytest.approx(3.0)
    assert kendall_tau([(x, -y) for x, y in line]) == -1.0
    assert kendall_tau([(1.0, 1.0), (1.0, 5.0)]) == 0.0


def test_the_whole_finding() -> None:
    finding = only(ask(MemoryGrowth, reading(*GROWING)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD303", "internals", "memory")
    assert finding.title == "Memory grows with the input: 8.0 MB for 100 rows, 57.0 MB for 700 rows"
    assert finding.callsite == "app/reports.py:30"
    assert finding.evidence[0].data["tau"] == 1.0
    assert finding.evidence[0].data["points"][0] == [100.0, 8.0 * MB]
    assert "ten times the largest input would take" in finding.evidence[0].text
    assert "yield_per" in finding.recommendation.snippet
