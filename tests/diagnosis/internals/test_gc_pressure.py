"""JD304: collections that are a real share of the function; one natural one is not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.checklist.internals.gc_pressure import GcPressure
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Execution, ImportCost, ProbeStatus
from tests.builders import MS, make_execution
from tests.diagnosis.asking import alike, ask, only


def collecting(gc_ms: float, run_ms: float = 200, count: int = 10, wait_ms: float = 0) -> list[Execution]:
    ledger = {"cpu": run_ms - gc_ms - wait_ms, "gc": gc_ms, "cpu_wait": wait_ms}
    return alike(run_ms=run_ms, ledger=ledger, gc_ns=int(gc_ms * MS), gc_count=count)


def test_fires_on_collections_in_a_loop() -> None:
    assert only(ask(GcPressure, collecting(120))).severity == "warning"


@pytest.mark.parametrize(("gc_ms", "run_ms"), [(29.9, 100.0), (39.0, 400.0)], ids=["milliseconds", "share"])
def test_silent_just_below_each_limit(gc_ms: float, run_ms: float) -> None:
    assert ask(GcPressure, collecting(gc_ms, run_ms)) == []


def test_collections_that_came_by_themselves_are_only_remarked() -> None:
    assert only(ask(GcPressure, collecting(110, count=57))).severity == "info"
    assert only(ask(GcPressure, collecting(199, 400, count=300))).severity == "info"
    assert only(ask(GcPressure, collecting(200, 400, count=300))).severity == "warning"


def test_one_collection_at_the_end_is_only_remarked() -> None:
    assert only(ask(GcPressure, collecting(120, count=2))).severity == "info"
    assert only(ask(GcPressure, collecting(120, count=3))).severity == "warning"


@pytest.mark.parametrize(("full", "full_ms", "severity"), [(1, 130, "info"), (2, 130, "info"), (3, 130, "warning")])
def test_a_full_collection_or_two_among_young_ones_are_no_loop(full: int, full_ms: float, severity: str) -> None:
    """In a forked horse one copies every page that it looks at: the mean pause is that one's, not the others'."""
    told = [replace(each, gc_full_count=full, gc_full_ns=int(full_ms * MS)) for each in collecting(150, 300, count=17)]
    finding = only(ask(GcPressure, told))
    assert finding.severity == severity
    assert ("out of the loop" in finding.recommendation.text) is (severity == "warning")
    assert "reeze what the worker has imported" in finding.recommendation.text


def test_young_collections_beside_a_full_one_are_judged_by_themselves() -> None:
    def told(full_ms: float) -> list[Execution]:
        return [
            replace(each, gc_full_count=1, gc_full_ns=int(full_ms * MS)) for each in collecting(300, 500, count=400)
        ]

    assert only(ask(GcPressure, told(99))).severity == "warning"
    assert only(ask(GcPressure, told(101))).severity == "info"


def test_fires_at_the_limit() -> None:
    assert ask(GcPressure, collecting(40, 395))


def test_silent_on_a_look_alike_one_execution_that_met_a_full_collection() -> None:
    quiet = [make_execution(run_ms=100, ledger={"cpu": 98, "gc": 2}) for _ in range(4)]
    assert ask(GcPressure, [*quiet, make_execution(run_ms=400, ledger={"cpu": 200, "gc": 200})]) == []


def test_a_busy_host_does_not_hide_it() -> None:
    assert ask(GcPressure, collecting(60, 900, wait_ms=500))


def test_not_checked_when_the_probe_failed() -> None:
    failed = [ProbeStatus("", "gc", "failed", "no callbacks")]
    with pytest.raises(NotChecked, match="no callbacks"):
        ask(GcPressure, alike(probes=failed))


def test_advice_for_many_young_collections_is_another() -> None:
    finding = only(ask(GcPressure, collecting(100, count=900)))
    assert "gc.disable()" in finding.recommendation.snippet
    assert finding.saving_ms.low == 30.0


def importing(gc_ms: float, imported_ms: int, *, in_body: bool) -> list[Execution]:
    """50 ms of the job's own CPU beside so much of imports and collections."""
    return alike(
        run_ms=50 + gc_ms + imported_ms, ledger={"cpu": 50, "gc": gc_ms, "import": imported_ms}, gc_count=10,
        gc_ns=int(gc_ms * MS), imports=[ImportCost("asyncpg", imported_ms * MS, imported_ms * MS, in_body=in_body)],
    )  # fmt: skip


def test_silent_on_the_collections_that_imports_bring_about() -> None:
    """Imports in the function make most of the objects: most of the collections are theirs."""
    assert ask(GcPressure, importing(100, 150, in_body=True)) == []
    assert len(ask(GcPressure, importing(100, 150, in_body=False))) == 1


def test_a_loop_of_collections_is_found_beside_imports() -> None:
    finding = only(ask(GcPressure, importing(400, 50, in_body=True)))
    assert finding.evidence[0].data["gc_ms"] == pytest.approx(350, abs=1)


def test_the_whole_finding() -> None:
    finding = only(ask(GcPressure, collecting(100)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD304", "internals", "optimize")
    assert finding.title == "100 ms of garbage collection (51% of the function) in 10 collections"
    assert (finding.saving_ms.low, finding.saving_ms.mid, finding.saving_ms.high) == pytest.approx((50, 95, 110))
    assert finding.evidence[0].data["pause_ms"] == 10.0
    assert "gc.freeze()" in finding.recommendation.snippet
