"""JD105: imports that each horse repeats; short ones, long runs and simple workers are not."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.payload.import_cost import ImportCostRule
from jobdoctor.model import ImportCost
from tests.builders import MS, make_execution
from tests.diagnosis.asking import alike, ask, only

IMPORTS = [
    ImportCost("app.reports", 420 * MS, 20 * MS, 0),
    ImportCost("pandas", 400 * MS, 250 * MS, 1),
    ImportCost("numpy", 150 * MS, 150 * MS, 2),
    ImportCost("json", 1 * MS, 1 * MS, 1),
]


def test_fires_on_imports_in_each_horse() -> None:
    executions = alike(imports=IMPORTS, run_ms=980, ledger={"import": 800, "cpu": 180})
    assert only(ask(ImportCostRule, executions)).severity == "warning"


@pytest.mark.parametrize(("imported", "severity"), [(999.0, "warning"), (1_000.0, "critical")])
def test_critical_from_a_second_on(imported: float, severity: str) -> None:
    executions = alike(run_ms=1_200, ledger={"import": imported, "cpu": 1_200 - imported})
    assert only(ask(ImportCostRule, executions)).severity == severity


@pytest.mark.parametrize(("imported", "run"), [(49.0, 100.0), (60.0, 601.0)], ids=["milliseconds", "share"])
def test_silent_just_below_each_limit(imported: float, run: float) -> None:
    assert ask(ImportCostRule, alike(run_ms=run, ledger={"import": imported, "cpu": run - imported})) == []


@pytest.mark.parametrize(("imported", "run"), [(50.0, 100.0), (60.0, 600.0)])
def test_fires_at_each_limit(imported: float, run: float) -> None:
    assert ask(ImportCostRule, alike(run_ms=run, ledger={"import": imported, "cpu": run - imported}))


@pytest.mark.parametrize(("imported", "severity"), [(749.0, "info"), (750.0, "warning")])
def test_the_libraries_that_most_jobs_use_are_only_said(imported: float, severity: str) -> None:
    executions = alike(run_ms=900, ledger={"import": imported, "cpu": 900 - imported})
    assert only(ask(ImportCostRule, executions)).severity == severity


@pytest.mark.parametrize(("own", "severity"), [(49, "info"), (60, "warning"), (250, "warning")])
def test_work_of_the_jobs_own_package_weighs_earlier(own: int, severity: str) -> None:
    imports = [ImportCost("app.tables", 280 * MS, own * MS, 0), ImportCost("requests", 30 * MS, 30 * MS, 1)]
    executions = alike(imports=imports, run_ms=400, ledger={"import": 280, "cpu": 120})
    assert only(ask(ImportCostRule, executions)).severity == severity


def test_the_applications_modules_need_not_be_in_the_jobs_package() -> None:
    imports = [ImportCost("tables", 80 * MS, 80 * MS, 0, application=True)]
    executions = alike(imports=imports, run_ms=200, ledger={"import": 80, "cpu": 120})
    assert only(ask(ImportCostRule, executions)).severity == "warning"


def test_the_own_package_pays_nothing_for_the_libraries_below_it() -> None:
    imports = [ImportCost("app.jobs", 200 * MS, 5 * MS, 0), ImportCost("apparel", 195 * MS, 195 * MS, 1)]
    executions = alike(imports=imports, run_ms=300, ledger={"import": 200, "cpu": 100})
    assert only(ask(ImportCostRule, executions)).severity == "info"


def test_a_host_that_was_busy_for_most_executions_is_no_illness() -> None:
    calm = alike(number=4, run_ms=100, ledger={"import": 40, "cpu": 60})
    busy = alike(number=6, run_ms=400, ledger={"import": 200, "cpu": 60, "cpu_wait": 140})
    assert ask(ImportCostRule, [*calm, *busy]) == []


@pytest.mark.parametrize("kind", ["simple", "inline"])
def test_silent_where_imports_are_kept(kind: str) -> None:
    assert ask(ImportCostRule, alike(worker_kind=kind, run_ms=600, ledger={"import": 420, "cpu": 180})) == []


def test_a_cold_first_execution_is_no_illness() -> None:
    cold = make_execution(run_ms=2_000, ledger={"import": 1_900, "cpu": 100})
    warm = alike(number=6, run_ms=100, ledger={"import": 5, "cpu": 95})
    assert ask(ImportCostRule, [cold, *warm]) == []


def test_a_busy_host_hides_no_imports() -> None:
    """200 ms of CPU in a run of 2,600 ms, most of it in line for a processor."""
    imports = [ImportCost("app.tables", 900 * MS, 900 * MS, 0)]
    busy = alike(imports=imports, run_ms=2_600, ledger={"import": 200, "cpu_wait": 2_000, "cpu": 400})
    assert only(ask(ImportCostRule, busy)).severity == "warning"


def test_a_busy_host_makes_no_work_of_the_jobs_own_package() -> None:
    """Its module took 110 ms, for the host is busy: of 400 ms of imports, 100 were CPU."""
    imports = [ImportCost("app.jobs", 120 * MS, 110 * MS, 0), ImportCost("psycopg", 280 * MS, 100 * MS, 0)]
    busy = alike(imports=imports, run_ms=900, ledger={"import": 100, "cpu_wait": 700, "cpu": 100})
    assert only(ask(ImportCostRule, busy)).severity == "info"
    calm = alike(imports=imports, run_ms=600, ledger={"import": 400, "cpu": 200})
    assert only(ask(ImportCostRule, calm)).severity == "warning"


def test_what_is_given_back_is_the_whole_time_of_the_imports() -> None:
    """Of 420 ms, 300 were CPU: the others were waits for a processor and for files, and collections."""
    executions = alike(imports=IMPORTS, run_ms=600, ledger={"import": 300, "cpu_wait": 120, "cpu": 180})
    finding = only(ask(ImportCostRule, executions))
    assert finding.saving_ms.mid == pytest.approx(0.97 * 420)
    assert finding.cost_ms == finding.saving_ms.mid


def test_the_whole_finding() -> None:
    executions = alike(imports=IMPORTS, run_ms=600, ledger={"import": 420, "cpu": 180})
    finding = only(ask(ImportCostRule, executions))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD105", "payload", "config")
    assert finding.title == "420 ms of imports in each work horse (70% of the run)"
    assert (finding.cost_ms, finding.saving_ms.mid) == (420.0, pytest.approx(0.97 * 420))
    assert "import app.reports  # noqa: F401, 420 ms in each horse" in finding.recommendation.snippet
    assert 'Worker(["default"]' in finding.recommendation.snippet
    assert [row["module"] for row in finding.evidence[1].data["imports"]] == ["app.reports", "pandas", "numpy"]
