"""``jobdoctor rules``: the checklist as a table."""

from __future__ import annotations

import inspect
import json
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from jobdoctor.cli.options import format_option
from jobdoctor.cli.output import note, print_text, wants_color

if TYPE_CHECKING:
    from jobdoctor.diagnosis.rule import Rule

WIDTH = 80


EPILOG = """\b
Examples:
  jobdoctor rules
  jobdoctor rules --format json | jq -r '.[].code'
"""


@click.command("rules", short_help="List the rules of the slow-job checklist.", epilog=EPILOG)
@format_option("text", "json", default="text")
def command(format_: str) -> None:
    """List the rules of the slow-job checklist.

    `jobdoctor explain CODE` prints one of them in full.
    """
    rules = loaded_rules()
    print_text(_json(rules) if format_ == "json" else _table(rules))


def loaded_rules() -> list[Rule]:
    """Every rule that can be loaded; one that cannot is said, and hides no other."""
    from jobdoctor.diagnosis.registry import load_guarded

    rules, broken = load_guarded()
    for check in broken:
        note(f"Note: {check.reason}")
    return rules


def documentation(rule: Rule) -> str:
    """The rule's documentation: its module's docstring."""
    return inspect.getdoc(sys.modules[type(rule).__module__]) or ""


def what(rule: Rule) -> str:
    """The rule in a sentence: the first paragraph of its documentation, without the name."""
    first = " ".join(documentation(rule).split("\n\n")[0].split())
    _, colon, sentence = first.partition(": ")
    return sentence if colon and rule.name in first.split(":")[0] else first


def _json(rules: list[Rule]) -> str:
    listed: list[dict[str, Any]] = [
        {
            "code": rule.code,
            "name": rule.name,
            "step": rule.step,
            "where": rule.where,
            "kind": rule.kind,
            "what": what(rule),
            "limits": [
                {"name": name, "value": limit.default, "unit": limit.unit, "doc": limit.doc, "source": limit.source}
                for name, limit in rule.declared_limits().items()
            ],
        }
        for rule in rules
    ]
    return json.dumps(listed, indent=2) + "\n"


def _table(rules: list[Rule]) -> str:
    """The rules below the steps of the checklist."""
    from jobdoctor.model import STEP_TITLES, STEPS

    color = wants_color()
    names = max((len(rule.name) for rule in rules), default=0)
    lines = [f"{len(rules)} rules in {len(STEPS)} steps; `jobdoctor explain CODE` prints one of them in full."]
    for number, step in enumerate(STEPS, 1):
        title = f"{number} {STEP_TITLES[step]}"
        lines += ["", click.style(title, bold=True) if color else title]
        for rule in rules:
            if rule.step == step:
                lead = f"  {rule.code}  {rule.name:<{names}}  "
                found = what(rule).rstrip(".")
                lines += textwrap.wrap(
                    found[:1].upper() + found[1:], WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead)
                )
    return "\n".join(lines) + "\n"
