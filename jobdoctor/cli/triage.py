"""``jobdoctor triage``: which job to fix first."""

from __future__ import annotations

import click

from jobdoctor.cli.options import format_option, quiet_option, since_option, store_option, url_option
from jobdoctor.cli.output import print_text, wants_color

EPILOG = """\b
Examples:
  jobdoctor triage --since 7d
  jobdoctor triage --limit 0 --format json
"""


@click.command("triage", short_help="Rank every job by the worker time that fixing it would give back.", epilog=EPILOG)
@format_option("text", "json", default="text")
@since_option
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Show so many jobs in the table; 0 shows all. JSON always has all.",
)
@store_option
@url_option
@quiet_option
def command(format_: str, since: int | None, limit: int, store: str | None, url: str | None, quiet: bool) -> None:
    """Rank every job by the worker time that fixing it would give back a day.

    Each job with its first finding; `jobdoctor report JOB` has the rest. What its findings around the job would take
    off its waits is shown where they would give no worker time back.
    """
    from jobdoctor import config
    from jobdoctor.cli.reading import drained, each_diagnosis, recorded_jobs
    from jobdoctor.report import triage
    from jobdoctor.store import Store

    settings = config.load(store=store, redis_url=url)
    with Store.open(settings.store, settings.retention) as opened:
        drained(opened, settings, quiet)
        jobs = recorded_jobs(opened, since)
        found = triage.triage(list(each_diagnosis(opened, settings, jobs, since, quiet)))
    if format_ == "json":
        print_text(triage.render_json(found))
    else:
        print_text(triage.render_text(found, color=wants_color(), limit=limit or None))
