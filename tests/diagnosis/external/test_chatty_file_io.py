"""JD207: syncs, opens and tiny writes again and again; many files, blocks and what SQLite does are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.external.chatty_file_io import ChattyFileIo
from jobdoctor.model import FileIO, SpanGroup
from tests.builders import make_group
from tests.diagnosis.asking import alike, ask, only


def syncs(count: int, ms: float = 100, **fields: Any) -> SpanGroup:
    defaults = {"operation": "fsync", "fingerprint": "fsync", "effect": "write", "distinct": 0, "library": "os"}
    return make_group("file", count=count, ms=ms, **{**defaults, **fields})


def opens(count: int, files: int, ms: float = 20, **fields: Any) -> SpanGroup:
    defaults = {"operation": "open", "fingerprint": "/var/shop/{}.csv", "library": "io", "callsite": "app/tasks.py:39"}
    return make_group("file", count=count, distinct=files, ms=ms, **{**defaults, **fields})


def test_fires_on_a_sync_for_each_line() -> None:
    assert only(ask(ChattyFileIo, alike(syncs(100), run_ms=150))).severity == "warning"


def test_fires_on_syncs_of_a_quick_disk() -> None:
    assert only(ask(ChattyFileIo, alike(syncs(10, ms=0.1), run_ms=150))).severity == "info"
    assert only(ask(ChattyFileIo, alike(syncs(50, ms=0.5), run_ms=150))).severity == "warning"


def test_fires_on_one_file_opened_for_each_line() -> None:
    assert only(ask(ChattyFileIo, alike(opens(200, 1, ms=40), run_ms=100))).severity == "warning"


def test_fires_on_tiny_writes() -> None:
    unbuffered = FileIO(write_calls=20_000, written_bytes=600_000)
    finding = only(ask(ChattyFileIo, alike(file_io=unbuffered, run_ms=120)))
    assert finding.severity == "warning"
    assert finding.title == "20,000 reads and writes of a few bytes for each execution"


@pytest.mark.parametrize(
    ("groups", "io"),
    [
        ([syncs(9)], None),
        ([opens(49, 1)], None),
        ([opens(99, 2)], None),
        ([], FileIO(read_calls=4_999, read_bytes=10_000)),
        ([], FileIO(read_calls=8_000, read_bytes=8_000 * 256)),
    ],
    ids=["syncs", "opens", "opens of each file", "small calls", "size"],
)
def test_silent_just_below_each_limit(groups: list[SpanGroup], io: FileIO | None) -> None:
    assert ask(ChattyFileIo, alike(*groups, file_io=io, run_ms=200)) == []


@pytest.mark.parametrize(
    ("groups", "io"),
    [
        ([opens(400, 400)], None),
        ([opens(1_200, 1, fingerprint="/proc/self/statm")], None),
        ([syncs(6, callsite=f"app/tasks.py:{line}") for line in range(4)], None),
        ([], FileIO(read_calls=6_000, read_bytes=6_000 * 65_536)),
        ([make_group(count=2_000, target="sqlite:///shop.db")], FileIO(read_calls=9_000, read_bytes=150_000)),
        ([make_group("http", count=400, target="https://api.test")], FileIO(read_calls=7_000, read_bytes=300_000)),
    ],
    ids=["many files", "the kernel's files", "some syncs of several lines", "blocks", "SQLite", "TLS"],
)
def test_silent_on_look_alikes(groups: list[SpanGroup], io: FileIO | None) -> None:
    assert ask(ChattyFileIo, alike(*groups, file_io=io, run_ms=300)) == []


def test_the_whole_finding() -> None:
    finding = only(ask(ChattyFileIo, alike(syncs(100), opens(100, 1), run_ms=200)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD207", "external", "batch")
    assert finding.title == "100 syncs and 100 opens of 1 file for each execution from app/tasks.py:41"
    # All but one sync of 1 ms and one open of 0.2 ms.
    assert (finding.saving_ms.mid, finding.saving_ms.high) == (118.8, pytest.approx(1.1 * 118.8))
    assert finding.callsite == "app/tasks.py:41"
    assert finding.calls == 200
    assert [row["operation"] for row in finding.evidence[0].data["groups"]] == ["fsync", "open"]
    assert "os.fsync(output.fileno())  # once" in finding.recommendation.snippet
