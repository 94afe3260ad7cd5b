"""The command group: finds commands without importing them, and turns every error into one line.

``jobdoctor --help`` reads the table below and imports no command, so that it answers at once. A command's module has
a click object named ``command``.
"""

from __future__ import annotations

import difflib
import errno
import gc
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import click

from jobdoctor._version import __version__
from jobdoctor.errors import JobdoctorError


class Entry(NamedTuple):
    module: str
    summary: str


#: Every command: its module, and its line in ``jobdoctor --help`` (the first line of the command's own help).
COMMANDS: dict[str, Entry] = {
    "run": Entry("jobdoctor.cli.run", "Start an RQ worker that records every job it runs."),
    "report": Entry("jobdoctor.cli.report", "Diagnose a job and write its report."),
    "triage": Entry("jobdoctor.cli.triage", "Rank every job by the worker time that fixing it would give back."),
    "queues": Entry("jobdoctor.cli.queues", "How deep each queue is, and how long a job enqueued now will wait."),
    "whatif": Entry("jobdoctor.cli.whatif", "Replay the recorded jobs under a change and predict the waits."),
    "collect": Entry("jobdoctor.cli.collect", "Move recordings from the stream to the store."),
    "mark": Entry("jobdoctor.cli.mark", "Mark a deploy or an incident in the store."),
    "rules": Entry("jobdoctor.cli.rules", "List the rules of the slow-job checklist."),
    "explain": Entry("jobdoctor.cli.explain", "Print one rule's documentation and limits."),
    "demo": Entry("jobdoctor.cli.demo", "Run the sample shop on real servers and diagnose its jobs."),
}

#: Commands that read much, make little garbage and end: collections were a fifth of a report's time. Not ``run``, whose
#: workers are the user's.
READERS = frozenset({"report", "triage", "queues", "whatif"})
READERS_THRESHOLD = 200_000

DEBUG_VARIABLE = "JOBDOCTOR_DEBUG"
ERROR = "Error:"

EPILOG = """\b
Examples:
  jobdoctor run default --url redis://staging:6379
  jobdoctor triage
  jobdoctor report app.tasks.sync_orders

\b
Shell completion:
  bash  eval "$(_JOBDOCTOR_COMPLETE=bash_source jobdoctor)"
  zsh   eval "$(_JOBDOCTOR_COMPLETE=zsh_source jobdoctor)"
  fish  _JOBDOCTOR_COMPLETE=fish_source jobdoctor | source
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, and whose errors are one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = import_module(entry.module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `jobdoctor {close[0]}`?" if close else "run `jobdoctor --help` for the commands"
            raise JobdoctorError(f"there is no command {args[0]!r}", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        def invoke() -> Any:
            return super(LazyGroup, self).main(
                args, prog_name or "jobdoctor", complete_var, standalone_mode=False, **extra
            )

        if not standalone_mode:
            return invoke()
        sys.exit(_exit_code(invoke))


def _exit_code(invoke: Callable[[], Any]) -> int:
    """Run the command line; say what went wrong in one line; return the exit code."""
    try:
        code = invoke()
    except JobdoctorError as error:
        _say(ERROR, f"{error.what}; {error.next_step}" if error.next_step else error.what)
        return 2
    except click.exceptions.NoArgsIsHelpError as error:
        # The whole help is the next step of somebody who typed the bare name.
        click.echo(error.ctx.get_help() if error.ctx else error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "jobdoctor"
        _say(ERROR, f"{error.format_message().rstrip('.')}; run `{path} --help`")
        return 2
    except click.ClickException as error:
        _say(ERROR, error.format_message())
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader of a pipe left (`jobdoctor rules | head`): nobody is there to be told.
        _silence_stdout()
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _silence_stdout()
            _say(ERROR, f"nothing more can be written: {error.strerror}; free some, or write elsewhere")
            return 2
        if os.environ.get(DEBUG_VARIABLE):
            raise
        _say(
            "jobdoctor failed:",
            f"{type(error).__name__}: {error}; this is a bug, run with {DEBUG_VARIABLE}=1 for the traceback",
        )
        return 1
    return code if isinstance(code, int) else 0


def _silence_stdout() -> None:
    """What is still in its buffer goes nowhere: Python would complain about it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(label: str, message: str) -> None:
    """One line on standard error. Names in it come out of recordings: no escape sequence reaches the terminal."""
    from jobdoctor.words import clean

    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        label = click.style(label, fg="red", bold=True)
    click.echo(f"{label} {clean(' '.join(message.split()))}", err=True)


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="jobdoctor", message="%(prog)s %(version)s")
def cli() -> None:
    """Is the slowness inside the job, or in the system around it?

    jobdoctor records RQ jobs while they run, walks the slow-job checklist over what it saw, and says what to do.
    """


def main() -> None:
    """The entry point of the console script."""
    if sys.argv[1:2] and sys.argv[1] in READERS:
        gc.set_threshold(READERS_THRESHOLD)
    cli()
