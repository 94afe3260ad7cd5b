"""Rows of all jobs with their promises, and samples of the queues, on each database."""

from __future__ import annotations

import time

import pytest

from jobdoctor.model import DepthPoint, QueueSample, QueuesSample
from jobdoctor.store import Store, queue_samples, tables
from tests.store.conftest import recent, rows_in


def test_rows_of_all_jobs_and_what_they_promised_last(store: Store) -> None:
    store.add(
        [
            recent(seconds_ago=300, job="app.a", slo_ms=1_000.0),
            recent(seconds_ago=100, job="app.a", slo_ms=2_000.0),
            recent(seconds_ago=200, job="app.b"),
        ]
    )
    rows, slos = store.traffic()
    assert [row.job for row in rows] == ["app.a", "app.b", "app.a"]
    assert slos == {"app.a": 2_000.0}
    assert [row.job for row in store.traffic(time.time_ns() - 150_000_000_000)[0]] == ["app.a"]


def test_old_samples_and_too_many_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_samples, "MAX_ROWS", 10)
    now = time.time_ns()
    samples = [QueuesSample(now - n, [QueueSample("mail", n, None)], [(["mail"], 1)]) for n in range(15)]
    assert store.newest_sample_ns() == 0
    store.add_samples(samples)
    store.add_samples(samples)  # known ones change nothing
    assert store.newest_sample_ns() == now
    store.prune()
    assert store.samples() == samples[9::-1]
    store.prune(now_ns=now + 8 * 86_400 * 1_000_000_000)
    assert store.samples() == []


def test_a_queue_over_time_in_slots(store: Store) -> None:
    """The worst of each slot: what was deep for a moment is not averaged away."""
    second, now = 1_000_000_000, time.time_ns()
    begin = now - 600 * second
    assert store.is_empty()
    store.add_samples(
        [
            QueuesSample(
                begin + number * second,
                [
                    QueueSample("mail", number % 10, begin if number % 10 else None, workers=2 - number // 300),
                    QueueSample("other", 0, None),
                ],
                [],
            )
            for number in range(600)
        ]
    )
    found = store.depths(begin, now)
    assert set(found) == {"mail", "other"}
    assert 58 <= len(found["mail"]) <= 60
    assert found["mail"][0] == DepthPoint(begin, 9, 9.0, 2)
    assert found["mail"][-1].workers == 1
    assert {point.depth for point in found["mail"]} == {9}
    assert {(point.depth, point.oldest_s) for point in found["other"]} == {(0, None)}
    assert store.depths(begin + 300 * second, now)["mail"][0].at_ns == begin + 300 * second
    assert store.depths(now + second, now + 2 * second) == {}


def test_a_history_knows_its_queues_over_time_and_suspensions(store: Store) -> None:
    second, now = 1_000_000_000, time.time_ns()
    store.add([recent(seconds_ago=200, job="app.a", queue="mail"), recent(seconds_ago=10, job="app.a", queue="mail")])
    suspended = {3, 4, 5, 9}
    store.add_samples(
        [
            QueuesSample(
                now - (150 - 10 * number) * second,
                [QueueSample("mail", number, None), QueueSample("other", 7, None)],
                [],
                suspended=number in suspended,
            )
            for number in range(12)
        ]
    )
    history = store.history("app.a")
    assert set(history.depths) == {"mail"}
    assert [point.depth for point in history.depths["mail"]] == list(range(12))
    first, second_ = history.suspended
    assert first == (now - 120 * second, now - 100 * second + 15 * second)
    assert second_[0] == now - 60 * second
    store.prune(now_ns=now + 8 * 86_400 * second)
    assert rows_in(store, tables.suspensions) == 0
