"""The verdict: inside, around, both, none or unknown, with one sentence to act on."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.diagnosis.verdict import reach_verdict
from jobdoctor.model import ExceptionInfo, Finding, Recommendation, Saving, Severity, Where
from tests.builders import make_execution, make_group, make_history
from tests.diagnosis.asking import alike


def finding(
    where: Where = "inside",
    severity: Severity = "warning",
    mid: float = 100.0,
    *,
    confidence: float = 0.9,
    part_of: str | None = None,
    text: str = "Load them in one. Then rest.",
) -> Finding:
    return Finding(
        "JD401", "n", "batching", severity, confidence, where, "412 queries of one shape from app/tasks.py:41", mid,
        Saving(0, mid, mid), Recommendation("batch", text), part_of=part_of,
    )  # fmt: skip


def test_the_headline_has_the_number_the_place_the_cure_and_the_saving() -> None:
    history = make_history(alike(make_group(count=412, ms=3_100), run_ms=3_400))
    verdict = diagnose(history).verdict
    assert verdict.where == "inside"
    assert verdict.headline == (
        "412 queries of one shape from app/tasks.py:41: load them in one query before the loop; "
        "gives back about 3.1 s of 3.4 s an execution"
    )


def test_failures_too_few_for_a_rule_are_no_health() -> None:
    error = ExceptionInfo("rq.exceptions.DeserializationError", "ModuleNotFoundError: No module named ?", "job.py:612")
    failed = [make_execution(outcome="failed", exception=error) for _ in range(3)]
    verdict = reach_verdict(make_history(failed), [])
    assert verdict.where == "unknown"
    assert verdict.headline == (
        "All 3 executions failed, with arguments that cannot be unpickled where the worker runs (ModuleNotFoundError: "
        "No module named ?): nothing more can be said before one finishes"
    )
    assert reach_verdict(make_history([*failed, *(make_execution() for _ in range(3))]), []).where == "none"


def test_one_failure_is_the_only_execution() -> None:
    verdict = reach_verdict(make_history([make_execution(outcome="killed")]), [])
    assert verdict.headline.startswith("The only execution failed, with a killed work horse: ")


@pytest.mark.parametrize(("step", "code", "leads"), [("payload", "JD105", False), ("locks", "JD501", True)])
def test_a_job_that_only_failed_yet_says_so_first(step: str, code: str, leads: bool) -> None:
    """What it took until then is not what it failed of; a lock that it waited for may be."""
    error = ExceptionInfo("ValueError", "Invalid attribute name: ?", "job.py:12")
    failed = [make_execution(outcome="failed", exception=error)]
    grave = [replace(finding(mid=900), step=step, code=code, severity="critical")]
    verdict = reach_verdict(make_history(failed), grave)
    assert (verdict.where == "inside") is leads
    assert verdict.headline.startswith("The only execution failed, with ValueError") is not leads
    assert reach_verdict(make_history([*failed, make_execution()]), grave).where == "inside"


def test_a_finding_that_saves_no_time_promises_none() -> None:
    assert reach_verdict(make_history(), [finding(mid=0)]).headline.endswith(": load them in one")


def test_a_saving_too_small_to_matter_is_not_promised() -> None:
    assert "gives back" not in reach_verdict(make_history(), [finding(mid=0.9)]).headline
    assert "gives back" in reach_verdict(make_history(), [finding(mid=1.0)]).headline


def test_a_cure_that_begins_with_a_name_keeps_its_capitals() -> None:
    verdict = reach_verdict(make_history(), [finding(text="MGET the keys. And so on.", mid=0)])
    assert verdict.headline.endswith(": MGET the keys")


@pytest.mark.parametrize(
    ("findings", "where"),
    [
        ([finding("inside")], "inside"),
        ([finding("around")], "around"),
        ([finding("inside", "critical"), finding("around", "critical")], "both"),
        ([finding("inside", "critical", 1_000), finding("around", "warning", 300)], "both"),
        ([finding("inside", "critical", 1_000), finding("around", "warning", 150)], "inside"),
        ([finding("around", "critical", 1_000), finding("inside", "warning", 150)], "around"),
        ([finding("inside"), finding("around", "info")], "inside"),
        ([finding("inside"), finding("around", part_of="JD701")], "inside"),
        ([finding("inside", "info")], "none"),
        ([], "none"),
    ],
)
def test_where(findings: list[Finding], where: str) -> None:
    assert reach_verdict(make_history(), findings).where == where


def test_the_headline_is_of_the_side_that_the_verdict_names() -> None:
    around = finding("around", "critical", 1_000)
    verdict = reach_verdict(make_history(), [finding("inside", "warning", 150), around])
    assert verdict.where == "around"


def test_a_finding_of_severity_info_is_a_hint() -> None:
    verdict = reach_verdict(make_history(), [finding(severity="info"), finding(severity="info", part_of="JD401")])
    assert verdict.where == "none"
    assert verdict.headline.endswith("; a hint: 412 queries of one shape from app/tasks.py:41")


def test_two_clean_executions_clear_nobody() -> None:
    verdict = reach_verdict(make_history(alike(number=2)), [])
    assert verdict.where == "unknown"
    assert "3 are needed" in verdict.headline
    assert reach_verdict(make_history(alike(number=3)), []).where == "none"


def test_one_sick_execution_is_enough_but_less_sure() -> None:
    one = reach_verdict(make_history(alike(number=1)), [finding()])
    many = reach_verdict(make_history(alike(number=5)), [finding()])
    assert (one.where, many.confidence) == ("inside", 0.9)
    assert one.confidence < many.confidence


def test_unexplained_time_makes_it_less_sure() -> None:
    half = alike(run_ms=95, wait_ms=5, ledger={"cpu": 45, "unexplained": 50})
    assert reach_verdict(make_history(half), [finding()]).confidence == pytest.approx(0.9 * 0.75, abs=0.01)


def test_a_long_wait_that_no_rule_explains_is_around() -> None:
    waiting = alike(wait_ms=12_000, run_ms=200)
    verdict = reach_verdict(make_history(waiting), [])
    assert verdict.where == "around"
    assert "queue wait" in verdict.headline
    assert reach_verdict(make_history(alike(wait_ms=9_000, run_ms=200)), []).where == "none"


def test_an_slo_says_what_too_long_is() -> None:
    waiting = alike(wait_ms=900, run_ms=200)
    assert reach_verdict(make_history(waiting, slo_ms=1_000.0), []).where == "around"
    assert reach_verdict(make_history(waiting, slo_ms=1_200.0), []).where == "none"


def test_a_history_where_everything_was_stopped_is_unknown() -> None:
    stopped = [make_execution(outcome="stopped", at_ms=index) for index in range(4)]
    assert reach_verdict(make_history(stopped), []).where == "unknown"
