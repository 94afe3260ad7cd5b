"""What the shell is offered after TAB: the jobs of the store, the rules. Silent when it cannot tell."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

from jobdoctor.errors import JobdoctorError


def jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Jobs that the store has seen: those that begin so, or else those with a part that does."""
    return [CompletionItem(job) for job in _matching(ctx, incomplete)]


def job_changes(value: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """For options such as ``--move JOB=QUEUE``: the job, up to the sign. ``value`` is what stands after it."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
        return [CompletionItem(f"{job}=", help=value) for job in _matching(ctx, incomplete)]

    return complete


def rules(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Codes of the rules, with their names; a name is completed as well."""
    from jobdoctor.cli.rules import loaded_rules

    loaded = loaded_rules()
    wanted = incomplete.lower()
    codes = [CompletionItem(rule.code, help=rule.name) for rule in loaded if rule.code.lower().startswith(wanted)]
    return codes or [CompletionItem(rule.name, help=rule.code) for rule in loaded if rule.name.startswith(wanted)]


def _matching(ctx: click.Context, incomplete: str) -> list[str]:
    known = _known_jobs(ctx)
    first = [job for job in known if job.startswith(incomplete)]
    return first or [job for job in known if f".{incomplete}" in job]


def _known_jobs(ctx: click.Context) -> list[str]:
    from jobdoctor import config
    from jobdoctor.store import Store

    try:
        settings = config.load(store=ctx.params.get("store"))
        with Store.open(settings.store, settings.retention) as store:
            return [] if store.is_empty() else store.jobs()
    except JobdoctorError:
        return []
