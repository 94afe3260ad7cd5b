"""The scale of severity that rules of saved time share, at each of its limits."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.batching.n_plus_one_query import NPlusOneQuery


@pytest.mark.parametrize(
    ("saving", "whole", "severity"),
    [
        (9.9, 10, "info"),
        (10, 40, "warning"),
        (10, 40.1, "info"),
        (49, 900, "info"),
        (50, 1_000, "warning"),
        (50, 1_001, "info"),
        (199, 200, "warning"),
        (200, 400, "critical"),
        (200, 401, "warning"),
        (999, 4_000, "warning"),
        (1_000, 4_000, "critical"),
        (1_000, 4_001, "warning"),
        (1_000, 100_000, "info"),
    ],
)
def test_severity(saving: float, whole: float, severity: str) -> None:
    assert NPlusOneQuery().severity(saving, whole) == severity


def test_growth_with_the_input_is_a_warning_unless_it_is_trivial() -> None:
    rule = NPlusOneQuery()
    assert rule.severity(10, 500, grows=True) == "warning"
    assert rule.severity(10, 501, grows=True) == "info"
    assert rule.severity(9.9, 400, grows=True) == "info"


def test_very_many_calls_are_a_warning_unless_they_are_trivial() -> None:
    rule = NPlusOneQuery()
    assert rule.severity(12, 100, calls=100) == "warning"
    assert rule.severity(12, 100, calls=99) == "info"
    assert rule.severity(12, 10_000, calls=5_000) == "info"


def test_limits_can_be_overridden() -> None:
    assert NPlusOneQuery({"trivial_ms": 5}).severity(5, 10) == "warning"
