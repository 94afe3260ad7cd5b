"""Shared measurements: merged over executions, each without such a call counting as zero."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis import measure
from jobdoctor.model import ImportCost, LedgerPart, Phase, Profile
from tests.builders import MS, make_execution, make_group, make_history
from tests.diagnosis.asking import alike


def test_typical_leaves_out_failures_and_profiled_executions() -> None:
    plain = alike(number=3)
    profiled = make_execution(profile=Profile(1.0, 1, MS), at_ms=50_000)
    failed = make_execution(outcome="failed", at_ms=60_000)
    history = make_history([*plain, profiled, failed])
    assert {each.id for each in measure.typical(history)} == {each.id for each in plain}


def test_typical_takes_profiled_ones_when_there_are_few_others() -> None:
    profiled = make_execution(profile=Profile(1.0, 1, MS), at_ms=50_000)
    assert len(measure.typical(make_history([*alike(number=2), profiled]))) == 3


def test_typical_takes_failures_when_nothing_finished_but_never_what_people_stopped() -> None:
    failed, stopped = make_execution(outcome="failed"), make_execution(outcome="stopped", at_ms=9)
    assert measure.typical(make_history([failed, stopped])) == [failed]


def test_calls_of_one_identity_are_merged_and_spread_over_all_executions() -> None:
    executions = [
        make_execution(groups=[make_group(count=30, ms=30, distinct=20, rows=60)]),
        make_execution(groups=[make_group(count=10, ms=20, distinct=10, rows=20)], at_ms=1),
        make_execution(at_ms=2),
        make_execution(groups=[make_group(count=1, ms=1, callsite="app/other.py:1")], at_ms=3),
    ]
    calls = measure.merge_calls(executions, "sql")[0]
    assert (calls.count, calls.distinct, calls.rows) == (10, 7.5, 20)
    assert calls.total_ms == pytest.approx(12.5)
    assert (calls.fastest_ms, calls.slowest_ms) == (1.0, 2.0)
    assert calls.largest_execution is executions[0]


def test_calls_that_overlap_cost_the_stretch_they_cover() -> None:
    calls = measure.merge_calls(alike(make_group(count=10, ms=100, last_end_ns=20 * MS)), "sql")[0]
    assert calls.total_ms == pytest.approx(20)


def test_a_capped_number_of_parameters_stands_for_all_calls() -> None:
    calls = measure.merge_calls(alike(make_group(count=5_000, distinct=1_000, distinct_capped=True)), "sql")[0]
    assert calls.distinct == 5_000


def test_the_body_is_measured_without_its_imports() -> None:
    body = [Phase("body", 20 * MS, 420 * MS)]
    inside = ImportCost("requests", 150 * MS, 50 * MS, 0, in_body=True)
    below = ImportCost("urllib3", 100 * MS, 100 * MS, 1, in_body=True)
    before = ImportCost("app.jobs", 20 * MS, 20 * MS, 0)
    assert measure.body_ms(alike(run_ms=450, phases=body, imports=[inside, below, before])) == 250
    assert measure.body_ms(alike(run_ms=450, phases=[])) == 450


def test_mean_ledger_is_in_the_contracts_order_with_the_mean_of_all_executions() -> None:
    executions = [
        make_execution(wait_ms=10, run_ms=100, ledger={"sql": 40, "cpu": 60}),
        make_execution(wait_ms=20, run_ms=100, ledger={"cpu": 100}),
    ]
    assert measure.mean_ledger(executions) == [
        LedgerPart("queue_wait", "", 15 * MS),
        LedgerPart("cpu", "", 80 * MS),
        LedgerPart("sql", "", 20 * MS),
    ]


def test_quantiles_interpolate() -> None:
    assert measure.quantile([10, 20, 30, 40], 0.5) == 25
    assert measure.quantile([7], 0.95) == 7
    assert measure.quantile([], 0.5) == 0


def test_saving_of_batching_counts_a_call_for_each_batch() -> None:
    low, mid, high = measure.batching_saving(1_000, 2_000, 1, 500)
    assert high == 2_000 - 2 * 1
    assert low == 0.3 * 1_998
    assert mid == pytest.approx(1_998 - 0.03 * 998)


def test_a_loop_of_quick_calls_gives_back_what_the_fastest_took_but_for_its_items() -> None:
    low, mid, high = measure.batching_saving(100, 6, 0.06, 500)
    assert (low, high) == (pytest.approx(5.94 / 2), pytest.approx(5.94))
    assert mid == pytest.approx(5.94 * 0.7)


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (0.25, "0.25 ms"), (9.94, "9.9 ms"), (9.96, "10 ms"), (412, "412 ms"), (999.6, "1.0 s"), (3_100, "3.1 s"),
        (59_960, "1 min"), (125_000, "2 min 5 s"), (3_600_000, "1.0 h"),
    ],
)  # fmt: skip
def test_durations_for_people(ms: float, words: str) -> None:
    assert measure.words_ms(ms) == words


@pytest.mark.parametrize(
    ("size", "words"), [(812, "812 B"), (1_500, "1.5 kB"), (120_000, "120 kB"), (2_300_000, "2.3 MB"), (2e9, "2.0 GB")]
)
def test_sizes_for_people(size: float, words: str) -> None:
    assert measure.words_bytes(size) == words


@pytest.mark.parametrize(("count", "words"), [(412, "412"), (1_204, "1,204"), (2.5, "2.5"), (3.01, "3"), (12.4, "12")])
def test_counts_for_people(count: float, words: str) -> None:
    assert measure.words_count(count) == words


def test_a_few_values_that_are_far_off_do_not_move_a_winsorised_mean() -> None:
    assert measure.winsorised([10, 500, 11, 12, 0]) == [10, 10, 11, 12, 12]
    assert measure.winsorised([1, 9]) == [1, 9]
    assert measure.winsorised([]) == []
    assert sorted(measure.winsorised([*range(20)]))[:3] == [2, 2, 2]
