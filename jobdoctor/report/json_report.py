"""The report as JSON: the public shape, described by ``schema.json``. Numbers that are not known are null."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from jobdoctor.model import Diagnosis, Evidence, Finding, Quantiles
from jobdoctor.report.capture import mean_overhead_ms, probe_rows
from jobdoctor.words import iso

SCHEMA_VERSION = 1


class Window(Struct, frozen=True):
    from_: str = field(name="from")
    to: str = ""


class VerdictJson(Struct, frozen=True):
    where: str
    headline: str
    confidence: float | None


class QuantilesJson(Struct, frozen=True):
    p50: float | None
    p95: float | None
    p99: float | None


class LatencyJson(Struct, frozen=True):
    wait_ms: QuantilesJson
    run_ms: QuantilesJson


class PartJson(Struct, frozen=True):
    name: str
    detail: str
    ms: float
    share: float | None


class LedgerJson(Struct, frozen=True):
    wall_ms: float | None
    parts: list[PartJson]
    unexplained_share: float | None


class CheckJson(Struct, frozen=True):
    step: str
    code: str
    name: str
    status: str
    reason: str | None


class SavingJson(Struct, frozen=True):
    low: float | None
    mid: float | None
    high: float | None


class RecommendationJson(Struct, frozen=True):
    kind: str
    text: str
    snippet: str


class EvidenceJson(Struct, frozen=True):
    kind: str
    text: str
    data: dict[str, Any]


class FindingJson(Struct, frozen=True):
    code: str
    name: str
    step: str
    severity: str
    confidence: float | None
    where: str
    part_of: str | None
    title: str
    callsite: str
    calls: int
    cost_ms: float | None
    saving_ms: SavingJson
    recommendation: RecommendationJson
    evidence: list[EvidenceJson]


class ProbeJson(Struct, frozen=True):
    channel: str
    status: str


class CaptureJson(Struct, frozen=True):
    probes: list[ProbeJson]
    overhead_ms: float | None
    truncated: bool


class ReportJson(Struct, frozen=True):
    schema: int
    job: str
    executions: int
    window: Window
    verdict: VerdictJson
    latency: LatencyJson
    ledger: LedgerJson
    checklist: list[CheckJson]
    findings: list[FindingJson]
    capture: CaptureJson


def build(diagnosis: Diagnosis) -> ReportJson:
    """The report's public shape."""
    history = diagnosis.history
    wall_ns = sum(part.ns for part in diagnosis.ledger)
    unexplained_ns = sum(part.ns for part in diagnosis.ledger if part.name == "unexplained")
    return ReportJson(
        schema=SCHEMA_VERSION,
        job=history.job,
        executions=history.executions_total,
        window=Window(iso(history.from_ns), iso(history.to_ns)),
        verdict=VerdictJson(diagnosis.verdict.where, diagnosis.verdict.headline, _number(diagnosis.verdict.confidence)),
        latency=LatencyJson(_quantiles(history.wait_ms), _quantiles(history.run_ms)),
        ledger=LedgerJson(
            wall_ms=_ms(wall_ns) if diagnosis.ledger else None,
            parts=[
                PartJson(part.name, part.detail, _ms(part.ns), round(part.ns / wall_ns, 6) if wall_ns else None)
                for part in diagnosis.ledger
            ],
            unexplained_share=round(unexplained_ns / wall_ns, 6) if wall_ns else None,
        ),
        checklist=[
            CheckJson(check.step, check.code, check.name, check.status, check.reason) for check in diagnosis.checklist
        ],
        findings=[_finding(finding) for finding in diagnosis.findings],
        capture=CaptureJson(
            probes=[ProbeJson(row.channel, row.status) for row in probe_rows(history.executions)],
            overhead_ms=_number(mean_overhead_ms(history.executions)),
            truncated=any(execution.truncated for execution in history.executions),
        ),
    )


def render(diagnosis: Diagnosis) -> str:
    """One report, indented, with a final newline."""
    return _text(build(diagnosis))


def render_all(diagnoses: Sequence[Diagnosis]) -> str:
    """A JSON array of reports."""
    return _text([build(diagnosis) for diagnosis in diagnoses])


def _text(value: Any) -> str:
    # A lone surrogate in a name that somebody recorded is no valid UTF-8: replace it rather than fail. What is no
    # number (NaN, infinity) msgspec writes as null.
    encoded: bytes = msgspec.json.format(msgspec.json.encode(_encodable(msgspec.to_builtins(value))), indent=2)
    return encoded.decode() + "\n"


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {str(_encodable(key)): _encodable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(one) for one in value]
    return value


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 3)


def _quantiles(quantiles: Quantiles) -> QuantilesJson:
    if not quantiles.count:
        return QuantilesJson(None, None, None)
    return QuantilesJson(_number(quantiles.p50), _number(quantiles.p95), _number(quantiles.p99))


def _evidence(evidence: Evidence) -> EvidenceJson:
    return EvidenceJson(evidence.kind, evidence.text, evidence.data)


def _finding(finding: Finding) -> FindingJson:
    return FindingJson(
        code=finding.code,
        name=finding.name,
        step=finding.step,
        severity=finding.severity,
        confidence=_number(finding.confidence),
        where=finding.where,
        part_of=finding.part_of,
        title=finding.title,
        callsite=finding.callsite,
        calls=finding.calls,
        cost_ms=_number(finding.cost_ms),
        saving_ms=SavingJson(
            _number(finding.saving_ms.low), _number(finding.saving_ms.mid), _number(finding.saving_ms.high)
        ),
        recommendation=RecommendationJson(
            finding.recommendation.kind, finding.recommendation.text, finding.recommendation.snippet
        ),
        evidence=[_evidence(one) for one in finding.evidence],
    )
