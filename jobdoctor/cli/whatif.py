"""``jobdoctor whatif``: what a change would do to the waits, by a replay of what was recorded. It changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobdoctor.cli import completion
from jobdoctor.cli.options import format_option, quiet_option, since_option, store_option, url_option
from jobdoctor.cli.output import note, print_text, wants_color, write_file
from jobdoctor.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from jobdoctor.config import Settings
    from jobdoctor.queueing.changes import Change
    from jobdoctor.queueing.whatif import Baseline
    from jobdoctor.report.whatif import WhatIf

EPILOG = """\b
Examples:
  jobdoctor whatif --move app.send_mail=high
  jobdoctor whatif --workers default=4 --speedup app.build_report=0.5
  jobdoctor whatif --split default --reserve default-fast=1 --html whatif.html
  jobdoctor whatif --slo app.send_mail=5s --find
  jobdoctor whatif --csv jobs.csv --workers default=3 --rate mail=2
"""


@click.command("whatif", short_help="Replay the recorded jobs under a change and predict the waits.", epilog=EPILOG)
@click.option(
    "--move",
    multiple=True,
    metavar="JOB=QUEUE",
    shell_complete=completion.job_changes("a queue"),
    help="The job goes to another queue.",
)
@click.option(
    "--workers",
    multiple=True,
    metavar="QUEUE=N",
    help="N workers in all listen to the queue; what is added or taken away listens to what most of them listen to, in "
    "the same order. QUEUE,QUEUE=N: N workers listen to precisely these, in this order.",
)
@click.option("--reserve", multiple=True, metavar="QUEUE=N", help="N workers more that take jobs of this queue alone.")
@click.option(
    "--speedup",
    multiple=True,
    metavar="JOB=FACTOR",
    shell_complete=completion.job_changes("of its time"),
    help="The job takes FACTOR of its time: 0.5 is half of it.",
)
@click.option(
    "--rate",
    multiple=True,
    metavar="JOB=FACTOR",
    shell_complete=completion.job_changes("times as many"),
    help="FACTOR times as many of the job arrive: 2 is twice as many.",
)
@click.option(
    "--split",
    multiple=True,
    metavar="QUEUE",
    help="The queue's short jobs go to QUEUE-fast, which its workers look at first, the long ones to QUEUE-slow.",
)
@click.option(
    "--slo",
    multiple=True,
    metavar="JOB=WITHIN",
    help="A promise, from enqueue to done, such as 500ms, 30s or 5m; beside those of the settings and of the jobs.",
)
@click.option("--find", is_flag=True, help="Search for the smallest change that keeps every promise.")
@click.option(
    "--csv",
    "csv_",
    metavar="FILE",
    default=None,
    help="Take the jobs from a file with the columns arrival_s,job,service_s and, if you like, queue; --workers then "
    "says which workers there are.",
)
@format_option("text", "json", default="text")
@click.option("--html", "html", metavar="PATH", default=None, help="Write a page with the waits over time, too.")
@since_option
@store_option
@url_option
@quiet_option
def command(
    move: tuple[str, ...],
    workers: tuple[str, ...],
    reserve: tuple[str, ...],
    speedup: tuple[str, ...],
    rate: tuple[str, ...],
    split: tuple[str, ...],
    slo: tuple[str, ...],
    find: bool,
    csv_: str | None,
    format_: str,
    html: str | None,
    since: int | None,
    store: str | None,
    url: str | None,
    quiet: bool,
) -> None:
    """Replay the recorded jobs under a change and predict the waits.

    What was recorded is replayed in memory, with RQ's own order of jobs and queues, without the change and with it;
    nothing is moved, started or stopped. Options may be given several times and together. The table has the median and
    the 95th percentile of each job's queue wait before and after, with the interval in which the latter lies (95%, by a
    block bootstrap), and whether its promise is kept. How well the replay gives the recorded waits is said first: where
    it does not, do not rely on the rest.
    """
    if html == "":
        raise OutputError("--html is empty", "give a path")
    from jobdoctor import config
    from jobdoctor.queueing import changes as kinds

    changes = _changes(move, workers, reserve, speedup, rate, split)
    settings = config.load(store=store, redis_url=url)
    if csv_ is None:
        kinds.check(changes)
        base, window, source, slos = _recorded(settings, since, quiet)
    else:
        if since is not None:
            raise ConfigError("--since and --csv were both given", "leave out --since: the whole file is replayed")
        base, changes = _from_file(csv_, changes)
        kinds.check(changes)
        window, source, slos = (0, 0), csv_, {}
    slos.update({job: ms / 1_000 for job, ms in settings.slo_ms.items() if job in base.traffic.jobs})
    slos.update(_slos(slo, base))
    whatif = _asked(base, changes, slos, find, window, source, quiet)
    _print(whatif, base, format_, html, quiet)


def _asked(
    base: Baseline,
    changes: list[Change],
    slos: dict[str, float],
    find: bool,
    window: tuple[int, int],
    source: str,
    quiet: bool,
) -> WhatIf:
    from jobdoctor.cli.progress import progress
    from jobdoctor.queueing import search
    from jobdoctor.queueing.whatif import predict
    from jobdoctor.report.whatif import WhatIf

    found = None
    tried: tuple[Change, ...] = tuple(changes)
    if find:
        with progress("Trying changes", quiet) as advance:
            found = search.find(base, slos, given=changes, progress=advance)
        tried = found.nearest if found.changes is None else found.changes
    with progress("Replaying", quiet):
        outcome = predict(base, tried, slos)
    return WhatIf(source, window[0], window[1], base.fit, outcome, found)


def _print(whatif: WhatIf, base: Baseline, format_: str, html: str | None, quiet: bool) -> None:
    from jobdoctor.report import whatif as report

    if html is not None:
        from jobdoctor.report import whatif_page

        write_file(Path(html), whatif_page.render(whatif, base), "--html")
    if format_ == "json":
        print_text(report.render_json(whatif))
    else:
        print_text(report.render_text(whatif, color=wants_color()))
    if html is not None:
        note(f"The waits over time: {html}", quiet=quiet)


def _recorded(
    settings: Settings, since: int | None, quiet: bool
) -> tuple[Baseline, tuple[int, int], str, dict[str, float]]:
    from jobdoctor.cli.reading import drained
    from jobdoctor.queueing.whatif import baseline
    from jobdoctor.store import Store

    with Store.open(settings.store, settings.retention) as opened:
        drained(opened, settings, quiet)
        rows, slos_ms = opened.traffic(since)
        if not rows:
            raise ConfigError(
                f"there are no executions to replay in {opened.where}",
                "widen --since" if since else "run `jobdoctor run` first",
            )
        window = rows[0].enqueued_at_ns, max(row.reaped_at_ns for row in rows)
        return baseline(rows), window, opened.where, {job: ms / 1_000 for job, ms in slos_ms.items()}


def _from_file(name: str, changes: list[Change]) -> tuple[Baseline, list[Change]]:
    """The file's traffic, with the workers that ``--workers`` says there are."""
    from jobdoctor.queueing import traffic_csv
    from jobdoctor.queueing.changes import Workers
    from jobdoctor.queueing.traffic import steady
    from jobdoctor.queueing.whatif import of

    try:
        with open(name, encoding="utf-8-sig", newline="") as file:
            traffic = traffic_csv.read(file, name)
    except OSError as error:
        raise ConfigError(f"cannot read {name}: {error.strerror}", "give a CSV file") from None
    given = [change for change in changes if isinstance(change, Workers)]
    twice = [change for place, change in enumerate(given) if change.queues in [each.queues for each in given[:place]]]
    if twice:
        raise ConfigError(f"--workers {','.join(twice[0].queues)} is given 2 times", "give it once")
    heard = {queue for change in given for queue in change.queues}
    unheard = [queue for queue in traffic.queues if queue not in heard]
    if unheard:
        raise ConfigError(
            f"{name} does not say how many workers listen to {' and '.join(unheard[:3])}",
            f"give --workers {unheard[0]}=2",
        )
    unknown = sorted(heard - set(traffic.queues) - {getattr(change, "queue", "") for change in changes})
    if unknown:
        raise ConfigError(f"there is no queue {unknown[0]!r} in {name}", f"queues: {', '.join(sorted(traffic.queues))}")
    pools = [steady(change.queues, change.number) for change in given if change.number]
    return of(traffic, pools), [change for change in changes if not isinstance(change, Workers)]


