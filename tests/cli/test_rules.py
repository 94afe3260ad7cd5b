"""``jobdoctor rules`` and ``jobdoctor explain``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobdoctor.cli.main import cli
from jobdoctor.diagnosis import registry
from jobdoctor.model import STEP_TITLES, STEPS

CODES = list(registry.RULES)


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args))


def test_the_table_has_every_rule_in_80_columns() -> None:
    result = invoke("rules")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert [line.split()[0] for line in result.stdout.splitlines() if line.strip().startswith("JD")] == CODES


def test_the_table_is_in_the_order_of_the_checklist() -> None:
    lines = invoke("rules").stdout.splitlines()
    assert lines[0] == f"{len(CODES)} rules in {len(STEPS)} steps; `jobdoctor explain CODE` prints one of them in full."
    steps = [f"{number} {STEP_TITLES[step]}" for number, step in enumerate(STEPS, 1)]
    assert [line for line in lines if line in steps] == steps
    assert re.search(r"^  JD206  slow-query +A statement that is slow by itself$", "\n".join(lines), re.MULTILINE)


def test_a_rules_own_limits_come_before_those_it_shares() -> None:
    page = invoke("explain", "JD401").stdout
    assert page.index("\nLimits\n") < page.index("\n  calls = 10 calls\n")
    assert page.index("\n  calls = 10 calls\n") < page.index("\nLimits that it shares with other rules\n")
    assert page.index("\nLimits that it shares with other rules\n") < page.index("\n  critical_ms = ")
    assert page.count("\n  critical_ms = ") == 1
    assert "\nstep 4 Batching, inside the job, recommendation of kind batch\n" in page


def test_json_has_the_limits_with_their_sources() -> None:
    rules = json.loads(invoke("rules", "--format", "json").stdout)
    assert [rule["code"] for rule in rules] == CODES
    for rule in rules:
        assert set(rule) == {"code", "name", "step", "where", "kind", "what", "limits"}
        assert rule["what"]
        assert not rule["what"].startswith(rule["name"])
        for limit in rule["limits"]:
            assert set(limit) == {"name", "value", "unit", "doc", "source"}


@pytest.mark.parametrize("code", CODES)
def test_every_rule_is_explained(code: str) -> None:
    result = invoke("explain", code)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{code} ")
    for heading in ("What it looks for", "Why it costs time", "What to do", "When it is a false alarm", "Limits"):
        assert f"\n{heading}\n" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("word", ["JD401", "jd401", " Jd401", "n-plus-one-query", "N_PLUS_ONE_QUERY"])
def test_by_code_or_name_in_any_case(word: str) -> None:
    assert invoke("explain", word).stdout.startswith("JD401 n-plus-one-query\n")


def test_the_projects_own_limits_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobdoctor.toml").write_text("[limits.JD401]\ncalls = 25\n")
    assert "calls = 25 calls (default 10)" in invoke("explain", "JD401").stdout


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("JD999", "there is no rule 'JD999'"),
        ("n-plus-one-quer", "did you mean JD401 n-plus-one-query"),
        ("", "run `jobdoctor rules` for all of them"),
        ("\x1b[31m", "there is no rule"),
    ],
)
def test_unknown_codes(word: str, said: str) -> None:
    result = invoke("explain", word)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert "\x1b" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_rule_that_cannot_be_loaded_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.RULES, "JD999", ("batching.missing", "Missing"))
    result = invoke("rules")
    assert result.exit_code == 0
    assert "JD401" in result.stdout
    assert "while loading JD999" in result.stderr
