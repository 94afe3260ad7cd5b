"""Numbers as a person says them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobdoctor import words


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (0, "0 ms"),
        (0.004, "0 ms"),
        (0.42, "0.42 ms"),
        (4.24, "4.2 ms"),
        (9.96, "10 ms"),
        (412, "412 ms"),
        (999.4, "999 ms"),
        (999.6, "1.0 s"),
        (3_100, "3.1 s"),
        (59_900, "59.9 s"),
        (59_990, "1 min"),
        (252_000, "4 min 12 s"),
        (3_599_990, "1.0 h"),
        (7_200_000, "2.0 h"),
        (259_200_000, "3.0 d"),
        (-5, "-5.0 ms"),
        (None, "unknown"),
        (float("nan"), "unknown"),
        (float("inf"), "unknown"),
    ],
)
def test_durations(ms: float | None, said: str) -> None:
    assert words.duration(ms) == said


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 B"), (812, "812 B"), (1_200, "1.2 kB"), (120_000, "120 kB"), (999_900, "1.0 MB"), (2_300_000, "2.3 MB"),
     (5_000_000_000, "5.0 GB"), (7e12, "7.0 TB"), (None, "unknown")],
)  # fmt: skip
def test_sizes(size: float | None, said: str) -> None:
    assert words.size(size) == said


def test_shares_and_counts() -> None:
    assert [words.share(value) for value in (0, 0.001, 0.62, 1, None)] == ["0%", "<1%", "62%", "100%", "unknown"]
    assert [words.number(value) for value in (412, 1_204.2, 2.5, 3.0)] == ["412", "1,204", "2.5", "3"]
    assert words.count(1, "call") == "1 call"
    assert words.count(0, "call") == "0 calls"


def test_instants_are_utc() -> None:
    assert words.instant(1_767_225_600_999_999_999) == "2026-01-01 00:00:00 UTC"
    assert words.iso(1_767_225_600_999_999_999) == "2026-01-01T00:00:00.999Z"


@given(st.text())
def test_cleaned_text_cannot_steer_a_terminal(text: str) -> None:
    cleaned = words.clean(text)
    assert not any(character in cleaned for character in "\x00\x07\x1b\x7f\x9b\u202e\u2066\r")
    assert len(cleaned) == len(text)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("app.tasks.sync", ["app.tasks.sync"]),
        ("sample_app.jobs.mail.send_price_alert", ["sample_app.jobs.", "mail.", "send_price_alert"]),
        ("a_function_with_a_long_name", ["a_function_with_", "a_long_name"]),
        ("mail-of-the-whole-shop", ["mail-of-the-", "whole-shop"]),
        ("x" * 20, ["x" * 16, "x" * 4]),
        ("." * 17, ["." * 16, "."]),
        ("", [""]),
    ],
)
def test_long_names_break_behind_a_dot(name: str, lines: list[str]) -> None:
    assert words.folded(name, 16).split("\n") == lines
