"""The waterfall's data: runs, what is merged when there is too much, and what never is."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

from jobdoctor.model import Execution, LockWait, Phase, Span
from jobdoctor.report import html_report, waterfall
from jobdoctor.report.waterfall import Waterfall
from tests.builders import MS, make_execution, make_group

US = 1_000


def drawn(execution: Execution, most: int = waterfall.MOST_CALLS) -> Waterfall:
    picture = waterfall.waterfall(execution, most)
    assert picture is not None
    return picture


def starts(picture: Waterfall, run: int) -> list[int]:
    return list(accumulate(picture.runs[run].starts))


def execution(spans: list[Span], groups: int = 3, **fields: Any) -> Execution:
    shapes = [
        make_group("sql", fingerprint=f"SELECT {number}", callsite=f"app/a.py:{number}") for number in range(groups)
    ]
    return make_execution(run_ms=10_000, groups=shapes, spans=spans, **fields)


def test_calls_of_one_shape_are_one_run_with_exact_places() -> None:
    picture = drawn(execution([Span(0, (1 + number) * MS, 250 * US, params=number % 3 + 1) for number in range(5)]))
    (run,) = picture.runs
    assert (run.calls, run.total_us, run.longest_us, run.different) == (5, 1_250, 250, 3)
    assert starts(picture, 0) == [1_000, 2_000, 3_000, 4_000, 5_000]
    assert run.lengths == [250] * 5
    assert run.counts == []
    assert picture.length_us == 10_000_000


def test_two_shapes_that_take_turns_are_two_runs() -> None:
    picture = drawn(execution([Span(number % 2, number * MS, US) for number in range(40)]))
    assert [(run.shape, run.calls) for run in picture.runs] == [(0, 20), (1, 20)]


def test_a_shape_that_comes_back_after_much_else_is_another_run() -> None:
    spans = [Span(0, 0, US), *(Span(1, number * MS, US) for number in range(1, waterfall.BETWEEN + 1))]
    assert [run.calls for run in drawn(execution([*spans, Span(0, 90 * MS, US)])).runs] == [2, waterfall.BETWEEN]
    spans.append(Span(1, 80 * MS, US))
    later = drawn(execution([*spans, Span(0, 90 * MS, US)]))
    assert [run.calls for run in later.runs] == [1, waterfall.BETWEEN + 1, 1]


def test_threads_do_not_share_runs_nor_come_between() -> None:
    spans = [Span(0, number * MS, US, thread=number % 2) for number in range(60)]
    picture = drawn(execution(spans))
    assert [(run.thread, run.calls) for run in picture.runs] == [(0, 30), (1, 30)]
    assert picture.threads == 2


def test_the_call_in_flight_is_the_last_of_its_run_and_lasts_to_the_end() -> None:
    picture = drawn(execution([Span(0, MS, MS), Span(1, 3 * MS, MS)], in_flight=Span(0, 9_000 * MS, 0)))
    assert picture.in_flight == 0
    assert starts(picture, 0) == [1_000, 9_000_000]
    assert picture.runs[0].lengths == [1_000, 1_000_000]


def test_a_call_in_flight_of_no_known_group_is_left_out() -> None:
    picture = drawn(execution([Span(0, MS, MS), Span(9, MS, MS)], in_flight=Span(9, MS, 0)))
    assert (picture.in_flight, picture.calls) == (-1, 1)


def test_nothing_to_draw() -> None:
    assert waterfall.waterfall(make_execution(phases=[])) is None
    only_phases = drawn(make_execution(phases=[Phase("body", 0, 5 * MS), Phase("reap", 5 * MS, 5 * MS)]))
    assert [phase.name for phase in only_phases.phases] == ["body"]
    assert only_phases.runs == []


def test_too_many_calls_are_merged_and_none_is_lost() -> None:
    spans = [Span(0, number * 100 * US, 90 * US, error=number == 7_777) for number in range(50_000)]
    picture = drawn(execution(spans), 1_000)
    (run,) = picture.runs
    assert len(run.starts) <= 1_000
    assert sum(run.counts) == run.calls == 50_000
    assert (run.errors, picture.left_out) == (1, 0)
    (failed,) = run.failed
    assert run.counts[failed] == 1
    assert starts(picture, 0)[failed] == 777_700
    # The picture still covers what it covered.
    last = starts(picture, 0)[-1] + run.lengths[-1]
    assert last == 49_999 * 100 + 90
    assert max(run.lengths) <= picture.length_us / 30


def test_the_call_in_flight_is_never_merged() -> None:
    spans = [Span(0, number * 100 * US, 90 * US) for number in range(5_000)]
    picture = drawn(execution(spans, in_flight=Span(0, 500_000 * US, 0)), 200)
    assert picture.runs[picture.in_flight].counts[-1] == 1
    assert starts(picture, picture.in_flight)[-1] == 500_000


def test_what_cannot_be_merged_is_left_out_the_shortest_first() -> None:
    groups = 400
    spans = [Span(number, number * 20 * MS, (number + 1) * US) for number in range(groups)]
    picture = drawn(execution(spans, groups), 100)
    assert len(picture.runs) == 100
    assert picture.left_out == 300
    assert min(run.total_us for run in picture.runs) == 301


def test_all_executions_together_are_bounded() -> None:
    spans = [Span(number % 3, number * 400 * US, 200 * US, params=number) for number in range(24_000)]
    pictures = waterfall.waterfalls([execution(spans) for _ in range(6)])
    bars = [sum(len(run.starts) for run in picture.runs) for picture in pictures if picture]
    assert bars[0] <= waterfall.MOST_CALLS
    assert sum(bars) <= waterfall.MOST_CALLS_OF_ALL + 4 * waterfall.LEAST_CALLS
    size = sum(len(html_report.json_block(waterfall.data(picture))) for picture in pictures if picture)
    assert size < 400_000


def test_twenty_thousand_calls_are_all_drawn_in_little_room() -> None:
    spans = [Span(number % 3, number * 400 * US, 200 * US + number, params=number) for number in range(20_000)]
    picture = drawn(execution(spans))
    assert sum(len(run.starts) for run in picture.runs) == 20_000
    block = html_report.json_block(waterfall.data(picture))
    assert len(block) < 200_000
    assert json.loads(block)["runs"][0]["n"] == 6_667


def test_waits_for_locks_have_their_place_and_their_holder() -> None:
    waits = [
        LockWait("row", "db", 20 * MS, start_ns=50 * MS, blocking_job="app.stock.recount"),
        LockWait("row", "db", 10 * MS, start_ns=5 * MS),
        LockWait("thread", "lock", 10 * MS),  # nobody knows when
    ]
    picture = drawn(execution([Span(0, MS, 90 * MS)], locks=waits))
    assert waterfall.data(picture)["blocked"] == [
        [5_000, 10_000, "row lock held by somebody unknown"],
        [50_000, 20_000, "row lock held by app.stock.recount"],
    ]


def test_lanes_without_a_script_are_few_and_keep_the_one_in_flight() -> None:
    spans = [Span(number, number * 20 * MS, (number + 50) * US) for number in range(40)]
    picture = drawn(execution(spans, 41, in_flight=Span(40, 9_999 * MS + 999 * US, 0)))
    lanes = picture.lanes()
    assert len(lanes) == waterfall.SHOWN_LANES
    assert [lane.in_flight for lane in lanes] == [False] * (waterfall.SHOWN_LANES - 1) + [True]
    assert lanes[0].path.startswith("M")
