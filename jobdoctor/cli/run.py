"""``jobdoctor run``: an RQ worker that records. It has the options of the installed ``rq worker``, and a few more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from jobdoctor.cli.options import store_option
from jobdoctor.errors import ConfigError, OutputError
from jobdoctor.rq import launch

_ARGUMENTS = "jobdoctor.run.arguments"

EPILOG = """\b
Examples:
  jobdoctor run default mail --workers 2
  jobdoctor run --slo --workers 4 --with-scheduler
"""


class _RunCommand(click.Command):
    """Keeps the command line, so that several workers can be started with it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Worker processes."
)
@store_option
@click.option(
    "--profile",
    type=click.Choice(["auto", "always", "never"]),
    default=None,
    help="Which executions are profiled: a budgeted few, all, or none. [default: JOBDOCTOR_PROFILE, or `profile` in "
    "[tool.jobdoctor], or auto]",
)
@click.option(
    "--collect/--no-collect", default=True, show_default=True, help="Run a collector beside the workers, to the store."
)
@click.option(
    "--slo",
    is_flag=True,
    help="Listen to the queues of promises (@jobdoctor.slo), fastest first, and move jobs that keep a worker longer "
    "than they promise to the slowest one. Of several workers a quarter, and at least one, take fast jobs only (within "
    "30 s). QUEUES are listened to before the slowest one.",
)
@click.option(
    "--within",
    metavar="DURATION",
    default=None,
    help="With --slo: only queues of promises up to this, e.g. 30s.",
)
@click.pass_context
def _run(
    ctx: click.Context,
    /,
    workers: int,
    store: str | None,
    profile: str | None,
    collect: bool,
    slo: bool,
    within: str | None,
    **parameters: Any,
) -> None:
    """Start an RQ worker that records every job it runs.

    Takes every option of `rq worker`, with the same meaning. Recordings go to a stream in the worker's own Redis; a
    collector beside it moves them to the store, from where `jobdoctor report JOB` reads.
    """
    if within is not None and not slo:
        raise ConfigError("--within without --slo", "give both, or name the queues")
    parameters = launch.recording_parameters(parameters)
    url = launch.check_server(parameters)
    launch.check_settings(parameters)
    lines: list[str] = []
    if slo:
        parameters["queues"], lines = launch.promise_queues(parameters, within, workers)
    if profile is not None:
        os.environ["JOBDOCTOR_PROFILE"] = profile
    if parameters.get("pid"):
        _check_pid_file(parameters["pid"])
    collector = launch.CollectorProcess(url, store) if collect else None
    if collector is not None:
        code = collector.start()
        if code:
            ctx.exit(code)
    for line in lines:
        click.echo(line, err=True)
    try:
        if workers == 1:
            ctx.invoke(launch.worker_command(), **parameters)
        else:
            ctx.exit(_supervise(ctx, workers, parameters, launch.reserved_options(workers, within) if slo else []))
    finally:
        problem = collector.stop() if collector is not None else ""
        if problem:
            click.echo(f"Warning: {problem}", err=True)


def _check_pid_file(path: str) -> None:
    folder = Path(path).expanduser().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write the pid file {path}", "give --pid a path in a writable directory")


def _supervise(ctx: click.Context, workers: int, parameters: dict[str, Any], own: list[list[str]]) -> int:
    pid = parameters.get("pid")
    if pid:
        Path(pid).expanduser().write_text(str(os.getpid()), encoding="utf-8")
    commands = launch.worker_commands(ctx.meta[_ARGUMENTS], workers, parameters.get("name"), pid, own)
    return launch.Supervisor(commands, lambda line: click.echo(line, err=True)).run()


def _command() -> click.Command:
    own = click.command("run", cls=_RunCommand, epilog=EPILOG)(_run)
    taken = {parameter.name for parameter in own.params}
    own.params += [parameter for parameter in launch.worker_command().params if parameter.name not in taken]
    return own


command = _command()
