"""JD302: memory above the fork's baseline; a worker that is large itself, and one large execution, are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.internals.memory_peak import MemoryPeak, peak_bytes
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Execution, Phase, Rusage, Sample, SpanGroup
from tests.builders import MS, make_execution, make_group
from tests.diagnosis.asking import alike, ask, only

MB = 1_000_000


def peaking(
    megabytes: float, baseline: float = 80, groups: tuple[SpanGroup, ...] = (), **fields: Any
) -> list[Execution]:
    usage = Rusage(max_rss_bytes=int((baseline + megabytes) * MB), baseline_rss_bytes=int(baseline * MB))
    return alike(*groups, rusage=usage, **fields)


@pytest.mark.parametrize(("megabytes", "severity"), [(64, "info"), (127, "info"), (128, "warning"), (500, "critical")])
def test_fires_by_what_was_added(megabytes: float, severity: str) -> None:
    assert only(ask(MemoryPeak, peaking(megabytes))).severity == severity


def test_silent_just_below_the_limit() -> None:
    assert ask(MemoryPeak, peaking(63.9)) == []


def test_silent_on_a_look_alike_a_large_worker() -> None:
    assert ask(MemoryPeak, peaking(20, baseline=900)) == []


def test_silent_on_one_large_execution_of_six() -> None:
    assert ask(MemoryPeak, [*peaking(5), *peaking(400)[:1]]) == []


def test_a_spawned_horse_begins_with_its_imports() -> None:
    usage = Rusage(max_rss_bytes=200 * MB, baseline_rss_bytes=10 * MB)
    spawned: dict[str, Any] = {"worker_kind": "spawn", "rusage": usage, "phases": [Phase("body", 50 * MS, 90 * MS)]}
    assert peak_bytes(make_execution(**spawned)) is None
    samples = [Sample(5 * MS, 0, 11 * MB, 0), Sample(40 * MS, 0, 120 * MB, 0), Sample(60 * MS, 0, 190 * MB, 0)]
    assert peak_bytes(make_execution(samples=samples, **spawned)) == 80 * MB


@pytest.mark.parametrize("usage", [None, Rusage(max_rss_bytes=900 * MB)], ids=["no rusage", "no baseline"])
def test_not_checked_without_a_baseline(usage: Rusage | None) -> None:
    with pytest.raises(NotChecked, match="not known"):
        ask(MemoryPeak, alike(rusage=usage))


def test_the_whole_finding() -> None:
    query = make_group(rows=2_000, callsite="app/reports.py:30", library="sqlalchemy")
    samples = [Sample(at * MS, 0, (80 + at) * MB, 0) for at in (0, 40, 81, 95)]
    finding = only(ask(MemoryPeak, peaking(160, groups=(query,), samples=samples, run_ms=100)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD302", "internals", "memory")
    assert finding.title == "Each execution takes 160 MB of memory above its worker's, for 2,000 rows"
    assert finding.callsite == "app/reports.py:30"
    texts = [evidence.text for evidence in finding.evidence]
    assert texts[0].startswith("From 160 MB to 160 MB above the 80.0 MB that the work horse inherits")
    assert texts[1] == ("The highest reading, 175 MB in all, came 94 ms after the function began, which took 98 ms")
    assert texts[2] == "2,000 rows came from SELECT * FROM orders WHERE id = ? at app/reports.py:30"
    assert "yield_per=1_000" in finding.recommendation.snippet
    assert (finding.cost_ms, finding.saving_ms.mid) == (54.0, 54.0)  # nearly all touching, half of a copy
