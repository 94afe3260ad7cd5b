"""The documentation cannot rot: commands, options, rules, settings and variables are in the README or in their help."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from jobdoctor import __version__, config
from jobdoctor.cli.main import COMMANDS, cli
from jobdoctor.diagnosis import registry

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    assert re.search(rf"`jobdoctor {name}\b", README)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"jobdoctor {name} {parameter.opts}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readmes_options_of_a_command_exist(name: str) -> None:
    (row,) = re.findall(rf"^\| `jobdoctor {name}\b.*$", README, re.MULTILINE)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    known = {spelling for one in command.params for spelling in (*one.opts, *one.secondary_opts)}
    named = set(re.findall(r"--[a-z-]+", row))
    assert named <= known
    own = {spelling for spelling in known if spelling.startswith("--")} - {"--help"}
    assert named or not own, f"jobdoctor {name}: the table has none of {sorted(own)}"


@pytest.mark.parametrize("name", COMMANDS)
def test_options_that_commands_share_are_worded_alike(name: str) -> None:
    """Those of `rq worker` are in its own words."""
    command, triage = (cli.get_command(click.Context(cli), each) for each in (name, "triage"))
    assert command is not None
    assert triage is not None
    shared = {one.name: one for one in triage.params if isinstance(one, click.Option) and one.name != "since"}
    for one in command.params:
        if isinstance(one, click.Option) and one.name in shared and name not in ("run", "demo"):
            assert one.help == shared[one.name].help
            assert one.opts == shared[one.name].opts


def test_every_command_the_readme_names_exists() -> None:
    assert set(re.findall(r"`jobdoctor ([a-z]+)", README)) <= set(COMMANDS)


@pytest.mark.parametrize("code", registry.RULES)
def test_every_rule_is_in_the_readme(code: str) -> None:
    assert re.search(rf"\| {code} \| {registry.load_rule(code).name} \|", README)


def test_every_rule_the_readme_names_exists() -> None:
    assert set(re.findall(r"\| (JD\d{3}) \|", README)) == set(registry.RULES)


@pytest.mark.parametrize("name", [*config.Settings.__struct_fields__, *config.Retention.__struct_fields__])
def test_every_setting_is_in_the_readme(name: str) -> None:
    assert re.search(rf"\b{name}\b", README)


def test_every_variable_the_tests_read_is_documented() -> None:
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for variable in ("JOBDOCTOR_TEST_REDIS_URL", "JOBDOCTOR_TEST_POSTGRES_URL", "RQ_WORKER_CLASS"):
        assert variable in text


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, heading = target.partition("#")
        if "://" in target:
            continue
        assert (path.parent / file).exists(), target
        assert file or heading in headings, target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_examples_have_the_options_they_are_given(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for name, rest in re.findall(r"^(?:\$ )?jobdoctor ([a-z]+)\b([^#\n]*)", block, re.MULTILINE):
            command = cli.get_command(click.Context(cli), name)
            assert command is not None, f"jobdoctor {name}"
            known = {spelling for one in command.params for spelling in (*one.opts, *one.secondary_opts)}
            assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) <= known, f"jobdoctor {name}{rest}"


def test_the_changelog_knows_this_version() -> None:
    released = re.findall(r"^## \[(.+?)\]", CHANGELOG, re.MULTILINE)
    assert released[0] == "Unreleased"
    assert "dev" in __version__ or __version__ in released


def test_every_target_of_the_makefile_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert targets
    for target in targets[1].split():
        assert re.search(rf"^{target}:.*## \w", makefile, re.MULTILINE)
