"""The engine: every rule once, guarded; abstention with a reason; one illness, one main finding."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobdoctor.diagnosis import registry
from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.errors import ConfigError
from jobdoctor.model import Evidence, Finding, JobHistory, ProbeStatus, Severity
from tests.builders import make_execution, make_group, make_history
from tests.diagnosis.asking import GRAVE, alike


class Stub(Rule):
    """A rule that gives what the test wants."""

    code = "JD901"
    name = "stub"
    step = "external"
    kind = "batch"
    some_ms = Limit(5, "ms", "a limit", "test")
    gives: tuple[Finding, ...] = ()

    def check(self, history: JobHistory) -> Iterator[Finding]:
        yield from self.gives

    def give(
        self,
        severity: Severity = "warning",
        cost_ms: float = 100,
        confidence: float = 1.0,
        callsite: str = "",
        target: str = "",
    ) -> Stub:
        """Adds a finding."""
        data = {"groups": [{"target": target, "callsite": callsite}]} if target or callsite else {}
        made = self.finding(
            severity=severity,
            confidence=confidence,
            title=f"{self.code} at {callsite or target}",
            cost_ms=cost_ms,
            saving=(0, cost_ms, cost_ms),
            text="Do it. And so on",
            callsite=callsite,
            evidence=[Evidence("calls", "calls", data)],
        )
        self.gives = (*self.gives, made)
        return self


class Other(Stub):
    code = "JD902"
    name = "other"


class Related(Stub):
    code = "JD903"
    name = "related"
    related_to = ("JD901",)


class Mutual(Stub):
    code = "JD904"
    name = "mutual"
    related_to = ("JD903", "JD905")


class MutualToo(Stub):
    code = "JD905"
    name = "mutual-too"
    related_to = ("JD904",)


class Crashing(Stub):
    code = "JD906"
    name = "crashing"

    def check(self, history: JobHistory) -> Iterator[Finding]:
        yield self.give().gives[0]
        raise ZeroDivisionError("division by zero")


class Abstaining(Stub):
    code = "JD907"
    name = "abstaining"

    def check(self, history: JobHistory) -> Iterator[Finding]:
        raise NotChecked("no session was seen: use PostgreSQL")


def test_a_crashing_rule_is_named_and_stops_nothing() -> None:
    outcome = diagnose(make_history(), rules=[Crashing(), Stub().give()])
    by_code = {check.code: check for check in outcome.checklist}
    assert by_code["JD906"].status == "crashed"
    assert by_code["JD906"].reason == "ZeroDivisionError in JD906 crashing: division by zero"
    assert [finding.code for finding in outcome.findings] == ["JD901"]
    assert by_code["JD901"].status == "found"


def test_an_abstaining_rule_gives_its_reason() -> None:
    (check,) = diagnose(make_history(), rules=[Abstaining()]).checklist
    assert (check.status, check.reason) == ("not_checked", "no session was seen: use PostgreSQL")


def test_clear_carries_no_reason() -> None:
    (check,) = diagnose(make_history(), rules=[Stub()]).checklist
    assert (check.status, check.reason) == ("clear", None)


def test_too_few_executions_are_not_judged() -> None:
    class Many(Stub):
        min_executions = 5

    (check,) = diagnose(make_history(alike(number=3)), rules=[Many().give()]).checklist
    assert (check.status, check.reason) == ("not_checked", "3 executions recorded, 5 needed: run the job more often")
    (check,) = diagnose(make_history(alike(number=5)), rules=[Many().give()]).checklist
    assert check.status == "found"


def test_a_failed_probe_is_named_with_the_way_out() -> None:
    class Queries(Stub):
        needs = ("sql",)

    failed = [ProbeStatus("sql", "psycopg", "failed", "version 2 is not supported"), ProbeStatus("http", "x", "failed")]
    (check,) = diagnose(make_history(alike(probes=failed)), rules=[Queries().give()]).checklist
    assert check.status == "not_checked"
    assert check.reason is not None
    assert "psycopg" in check.reason
    assert "version 2 is not supported" in check.reason
    assert "run the job again" in check.reason


def test_a_failed_probe_of_another_channel_does_not_matter() -> None:
    class Queries(Stub):
        needs = ("sql",)

    history = make_history(alike(probes=[ProbeStatus("http", "httpx", "failed")]))
    assert diagnose(history, rules=[Queries().give()]).checklist[0].status == "found"


def test_a_probe_that_works_by_now_is_enough() -> None:
    class Queries(Stub):
        needs = ("sql",)

    old = make_execution(probes=[ProbeStatus("sql", "psycopg", "failed")])
    assert diagnose(make_history([*alike(number=2), old]), rules=[Queries()]).checklist[0].status == "clear"


def test_a_rule_whose_module_is_broken_is_a_crashed_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.RULES, "JD999", ("batching.no_such_rule", "Nothing"))
    outcome = diagnose(make_history())
    check = next(check for check in outcome.checklist if check.code == "JD999")
    assert (check.status, check.step, check.name) == ("crashed", "batching", "no-such-rule")
    assert "ModuleNotFoundError" in (check.reason or "")


def test_every_registered_rule_has_one_line_in_order() -> None:
    assert [check.code for check in diagnose(make_history()).checklist] == list(registry.RULES)


def test_overrides_reach_the_rule() -> None:
    history = make_history(alike(make_group(count=50, ms=500), run_ms=1_000))
    assert "JD401" in [finding.code for finding in diagnose(history).findings]
    found = diagnose(history, overrides={"JD401": {"calls": 51}}).findings
    assert "JD401" not in [finding.code for finding in found]


def test_unknown_limits_and_codes_are_errors_that_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no limit 'cals'.*batch_size, calls"):
        diagnose(make_history(), overrides={"JD401": {"cals": 3}})
    with pytest.raises(ConfigError, match=r"'JD4O1'.*JD401"):
        diagnose(make_history(), overrides={"JD4O1": {"calls": 3}})


def test_findings_are_ranked_by_severity_then_by_recoverable_time() -> None:
    rules = [
        Stub().give("info", 9_000, callsite="a:1").give("warning", 100, callsite="b:1"),
        Other().give("warning", 300, 0.2, callsite="c:1").give("critical", 1, callsite="d:1"),
    ]
    found = diagnose(make_history(), rules=rules).findings
    assert [finding.callsite for finding in found] == ["d:1", "b:1", "c:1", "a:1"]


def test_a_related_finding_of_the_same_line_becomes_part_of_the_main_one() -> None:
    rules = [Related().give("warning", 900, callsite="a:1"), Stub().give("warning", 100, callsite="a:1")]
    found = diagnose(make_history(), rules=rules).findings
    assert [(finding.code, finding.part_of) for finding in found] == [("JD901", None), ("JD903", "JD901")]


def test_on_one_target_the_main_finding_must_explain_most_of_the_time() -> None:
    def parts(cost_ms: float) -> dict[str, str | None]:
        rules = [Related().give(cost_ms=1_000, target="db"), Stub().give(cost_ms=cost_ms, target="db")]
        return {finding.code: finding.part_of for finding in diagnose(make_history(), rules=rules).findings}

    assert parts(500)["JD903"] == "JD901"
    assert parts(499)["JD903"] is None


@pytest.mark.parametrize(("cost_ms", "owner"), [(50, "JD901"), (49, None)])
def test_findings_about_the_whole_job_stand_everywhere(cost_ms: float, owner: str | None) -> None:
    rules = [Related().give(cost_ms=100, callsite="a:1"), Stub().give(cost_ms=cost_ms)]
    parts = {finding.code: finding.part_of for finding in diagnose(make_history(), rules=rules).findings}
    assert parts["JD903"] == owner


@pytest.mark.parametrize(
    "rules",
    [
        [Related().give(callsite="a:1"), Stub().give(callsite="b:2")],
        [Other().give(callsite="a:1"), Stub().give(callsite="a:1")],
        [Related().give("critical", callsite="a:1"), Stub().give("warning", callsite="a:1")],
    ],
    ids=["elsewhere", "not related", "graver than its owner"],
)
def test_what_stays_a_main_finding(rules: list[Rule]) -> None:
    assert all(finding.part_of is None for finding in diagnose(make_history(), rules=rules).findings)


def test_of_two_that_name_each_other_the_larger_saving_is_the_main_one() -> None:
    rules = [Mutual().give(cost_ms=100, callsite="a:1"), MutualToo().give(cost_ms=101, callsite="a:1")]
    parts = {finding.code: finding.part_of for finding in diagnose(make_history(), rules=rules).findings}
    assert parts == {"JD905": None, "JD904": "JD905"}


def test_parts_of_parts_belong_to_the_main_finding() -> None:
    rules = [Stub().give(callsite="a:1"), Related().give(callsite="a:1"), Mutual().give(callsite="a:1")]
    parts = {finding.code: finding.part_of for finding in diagnose(make_history(), rules=rules).findings}
    assert parts == {"JD901": None, "JD903": "JD901", "JD904": "JD901"}


def test_an_n_plus_one_owns_the_slow_database_it_causes() -> None:
    history = make_history(alike(make_group(count=400, ms=3_100), run_ms=3_400))
    parts = {finding.code: finding.part_of for finding in diagnose(history).findings}
    assert parts["JD401"] is None
    assert parts["JD201"] == "JD401"


def test_a_healthy_job_has_no_grave_finding() -> None:
    groups = [
        make_group(count=2, ms=6, rows=400),
        make_group(operation="INSERT", effect="write", fingerprint="INSERT INTO a VALUES (?+)", batched=1, ms=4),
        make_group("http", ms=60),
        make_group("redis", operation="PIPELINE", batched=1, items=200, ms=2),
    ]
    outcome = diagnose(make_history(alike(*groups, run_ms=110)))
    assert [finding.title for finding in outcome.findings if finding.severity in GRAVE] == []
    assert outcome.verdict.where == "none"


def test_the_ledger_is_the_mean_of_what_was_looked_at() -> None:
    outcome = diagnose(make_history(alike(wait_ms=5, run_ms=100, ledger={"sql": 60, "cpu": 40})))
    assert [(part.name, part.ns) for part in outcome.ledger] == [
        ("queue_wait", 5_000_000), ("cpu", 40_000_000), ("sql", 60_000_000),
    ]  # fmt: skip


def test_a_history_without_details_is_walked_too() -> None:
    empty = make_history(alike(number=1))
    outcome = diagnose(JobHistory(empty.job, 0, 1, 0, {}, empty.wait_ms, empty.run_ms, []))
    assert {check.status for check in outcome.checklist} <= {"not_checked", "clear"}
    assert (outcome.verdict.where, outcome.findings, outcome.ledger) == ("unknown", [], [])
