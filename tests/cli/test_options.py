"""``--since`` in all its forms."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobdoctor.cli.options import parse_since
from jobdoctor.errors import ConfigError

NOW = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) * 1_000_000_000
HOUR = 3_600 * 1_000_000_000


@pytest.mark.parametrize(
    ("text", "ago"),
    [("90s", HOUR // 40), ("30m", HOUR // 2), ("24h", 24 * HOUR), ("7d", 168 * HOUR), ("2w", 336 * HOUR),
     ("1.5h", HOUR * 3 // 2), (" 1 H ", HOUR)],
)  # fmt: skip
def test_spans_count_back_from_now(text: str, ago: int) -> None:
    assert parse_since(text, NOW) == NOW - ago


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-02-28T10:00:00Z", datetime(2026, 2, 28, 10, tzinfo=UTC)),
        ("2026-02-28T10:00+02:00", datetime(2026, 2, 28, 8, tzinfo=UTC)),
        ("2026-02-28", datetime(2026, 2, 28).astimezone()),
        ("2026-02-28 10:30", datetime(2026, 2, 28, 10, 30).astimezone()),
    ],
)
def test_dates(text: str, at: datetime) -> None:
    assert parse_since(text, NOW) == int(at.timestamp()) * 1_000_000_000


@pytest.mark.parametrize(
    "text",
    ["nonsense", "", "24", "-3h", "0h", "3y", "h", "2026-13-01", "2027-01-01", "9999999w", "1e9d", "٣h", "0001-01-01x"],
)  # fmt: skip
def test_nonsense_names_examples(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_since(text, NOW)
    assert "30m, 24h or 7d" in caught.value.next_step
    assert "--since" in caught.value.what


@given(st.text())
def test_any_text_is_an_instant_or_a_config_error(text: str) -> None:
    try:
        at = parse_since(text, NOW)
    except ConfigError:
        return
    assert at < NOW
