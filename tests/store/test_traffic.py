"""Rows of all jobs with their promises, and samples of the queues, on each database."""

from __future__ import annotations

import time

import pytest

from jobdoctor.model import QueueSample, QueuesSample
from jobdoctor.store import Store, queue_samples
from tests.store.conftest import recent


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
