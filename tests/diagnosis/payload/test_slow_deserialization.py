"""JD104: unpickling that is a real share of the run; a cold or busy moment is not."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.checklist.payload.slow_deserialization import SlowDeserialization
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import ImportCost, Payload, PayloadNode
from tests.builders import MS, make_execution
from tests.diagnosis.asking import alike, ask, only

PAYLOAD = Payload(
    550_000,
    90_000,
    nodes=[PayloadNode("args[1]", "list", 548_000, 10_000), PayloadNode("args[1][0]", "app.PriceLine", 51, rich=True)],
)


def test_fires_on_a_list_of_many_objects() -> None:
    finding = only(ask(SlowDeserialization, alike(run_ms=200, ledger={"deserialize": 60, "cpu": 120})))
    assert finding.severity == "warning"


@pytest.mark.parametrize(("spent", "run"), [(9.9, 60.0), (19.0, 200.0)], ids=["milliseconds", "share"])
def test_silent_just_below_each_limit(spent: float, run: float) -> None:
    assert ask(SlowDeserialization, alike(run_ms=run, ledger={"deserialize": spent, "cpu": run - spent})) == []


def test_fires_at_the_limit() -> None:
    assert ask(SlowDeserialization, alike(run_ms=200, ledger={"deserialize": 20, "cpu": 180}))


def test_silent_on_a_look_alike_one_slow_execution() -> None:
    quick = [make_execution(run_ms=100, ledger={"deserialize": 1, "cpu": 90}) for _ in range(4)]
    slow = make_execution(run_ms=600, ledger={"deserialize": 500, "cpu": 90})
    assert ask(SlowDeserialization, [*quick, slow]) == []


def test_waits_for_a_processor_and_rqs_own_work_do_not_hide_it() -> None:
    ledger = {"dispatch": 100, "fork": 80, "deserialize": 30, "cpu": 100, "cpu_wait": 400, "persist": 90}
    assert ask(SlowDeserialization, alike(run_ms=800, ledger=ledger))


def test_not_checked_without_phases() -> None:
    with pytest.raises(NotChecked, match="phases"):
        ask(SlowDeserialization, alike(phases=[]))


def test_the_whole_finding() -> None:
    executions = alike(run_ms=200, ledger={"deserialize": 50, "cpu": 150}, payload=PAYLOAD)
    finding = only(ask(SlowDeserialization, executions))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD104", "payload", "payload")
    assert finding.title == "Unpickling args[1] takes 50 ms (25% of the run)"
    assert (finding.saving_ms.low, finding.saving_ms.mid, finding.saving_ms.high) == pytest.approx((18, 42.5, 55))
    assert finding.evidence[1].text == "550 kB as serialised; args[1] (list) has 10,000 elements, 548 kB"
    assert finding.callsite == "app/views.py:88"
    assert "queue.enqueue(sync_orders, ids)" in finding.recommendation.snippet


def test_modules_that_unpickling_imports_are_no_unpickling() -> None:
    """An enumeration of 20 bytes: its module comes in while the arguments are read."""
    imports = [ImportCost("shop.money", 28 * MS, 27 * MS, application=True), ImportCost("shop.later", MS, MS)]
    executions = alike(run_ms=60, ledger={"deserialize": 28, "import": 1, "cpu": 20}, imports=imports)
    assert measure.unpickling_ms(executions[0]) == pytest.approx(1)
    assert ask(SlowDeserialization, executions) == []


def test_modules_that_are_imported_in_the_body_leave_unpickling_as_it_is() -> None:
    imports = [ImportCost("pandas", 200 * MS, 200 * MS, in_body=True), ImportCost("shop.jobs", 30 * MS, 30 * MS)]
    executions = alike(run_ms=400, ledger={"deserialize": 60, "import": 30, "cpu": 250}, imports=imports)
    assert measure.unpickling_ms(executions[0]) == pytest.approx(60)
    assert ask(SlowDeserialization, executions)
