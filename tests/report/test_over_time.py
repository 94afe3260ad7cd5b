"""How runs and waits went over the window."""

from __future__ import annotations

import itertools
import re

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.model import Bucket, JobHistory, Mark, Quantiles
from jobdoctor.report.over_time import OverTime, over_time
from tests.builders import EPOCH_NS, SECOND, make_execution, make_history, make_row

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


def course_of(history: JobHistory) -> OverTime:
    return over_time(replace(diagnose(history, rules=[]), kept=[]))


def every(step_ms: float, runs: list[float], **fields: object) -> JobHistory:
    executions = [make_execution(run_ms=run, at_ms=number * step_ms) for number, run in enumerate(runs)]
    return make_history(executions[-3:], trace=[make_row(one) for one in executions], executions_total=len(runs),
                        from_ns=EPOCH_NS, to_ns=executions[-1].reaped_at_ns, **fields)  # fmt: skip


def heights(path: str) -> list[float]:
    return [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path)]


def test_a_line_for_each_metric_and_what_changed() -> None:
    deploy = Mark("deploy", "3f9c2ab", EPOCH_NS + 20 * MINUTE - 5 * SECOND)
    found = course_of(every(60_000, [100.0] * 20 + [300.0] * 20, marks=[deploy]))
    each = found.views[0]
    assert (each.key, each.exact) == ("each", True)
    assert [line.title for line in each.courses] == ["Run, from dequeue to reap", "Wait in the queue"]
    run = each.courses[0]
    assert len(heights(run.median)) == 40
    assert heights(run.median)[0] > heights(run.median)[-1], "a longer run is drawn higher"
    assert run.last_p50_ms == run.top_ms == 300
    assert [(round(mark.place, 1), mark.short) for mark in run.marks] == [(0.5, "3f9c2ab")]
    assert found.changes == [
        "Runs take 300 ms since 2026-01-01 00:20:00 UTC, 100 ms before (median): with deploy 3f9c2ab"
    ]
    (step,) = run.steps
    assert step.worse
    assert step.before_y > step.after_y == heights(run.median)[-1]
    assert step.place == pytest.approx(0.51, abs=0.02)


def test_a_handful_of_executions_has_no_course() -> None:
    found = course_of(make_history([make_execution() for _ in range(5)]))
    assert (found.views, found.first, found.changes) == ([], "", [])


def test_hours_and_days_are_told_exactly_where_every_execution_is_known() -> None:
    # Three days, one execution each half hour: in even hours 100 and 300 ms, in odd ones 200 ms twice.
    runs = [100.0, 300.0, 200.0, 200.0] * 36
    found = course_of(every(30 * 60_000, runs))
    assert [view.key for view in found.views] == ["each", "hour", "day"]
    hour = found.views[1]
    assert hour.exact
    # The last one of an hour ends after it began; each stands in the hour in which it ended.
    assert {point.executions for point in hour.courses[0].points} == {2}
    assert {point.p50_ms for point in hour.courses[0].points} == {200.0}
    assert {point.p95_ms for point in hour.courses[0].points} == {None}, "two executions have no p95"
    day = found.views[2].courses[0].points
    assert [point.executions for point in day] == [48, 48, 48]
    assert [round(point.p95_ms or 0) for point in day] == [300, 300, 300]
    assert found.first == "hour", "three days are too few points to begin with"


def test_failures_are_counted_and_their_durations_are_not() -> None:
    history = every(60_000, [100.0] * 30)
    trace = [
        replace(row, outcome="failed", reaped_at_ns=row.reaped_at_ns + SECOND) if number % 3 == 0 else row
        for number, row in enumerate(history.trace)
    ]
    found = course_of(replace(history, trace=trace))
    minute = next(view for view in found.views if view.key == "minute").courses[0]
    assert max(point.p50_ms for point in minute.points) == 100
    # Minutes with nothing but a failure have no duration: the line is broken there.
    assert minute.median.count("M") == 10
    assert sum(point.executions for point in minute.points) == 20


def bucket(at_ns: int, count: int, p50: float, p95: float, failed: int = 0) -> Bucket:
    quantiles = Quantiles(p50, p95, p95, p50, p95, count)
    return Bucket(at_ns, "default", count, failed, quantiles, quantiles)


def test_of_long_ago_there_are_summaries_and_the_report_says_so() -> None:
    history = replace(
        every(60_000, [100.0] * 3),
        executions_total=5_000,
        from_ns=EPOCH_NS,
        to_ns=EPOCH_NS + 30 * HOUR,
        buckets=[
            bucket(EPOCH_NS + hour * HOUR + half * HOUR // 2, count, p50, 500.0, failed=1)
            for hour in range(30)
            for half, (count, p50) in enumerate([(30, 100.0), (10, 300.0)])
        ],
    )
    found = course_of(history)
    hour = next(view for view in found.views if view.key == "hour")
    assert not hour.exact
    first = hour.courses[0].points[0]
    assert (first.p50_ms, first.p95_ms, first.executions, first.failed) == (150.0, 500.0, 40, 2)

    short = replace(history, to_ns=EPOCH_NS + 5 * HOUR, buckets=history.buckets[:10])
    assert [view.key for view in course_of(short).views if view.key != "each"] == ["hour"], (
        "summaries of half an hour tell no minutes"
    )


def test_labels_of_marks_that_have_no_room_are_left_to_their_lines() -> None:
    marks = [Mark("deploy", f"rev{number}", EPOCH_NS + number * 30 * SECOND) for number in range(1, 40)]
    run = course_of(every(60_000, [100.0] * 20, marks=marks)).views[0].courses[0]
    named = [mark.place for mark in run.marks if mark.short]
    assert 4 <= len(named) <= 7
    assert min(later - earlier for earlier, later in itertools.pairwise(named)) >= 0.16
    assert len(run.marks) == 38, "those of the window"
