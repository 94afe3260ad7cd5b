"""Profiles as speedscope files: valid by speedscope's own schema, and nested as it demands beyond that."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from jobdoctor.model import Profile, ProfileFrame
from jobdoctor.report import speedscope
from jobdoctor.report.exemplars import details
from jobdoctor.report.flame import MOST_FLAMES, flames
from tests.builders import MS, make_execution
from tests.report import diagnoses

#: From speedscope 1.25.0 (MIT): what its importer accepts.
SCHEMA = json.loads(Path(__file__).with_name("speedscope.schema.json").read_text())


def profile(frames: list[ProfileFrame], duration_ns: int = 100 * MS) -> Profile:
    return Profile(1.0, 100, duration_ns, frames)


def spent(document: dict[str, Any]) -> dict[str, int]:
    """Time by stack, as speedscope adds it up; fails where events do not nest or go back in time."""
    frames, (one,) = document["shared"]["frames"], document["profiles"]
    stack: list[tuple[int, int]] = []
    times: dict[str, int] = {}
    now = one["startValue"]
    for event in one["events"]:
        assert event["at"] >= now
        now = event["at"]
        if event["type"] == "O":
            stack.append((event["frame"], now))
        else:
            name = ";".join(frames[frame]["name"] for frame, _ in stack)
            frame, since = stack.pop()
            assert frame == event["frame"]
            times[name] = times.get(name, 0) + now - since
    assert stack == []
    assert now <= one["endValue"]
    return times


def test_a_profile_is_a_valid_file() -> None:
    document = speedscope.document(diagnoses.profile(), "app.tasks.sync_orders")
    jsonschema.validate(document, SCHEMA)
    assert spent(document)["perform_job;_execute;sync_orders;charge"] == 470 * MS
    assert document["shared"]["frames"][2] == {"name": "sync_orders", "file": "app/tasks.py", "line": 38}
    assert [document["shared"]["frames"][at]["name"] for at in speedscope.application_frames(diagnoses.profile())] == [
        "sync_orders", "charge", "tiny",
    ]  # fmt: skip


@pytest.mark.parametrize("callsite", ["", "<string>", "C:\\app\\tasks.py", "odd:name:12x"])
def test_odd_callsites_are_files_without_a_line(callsite: str) -> None:
    document = speedscope.document(profile([ProfileFrame(-1, "f", callsite, MS, True)]), "x")
    jsonschema.validate(document, SCHEMA)
    assert document["shared"]["frames"] == [{"name": "f", **({"file": callsite} if callsite else {})}]


def test_children_longer_than_their_caller_are_cut() -> None:
    frames = [
        ProfileFrame(-1, "a", "a.py:1", 10 * MS, True),
        ProfileFrame(0, "b", "a.py:2", 8 * MS, True),
        ProfileFrame(0, "c", "a.py:3", 7 * MS, True),
    ]
    assert spent(speedscope.document(profile(frames), "x")) == {"a": 10 * MS, "a;b": 8 * MS, "a;c": 2 * MS}


def test_any_tree_gives_a_file_that_nests() -> None:
    chance = random.Random(7)
    for _ in range(50):
        frames = [
            # Also parents that do not exist, stand later, or are the frame itself.
            ProfileFrame(
                chance.randint(-1, 60), f"f{chance.randint(0, 9)}", f"a.py:{number}", chance.randint(0, MS), True
            )
            for number in range(60)
        ]
        document = speedscope.document(profile(frames, 0), "x")
        jsonschema.validate(document, SCHEMA)
        spent(document)


def test_a_tree_deeper_than_python_recurses() -> None:
    frames = [ProfileFrame(number - 1, "f", f"a.py:{number}", MS, True) for number in range(5_000)]
    document = speedscope.document(profile(frames), "x")
    assert len(document["profiles"][0]["events"]) == 10_000
    assert len(speedscope.application_frames(profile(frames))) == 5_000


def test_flames_are_of_the_profiled_executions_the_richest_first() -> None:
    executions = [make_execution(at_ms=number * 1_000, run_ms=100 + number) for number in range(6)]
    executions[5] = make_execution(run_ms=500, profile=profile([ProfileFrame(-1, "slow", "a.py:1", MS, True)]))
    executions[2] = make_execution(
        run_ms=100, profile=Profile(1.0, 900, MS, [ProfileFrame(-1, "rich", "a.py:1", MS, True)]), job="../../etc"
    )
    found = flames(details(executions))
    assert [flame.shown for flame in found] == [True, False]
    assert found[0].data["speedscope"]["shared"]["frames"][0]["name"] == "rich"
    assert found[0].data["file"] == "_.._etc.speedscope.json"
    assert len(found) <= MOST_FLAMES
