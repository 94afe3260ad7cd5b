"""Asks one rule about executions that all made the same calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobdoctor.diagnosis.rule import Rule
from jobdoctor.model import Execution, Finding, SpanGroup
from tests.builders import make_execution, make_history

GRAVE = ("critical", "warning")


def alike(*groups: SpanGroup, number: int = 5, **fields: Any) -> list[Execution]:
    """Executions, one a second, each with these groups."""
    return [make_execution(groups=list(groups), at_ms=1_000 * index, **fields) for index in range(number)]


def ask(
    rule: type[Rule], executions: Sequence[Execution], overrides: dict[str, float] | None = None, **history: Any
) -> list[Finding]:
    """What the rule finds in the executions."""
    return list(rule(overrides).check(make_history(list(executions), **history)))


def only(findings: Sequence[Finding]) -> Finding:
    """The one finding there is."""
    assert len(findings) == 1, [finding.title for finding in findings]
    return findings[0]
