"""What a job waits that is enqueued now: lines worked out by hand, and long ones that are not played job by job."""

from __future__ import annotations

from math import inf

import pytest

from jobdoctor.queueing.expectation import Line, Times, Worker, expected


def test_the_line_shared_by_the_workers() -> None:
    times = Times({"a": [2.0], "b": [10.0]})
    line = Line(5, ("a", "a", "a", "a", "b"))
    one = expected({"q": line}, [Worker(("q",))], times, {})["q"]
    assert one is not None
    assert (one.p50, one.p95) == (18, 18)
    assert [(each.job, each.jobs, each.work_s) for each in one.ahead] == [("b", 1, 10), ("a", 4, 8)]
    two = expected({"q": line}, [Worker(("q",))] * 2, times, {})["q"]
    assert two is not None
    assert two.p50 == 4  # the other is on b


def test_what_runs_now_has_to_end_first() -> None:
    times = Times({"a": [4.0, 10.0]})
    running = expected({"q": Line(0, ())}, [Worker(("q",), "a", 7.0)], times, {})["q"]
    assert running is not None
    assert running.p50 == 3  # it is past 4, so that it is one of 10
    beyond = expected({"q": Line(0, ())}, [Worker(("q",), "a", 20.0)], times, {})["q"]
    assert beyond is not None
    assert 0 < beyond.p50 < 20


def test_an_earlier_queue_goes_first_now_and_later() -> None:
    times = Times({"a": [1.0]})
    lines = {"high": Line(3, ("a",) * 3), "low": Line(2, ("a",) * 2)}
    workers = [Worker(("high", "low"))]
    still = expected(lines, workers, times, {})
    assert still["low"] is not None
    assert still["low"].p50 == 5
    coming = expected(lines, workers, times, {("high", "a"): 0.5})
    assert coming["low"] is not None
    assert 6 < coming["low"].p50 < 20  # half of the time goes to those that come
    assert coming["high"] == still["high"]


def test_nobody_listens_and_nothing_recorded() -> None:
    nobody = expected({"q": Line(1, ("a",))}, [Worker(("other",))], Times({"a": [1.0]}), {})["q"]
    assert nobody is not None
    assert nobody.p50 == inf
    assert expected({"q": Line(1, ("a",))}, [Worker(("q",))], Times({}), {}) == {"q": None}


def test_a_long_line_is_its_work_over_its_workers() -> None:
    times = Times({"a": [0.5, 1.5], "b": [4.0]})
    line = Line(200_000, ("b",) * 60, ("a",) * 30 + ("b",) * 10)
    found = expected({"q": line}, [Worker(("q",))] * 4, times, {})["q"]
    assert found is not None
    work = 60 * 4 + 199_940 * (0.75 * 1 + 0.25 * 4)
    assert found.p50 == pytest.approx(work / 4, rel=0.02)
    assert sum(each.jobs for each in found.ahead) == pytest.approx(200_000)
    assert found.unknown_share == 0
    unknown = expected({"q": Line(10, ("c",) * 6 + ("a",) * 4)}, [Worker(("q",))], times, {})["q"]
    assert unknown is not None
    assert unknown.unknown_share == pytest.approx(0.6)
