"""Is a job slower? On times that are made up, so that machines and their noise have no part in it."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from jobdoctor.gate import calibration, rank_tests, timing, work
from jobdoctor.gate.budgets import Budget
from jobdoctor.gate.profile import Profile
from jobdoctor.gate.timing import Round, Timing
from jobdoctor.model import Profile as StackProfile
from jobdoctor.model import ProfileFrame
from tests.builders import make_execution, make_group

Session = Callable[..., pytest.RunResult]
KERNELS = (9_000, 8_000, 7_000)


def test_the_exact_distribution() -> None:
    # 3 values above 3 others: one order of 20. (Mann and Whitney, 1947, table I.)
    assert rank_tests.higher([1, 2, 3], [4, 5, 6]) == pytest.approx(1 / 20)
    assert rank_tests.higher([4, 5, 6], [1, 2, 3]) == 1
    assert rank_tests.higher([1, 2, 4], [3, 5, 6]) == pytest.approx(2 / 20)
    assert rank_tests.higher([1, 3, 5, 7], [2, 4, 6, 8]) == pytest.approx(24 / 70)
    assert rank_tests.higher([], [1.0]) == 1


def test_counting_out_every_order_gives_the_same() -> None:
    first, second = [0.1, 0.4, 0.9], [0.3, 0.5, 0.95, 0.7]
    pooled = first + second
    score = sum(b > a for a in first for b in second)
    scores = [
        sum(b > a for a in chosen for b in pooled if b not in chosen) for chosen in itertools.combinations(pooled, 3)
    ]
    assert rank_tests.higher(first, second) == pytest.approx(sum(each >= score for each in scores) / len(scores))


def test_ties_and_long_samples_are_approximated() -> None:
    # By hand: the score is 13.5 of 16, the variance 16/12 (9 - 36/56), so z is (13.5 - 8 - 0.5) / 3.338.
    assert rank_tests.higher([1, 2, 2, 3], [2, 3, 4, 4]) == pytest.approx(0.0671, abs=1e-4)
    assert rank_tests.higher([1.0] * 30, [1.0] * 30) == 1
    noise = random.Random(7)
    same = [rank_tests.higher(*([noise.gauss(0, 1) for _ in range(25)] for _ in range(2))) for _ in range(200)]
    assert 0.2 < sum(p < 0.3 for p in same) / len(same) < 0.4
    assert rank_tests.ratio([2.0, 2.0, 8.0], [3.0, 3.0, 3.0]) == 1.5


def rounds(
    number: int, noise: random.Random, *, times: float = 1.0, busy: float = 1.0, wild: float = 0.0, load: str = ""
) -> list[Round]:
    """A job that goes as the first kernel does. ``busy`` slows the machine, the second kernel twice as much."""
    found = []
    for _ in range(number):
        pace = busy * noise.uniform(0.97, 1.03)
        kernels = [
            round(KERNELS[0] * pace),
            round(KERNELS[1] * pace * pace),
            round(KERNELS[2] * noise.uniform(0.9, 1.1)),
        ]
        job = 100_000 * pace * times * noise.uniform(0.98, 1.02) * math.exp(wild * noise.gauss(0, 1))
        found.append(Round(round(job), kernels, load))
    return found


def written(noise: random.Random, **load: float) -> list[Round]:
    return [
        *rounds(timing.ALONE, noise),
        *rounds(timing.BESIDE, noise, busy=load.get("memory", 1.3), load="memory"),
        *rounds(timing.BESIDE, noise, busy=load.get("processor", 1.6), load="processor"),
    ]


def test_the_mix_is_the_one_that_follows_the_job() -> None:
    fitted = timing.fit(written(random.Random(1)), 0.15)
    assert fitted.weights[0] >= 0.8
    assert sum(fitted.weights) == pytest.approx(1)
    assert fitted.margin == 0.15


@pytest.mark.parametrize("busy", [1.0, 1.3, 2.5])
def test_noise_never_fails_and_a_slowdown_is_caught_however_busy_the_machine_is(busy: float) -> None:
    noise = random.Random(3)
    fitted = timing.fit(written(noise), 0.15)
    for _ in range(40):
        assert not timing.slower(fitted, lambda number: rounds(number, noise, busy=busy))[1]
        times, failed = timing.slower(fitted, lambda number: rounds(number, noise, busy=busy, times=1.3))
        assert failed
        assert times == pytest.approx(1.3, abs=0.1)


def test_a_suspicion_that_more_runs_do_not_confirm_is_dropped() -> None:
    noise = random.Random(4)
    fitted = timing.fit(written(noise), 0.15)
    asked: list[int] = []

    def first_slow(number: int) -> list[Round]:
        asked.append(number)
        return rounds(number, noise, times=1.4 if len(asked) == 1 else 1.0)

    assert timing.slower(fitted, first_slow)[1] is False
    assert asked == [timing.FIRST, timing.SECOND]


@pytest.mark.parametrize("disturbed", [slice(0, 7), slice(0, 14, 2)])
def test_rounds_that_were_disturbed_for_a_while_or_now_and_then_are_no_slowdown(disturbed: slice) -> None:
    noise = random.Random(10)
    fitted = timing.fit(written(noise), 0.15)

    def more(number: int) -> list[Round]:
        found = rounds(number, noise)
        if number == timing.FIRST:
            return rounds(number, noise, times=1.5)
        found[disturbed] = rounds(len(found[disturbed]), noise, times=1.6)
        return found

    assert not timing.slower(fitted, more)[1]


def test_a_baseline_of_a_disturbed_machine_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = random.Random(11)
    wild = [
        Round(round(each.job_us * (2 if each.load == "memory" else 1)), each.kernels_us, each.load)
        for each in written(noise, memory=1.0)
    ]
    tries = iter([wild, written(noise), wild])
    monkeypatch.setattr(timing, "_loaded_rounds", lambda *_: next(tries))
    assert timing.fit(timing.baseline_rounds(lambda: (1.0, 1.0), "cpu", 1, 0.15), 0.15).margin == 0.15
    assert next(tries) is wild


def test_what_the_machine_hides_of_a_slowdown_the_lines_show() -> None:
    noise = random.Random(12)
    fitted = timing.fit(written(noise), 0.15)

    def faster_machine(number: int) -> list[Round]:
        return rounds(number, noise, times=1.3 * 0.85)

    assert not timing.slower(fitted, faster_machine)[1]
    assert timing.slower(fitted, faster_machine, 1.3)[1]
    assert not timing.slower(fitted, faster_machine, 1.14)[1]
    assert not timing.slower(fitted, lambda number: rounds(number, noise), 1.5)[1]  # lines that cost nothing
    assert not timing.slower(fitted, lambda number: rounds(number, noise, times=1.07), 1.2)[1]  # together below 15%
    assert timing.slower(fitted, lambda number: rounds(number, noise, times=1.3), 1.0)[1]  # slower within C


def test_lines_are_counted_and_tracers_wait() -> None:
    seen: list[str] = []

    def tracer(frame: Any, event: str, argument: Any) -> Any:
        seen.append(frame.f_code.co_name)

    def loop(number: int) -> int:
        total = 0
        for one in range(number):
            total += one
        return total

    found = Budget()
    before = sys.gettrace(), threading.gettrace()
    sys.settrace(tracer)
    threading.settrace(tracer)
    try:
        few, many = work.lines_of(lambda: loop(10)), work.lines_of(lambda: loop(110))
        assert work.lines_of(lambda: found == Budget()) <= 2
        thread = work.lines_of(lambda: [each(*()) for each in (_in_a_thread,)])
        with work.untraced():
            loop(3)
        assert (sys.gettrace(), threading.gettrace()) == (tracer, tracer)
    finally:
        sys.settrace(before[0])
        threading.settrace(before[1])
    assert many - few == 200
    assert thread > 100
    assert "loop" not in seen


def _in_a_thread() -> None:
    def loop() -> None:
        for one in range(100):
            abs(one)

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()


def test_just_within_and_just_beyond_the_margin() -> None:
    noise = random.Random(5)
    fitted = timing.fit(written(noise), 0.15)
    assert not timing.slower(fitted, lambda number: rounds(number, noise, times=1.11))[1]
    assert timing.slower(fitted, lambda number: rounds(number, noise, times=1.19))[1]


def test_what_the_workloads_do_not_explain_widens_the_margin() -> None:
    noise = random.Random(6)
    strange = [
        Round(round(each.job_us * (1.2 if each.load == "memory" else 1)), each.kernels_us, each.load)
        for each in written(noise, memory=1.0)
    ]
    fitted = timing.fit(strange, 0.15)
    assert fitted.margin > 0.3
    assert not timing.slower(fitted, lambda number: rounds(number, noise, times=1.25))[1]


def test_workloads_take_some_milliseconds_each() -> None:
    assert set(calibration.kernel_times()) == set(calibration.KERNELS)
    assert all(ms > 0.5 for ms in calibration.kernel_times().values())
    assert calibration.machine().startswith(("CPython 3.", "PyPy"))


# ------------------------------------------------------------------------------------------------------------ examining


class Job:
    """A job whose times are given; it counts its runs."""

    def __init__(self, ms: float, *, cpu: float = 1.0, called_ms: float = 0.0) -> None:
        self.ms, self.cpu, self.called_ms = ms, cpu, called_ms
        self.noise = random.Random(8)
        self.profiled = 0
        self.kept: list[bytes] = []
        self.bytes = 0
        self.loops = 0

    def __call__(self, profiled: bool) -> Profile:
        ms = self.ms * self.noise.uniform(0.98, 1.02)
        kept = bytearray(self.bytes)
        for _ in range(self.loops):
            ms += 0
        profile = Profile("app.compute")
        groups = [make_group("http", ms=self.called_ms)] if self.called_ms else []
        profile.executions = [make_execution(job="app.compute", groups=groups, profile=PROFILE if profiled else None)]
        profile.cpu_ms, profile.busy_ms = ms * self.cpu, ms + self.called_ms + 0 * len(kept)
        self.profiled += profiled
        return profile


PROFILE = StackProfile(
    1.0,
    100,
    100,
    [
        ProfileFrame(-1, "compute", "app/tasks.py:3", 100, True),
        ProfileFrame(0, "inner", "app/tasks.py:9", 80, True),
        ProfileFrame(1, "loads", "json/__init__.py:299", 70, False),
    ],
)


@pytest.fixture
def _calm(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = random.Random(9)
    monkeypatch.setattr(
        calibration,
        "kernel_times",
        lambda: {name: 5 * noise.uniform(0.98, 1.02) for name in calibration.KERNELS},
    )

    @contextlib.contextmanager
    def no_load(kind: str) -> Iterator[None]:
        yield

    monkeypatch.setattr(timing, "_loaded", no_load)


def _baseline(job: Job) -> Callable[[str], Mapping[str, Timing]]:
    measured, failures = timing.examine(job, lambda name: None, writes=True)
    assert failures == []
    return lambda name: {measured.machine: measured.timing}


@pytest.mark.usefixtures("_calm")
def test_a_slowdown_names_its_line_and_its_size() -> None:
    known = _baseline(Job(100))
    same, failures = timing.examine(Job(100), known, writes=False)
    assert (failures, same.remark) == ([], "")
    assert same.slowdown == pytest.approx(1, abs=0.05)
    slow = Job(130)
    measured, [failure] = timing.examine(slow, known, writes=False)
    assert measured.slowdown == pytest.approx(1.3, abs=0.05)
    assert failure.check == "max_slowdown"
    assert failure.what.startswith("app.compute: 1")
    assert failure.what.endswith("15% allowed")
    assert "% more than the baseline against this machine's speed, 15% allowed" in failure.what
    assert (failure.callsite, failure.calls[0].shape) == ("app/tasks.py:9", "80% of the time")
    assert slow.profiled == 1
    assert timing.examine(Job(130), known, writes=False, margin=0.5)[1] == []
    slow = Job(130)
    slow.loops = 1_000
    measured, [failure] = timing.examine(slow, known, writes=False)
    assert measured.grown is not None
    assert measured.grown > 2
    assert "15% allowed; it executes " in failure.what
    assert failure.what.endswith(" more lines of Python")


@pytest.mark.usefixtures("_calm")
def test_waiting_in_calls_is_not_the_jobs_own_time() -> None:
    known = _baseline(Job(100, cpu=0.2, called_ms=50))
    assert timing.examine(Job(100, cpu=0.2, called_ms=500), known, writes=False)[1] == []
    assert timing.examine(Job(150, cpu=0.2, called_ms=50), known, writes=False)[1] != []


@pytest.mark.usefixtures("_calm")
def test_another_machine_is_remark() -> None:
    known = _baseline(Job(100))
    measured, failures = timing.examine(
        Job(200), lambda name: {"PyPy 9, Abacus": next(iter(known("j").values()))}, writes=False
    )
    assert (failures, measured.slowdown) == ([], None)
    assert "the baseline is of another machine (PyPy 9, Abacus), not of " in measured.remark
    measured, _ = timing.examine(Job(200), lambda name: None, writes=False)
    assert "not in the baseline; write it with --jobdoctor-update" in measured.remark


@pytest.mark.usefixtures("_calm")
def test_a_larger_peak_of_memory_fails() -> None:
    job = Job(100)
    job.bytes = 1_000_000
    known = _baseline(job)
    job.bytes = 1_050_000
    assert timing.examine(job, known, writes=False)[1] == []
    job.bytes = 1_400_000
    [failure] = timing.examine(job, known, writes=False)[1]
    assert failure.what.startswith("app.compute: 9")
    assert failure.what.endswith("allocated at its peak, 10% allowed")


@pytest.mark.usefixtures("_calm")
def test_a_round_is_the_mean_of_its_repeats_by_the_clock_that_counts() -> None:
    def twice() -> Callable[[], tuple[float, float]]:
        return iter([(1.0, 5.0), (3.0, 9.0)]).__next__

    assert [each.job_us for each in timing.measure(twice(), "cpu", 2, 1)] == [2_000]
    assert [each.job_us for each in timing.measure(twice(), "busy", 2, 1)] == [7_000]
    alone_and_beside = timing.baseline_rounds(lambda: (1.0, 1.0), "cpu", 1, 0.15)
    assert {each.load for each in alone_and_beside} == {"", "memory", "processor"}


def test_short_jobs_are_repeated_within_a_round() -> None:
    assert [timing.repeats_of(ms) for ms in (0, 1, 5, 19, 21, 500)] == [20, 20, 4, 2, 1, 1]


def test_timed_in_a_session(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ALONE", 2)
    monkeypatch.setattr(timing, "BESIDE", 1)
    monkeypatch.setattr(timing, "FIRST", 2)
    monkeypatch.setattr(timing, "ROUND_MS", 0.1)
    tests = """
@pytest.mark.jobdoctor(max_slowdown="900%", max_queries=1)
def test_it(jobdoctor):
    numbers = iter(range(1, 100))
    measured = jobdoctor.timed(shop.at_once, arrange=lambda: ([next(numbers)],))
    assert measured.ms > 0
    assert len(jobdoctor.profiles) == 1

@pytest.mark.jobdoctor(max_slowdown="900%")
def test_never(jobdoctor):
    jobdoctor.run(shop.at_once, [1])
"""
    first = session(tests)
    first.assert_outcomes(passed=1, failed=1)
    first.stdout.fnmatch_lines(
        ["no job was timed: call jobdoctor.timed() in it*", "time: shop.at_once: not in the baseline; *"]
    )
    session(None, "--jobdoctor-update")
    second = session(None, "-k", "test_it")
    second.assert_outcomes(passed=1, deselected=1)
    second.stdout.no_fnmatch_line("*not in the baseline*")
