"""Charts over the window: columns, what is in them, and when there is nothing to see."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobdoctor.model import JobHistory, Mark
from jobdoctor.report import time_charts
from jobdoctor.report.over_time import over_time
from jobdoctor.report.queue_wait import queue_wait
from tests.builders import EPOCH_NS, SECOND, make_execution, make_history
from tests.report import diagnoses


def retried() -> JobHistory:
    """Each job fails once, then finishes; the last one is killed."""
    executions = []
    for number in range(10):
        executions.append(make_execution(at_ms=number * 1_000, outcome="retried"))
        executions.append(make_execution(at_ms=number * 1_000 + 500, attempt=2))
    executions.append(make_execution(at_ms=10_000, outcome="killed", attempt=3))
    history = make_history(executions)
    return replace(
        history,
        marks=[Mark("deploy", "abc", EPOCH_NS + 3 * SECOND), Mark("incident", "x", EPOCH_NS + 3_600 * SECOND)],
    )


def test_attempts_by_how_they_ended() -> None:
    chart = time_charts.attempts_over_time(retried())
    assert chart is not None
    assert [(one.label, one.total) for one in chart.series] == [
        ("finished after a retry", 10), ("failed, to be retried", 10), ("cut short or killed", 1),
    ]  # fmt: skip
    assert (chart.step_s, len(chart.at_s)) == (1, 11)
    assert chart.series[1].values == [1.0] * 10 + [0.0]
    assert chart.series[2].values == [0.0] * 10 + [1.0]
    assert [mark.label for mark in chart.marks] == ["deploy abc"]  # the other one lies outside
    assert "10 failed, to be retried" in chart.summary


def test_the_columns_stand_on_one_another_and_fill_the_height() -> None:
    chart = time_charts.attempts_over_time(retried())
    assert chart is not None
    (_, finished), (_, again), _ = chart.columns()
    assert finished.startswith("M0.0 50.00h")
    assert again.startswith("M0.0 0.00h")
    assert chart.lines() == [(272.7, "deploy abc")]


def test_no_chart_when_each_one_finished_at_once() -> None:
    assert time_charts.attempts_over_time(make_history([make_execution(at_ms=at) for at in range(50)])) is None


def test_a_week_has_few_columns() -> None:
    executions = [make_execution(at_ms=number * 3_600_000, outcome="failed") for number in range(24 * 7)]
    chart = time_charts.attempts_over_time(make_history(executions))
    assert chart is not None
    assert chart.step_s == 10_800
    assert len(chart.at_s) <= time_charts.MOST_COLUMNS
    assert sum(chart.series[0].values) == 24 * 7


def waited() -> JobHistory:
    """Ten executions that wait a second each, 600 ms of it behind one job and 300 ms behind itself."""
    own, others = [], []
    for number in range(10):
        at = number * 10_000
        own.append(make_execution(at_ms=at, wait_ms=1_000, run_ms=50))
        own.append(make_execution(at_ms=at - 200, wait_ms=100, run_ms=400))
        others.append(make_execution(job="app.heavy", at_ms=at + 300, wait_ms=0, run_ms=600))
    return make_history(own, others=others)


def test_waits_by_who_was_ahead_add_up() -> None:
    history = waited()
    chart = time_charts.waits_over_time(history)
    assert chart is not None
    totals = {one.label: one.total for one in chart.series}
    assert totals["app.heavy"] == pytest.approx(300)  # of twenty executions, ten of which waited 600 ms for it
    assert totals["app.tasks.sync_orders (this job)"] == pytest.approx(150)
    assert sum(totals.values()) == pytest.approx(550)
    assert "app.heavy" in chart.summary
    by_table = {row.job: row.wait_ms for row in queue_wait(history).rows}
    assert by_table["app.heavy"] == pytest.approx(totals["app.heavy"])
    assert sum(one.values[0] for one in chart.series) == pytest.approx(100)  # one in it, and that waited 100 ms


def test_many_jobs_ahead_are_one_layer() -> None:
    history = waited()
    others = [
        make_execution(job=f"app.job_{number}", at_ms=number * 10_000 + 910, wait_ms=0, run_ms=60 + number)
        for number in range(10)
    ]
    chart = time_charts.waits_over_time(make_history(history.executions, others=others))
    assert chart is not None
    assert [one.label for one in chart.series if "other jobs" in one.label] == ["5 other jobs"]
    assert len({one.colour for one in chart.series}) == len(chart.series)


def test_a_course_breaks_where_nothing_ran_and_has_its_marks() -> None:
    executions = [make_execution(at_ms=hour * 3_600_000, run_ms=100) for hour in (*range(12), *range(20, 30))]
    history = replace(make_history(executions), marks=[Mark("deploy", "abc", EPOCH_NS + 36_000 * SECOND)])
    views = over_time(replace(diagnoses.healthy(), history=history)).views
    (course,) = [one for view in views if view.key == "hour" for one in view.courses if one.metric == "run"]
    picture = time_charts.course_data(course, history.from_ns, history.to_ns)
    (median,) = picture["series"]
    assert [value for value in median["values"] if value is not None] == [100] * 22
    assert median["values"][12] is None  # the gap
    assert picture["at"][13] - picture["at"][11] == 9 * 3_600
    assert len(picture["at"]) == len(median["values"]) == 23
    (mark,) = picture["marks"]
    assert abs(mark["at"] * 1e9 - EPOCH_NS - 36_000 * SECOND) < 20 * SECOND
    assert picture["from"] <= picture["at"][0] < picture["at"][-1] <= picture["to"]


def test_lines_with_points_of_their_own_share_one_axis() -> None:
    executions = [make_execution(at_ms=number * 1_000, run_ms=100 + number % 7) for number in range(400)]
    history = make_history(executions)
    view = over_time(replace(diagnoses.healthy(), history=history)).views[0]
    assert view.key == "each"
    picture = time_charts.course_data(view.courses[0], history.from_ns, history.to_ns)
    assert picture["bridged"] is True
    assert [one["label"] for one in picture["series"]] == ["median", "p95"]
    assert picture["at"] == sorted(set(picture["at"]))
    for one in picture["series"]:
        assert len(one["values"]) == len(picture["at"])


def test_short_waits_and_few_rows_make_no_picture() -> None:
    assert time_charts.waits_over_time(make_history([make_execution(at_ms=at, wait_ms=1) for at in range(50)])) is None
    assert time_charts.waits_over_time(make_history([make_execution(wait_ms=9_000)])) is None


def test_nobody_ahead_is_no_picture() -> None:
    executions = [make_execution(at_ms=at * 60_000, wait_ms=500) for at in range(10)]
    assert time_charts.waits_over_time(make_history(executions)) is None
