"""The page of all jobs."""

from __future__ import annotations

from msgspec.structs import replace

from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.model import Diagnosis, LockWait, Trigger, Verdict
from jobdoctor.report import triage as triage_module
from jobdoctor.report.context import build_context
from jobdoctor.report.index import SPARK_POINTS, IndexPage, build_index
from tests.builders import MS, make_execution, make_group, make_history, make_row
from tests.report import diagnoses


def page(diagnosis: Diagnosis, href: str = "x.html") -> IndexPage:
    return IndexPage(build_context(diagnosis), href)


def named(job: str, diagnosis: Diagnosis | None = None) -> Diagnosis:
    found = diagnosis or diagnoses.healthy()
    return replace(found, history=replace(found.history, job=job))


def test_jobs_stand_in_the_order_of_triage_with_its_figures() -> None:
    all_of_them = [diagnoses.healthy(), named("app.b", diagnoses.rich()), diagnoses.empty()]
    index = build_index([page(one, f"{one.history.job}.html") for one in all_of_them])
    found = triage_module.triage(all_of_them)
    assert [job.triage for job in index.jobs] == found.rows
    assert index.jobs[0].href == "app.b.html"
    assert index.jobs[0].triage.saving_ms.mid == index.saving_ms > 0
    assert (index.days, index.worker_ms) == (found.days, sum(row.worker_ms for row in found.rows))
    assert index.verdicts == [("both", 1), ("unknown", 1), ("none", 1)]


def test_figures_are_a_days_where_more_was_recorded() -> None:
    one = diagnoses.rich()
    longer = replace(one, history=replace(one.history, to_ns=one.history.from_ns + 2 * 86_400 * 1_000_000_000))
    daily, whole = build_index([page(longer)]), build_index([page(one)])
    assert (daily.saving_ms * 2, daily.worker_ms * 2) == (whole.saving_ms, whole.worker_ms)


def test_a_job_of_several_pages_is_one_line_and_none_is_no_error() -> None:
    assert len(build_index([page(diagnoses.rich()), page(diagnoses.rich())]).jobs) == 1
    assert build_index([]).jobs == []


def test_jobs_that_hold_up_or_enqueue_one_another_are_linked_where_they_have_a_page() -> None:
    groups = [make_group("enqueue", fingerprint="app.child"), make_group("enqueue", fingerprint="app.absent")]
    locks = [LockWait("row", "db", MS, blocking_job="app.locker"), LockWait("row", "db", MS, blocking_job="app.own")]
    heavy = make_execution(job="app.heavy", at_ms=-10, wait_ms=10, run_ms=100)
    own = make_execution(
        job="app.own", wait_ms=100, groups=groups, locks=locks, trigger=Trigger(kind="job", parent_job="app.parent")
    )
    history = make_history([own], others=[heavy], trace=[make_row(own)])
    diagnosis = Diagnosis(history, Verdict("none", "Nothing wrong found", 0.9), [], [], own.ledger)
    pages = [page(diagnosis)]
    pages += [page(named(f"app.{name}"), f"{name}.html") for name in ("child", "locker", "heavy", "parent")]
    jobs = {job.triage.job: job for job in build_index(pages).jobs}
    assert [(one.what, one.job) for one in jobs["app.own"].relations] == [
        ("locked out by", "app.locker"),
        ("waits behind", "app.heavy"),
        ("enqueued by", "app.parent"),
        ("enqueues", "app.child"),
    ]


def test_the_line_shows_the_worst_of_each_stretch() -> None:
    executions = [make_execution(run_ms=1_000 if number == 40 else 100, at_ms=number * 60_000) for number in range(100)]
    history = make_history(executions[-2:], trace=[make_row(one) for one in executions], executions_total=100)
    spark = build_index([page(diagnose(history, rules=[]))]).jobs[0].spark
    assert spark is not None
    assert (spark.of, spark.top_ms, spark.last_ms) == ("p50", 1_000.0, 100.0)
    assert spark.path.count("L") < SPARK_POINTS
    assert spark.path.count(" 2.0") == 1, "one peak reaches the top"
    few = make_history(executions[:2], trace=[make_row(one) for one in executions[:2]])
    assert build_index([page(diagnose(few, rules=[]))]).jobs[0].spark is None
