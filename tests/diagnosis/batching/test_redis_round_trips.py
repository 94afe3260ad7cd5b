"""JD403: single commands of one loop; pipelines, multi-key commands, blocking commands and scans are not."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.batching.redis_round_trips import RedisRoundTrips
from jobdoctor.model import SpanGroup
from tests.builders import make_group
from tests.diagnosis.asking import alike, ask, only


def test_fires_on_a_loop_of_commands() -> None:
    assert only(ask(RedisRoundTrips, alike(make_group("redis", count=200, ms=60), run_ms=100))).severity == "warning"


def test_different_commands_of_one_loop_are_one_finding() -> None:
    groups = [
        make_group("redis", operation="GET", count=100, ms=30, callsite="app/tasks.py:41"),
        make_group("redis", operation="HSET", fingerprint="HSET o:{}", count=100, ms=30, callsite="app/tasks.py:42"),
    ]
    finding = only(ask(RedisRoundTrips, alike(*groups, run_ms=100)))
    assert finding.calls == 200
    assert finding.cost_ms == pytest.approx(60)
    assert len(finding.evidence[0].data["groups"]) == 2


@pytest.mark.parametrize(
    "groups",
    [
        [make_group("redis", count=19, ms=60)],
        [make_group("redis", count=9, ms=20, callsite=f"app/tasks.py:{line}") for line in range(40, 45)],
        [make_group("redis", count=20, ms=0.3)],
    ],
    ids=["calls", "calls per line", "milliseconds"],
)
def test_silent_just_below_each_limit(groups: list[SpanGroup]) -> None:
    assert ask(RedisRoundTrips, alike(*groups, run_ms=100)) == []


def test_pipelines_of_a_few_commands_are_round_trips_of_a_loop() -> None:
    small = make_group("redis", operation="PIPELINE", fingerprint="", count=40, batched=40, items=160, ms=60)
    finding = only(ask(RedisRoundTrips, alike(small, run_ms=100)))
    assert finding.title.startswith("40 Redis pipelines of a few commands")
    assert "one pipeline around the loop" in finding.recommendation.snippet
    larger = make_group("redis", operation="PIPELINE", count=40, batched=40, items=161, ms=60)
    assert ask(RedisRoundTrips, alike(larger, run_ms=100)) == []


def test_fires_at_the_limits() -> None:
    groups = [make_group("redis", count=10, ms=20, callsite=f"app/tasks.py:{line}") for line in (40, 41)]
    assert ask(RedisRoundTrips, alike(*groups, run_ms=100))


@pytest.mark.parametrize(
    "group",
    [
        make_group("redis", operation="PIPELINE", count=40, batched=40, items=4_000, ms=60),
        make_group("redis", operation="MGET", count=40, batched=40, items=4_000, ms=60),
        make_group("redis", operation="BLPOP", fingerprint="BLPOP work", count=40, ms=60),
        make_group("redis", operation="SCAN", fingerprint="SCAN", count=40, ms=60),
        make_group("redis", count=200, concurrent=199, ms=60, last_end_ns=10_000_000),
    ],
    ids=["pipeline", "multi-key", "blocking", "scan", "concurrent"],
)
def test_silent_on_look_alikes(group: SpanGroup) -> None:
    assert ask(RedisRoundTrips, alike(group, run_ms=100)) == []


def test_the_whole_finding() -> None:
    finding = only(ask(RedisRoundTrips, alike(make_group("redis", count=200, ms=60), run_ms=100)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD403", "batching", "batch")
    assert finding.title == "200 single Redis commands (GET order:{}) from app/tasks.py:41"
    assert finding.saving_ms.mid == pytest.approx(59.7 - 199 * 0.03)
    assert "client.mget(keys)" in finding.recommendation.snippet
    assert "client.pipeline(" in finding.recommendation.snippet
