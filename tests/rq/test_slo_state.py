"""The state of promised jobs in Redis: who is demoted, who returns, what is kept of it. The clock is an argument."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobdoctor.rq import slo_state
from jobdoctor.rq.slo_state import LIMITS, SloState, read_states, record, state_key

JOB = "app.tasks.send_mail"
SLO = 1_000.0
START = 1_750_000_000_000  # ms
MINUTE = 60_000


class Clock:
    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.now = START

    def run(self, *times: float, every: int = 1_000, slo: float = SLO) -> list[str]:
        """One run after another; what each changed."""
        changed = []
        for took in times:
            self.now += every
            changed.append(record(self.client, JOB, now_ms=self.now, took_ms=took, slo_ms=slo))
        return changed

    def state(self) -> SloState:
        (found,) = read_states(self.client, now_ms=self.now)
        return found

    @property
    def demoted(self) -> bool:
        return self.state().demoted_since_ns is not None


@pytest.fixture
def clock(redis_client: redis.Redis) -> Clock:
    return Clock(redis_client)


def test_four_runs_are_too_few_and_the_fifth_is_enough(clock: Clock) -> None:
    assert clock.run(20_000, 20_000, 20_000, 20_000) == [""] * 4
    assert clock.run(20_000) == ["demoted"]
    assert clock.state().demoted_since_ns == clock.now * 1_000_000
    assert clock.run(20_000) == [""]


def test_two_late_runs_are_chance(clock: Clock) -> None:
    clock.run(*[500.0] * 8, 5_000.0, 5_000.0)
    assert not clock.demoted
    assert clock.run(5_000.0) == ["demoted"]


def test_exactly_five_per_cent_late_keep_the_promise(clock: Clock) -> None:
    clock.run(*[900.0] * 57, 1_001.0, 1_001.0, 1_001.0)
    assert (clock.state().samples, clock.state().late) == (60, 3)
    assert not clock.demoted
    clock.run(1_001.0)
    assert clock.demoted


def test_the_promise_itself_is_kept(clock: Clock) -> None:
    clock.run(*[SLO] * 50)
    assert not clock.demoted
    assert clock.state().late == 0


def test_what_was_an_hour_ago_does_not_count(clock: Clock) -> None:
    clock.run(5_000.0, 5_000.0, 500.0, 500.0)
    clock.now += 61 * MINUTE
    clock.run(5_000.0, 500.0, 500.0, 500.0, 500.0, 5_000.0)
    assert clock.state().samples == 6
    assert not clock.demoted


def test_slots_that_are_used_again_begin_empty(clock: Clock) -> None:
    for _ in range(14):
        clock.run(500.0, 500.0)
        clock.now += 10 * MINUTE
    assert clock.state().samples <= 12


def test_a_sample_that_is_told_too_late_is_left_out(clock: Clock) -> None:
    clock.run(500.0)
    record(clock.client, JOB, now_ms=clock.now - 60 * MINUTE, took_ms=5_000, slo_ms=SLO)
    assert clock.state().samples == 1


def test_it_returns_after_twenty_good_runs_in_a_row(clock: Clock) -> None:
    clock.run(*[5_000.0] * 5)
    assert clock.run(*[700.0] * 19) == [""] * 19
    assert clock.run(900.0) == [""]  # kept, but with nothing to spare: the row begins anew
    assert clock.state().good_in_a_row == 0
    assert clock.run(*[700.0] * 20) == [""] * 19 + ["returned"]
    assert clock.state().samples == 0  # what was before the return does not count against it
    assert clock.state().returned_at_ns == clock.now * 1_000_000
    assert clock.run(5_000.0, 5_000.0, 700.0, 700.0) == [""] * 4
    assert clock.run(5_000.0) == ["demoted"]
    assert clock.state().demotions == 2


def test_another_promise_begins_anew(clock: Clock) -> None:
    clock.run(*[5_000.0] * 5)
    assert clock.demoted
    clock.run(5_000.0, slo=10_000.0)
    assert (clock.demoted, clock.state().samples, clock.state().slo_ms) == (False, 1, 10_000.0)


@pytest.mark.parametrize("took", [100.0, 900.0, 1_100.0, 5_000.0, 20_000.0])
def test_the_quantile_is_good_to_a_tenth(clock: Clock, took: float) -> None:
    clock.run(*[took] * 30)
    p95 = clock.state().p95_ms
    assert p95 is not None
    assert p95 == pytest.approx(took, rel=0.1) or took < SLO / 8
    assert (p95 > SLO) == (took > SLO)


def test_a_job_of_a_thousand_promises_shows_its_bounds(clock: Clock) -> None:
    clock.run(*[SLO * 10_000] * 5, 0.0)
    assert clock.state().p95_ms == pytest.approx(SLO * 256, rel=0.2)


def test_states_are_of_constant_size_and_go_away(clock: Clock, redis_client: redis.Redis) -> None:
    rng = __import__("random").Random(3)
    for _ in range(400):
        clock.run(SLO * 2 ** rng.uniform(-14, 20), every=10_000)
    assert redis_client.hlen(state_key(JOB)) <= LIMITS.slices * (3 + 45) + 12
    assert 0 < redis_client.pttl(state_key(JOB)) <= LIMITS.keep_ms
    record(redis_client, "app.other", now_ms=clock.now + LIMITS.keep_ms + 1, took_ms=1, slo_ms=1)
    assert redis_client.zrange(slo_state.INDEX_KEY, 0, -1) == [b"app.other"]


def test_an_exempt_job_has_no_state(clock: Clock, redis_client: redis.Redis) -> None:
    clock.run(5_000.0)
    slo_state.forget(redis_client, JOB)
    assert read_states(redis_client) == []


def test_demoted_ones_are_told_first(clock: Clock, redis_client: redis.Redis) -> None:
    clock.run(*[5_000.0] * 5)
    record(redis_client, "app.a", now_ms=clock.now, took_ms=1, slo_ms=SLO)
    assert [state.job for state in read_states(redis_client, now_ms=clock.now)] == [JOB, "app.a"]


class Model:
    """The same in Python, with every run kept."""

    def __init__(self) -> None:
        self.runs: deque[tuple[int, float]] = deque()
        self.demoted = False
        self.good = 0

    def run(self, now: int, took: float) -> str:
        oldest = now // LIMITS.slice_ms - LIMITS.slices
        self.runs.append((now // LIMITS.slice_ms, took))
        while self.runs[0][0] <= oldest:
            self.runs.popleft()
        if self.demoted:
            self.good = self.good + 1 if took <= 0.8 * SLO else 0
            if self.good < 20:
                return ""
            self.demoted, self.good = False, 0
            self.runs.clear()
            return "returned"
        late = sum(each > SLO for _, each in self.runs)
        if len(self.runs) < 5 or late < 3 or late * 20 <= len(self.runs):
            return ""
        self.demoted, self.good = True, 0
        return "demoted"


_RUNS = st.lists(
    st.tuples(
        st.sampled_from([1, 1_000, 30_000, 9 * MINUTE, 45 * MINUTE]),
        st.sampled_from([0.0, 10.0, 799.0, 800.0, 801.0, 1_000.0, 1_000.5, 30_000.0]),
        st.integers(1, 25),
    ),
    max_size=25,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(runs=_RUNS)
def test_it_does_what_a_model_does(redis_client: redis.Redis, runs: list[tuple[int, float, int]]) -> None:
    redis_client.delete(state_key(JOB))
    model, clock = Model(), Clock(redis_client)
    for pause, took, times in runs:
        for _ in range(times):
            assert clock.run(took, every=pause) == [model.run(clock.now, took)]
    if runs:
        assert clock.state().samples == len(model.runs)
        assert clock.demoted == model.demoted


def test_reading_takes_text_connections(valkey_url: str, redis_client: redis.Redis) -> None:
    text: Any = redis.Redis.from_url(valkey_url, decode_responses=True)
    record(text, JOB, now_ms=START, took_ms=10, slo_ms=SLO)
    assert [state.job for state in read_states(text, now_ms=START)] == [JOB]
    text.close()
