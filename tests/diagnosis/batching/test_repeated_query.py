"""JD404: what was asked before is asked again; different parameters, polling and tables being written are not."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.batching.repeated_query import RepeatedQuery
from jobdoctor.model import SpanGroup
from tests.builders import make_group
from tests.diagnosis.asking import alike, ask, only


def test_fires_on_the_same_parameters() -> None:
    assert only(ask(RepeatedQuery, alike(make_group(count=100, distinct=1, ms=300), run_ms=400))).severity == "critical"


def test_a_statement_without_places_for_parameters_is_always_the_same() -> None:
    group = make_group(fingerprint="SELECT * FROM settings", count=100, distinct=0, ms=60)
    assert only(ask(RepeatedQuery, alike(group, run_ms=100))).severity == "warning"


def test_parameters_that_were_not_seen_are_not_taken_for_equal() -> None:
    assert ask(RepeatedQuery, alike(make_group(count=100, distinct=0, ms=60), run_ms=100)) == []


@pytest.mark.parametrize(
    "group",
    [
        make_group(count=10, distinct=1, ms=300),
        make_group(count=100, distinct=51, ms=300),
        make_group(count=100, distinct=1, ms=0.3),
    ],
    ids=["repeats", "share", "milliseconds"],
)
def test_silent_just_below_each_limit(group: SpanGroup) -> None:
    assert ask(RepeatedQuery, alike(group, run_ms=400)) == []


@pytest.mark.parametrize(
    "group", [make_group(count=11, distinct=1, ms=300), make_group(count=100, distinct=50, ms=300)]
)
def test_fires_at_each_limit(group: SpanGroup) -> None:
    assert ask(RepeatedQuery, alike(group, run_ms=400))


@pytest.mark.parametrize(
    "groups",
    [
        [make_group(count=100, ms=300)],
        [make_group(count=100, distinct=1, ms=300), make_group("sleep", count=99, ms=9_900)],
        [
            make_group(fingerprint="SELECT sum(a) FROM stock WHERE id = ?", count=100, distinct=1, ms=300),
            make_group(fingerprint="UPDATE stock SET a = ?", operation="UPDATE", effect="write", count=100, ms=10),
        ],
        [make_group(fingerprint="SELECT * FROM q WHERE a = ? FOR UPDATE SKIP LOCKED", count=100, distinct=1, ms=300)],
        [make_group(fingerprint="SELECT ?", count=100, distinct=1, ms=300)],
        [make_group(operation="INSERT", effect="write", fingerprint="INSERT INTO t DEFAULT VALUES", count=100)],
    ],
    ids=["different parameters", "polling", "being written", "claiming", "ping", "write"],
)
def test_silent_on_look_alikes(groups: list[SpanGroup]) -> None:
    assert ask(RepeatedQuery, alike(*groups, run_ms=400)) == []


def test_the_whole_finding() -> None:
    finding = only(ask(RepeatedQuery, alike(make_group(count=100, distinct=4, ms=300), run_ms=400)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD404", "batching", "cache")
    assert finding.title == "100 queries of orders from app/tasks.py:41, with only 4 different parameter sets"
    assert finding.saving_ms.mid == pytest.approx(288)
    assert "if id not in known" in finding.recommendation.snippet
