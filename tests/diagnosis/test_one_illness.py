"""One illness gives one main finding, with what else its executions show under it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from jobdoctor.diagnosis.checklist.batching.over_fetching import OverFetching
from jobdoctor.diagnosis.checklist.external.call_in_transaction import CallInTransaction
from jobdoctor.diagnosis.checklist.internals.cpu_bound import CpuBound
from jobdoctor.diagnosis.checklist.internals.gc_pressure import GcPressure
from jobdoctor.diagnosis.checklist.internals.killed import Killed
from jobdoctor.diagnosis.checklist.internals.sleeping import Sleeping
from jobdoctor.diagnosis.checklist.payload.large_payload import LargePayload
from jobdoctor.diagnosis.checklist.payload.slow_deserialization import SlowDeserialization
from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.diagnosis.rule import Rule
from jobdoctor.model import Death, Execution, Payload, PayloadNode
from tests.builders import MS, make_execution, make_group, make_history
from tests.diagnosis.asking import alike


def found(executions: Sequence[Execution], *rules: Rule) -> dict[str, str | None]:
    """What each finding is part of."""
    return {each.code: each.part_of for each in diagnose(make_history(executions), rules=rules).findings}


def test_a_sleep_in_a_transaction() -> None:
    """Nothing of it is left in the transaction when the sleep is gone."""
    update = make_group(operation="UPDATE", effect="write", fingerprint="UPDATE orders SET a = ?", ms=2)
    sleep = make_group("sleep", count=1, ms=400, callsite="app/pay.py:12", in_transaction=1)
    executions = alike(update, sleep, run_ms=450, ledger={"sleep": 400, "sql": 2, "cpu": 48})
    assert found(executions, Sleeping(), CallInTransaction()) == {"JD305": None, "JD204": "JD305"}


@pytest.mark.parametrize(("unpickling", "main"), [(80, "JD104"), (12, "JD101")])
def test_arguments_of_many_objects(unpickling: float, main: str) -> None:
    """Large, and slow to unpickle: whichever would give back more is the main one."""
    nodes = [PayloadNode("args[0]", "list", 548_000, 10_000)]
    executions = alike(
        payload=Payload(550_000, 90_000, nodes=nodes), run_ms=100,
        ledger={"deserialize": unpickling, "cpu": 100 - unpickling},
    )  # fmt: skip
    parts = found(executions, LargePayload(), SlowDeserialization())
    assert set(parts) == {"JD101", "JD104"}
    assert [code for code, part in parts.items() if part is None] == [main]


def test_collections_of_what_was_fetched() -> None:
    """The rows' objects bring the collections about."""
    rows = make_group(
        fingerprint="SELECT items.price FROM items", rows=9_000, max_rows=9_000, ms=20, distinct=1, library="psycopg"
    )
    executions = alike(
        rows, run_ms=200, ledger={"sql": 20, "cpu": 90, "gc": 90}, gc_ns=90 * MS, gc_count=12,
    )  # fmt: skip
    assert found(executions, OverFetching(), GcPressure()) == {"JD408": None, "JD304": "JD408"}


def test_what_a_job_computed_before_it_was_killed() -> None:
    death = Death(signal=9, cause="oom", last_rss_bytes=2_000_000_000)
    executions = [
        make_execution(outcome="killed", death=death, run_ms=1_200, ledger={"cpu": 1_100, "fork": 20}) for _ in range(4)
    ]
    assert found(executions, Killed(), CpuBound()) == {"JD306": None, "JD301": "JD306"}


def test_two_illnesses_are_two() -> None:
    """A sleep outside of the transaction, and a request within it."""
    update = make_group(operation="UPDATE", effect="write", fingerprint="UPDATE orders SET a = ?", ms=2)
    request = make_group("http", ms=300, callsite="app/pay.py:12", in_transaction=1)
    sleep = make_group("sleep", count=1, ms=400, callsite="app/pay.py:30")
    executions = alike(update, request, sleep, run_ms=750, ledger={"sleep": 400, "http": 300, "sql": 2, "cpu": 48})
    assert found(executions, Sleeping(), CallInTransaction()) == {"JD305": None, "JD204": None}
