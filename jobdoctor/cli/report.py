"""``jobdoctor report``: drain the stream, diagnose, write."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from jobdoctor.cli import completion
from jobdoctor.cli.options import format_option, quiet_option, since_option, store_option, url_option
from jobdoctor.cli.output import note, print_text, wants_color, write_file
from jobdoctor.cli.progress import progress
from jobdoctor.cli.reading import diagnosis_of, drained, each_diagnosis, keep_promises, recorded_jobs
from jobdoctor.errors import ConfigError, OutputError
from jobdoctor.model import Diagnosis

if TYPE_CHECKING:
    from jobdoctor.config import Settings
    from jobdoctor.report.context import ReportContext
    from jobdoctor.store import Store

FOLDER = Path("reports")
STANDARD_OUTPUT = "-"


class _Wanted(NamedTuple):
    """What the command line asked for, checked."""

    format_: str
    output: str | None
    since: int | None
    source: bool
    open_: bool
    quiet: bool


EPILOG = """\b
Examples:
  jobdoctor report app.tasks.sync_orders
  jobdoctor report sync_orders --format text --since 24h
  jobdoctor report --all --output reports --open
  jobdoctor report sync_orders --format json | jq .verdict
"""


@click.command("report", short_help="Diagnose a job and write its report.", epilog=EPILOG)
@click.argument("job", required=False, shell_complete=completion.jobs)
@format_option("html", "json", "text", default="html")
@click.option(
    "--output",
    "-o",
    type=click.Path(),
    metavar="PATH",
    default=None,
    help="Where to write it; - is standard output. [default: reports/<job>.html; standard output for json and text]",
)
@since_option
@click.option("--all", "all_jobs", is_flag=True, help="Every job: a folder of HTML reports with an index page.")
@click.option("--open", "open_", is_flag=True, help="Open the HTML report in a browser.")
@click.option(
    "--source/--no-source",
    default=True,
    show_default=True,
    help="Show your own lines around a finding in HTML, read from Python files below the working directory.",
)
@store_option
@url_option
@quiet_option
def command(
    job: str | None,
    format_: str,
    output: str | None,
    since: int | None,
    all_jobs: bool,
    open_: bool,
    source: bool,
    store: str | None,
    url: str | None,
    quiet: bool,
) -> None:
    """Diagnose a job and write its report.

    JOB is the dotted name of the job's function (its last parts will do), a job id, or an execution id.

    Recordings that are still on the Redis stream are moved to the store first. With --all, html writes one file a job
    and index.html into the folder --output (default: reports); json writes one array of reports, and text one report
    after the other, both to standard output or to the file --output.
    """
    _check(job, format_, output, all_jobs, open_)
    from jobdoctor import config
    from jobdoctor.store import Store

    settings = config.load(store=store, redis_url=url)
    wanted = _Wanted(format_, output, since, source, open_, quiet)
    with Store.open(settings.store, settings.retention) as opened:
        drained(opened, settings, quiet)
        if job is None:
            _report_all(opened, settings, wanted)
        else:
            _report_one(opened, settings, job, wanted)


def _check(job: str | None, format_: str, output: str | None, all_jobs: bool, open_: bool) -> None:
    """What can be said before anything is opened."""
    if job is None and not all_jobs:
        raise ConfigError("no job was named", "give its dotted name or a job id, or --all for every job")
    if job is not None and all_jobs:
        raise ConfigError(f"both {job!r} and --all were given", "give one of them")
    if open_ and (format_ != "html" or output == STANDARD_OUTPUT):
        raise ConfigError("--open needs an HTML file", "leave out --open, or write --format html to a file")
    if output == "":
        raise OutputError("--output is empty", "give a path, or - for standard output")
    if not output or output == STANDARD_OUTPUT:
        if all_jobs and format_ == "html" and output:
            raise ConfigError("--all writes many HTML files", "give a folder as --output, or --format json")
        return
    if all_jobs and format_ == "html":
        if os.path.exists(output) and not os.path.isdir(output):
            raise OutputError(f"{output} is a file", "give a folder as --output: --all writes one file a job")
    elif os.path.isdir(output):
        raise OutputError(f"{output} is a directory", f"give a file, such as {Path(output) / 'report'}.{format_}")


def _report_one(store: Store, settings: Settings, job: str, wanted: _Wanted) -> None:
    name, job_id = store.find(job)
    with progress("Diagnosing", wanted.quiet):
        diagnosis = diagnosis_of(store, settings, name, job_id, wanted.since)
    to_stdout = wanted.output == STANDARD_OUTPUT or (wanted.output is None and wanted.format_ != "html")
    text = _render(diagnosis, wanted.format_, wanted.source, color=to_stdout and wants_color())
    whole = job_id is None and wanted.since is None
    if to_stdout:
        print_text(text)
        if whole:
            keep_promises(store, diagnosis)
        return
    subject = name if job_id is None else f"{name}-{job_id}"
    path = Path(wanted.output) if wanted.output else FOLDER / file_name(subject, wanted.format_)
    write_file(path, text)
    if whole:
        keep_promises(store, diagnosis)
    if not wanted.quiet:
        _say_verdict(diagnosis, path)
    if wanted.open_:
        _open(path, wanted.quiet)


def _report_all(store: Store, settings: Settings, wanted: _Wanted) -> None:
    jobs = recorded_jobs(store, wanted.since)
    if wanted.format_ != "html":
        diagnoses = list(each_diagnosis(store, settings, jobs, wanted.since, wanted.quiet))
        to_stdout = wanted.output is None or wanted.output == STANDARD_OUTPUT
        text = _render_many(diagnoses, wanted.format_, color=to_stdout and wants_color())
        if to_stdout or wanted.output is None:
            print_text(text)
        else:
            write_file(Path(wanted.output), text)
        return
    from jobdoctor.report.html_report import render, render_index
    from jobdoctor.report.index import IndexPage

    folder = Path(wanted.output) if wanted.output else FOLDER
    links = {job: file_name(job, "html") for job in jobs}
    pages = []
    for diagnosis in each_diagnosis(store, settings, jobs, wanted.since, wanted.quiet):
        context = _context(diagnosis, wanted.source)
        name = links[diagnosis.history.job]
        write_file(folder / name, render(context, links))
        if wanted.since is None:
            keep_promises(store, diagnosis)
        pages.append(IndexPage(context, name))
    index = folder / "index.html"
    write_file(index, render_index(pages))
    if not wanted.quiet:
        print_text(f"{len(pages)} {'report' if len(pages) == 1 else 'reports'}: {index}\n")
    if wanted.open_:
        _open(index, wanted.quiet)


def _context(diagnosis: Diagnosis, source: bool) -> ReportContext:
    from jobdoctor.report.context import build_context

    return build_context(diagnosis, Path.cwd() if source else None)


def _render(diagnosis: Diagnosis, format_: str, source: bool, *, color: bool) -> str:
    if format_ == "json":
        from jobdoctor.report import json_report

        return json_report.render(diagnosis)
    if format_ == "text":
        from jobdoctor.report import text_report

        return text_report.render(_context(diagnosis, False), color=color)
    from jobdoctor.report import html_report

    return html_report.render(_context(diagnosis, source))


def _render_many(diagnoses: Sequence[Diagnosis], format_: str, *, color: bool) -> str:
    if format_ == "json":
        from jobdoctor.report import json_report

        return json_report.render_all(diagnoses)
    from jobdoctor.report import text_report

    rule = "\n" + "=" * text_report.WIDTH + "\n\n"
    return rule.join(text_report.render(_context(diagnosis, False), color=color) for diagnosis in diagnoses)


def _say_verdict(diagnosis: Diagnosis, path: Path) -> None:
    from jobdoctor import words
    from jobdoctor.report import text_report

    verdict = diagnosis.verdict
    print_text(
        f"{words.clean(diagnosis.history.job)}: {text_report.VERDICTS[verdict.where].lower()} "
        f"({words.share(verdict.confidence)} sure)\n{words.clean(verdict.headline)}\n{path}\n"
    )


def _open(path: Path, quiet: bool) -> None:
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        note(f"Note: no browser could be started; open {path} yourself", quiet=quiet)


def file_name(job: str, extension: str) -> str:
    """A safe file name for a job: recorded names may hold slashes, dots and worse. Distinct names stay distinct."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", job).lstrip(".-")[:120]
    if safe != job or not safe:
        safe = f"{safe or 'job'}-{hashlib.blake2b(job.encode('utf-8', 'replace'), digest_size=4).hexdigest()}"
    return f"{safe}.{extension}"
