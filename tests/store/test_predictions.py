"""Predictions in the store: kept, brought up to date until a deploy, pruned."""

from __future__ import annotations

import time

from msgspec.structs import replace

from jobdoctor.config import Retention
from jobdoctor.model import Prediction
from jobdoctor.store import Store, tables
from tests.builders import SECOND
from tests.store.conftest import recent

JOB = "app.tasks.sync_orders"
DAY = 86_400 * SECOND


def made(at_ns: int, **fields: object) -> Prediction:
    one = Prediction(JOB, "JD401", "app/tasks.py:41", "412 queries", "inside", at_ns, 1_000, 500, 600, 700)
    return replace(one, **fields)


def test_the_last_one_before_a_deploy_is_kept(store: Store) -> None:
    now = time.time_ns()
    store.add([recent()])
    store.remember([made(now - 50)])
    store.remember([made(now - 40, mid_ms=650), made(now - 40, code="JD701", where="around")])
    assert [(one.code, one.at_ns, one.mid_ms) for one in store.history(JOB).predictions] == [
        ("JD401", now - 40, 650),
        ("JD701", now - 40, 600),
    ]
    store.add_mark("deploy", "3f9c2ab", now - 30)
    store.add_mark("incident", "outage", now - 15)
    store.remember([made(now - 20, mid_ms=10)])
    store.remember([made(now - 10, mid_ms=20)])
    found = [one for one in store.history(JOB).predictions if one.code == "JD401"]
    assert [(one.at_ns, one.mid_ms) for one in found] == [(now - 40, 650), (now - 10, 20)]


def test_a_prediction_comes_back_whole(store: Store) -> None:
    store.add([recent()])
    one = made(time.time_ns(), where="around", callsite="app/tasks.py:9 \N{SNOWMAN}", low_ms=0.125)
    store.remember([one])
    assert store.history(JOB).predictions == [one]


def test_old_ones_are_pruned(store: Store) -> None:
    now = time.time_ns()
    store.add([recent()])
    store.remember([made(now - 40 * DAY), made(now, code="JD402")])
    store.prune(Retention(rollup_days=30), now_ns=now)
    assert [one.code for one in store.history(JOB).predictions] == ["JD402"]


def test_a_store_from_before_predictions_is_read(store: Store) -> None:
    store.add([recent()])
    with store._database.writing() as connection:
        tables.predictions.drop(connection)
    assert store.history(JOB).predictions == []
