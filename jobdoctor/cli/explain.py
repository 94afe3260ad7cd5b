"""``jobdoctor explain CODE``: one rule's documentation, with the limits that are in force here."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from jobdoctor.cli import completion
from jobdoctor.cli.output import print_text, wants_color
from jobdoctor.cli.rules import documentation, loaded_rules, what
from jobdoctor.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from jobdoctor.diagnosis.rule import Limit, Rule

WIDTH = 80


EPILOG = """\b
Examples:
  jobdoctor explain JD401
  jobdoctor explain n-plus-one-query
"""


@click.command("explain", short_help="Print one rule's documentation and limits.", epilog=EPILOG)
@click.argument("code", shell_complete=completion.rules)
def command(code: str) -> None:
    """Print one rule's documentation and limits.

    CODE is a rule's code or its name, in upper or lower case: JD401, jd401, n-plus-one-query.
    """
    from jobdoctor import config

    rule = find(code, loaded_rules())
    print_text(render(rule, config.load().limits.get(rule.code, {}), color=wants_color()))


def find(code: str, rules: list[Rule]) -> Rule:
    """The rule that is meant; ConfigError with the close matches for anything else."""
    wanted = code.strip().lower().replace("_", "-")
    by_word = {word: rule for rule in rules for word in (rule.code.lower(), rule.name)}
    if wanted in by_word:
        return by_word[wanted]
    close = [by_word[word] for word in difflib.get_close_matches(wanted, by_word, n=3, cutoff=0.6)]
    meant = list(dict.fromkeys(f"{rule.code} {rule.name}" for rule in close))
    hint = f"did you mean {' or '.join(meant)}?" if meant else "run `jobdoctor rules` for all of them"
    raise ConfigError(f"there is no rule {code!r}", hint)


def render(rule: Rule, overrides: dict[str, float], *, color: bool = False) -> str:
    """The rule's documentation at 80 columns. ``overrides``: the project's own values of its limits."""
    from rich.console import Console

    from jobdoctor.model import STEP_TITLES, STEPS

    console = Console(
        file=io.StringIO(),
        width=WIDTH,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
        markup=False,
    )
    console.print(f"{rule.code} {rule.name}", style="bold")
    number, title = STEPS.index(rule.step) + 1, STEP_TITLES[rule.step]
    console.print(f"step {number} {title}, {rule.where} the job, recommendation of kind {rule.kind}")
    sentence = what(rule)
    _block(console, sentence[:1].upper() + sentence[1:])
    for block in documentation(rule).split("\n\n")[1:]:
        _block(console, block)
    _limits(console, rule, overrides)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _block(console: Console, block: str) -> None:
    from rich.text import Text

    console.print()
    lines = block.strip("\n").splitlines()
    if lines and lines[0].startswith("#"):
        console.print(lines[0].lstrip("# "), style="bold")
        lines = lines[1:]
    if all(line.startswith(("    ", "\t")) for line in lines):
        for line in lines:
            console.print(Text(line, style="cyan", overflow="fold"))
        return
    paragraph: list[str] = []
    for line in lines:
        # Items of a list stay lines of their own.
        if line.lstrip().startswith(("- ", "* ")) and paragraph:
            console.print(Text(" ".join(paragraph)))
            paragraph = []
        paragraph.append(line.strip())
    if paragraph:
        console.print(Text(" ".join(paragraph)))


def _limits(console: Console, rule: Rule, overrides: dict[str, float]) -> None:
    from rich.text import Text

    declared = rule.declared_limits()
    if not declared:
        return
    # Its own ones say what it looks at; those that many rules share, how grave a finding is.
    own_names = [name for name in declared if name in vars(type(rule))]
    shared_names = [name for name in declared if name not in own_names]
    for heading, names in (("Limits", own_names), ("Limits that it shares with other rules", shared_names)):
        if names or heading == "Limits":
            console.print()
            console.print(Text(heading, style="bold"))
        _listed_limits(console, {name: declared[name] for name in names}, overrides)
    console.print()
    console.print(Text(f"Set them in pyproject.toml, under [tool.jobdoctor.limits.{rule.code}]."))


def _listed_limits(console: Console, limits: Mapping[str, Limit], overrides: dict[str, float]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for name, limit in limits.items():
        value = overrides.get(name, limit.default)
        own = f" (default {limit.default:g})" if name in overrides else ""
        console.print(Padding(Text(f"{name} = {value:g} {limit.unit}{own}"), (0, 0, 0, 2)))
        console.print(Padding(Text(limit.doc), (0, 0, 0, 6)))
        console.print(Padding(Text(f"from: {limit.source}", style="dim"), (0, 0, 0, 6)))
