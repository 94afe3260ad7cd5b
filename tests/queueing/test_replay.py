"""The replay against small cases worked out by hand, against Erlang's formula, and against its own input."""

from __future__ import annotations

import random
from math import inf

import pytest

from jobdoctor.queueing.capacity import mean_wait_s
from jobdoctor.queueing.replay import replay
from jobdoctor.queueing.traffic import Link, Pool, Traffic, steady, traffic_of
from tests.queueing.traces import served

Job = tuple[float, str, float]  # arrival, queue, service


def traffic(*jobs: Job, overhead: float = 0.0) -> Traffic:
    made = Traffic(["job"], sorted({queue for _, queue, _ in jobs}))
    for arrival, queue, service in jobs:
        made.arrival.append(arrival)
        made.job.append(0)
        made.queue.append(made.queues.index(queue))
        made.service.append(service)
        made.overhead.append(overhead)
    return made


def test_first_come_first_served_by_one_and_by_two() -> None:
    jobs = traffic((0, "q", 3), (1, "q", 2), (2, "q", 1), (10, "q", 1))
    assert replay(jobs, [steady(["q"], 1)]).taken == [0, 3, 5, 10]
    assert replay(jobs, [steady(["q"], 2)]).taken == [0, 1, 3, 10]
    assert replay(jobs, [steady(["q"], 2)]).busy_s == 7


def test_the_overhead_of_each_job_counts_before_it() -> None:
    done = replay(traffic((0, "q", 1), (0, "q", 1), overhead=0.25), [steady(["q"], 1)])
    assert done.taken == [0.25, 1.5]
    assert done.done == [1.25, 2.5]


def test_strict_order_of_two_queues() -> None:
    """low is taken only when high is empty, also by the worker that would be its own."""
    jobs = traffic((0, "low", 4), (1, "low", 1), (2, "high", 1), (3, "high", 1))
    assert replay(jobs, [steady(["high", "low"], 1)]).taken == [0, 6, 4, 5]
    assert replay(jobs, [steady(["low", "high"], 1)]).taken == [0, 4, 5, 6]


def test_a_pool_of_its_own_beside_a_shared_one() -> None:
    jobs = traffic((0, "low", 9), (0, "low", 1), (1, "high", 1), (1, "high", 1))
    done = replay(jobs, [steady(["high", "low"], 1), steady(["high"], 1)])
    assert done.taken == [0, 9, 1, 2]


def test_round_robin_goes_on_behind_the_queue_it_took_from() -> None:
    jobs = traffic((0, "a", 1), (0, "a", 1), (0, "a", 1), (0, "b", 1), (0, "b", 1), (0, "c", 1))
    queues = ("a", "b", "c")
    done = replay(jobs, [steady(queues, 1, "round_robin")])
    order = sorted(range(6), key=done.taken.__getitem__)
    assert [jobs.queues[jobs.queue[index]] for index in order] == ["a", "b", "c", "a", "b", "a"]
    strict = replay(jobs, [steady(queues, 1)])
    assert [jobs.queue[i] for i in sorted(range(6), key=strict.taken.__getitem__)] == [0, 0, 0, 1, 1, 2]


def test_random_order_is_fair_in_the_long_run_and_the_same_again() -> None:
    jobs = traffic(*[(0.0, queue, 1.0) for queue in "ab" for _ in range(500)])
    pool = steady(["a", "b"], 1, "random")
    done = replay(jobs, [pool])
    first = [jobs.queue[index] for index in sorted(range(1000), key=done.taken.__getitem__)[:500]]
    assert 200 < sum(first) < 300
    assert replay(jobs, [pool]).taken == done.taken


def test_at_front_goes_before_all_that_wait_and_interrupts_nothing() -> None:
    jobs = traffic((0, "q", 5), (1, "q", 1), (2, "q", 1), (3, "q", 1))
    jobs.fronts = {3}
    assert replay(jobs, [steady(["q"], 1)]).taken == [0, 6, 7, 5]


def test_a_retry_comes_back_after_its_delay_at_the_end() -> None:
    jobs = traffic((0, "q", 2), (3, "q", 4), (9, "q", 1))
    jobs.links = {0: [Link(2, 2.5, True)]}  # the third is the first one's second attempt
    jobs.linked = {2}
    done = replay(jobs, [steady(["q"], 1)])
    assert done.arrival == [0, 3, 4.5]
    assert done.taken == [0, 3, 7]


def test_a_child_comes_within_its_parents_run() -> None:
    jobs = traffic((0, "q", 3), (1, "q", 4), (9, "q", 1))
    jobs.links = {1: [Link(2, 1.5, False)]}
    jobs.linked = {2}
    done = replay(jobs, [steady(["q"], 2)])
    assert done.arrival[2] == 2.5
    assert done.taken == [0, 1, 3]


def test_workers_come_and_go() -> None:
    jobs = traffic((0, "q", 1), (0, "q", 1), (0, "q", 1), (8, "q", 1))
    pool = Pool(("q",), ((5, 6.5), (20, inf)))
    # Taken at 5 and 6 (it finishes that one), then nobody until 20.
    assert replay(jobs, [pool]).taken == [5, 6, 20, 21]
    assert replay(traffic((0, "q", 1)), [Pool(("q",), ((5, 6),)), steady(["other"], 1)]).taken == [5]


def test_a_worker_that_left_while_it_was_idle_takes_nothing() -> None:
    jobs = traffic((0, "q", 1), (8, "q", 1))
    assert replay(jobs, [Pool(("q",), ((0, 5), (9, inf)))]).taken == [0, 9]


def test_what_nobody_listens_to_is_never_taken() -> None:
    done = replay(traffic((0, "q", 1), (0, "r", 1)), [steady(["q"], 1)])
    assert done.taken == [0, inf]
    assert done.waits()[1] == inf


def test_who_waited_longest_takes_the_next() -> None:
    """Two pools listen to q; the worker of the first has just become free, that of the second waits since the start."""
    jobs = traffic((0, "a", 5), (6, "q", 10), (7, "a", 1))
    done = replay(jobs, [steady(["a", "q"], 1), steady(["q"], 1)])
    assert done.taken == [0, 6, 7]


@pytest.mark.parametrize(("workers", "load"), [(1, 0.6), (4, 0.7)])
def test_erlang(workers: int, load: float) -> None:
    rng = random.Random(7)
    made = Traffic(["job"], ["q"])
    at = 0.0
    for _ in range(100_000):
        at += rng.expovariate(workers * load)
        made.arrival.append(at)
        made.service.append(rng.expovariate(1.0))
    made.job = made.queue = [0] * 100_000
    made.overhead = [0.0] * 100_000
    waits = replay(made, [steady(["q"], workers)]).waits()
    assert sum(waits) / len(waits) == pytest.approx(mean_wait_s(workers * load, 1.0, workers), rel=0.05)


def test_no_change_gives_the_trace_again() -> None:
    rng = random.Random(5)
    at, arrivals = 0.0, []
    for _ in range(500):
        at += rng.expovariate(1.5)
        arrivals.append((round(at, 3), rng.choice(["app.a", "app.b"]), round(rng.uniform(0.2, 2.0), 3)))
    rows = sorted(served(arrivals, 2), key=lambda row: (row.enqueued_at_ns, row.dequeued_at_ns))
    made, pools = traffic_of(rows)
    assert replay(made, pools).waits() == pytest.approx(made.waited, abs=1e-6)
