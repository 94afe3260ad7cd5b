"""``jobdoctor mark``: note a deploy or an incident, for "did it start with the deploy?"."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import click

from jobdoctor.cli.options import quiet_option, store_option
from jobdoctor.errors import ConfigError
from jobdoctor.words import clean

EXAMPLES = "write it like 2026-01-31T08:00 or 2026-01-31T08:00:00+00:00"


EPILOG = """\b
Examples:
  jobdoctor mark deploy 3f9c2ab
  jobdoctor mark incident "payment provider down" --at 2026-01-31T08:00
"""


@click.command("mark", epilog=EPILOG)
@click.argument("kind", metavar="deploy|incident", type=click.Choice(["deploy", "incident"]))
@click.argument("label", metavar="REV|LABEL")
@click.option(
    "--at",
    metavar="ISO",
    default=None,
    help="When it happened, as ISO 8601; local time without an offset. [default: now]",
)
@store_option
@quiet_option
def command(kind: str, label: str, at: str | None, store: str | None, quiet: bool) -> None:
    """Mark a deploy or an incident in the store.

    Reports then say what began with it, and what became of their predictions.
    """
    from jobdoctor import config
    from jobdoctor.store.store import Store

    at_ns = time.time_ns() if at is None else _instant(at)
    if not label.strip():
        raise ConfigError("the label is empty", f"name the {kind}, for example by its revision")
    settings = config.load(store=store)
    with Store.open(settings.store, settings.retention) as opened:
        mark = opened.add_mark("deploy" if kind == "deploy" else "incident", label.strip(), at_ns)
        if not quiet:
            moment = datetime.fromtimestamp(mark.at_ns / 1e9, UTC)
            click.echo(clean(f"marked {mark.kind} {mark.label} at {moment:%Y-%m-%dT%H:%M:%SZ} in {opened.where}"))


def _instant(text: str) -> int:
    """Nanoseconds since the epoch of an ISO 8601 time."""
    try:
        moment = datetime.fromisoformat(text.strip())
        at_ns = int(moment.astimezone(UTC).timestamp() * 1_000_000) * 1_000
    except (ValueError, OverflowError, OSError):
        at_ns = -1
    if at_ns < 0:
        raise ConfigError(f"--at {text!r} is no time", EXAMPLES)
    if at_ns > time.time_ns():
        raise ConfigError(f"--at {text!r} lies in the future", f"mark it when it happens, or {EXAMPLES}")
    return at_ns
