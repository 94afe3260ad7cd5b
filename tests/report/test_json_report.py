"""The public shape: what stands in DESIGN 2.2, and its schema."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError
from msgspec.structs import replace

from jobdoctor.model import (
    LEDGER_PARTS,
    STEPS,
    Check,
    Diagnosis,
    Evidence,
    Finding,
    LedgerPart,
    ProbeStatus,
    Quantiles,
    Recommendation,
    Saving,
    Verdict,
)
from jobdoctor.report import json_report, schema
from tests.builders import make_execution, make_history
from tests.report import diagnoses

PART = {"name": "sql", "detail": "", "ms": 1, "share": 1}
VALIDATOR = Draft202012Validator(schema())

KINDS = [
    "payload", "batch", "cache", "isolate", "extract", "optimize", "lock", "retry", "queue", "delete", "schedule",
    "timeout", "memory", "config",
]  # fmt: skip


def report(diagnosis: Diagnosis) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(json_report.render(diagnosis))
    return loaded


def keys(value: Any, at: str = "") -> set[str]:
    """Every key's path; data of an evidence is the rule's own."""
    if isinstance(value, list):
        return set().union(*(keys(one, f"{at}[]") for one in value), set())
    if isinstance(value, dict) and not at.endswith(".data"):
        return {f"{at}.{key}" for key in value}.union(*(keys(one, f"{at}.{key}") for key, one in value.items()))
    return set()


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema())


def test_the_shape_is_exactly_the_contracts() -> None:
    quantiles = {f".latency.{what}_ms{rest}" for what in ("wait", "run") for rest in ("", ".p50", ".p95", ".p99")}
    assert keys(report(diagnoses.rich())) == quantiles | {
        ".schema", ".job", ".executions", ".window", ".window.from", ".window.to",
        ".verdict", ".verdict.where", ".verdict.headline", ".verdict.confidence", ".latency",
        ".ledger", ".ledger.wall_ms", ".ledger.parts", ".ledger.parts[].name", ".ledger.parts[].detail",
        ".ledger.parts[].ms", ".ledger.parts[].share", ".ledger.unexplained_share",
        ".checklist", ".checklist[].step", ".checklist[].code", ".checklist[].name", ".checklist[].status",
        ".checklist[].reason",
        ".findings", ".findings[].code", ".findings[].name", ".findings[].step", ".findings[].severity",
        ".findings[].confidence", ".findings[].where", ".findings[].part_of", ".findings[].title",
        ".findings[].callsite", ".findings[].calls", ".findings[].cost_ms", ".findings[].saving_ms",
        ".findings[].saving_ms.low", ".findings[].saving_ms.mid", ".findings[].saving_ms.high",
        ".findings[].recommendation", ".findings[].recommendation.kind", ".findings[].recommendation.text",
        ".findings[].recommendation.snippet", ".findings[].evidence", ".findings[].evidence[].kind",
        ".findings[].evidence[].text", ".findings[].evidence[].data",
        ".capture", ".capture.probes", ".capture.probes[].channel", ".capture.probes[].status",
        ".capture.overhead_ms", ".capture.truncated",
    }  # fmt: skip


def test_values() -> None:
    found = report(diagnoses.rich())
    VALIDATOR.validate(found)
    assert found["schema"] == 1
    assert found["executions"] == 40
    assert found["window"]["from"].startswith("2026-01-01T00:00:")
    assert [finding["part_of"] for finding in found["findings"]] == [None, None, None, "JD401"]
    assert sum(part["ms"] for part in found["ledger"]["parts"]) == pytest.approx(found["ledger"]["wall_ms"], abs=0.1)
    assert sum(part["share"] for part in found["ledger"]["parts"]) == pytest.approx(1, abs=0.001)
    assert {"channel": "http", "status": "failed"} in found["capture"]["probes"]


def test_unknown_numbers_are_null() -> None:
    found = report(diagnoses.empty())
    VALIDATOR.validate(found)
    assert found["latency"]["run_ms"] == {"p50": None, "p95": None, "p99": None}
    assert found["ledger"] == {"wall_ms": None, "parts": [], "unexplained_share": None}
    assert found["capture"]["overhead_ms"] is None


def test_numbers_that_json_cannot_say_are_null() -> None:
    evidence = Evidence("fact", "odd", {"nan": math.nan, "nested": [{"inf": math.inf}], "lone \ud800": "\udfff"})
    finding = replace(diagnoses.N_PLUS_ONE, cost_ms=math.nan, evidence=[evidence])
    found = report(replace(diagnoses.rich(), findings=[finding]))
    VALIDATOR.validate(found)
    assert found["findings"][0]["cost_ms"] is None
    assert found["findings"][0]["evidence"][0]["data"] == {"nan": None, "nested": [{"inf": None}], "lone ?": "?"}


def test_all_jobs_are_an_array() -> None:
    found = json.loads(json_report.render_all([diagnoses.rich(), diagnoses.healthy()]))
    assert [one["job"] for one in found] == ["app.tasks.sync_orders", "app.tasks.sync_orders"]
    for one in found:
        VALIDATOR.validate(one)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"more": 1},
        {"verdict": {"where": "sideways", "headline": "", "confidence": 0.5}},
        {"executions": -1},
        {"checklist": [{"step": "locks", "code": "JD501", "name": "x", "status": "not_checked", "reason": None}]},
        {"ledger": {"wall_ms": 1, "unexplained_share": 0, "parts": [{**PART, "name": "lunch"}]}},
    ],
)  # fmt: skip
def test_the_schema_refuses_what_is_not_the_contract(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VALIDATOR.validate({**report(diagnoses.rich()), **change})


def test_the_schema_wants_every_key() -> None:
    for key in report(diagnoses.rich()):
        without = report(diagnoses.rich())
        del without[key]
        with pytest.raises(ValidationError):
            VALIDATOR.validate(without)


text = st.text(max_size=20)
share = st.floats(0, 1)
ms = st.floats(0, 1e9)
codes = st.sampled_from(["JD101", "JD401", "JD806"])
names = st.sampled_from(["large-payload", "n-plus-one-query", "x1"])
json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
evidences = st.builds(
    Evidence, st.sampled_from(["calls", "fact", "queue"]), text, st.dictionaries(text, json_like, max_size=3)
)
findings = st.builds(
    Finding, codes, names, st.sampled_from(STEPS), st.sampled_from(["critical", "warning", "info"]), share,
    st.sampled_from(["inside", "around"]), text, ms, st.builds(Saving, ms, ms, ms),
    st.builds(Recommendation, st.sampled_from(KINDS), text, text), text, st.integers(0, 10**6),
    st.lists(evidences, max_size=2), st.none() | codes,
)  # fmt: skip
checks = st.one_of(
    st.builds(Check, st.sampled_from(STEPS), codes, names, st.sampled_from(["found", "clear"])),
    st.builds(
        Check, st.sampled_from(STEPS), codes, names, st.sampled_from(["not_checked", "crashed"]), st.text(min_size=1)
    ),
)
quantiles = st.builds(Quantiles, ms, ms, ms, ms, ms, st.integers(0, 5))
histories = st.builds(
    make_history,
    st.lists(
        st.builds(
            make_execution,
            wait_ms=st.floats(0, 1e6),
            run_ms=st.floats(0, 1e6),
            overhead_ns=st.integers(0, 10**9),
            truncated=st.booleans(),
            job=st.just("app.x"),
            probes=st.lists(
                st.builds(ProbeStatus, text, text, st.sampled_from(["active", "absent", "failed"]), text), max_size=3
            ),
        ),
        min_size=1,
        max_size=3,
    ),
    job=text,
    wait_ms=quantiles,
    run_ms=quantiles,
    executions_total=st.integers(0, 10**9),
)
diagnoses_made = st.builds(
    Diagnosis,
    histories,
    st.builds(Verdict, st.sampled_from(["inside", "around", "both", "none", "unknown"]), text, share),
    st.lists(checks, max_size=3),
    st.lists(findings, max_size=3),
    st.lists(st.builds(LedgerPart, st.sampled_from(LEDGER_PARTS), text, st.integers(0, 10**13)), max_size=5),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(diagnoses_made)
def test_any_diagnosis_validates(diagnosis: Diagnosis) -> None:
    found = report(diagnosis)
    VALIDATOR.validate(found)
    assert msgspec.json.decode(json_report.render(diagnosis)) == found