# ------------------------------------------------------------------------------------------------------- the options


def _changes(
    move: tuple[str, ...],
    workers: tuple[str, ...],
    reserve: tuple[str, ...],
    speedup: tuple[str, ...],
    rate: tuple[str, ...],
    split: tuple[str, ...],
) -> list[Change]:
    from jobdoctor.queueing.changes import Move, Rate, Reserve, Speedup, Split, Workers

    made: list[Change] = [Split(queue.strip()) for queue in split]
    made += [Move(*_pair("--move", text, "app.send_mail=high")) for text in move]
    for option, texts, kind in (("--speedup", speedup, Speedup), ("--rate", rate, Rate)):
        for text in texts:
            job, factor = _pair(option, text, "app.send_mail=0.5")
            made.append(kind(job, _number(option, text, factor, float)))
    for text in workers:
        names, count = _pair("--workers", text, "default=4")
        queues = tuple(name.strip() for name in names.split(",") if name.strip())
        if len(set(queues)) < len(queues) or not queues:
            raise ConfigError(
                f"--workers {text} names a queue twice, or none", "write it like --workers high,default=4"
            )
        made.append(Workers(queues, _number("--workers", text, count, int)))
    for text in reserve:
        queue, count = _pair("--reserve", text, "high=1")
        made.append(Reserve(queue, _number("--reserve", text, count, int)))
    return made


def _pair(option: str, text: str, example: str) -> tuple[str, str]:
    name, separator, value = text.rpartition("=")
    if not separator or not name.strip() or not value.strip():
        raise ConfigError(f"{option} {text!r} is no pair", f"write it like {option} {example}")
    return name.strip(), value.strip()


def _number(option: str, text: str, value: str, kind: type[Any]) -> Any:
    try:
        return kind(value)
    except ValueError:
        what = "a number" if kind is float else "a whole number"
        raise ConfigError(f"{option} {text}: {value!r} is not {what}", f"give {what} after the =") from None


def _slos(texts: tuple[str, ...], base: Baseline) -> dict[str, float]:
    from jobdoctor import promises
    from jobdoctor.queueing.changes import job_number

    found: dict[str, float] = {}
    for text in texts:
        job, within = _pair("--slo", text, "app.send_mail=30s")
        name = base.traffic.jobs[job_number(base.traffic, job)]
        if name in found:
            raise ConfigError(f"--slo {job} is given 2 times", "give it once")
        found[name] = promises.seconds(within)
    return found
