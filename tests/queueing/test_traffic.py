"""What recorded rows tell beside arrivals and times: overheads, links, who was at front, when workers were there."""

from __future__ import annotations

from math import inf

import pytest
from msgspec.structs import replace

from jobdoctor.model import TraceRow
from jobdoctor.queueing.replay import replay
from jobdoctor.queueing.traffic import Link, Pool, steady, traffic_of
from jobdoctor.queueing.whatif import baseline
from tests.queueing.traces import row, served


def test_overhead_is_what_passed_when_job_and_worker_were_there() -> None:
    rows = [row("a", 0, 0.004, 1), row("a", 0.5, 1.01, 2), row("a", 5, 5.006, 6), row("a", 50, 59, 60)]
    traffic, _ = traffic_of(rows)
    # The last waited for something that nobody recorded: it has the usual overhead. The second came while the worker
    # was busy: what it would take of an idle one is what it took another.
    assert traffic.overhead == pytest.approx([0.004, 0.005, 0.006, 0.006], abs=1.1e-3)
    assert traffic.between == pytest.approx([0.01] * 4)
    assert traffic.waited == pytest.approx([0.004, 0.51, 0.006, 9])


def test_a_busy_worker_needs_longer_for_the_next_one() -> None:
    """Five jobs at once and one worker that needs 50 ms between two; then five apart, which it takes at once."""
    rows = [row("a", 0, 0.002 if n == 0 else 0.002 + 1.05 * n, 1.002 + 1.05 * n) for n in range(5)]
    rows += [row("a", 10 + 2.0 * n, 10.002 + 2 * n, 11.002 + 2 * n) for n in range(5)]
    traffic, pools = traffic_of(rows)
    assert traffic.overhead == pytest.approx([0.002] * 10)
    assert traffic.between == pytest.approx([0.05] * 10)
    assert replay(traffic, pools).waits() == pytest.approx(traffic.waited)
    # All at once: each but the first has 50 ms before it. With ten workers nobody has.
    traffic.arrival = [0.0] * 10
    assert max(replay(traffic, pools).waits()) == pytest.approx(9 * 1.05 + 0.002)
    assert replay(traffic, [steady(["default"], 10)]).waits() == pytest.approx([0.002] * 10)


def test_what_a_busy_machine_takes_is_overhead() -> None:
    rows = [row("a", 5.0 * n, 5.0 * n + (0.6 if n % 7 == 0 else 0.005), 5.0 * n + 1) for n in range(30)]
    fit = baseline(rows).fit
    assert (fit.word, fit.replayed_p95) == ("good", pytest.approx(fit.recorded_p95))


def test_attempts_hang_on_one_another() -> None:
    first = row("a", 0, 0, 2, job_id="j", execution_id="j:1", outcome="retried")
    second = row("a", 7, 8, 9, job_id="j", execution_id="j:2", attempt=2)
    traffic, _ = traffic_of([second, first])
    assert traffic.links == {0: [Link(1, 5.0, True)]}
    assert traffic.linked == {1}


def test_children_hang_on_their_parents_run() -> None:
    parent = row("a", 0, 1, 5, execution_id="p")
    child = row("b", 3, 5, 6, parent_execution_id="p")
    later = row("b", 30, 30, 31, parent_execution_id="p")  # not while it ran: whatever brought it was not the run
    scheduled = row("b", 4, 6, 7, parent_execution_id="p", scheduled=True)
    traffic, _ = traffic_of([parent, child, later, scheduled])
    assert traffic.links == {0: [Link(1, 2.0, False)]}


def test_deferred_jobs_hang_on_the_dependency_that_was_done_last() -> None:
    first = row("a", 0, 0, 3, job_id="one")
    second = row("a", 0.5, 3, 9, job_id="two")
    deferred = row("b", 9.1, 10, 11, route="deferred", scheduled=True, depends_on=["one", "two", "gone"])
    # Two minutes after all that is recorded: what it waited for then is not.
    later = row("b", 129, 130, 131, route="deferred", scheduled=True, depends_on=["one", "two", "gone"])
    enqueued_by_it = row("b", 8, 11, 12, route="deferred", parent_execution_id=second.execution_id, depends_on=["no"])
    traffic, _ = traffic_of([first, second, enqueued_by_it, deferred, later])
    assert traffic.links == {1: [Link(3, pytest.approx(0.1), True)]}
    # It follows when the other takes less.
    traffic.service[1] = 2.0
    assert replay(traffic, [steady(["default"], 2)]).arrival[3] == pytest.approx(0.5 + 2.0 + 0.1)


