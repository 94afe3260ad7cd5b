"""``jobdoctor.record()``: any code, recorded in its own process."""

from __future__ import annotations

import sqlite3
import threading
import time

import pytest

import jobdoctor
from jobdoctor.capture import recorder


def spin(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_a_block_has_an_execution_with_calls_and_a_ledger() -> None:
    with jobdoctor.record("import of orders") as profile:
        assert profile.execution is None
        connection = sqlite3.connect(":memory:")
        connection.execute("CREATE TABLE orders (id INTEGER)")
        for number in range(20):
            connection.execute("INSERT INTO orders VALUES (?)", (number,))
        connection.commit()
        connection.close()
        time.sleep(0.05)
        spin(0.05)
    execution = profile.execution
    assert execution is not None
    assert (execution.job, execution.queue, execution.worker_kind, execution.outcome) == (
        "import of orders",
        "",
        "inline",
        "finished",
    )
    assert execution.wait_ns == 0
    assert sum(part.ns for part in execution.ledger) == execution.wall_ns
    inserts = next(group for group in execution.groups if group.operation == "INSERT")
    assert (inserts.count, inserts.distinct) == (20, 20)
    assert inserts.callsite.startswith("tests/capture/test_record.py:")
    assert execution.ledger_ns("sleep") >= 45_000_000
    assert execution.ledger_ns("cpu") >= 45_000_000
    assert execution.ledger_ns("queue_wait", "fork") == 0
    assert execution.probe_active("sql")
    assert [phase.name for phase in execution.phases] == ["body"]
    assert recorder.current is None


def test_the_exception_goes_on_and_is_described() -> None:
    with pytest.raises(ValueError, match="no order 42"), jobdoctor.record("failing") as profile:
        raise ValueError("no order 42")
    execution = profile.execution
    assert execution is not None
    assert execution.outcome == "failed"
    assert execution.exception is not None
    assert execution.exception.type_name == "ValueError"
    assert "42" not in execution.exception.message_shape
    assert execution.exception.callsite.startswith("tests/capture/test_record.py:")
    assert recorder.current is None


def test_a_block_without_a_name_is_named_by_its_line() -> None:
    with jobdoctor.record() as profile:
        pass
    assert profile.execution is not None
    assert profile.execution.job.startswith("tests/capture/test_record.py:")


def test_a_nested_block_is_harmless() -> None:
    with jobdoctor.record("outer") as outer:
        time.sleep(0.001)
        with jobdoctor.record("inner") as inner:
            time.sleep(0.001)
        time.sleep(0.001)
    assert inner.execution is None
    assert "another recording" in inner.not_recorded
    assert outer.execution is not None
    assert sum(group.count for group in outer.execution.groups if group.channel == "sleep") == 3
    assert any("inside this one" in sentence for sentence in outer.execution.not_captured)


def test_blocks_one_after_the_other_are_apart() -> None:
    counts = []
    for times in (1, 3):
        with jobdoctor.record("sleeps") as profile:
            for _ in range(times):
                time.sleep(0.001)
        assert profile.execution is not None
        counts.append(sum(group.count for group in profile.execution.groups))
    assert counts == [1, 3]


def test_calls_of_threads_are_recorded() -> None:
    with jobdoctor.record("threads") as profile:
        threads = [threading.Thread(target=time.sleep, args=(0.05,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    execution = profile.execution
    assert execution is not None
    (sleeps,) = [group for group in execution.groups if group.channel == "sleep"]
    assert sleeps.count == 4
    assert sleeps.concurrent >= 1
    assert sum(part.ns for part in execution.ledger) == execution.wall_ns
    assert execution.ledger_ns("sleep") < execution.wall_ns


def test_a_profile_on_request() -> None:
    with jobdoctor.record("hot", profile=True) as profile:
        spin(0.1)
    assert profile.execution is not None
    assert profile.execution.profile is not None
    assert any(frame.function == "spin" for frame in profile.execution.profile.frames)
