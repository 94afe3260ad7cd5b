"""Whose time the waits were: exact small cases by hand, and what holds for any trace."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobdoctor.queueing.occupancy import wait_shares
from jobdoctor.queueing.workers import busy_ns, present_ns, seen_workers
from tests.builders import EPOCH_NS, SECOND
from tests.queueing.traces import row, served


def test_one_worker_by_hand() -> None:
    """Arrives at 2 s, while a report (0 to 10 s) runs; a mail (10 to 11 s) goes first; taken at 11 s."""
    rows = [
        row("report", 0, 0, 10),
        row("mail", 1, 10, 11),
        row("order", 2, 11, 12),
    ]
    shares = wait_shares([rows[2]], rows)
    assert shares.waited_ns == 9 * SECOND
    assert [(o.job, o.overlap_ns, o.residual_ns, o.executions) for o in shares.occupants] == [
        ("report", 8 * SECOND, 8 * SECOND, 1),
        ("mail", 1 * SECOND, 0, 1),
    ]
    assert shares.idle_ns == shares.unseen_ns == 0
    assert shares.share(["report"]) == pytest.approx(8 / 9)
    assert shares.workers == 1


def test_two_workers_share_each_instant() -> None:
    """Both present from 0 to 10 s; one runs a report, the other mails for 4 s and is idle for 6 s."""
    rows = [
        row("report", 0, 0, 10),
        row("mail", 0, 0, 4, worker="worker-2"),
        row("late", 9, 10, 11, worker="worker-2"),
        row("order", 2, 8, 9, worker="worker-3", queue="other", worker_queues=["other"]),
        row("order", 0, 10, 12),
    ]
    shares = wait_shares([rows[4]], rows)
    parts = {o.job: o.overlap_ns / SECOND for o in shares.occupants}
    assert parts == pytest.approx({"report": 5.0, "mail": 2.0})
    assert shares.idle_ns / SECOND == pytest.approx(3.0)
    assert shares.workers == 2, "worker-3 does not listen to the queue"


def test_a_worker_listening_to_several_queues_counts_with_its_jobs_of_other_queues() -> None:
    rows = [
        row("report", 0, 0, 10, queue="high", worker_queues=["high", "default"]),
        row("order", 4, 10, 11, worker_queues=["high", "default"]),
    ]
    assert wait_shares([rows[1]], rows).share(["report"]) == 1.0


def test_before_any_worker_is_seen_the_wait_belongs_to_nobody() -> None:
    rows = [row("order", 0, 5, 6), row("order", 0, 6, 7)]
    shares = wait_shares(rows, rows)
    assert shares.waited_ns == 11 * SECOND
    assert shares.unseen_ns == 10 * SECOND
    assert shares.overlap_ns(["order"]) == 1 * SECOND


def test_no_waits_and_no_rows() -> None:
    assert wait_shares([], []).share(["order"]) == 0.0
    alone = row("order", 0, 3, 4)
    assert wait_shares([alone], []).unseen_ns == 3 * SECOND


def test_overlapping_executions_of_one_worker_are_cut() -> None:
    [worker] = seen_workers([row("a", 0, 0, 10), row("b", 0, 9, 12)])
    assert [(b.start_ns - EPOCH_NS, b.end_ns - EPOCH_NS) for b in worker.busy] == [
        (0, 10 * SECOND),
        (10 * SECOND, 12 * SECOND),
    ]
    assert busy_ns([worker], EPOCH_NS + 8 * SECOND, EPOCH_NS + 20 * SECOND) == 4 * SECOND
    assert present_ns([worker], EPOCH_NS - SECOND, EPOCH_NS + SECOND) == SECOND


arrival = st.tuples(
    st.floats(0, 100, allow_nan=False), st.sampled_from(["a", "b", "c"]), st.floats(0.001, 20, allow_nan=False)
)


@given(st.lists(arrival, min_size=1, max_size=40), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_the_parts_add_up_to_the_wait(arrivals: list[tuple[float, str, float]], workers: int) -> None:
    rows = served(arrivals, workers)
    waits = [r for r in rows if r.job == "a"]
    shares = wait_shares(waits, rows)
    total = sum(o.overlap_ns for o in shares.occupants) + shares.idle_ns + shares.unseen_ns
    assert total == pytest.approx(shares.waited_ns, abs=100)
    for occupant in shares.occupants:
        assert -100 <= occupant.residual_ns <= occupant.overlap_ns + 100


@given(st.lists(arrival, min_size=1, max_size=25), st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_the_sweep_agrees_with_looking_at_every_pair(arrivals: list[tuple[float, str, float]], workers: int) -> None:
    rows = served(arrivals, workers)
    seen = seen_workers(rows, "default")
    edges = sorted({e for r in rows for e in (r.enqueued_at_ns, r.dequeued_at_ns, r.reaped_at_ns)})
    slow: dict[str, float] = {}
    for left, right in pairwise(edges):
        present = [w for w in seen if w.first_ns <= left and right <= w.last_ns]
        waiting = sum(r.enqueued_at_ns <= left and right <= r.dequeued_at_ns for r in rows)
        for worker in present:
            for busy in worker.busy:
                if busy.start_ns <= left and right <= busy.end_ns:
                    slow[busy.job] = slow.get(busy.job, 0.0) + waiting * (right - left) / len(present)
    fast = {o.job: o.overlap_ns for o in wait_shares(rows, rows).occupants}
    for job in slow | fast:
        assert fast.get(job, 0.0) == pytest.approx(slow.get(job, 0.0), abs=100)


def test_fifty_thousand_rows_take_seconds_at_most() -> None:
    rows = served([(n * 0.1, f"job{n % 20}", 0.35 + (n % 7) * 0.01) for n in range(50_000)], workers=4)
    begin = time.process_time()
    wait_shares(rows, rows)
    assert time.process_time() - begin < 10, "a quadratic sweep would take minutes"