def test_repetitions_hang_on_one_another_and_what_was_put_back_by_hand_on_nothing() -> None:
    runs = [
        row("a", 60 * n, 60 * n + 1, 60 * n + 2, job_id="j", route="repeated" if n else "straight") for n in range(3)
    ]
    by_hand = row("a", 300, 301, 302, job_id="j", attempt=2, route="requeued")
    traffic, _ = traffic_of([*runs, by_hand])
    assert traffic.links == {0: [Link(1, 58.0, True)], 1: [Link(2, 58.0, True)]}
    assert traffic.linked == {1, 2}


def test_who_overtook_others_was_put_at_front() -> None:
    rows = [row("a", 0, 0, 5), row("a", 1, 6, 7), row("a", 2, 7, 8), row("a", 3, 5, 6)]
    assert traffic_of(rows)[0].fronts == {3}
    # One that is late overtook nobody, and those that passed it are not at front.
    late = [row("a", 0, 0, 1), row("a", 1, 20, 21), row("a", 2, 2, 3), row("a", 4, 4, 5), row("a", 6, 6, 7)]
    assert traffic_of(late)[0].fronts == set()
    # Two workers took two at one moment: whose clock was read first says nothing.
    together = [row("a", 0, 5.05, 6, worker="w1"), row("a", 1, 5.0, 6, worker="w2"), row("a", 2, 6, 7, worker="w1")]
    assert traffic_of(together)[0].fronts == set()
    # In another queue it is no overtaking.
    other = [row("a", 0, 0, 5), row("a", 1, 6, 7), row("a", 3, 5, 6, queue="high", worker_queues=["high", "default"])]
    assert traffic_of(other)[0].fronts == set()


def test_pools_are_by_list_and_order() -> None:
    rows = [
        row("a", 0, 0, 1, worker="w1", worker_queues=["high", "default"]),
        row("a", 0, 0, 1, worker="w2", worker_queues=["default", "high"]),
        row("a", 0, 0, 1, worker="w3", worker_queues=["high", "default"]),
        row("a", 0, 0, 1, worker="w4", worker_queues=[]),
    ]
    sizes = {pool.queues: pool.size for pool in traffic_of(rows)[1]}
    assert sizes == {("high", "default"): 2, ("default", "high"): 1, ("default",): 1}


def test_a_worker_is_there_unless_a_job_waited_that_it_would_have_taken() -> None:
    rows = served([(0, "a", 4), (1, "a", 4), (2, "a", 4)])  # waits of 3 and 6 s: only one was there
    rows += [replace(row("a", 30, 30, 31), worker="late"), row("a", 60, 60, 61)]
    (pool,) = traffic_of(rows)[1]
    spans = dict(zip(["first", "late"], pool.spans, strict=True))
    assert spans["first"] == (-inf, inf)
    assert spans["late"] == (8, inf)  # when the last of those that waited was taken by the other


def test_a_worker_that_does_nothing_while_jobs_wait_for_a_minute_is_away() -> None:
    def of(waited_s: float, *more: TraceRow) -> tuple[tuple[float, float], ...]:
        """One job; at 20 s another one comes, which is taken so much later."""
        rows = [row("a", 0, 0, 10), row("a", 20, 20 + waited_s, 21 + waited_s), *more]
        return next(pool.spans for pool in traffic_of(rows)[1] if "default" in pool.queues)

    assert of(59.0) == ((-inf, inf),)
    (before, after) = of(61.0)
    assert before == (-inf, pytest.approx(20, abs=0.01))
    assert after == (pytest.approx(81, abs=0.01), inf)
    assert before[1] < 20  # the one that waited came after it had left
    # It was busy with something else, or what waited is not for it.
    assert of(61.0, row("b", 15, 25, 75)) == ((-inf, inf),)
    elsewhere = {"queue": "other", "worker": "w2", "worker_queues": ["other"]}
    assert of(1.0, row("b", 0, 0, 1, **elsewhere), row("b", 21, 99, 100, **elsewhere)) == ((-inf, inf),)


def test_a_replay_of_a_queue_that_was_left_alone_fits() -> None:
    rows = [row("a", 5.0 * n, 5.0 * n, 5.0 * n + 1) for n in range(40)]
    rows += [row("a", 200.0 + 5 * n, 500.0 + n, 501.0 + n) for n in range(60)]
    fit = baseline(rows).fit
    assert (fit.word, fit.replayed_p95) == ("good", pytest.approx(fit.recorded_p95, abs=1e-3))


def test_the_size_of_a_pool_is_the_most_at_one_moment() -> None:
    assert Pool(("q",), ((0, 10), (10, 20), (15, inf))).size == 2
