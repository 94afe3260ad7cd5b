"""Options that several commands share, with one meaning and one wording."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from jobdoctor.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"^([0-9]+(?:\.[0-9]+)?)\s*([smhdw])$", re.IGNORECASE)
SINCE_EXAMPLES = "give a span such as 30m, 24h or 7d, or a date such as 2026-01-31 or 2026-01-31T08:00"


def parse_since(text: str, now_ns: int | None = None) -> int:
    """The instant that ``--since`` means, in ns since the epoch.

    A span (``90s``, ``30m``, ``24h``, ``7d``, ``2w``) counts back from now. A date or a time in ISO 8601 without an
    offset is local time. Raises ConfigError for anything else, and for instants that are not in the past.
    """
    now = time.time_ns() if now_ns is None else now_ns
    words = text.strip()
    span = _SPAN.match(words)
    if span:
        seconds = float(span[1]) * _SECONDS[span[2].lower()]
        if not 0 < seconds <= now / 1e9:
            raise ConfigError(f"--since {text!r} is no stretch of time", SINCE_EXAMPLES)
        return now - int(seconds * 1e9)
    try:
        moment = datetime.fromisoformat(words)
        at = int(moment.astimezone(UTC).timestamp() * 1_000_000) * 1_000
    except (ValueError, OverflowError, OSError):
        raise ConfigError(f"--since {text!r} is neither a span nor a date", SINCE_EXAMPLES) from None
    if at >= now:
        raise ConfigError(f"--since {text!r} lies in the future", SINCE_EXAMPLES)
    return at


def _since(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:  # noqa: ARG001
    return None if value is None else parse_since(value)


#: SQLAlchemy URL of the store; None leaves it to the configuration (JOBDOCTOR_STORE, pyproject.toml, the default).
store_option = click.option(
    "--store",
    metavar="URL",
    default=None,
    help="Where recordings are kept: an SQLAlchemy URL. [default: JOBDOCTOR_STORE, or `store` in [tool.jobdoctor], "
    "or sqlite:///jobdoctor.db]",
)

#: Redis or Valkey URL; None leaves it to the configuration (the environment variables that `rq` reads).
url_option = click.option(
    "--url",
    "-u",
    metavar="URL",
    default=None,
    help="Redis or Valkey URL. [default: RQ_REDIS_URL, or as `rq` finds it]",
)


def _since_option(default: str) -> Callable[[F], F]:
    return click.option(
        "--since",
        callback=_since,
        metavar="WHEN",
        default=None,
        help=f"Look at what ran since then: 30m, 24h, 7d, or an ISO date. [default: {default}]",
    )


since_option = _since_option("everything in the store")
since_a_day_option = _since_option("the last day")

quiet_option = click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors and what was asked for.")


def format_option(*formats: str, default: str) -> Callable[[F], F]:
    """``--format``, with the formats a command can write."""
    return click.option(
        "--format",
        "format_",
        type=click.Choice(formats, case_sensitive=False),
        default=default,
        show_default=True,
        help="How to print it.",
    )
