"""What is public keeps its shape: codes, names, files, documentation, limits, tests and sample jobs of the rules."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

from jobdoctor.diagnosis import registry
from jobdoctor.diagnosis.rule import Rule
from jobdoctor.model import STEPS
from sample_app.catalogue import CASES, LANES

ROOT = Path(__file__).parent.parent
HEADINGS = ["What it looks for", "Why it costs time", "What to do", "When it is a false alarm"]
KINDS = {
    "payload", "batch", "cache", "isolate", "extract", "optimize", "lock", "retry", "queue", "delete", "schedule",
    "timeout", "memory", "config",
}  # fmt: skip

#: The checklist: code, name, step, kind of its recommendation. Codes never change their meaning.
CHECKLIST = """
JD101 large-payload payload payload
JD102 object-argument payload payload
JD103 large-result payload payload
JD104 slow-deserialization payload payload
JD105 import-cost payload config
JD201 slow-dependency external isolate
JD202 no-timeout external isolate
JD203 sequential-calls external isolate
JD204 call-in-transaction external isolate
JD205 connection-churn external isolate
JD206 slow-query external optimize
JD207 chatty-file-io external batch
JD208 non-idempotent-call external retry
JD301 cpu-bound internals extract
JD302 memory-peak internals memory
JD303 memory-growth internals memory
JD304 gc-pressure internals optimize
JD305 sleeping internals schedule
JD306 killed internals memory
JD307 cpu-starved internals queue
JD401 n-plus-one-query batching batch
JD402 n-plus-one-http batching batch
JD403 redis-round-trips batching batch
JD404 repeated-query batching cache
JD405 row-by-row-write batching batch
JD406 commit-per-row batching batch
JD407 monolithic-job batching batch
JD408 over-fetching batching batch
JD501 database-lock-wait locks lock
JD502 application-lock-wait locks lock
JD503 pool-wait locks lock
JD504 deadlock locks lock
JD505 overlapping-duplicates locks lock
JD506 partial-write locks lock
JD601 excessive-retries retries retry
JD602 retry-storm retries retry
JD603 failure-cluster retries retry
JD604 retrying-permanent-error retries retry
JD605 timeout-misfit retries timeout
JD606 always-failing retries retry
JD701 stuck-behind-heavy-jobs queue queue
JD702 underprovisioned queue queue
JD703 mixed-durations queue queue
JD704 slo-missed queue queue
JD705 stalled-worker queue queue
JD706 growing-backlog queue queue
JD801 duplicate-enqueues trigger delete
JD802 no-effect trigger delete
JD803 unchanged-result trigger cache
JD804 too-small-to-queue trigger delete
JD805 enqueue-storm trigger batch
JD806 circular-trigger trigger delete
"""
PLANNED = {row.split()[0]: row.split()[1:] for row in CHECKLIST.strip().splitlines()}

#: What this version checks.
CODES = (
    "JD101", "JD102", "JD103", "JD104", "JD105", "JD201", "JD202", "JD203", "JD204", "JD205", "JD206", "JD207",
    "JD208", "JD301", "JD302", "JD303", "JD304", "JD305", "JD306", "JD307", "JD401", "JD402", "JD403", "JD404",
    "JD405", "JD406", "JD407", "JD408", "JD501", "JD502", "JD503", "JD504", "JD505", "JD506", "JD601", "JD602",
    "JD603", "JD604", "JD605", "JD606", "JD701", "JD702", "JD703", "JD704", "JD705", "JD706", "JD801", "JD802",
    "JD803", "JD804", "JD805", "JD806",
)  # fmt: skip


def _module(code: str) -> tuple[Path, str]:
    dotted, _ = registry.RULES[code]
    step, _, name = dotted.partition(".")
    return Path(step), name


@pytest.fixture(params=list(registry.RULES))
def rule(request: pytest.FixtureRequest) -> Rule:
    return registry.load_rule(request.param)


def test_the_registry_holds_the_rules_of_this_version_in_order() -> None:
    assert tuple(registry.RULES) == CODES


def test_code_name_step_and_kind(rule: Rule) -> None:
    name, step, kind = PLANNED[rule.code]
    assert registry.RULES[rule.code][0] == f"{step}.{name.replace('-', '_')}"
    assert (rule.name, rule.step) == (name, step)
    assert rule.step in STEPS
    assert rule.kind in KINDS
    assert rule.kind == kind or rule.code in OTHER_KINDS


#: Rules whose advice is of another kind than the checklist first said, with the reason.
OTHER_KINDS: dict[str, str] = {}


def test_documentation_has_the_four_headings(rule: Rule) -> None:
    text = import_module(type(rule).__module__).__doc__ or ""
    assert text.startswith(f"{rule.name}: ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    for section in re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]:
        assert len(section.split()) >= 10, "a heading without an explanation"


def test_limits_have_a_unit_a_meaning_and_a_source(rule: Rule) -> None:
    limits = rule.declared_limits()
    assert limits
    for name, limit in limits.items():
        assert limit.unit, name
        assert limit.doc, name
        assert limit.source, name
        assert limit.default >= 0, name


@pytest.mark.parametrize("code", registry.RULES)
def test_every_rule_has_tests_of_each_kind(code: str) -> None:
    folder, name = _module(code)
    path = ROOT / "tests" / "diagnosis" / folder / f"test_{name}.py"
    assert path.is_file(), f"{path} is missing"
    names = [
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    for word in ("fires", "below", "look_?alike|silent|healthy|not_"):
        assert any(re.search(word, test) for test in names), f"{path.name}: no test of the kind {word!r} in {names}"


def test_every_rule_has_a_sick_job_and_a_healthy_twin() -> None:
    assert [case.code for case in CASES] == list(registry.RULES)
    lanes = {lane.name for lane in LANES}
    jobs = [load.job for case in CASES for load in (case.sick, case.healthy)]
    assert len(jobs) == len(set(jobs))
    assert {load.lane for case in CASES for load in (case.sick, case.healthy)} <= lanes


def test_no_file_in_the_checklist_is_forgotten() -> None:
    folder = ROOT / "jobdoctor" / "diagnosis" / "checklist"
    written = {
        path.relative_to(folder).with_suffix("").as_posix().replace("/", ".")
        for path in folder.glob("*/*.py")
        if path.name != "__init__.py" and not path.name.startswith("_")
    }
    assert written == {module for module, _ in registry.RULES.values()}
