"""The proof: every planted illness is found in its sick job, and nothing is found in its healthy twin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from jobdoctor.report import schema
from sample_app.catalogue import CASES
from sample_app.traffic import rounds_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(800)]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def run(reports: Path) -> subprocess.CompletedProcess[str]:
    """The demo. What a busy machine did to one run it does not do to the next: a run that is not all right is repeated
    once, and the second one counts."""
    command = [sys.executable, "-m", "jobdoctor", "demo", "--quick", "--keep", "--format", "json", "-o", str(reports)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=380, check=False)
    if done.returncode:
        print(done.stdout[:2_000], done.stderr)
        done = subprocess.run(command, capture_output=True, text=True, timeout=380, check=False)
    return done


@pytest.fixture(scope="module")
def outcome(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert run.stdout, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def test_every_planted_illness_is_found(outcome: dict[str, Any]) -> None:
    assert outcome["missed"] == []
    assert [case["code"] for case in outcome["cases"]] == [case.code for case in CASES]
    for case in outcome["cases"]:
        assert case["code"] in {finding["code"] for finding in case["sick"]["findings"]}


def test_no_false_alarm_in_a_healthy_twin(outcome: dict[str, Any]) -> None:
    assert outcome["false_alarms"] == []
    for case in outcome["cases"]:
        assert {finding["severity"] for finding in case["healthy"]["findings"]} <= {"info"}


def test_it_ends_well_and_quietly(run: subprocess.CompletedProcess[str], outcome: dict[str, Any]) -> None:
    assert (run.returncode, run.stderr) == (0, "")
    assert outcome["found"] == outcome["planted"] == len(CASES)


def test_every_job_has_its_report(outcome: dict[str, Any], reports: Path) -> None:
    index = (reports / "index.html").read_text(encoding="utf-8")
    for case in outcome["cases"]:
        for patient in (case["sick"], case["healthy"]):
            report = Path(patient["report"])
            assert report.parent == reports
            assert patient["job"] in report.read_text(encoding="utf-8")
            assert f'href="{report.name}"' in index


def test_every_report_in_json_is_what_the_schema_says(outcome: dict[str, Any], reports: Path) -> None:
    command = [sys.executable, "-m", "jobdoctor", "report", "--all", "--format", "json", "--quiet"]
    places = ["--store", f"sqlite:///{reports / 'demo.db'}", "--url", "redis://127.0.0.1:1"]
    answer = subprocess.run([*command, *places], capture_output=True, text=True, timeout=120, check=True)
    found = {report["job"]: report for report in json.loads(answer.stdout)}
    validator = Draft202012Validator(schema())
    for case in outcome["cases"]:
        for patient in (case["sick"], case["healthy"]):
            report = found[patient["job"]]
            assert [error.message for error in validator.iter_errors(report)] == [], patient["job"]
            assert report["verdict"]["headline"] == patient["headline"]
            parts = sum(part["ms"] for part in report["ledger"]["parts"])
            assert parts == pytest.approx(report["ledger"]["wall_ms"], abs=0.1)
            for finding in report["findings"]:
                assert finding["recommendation"]["text"].endswith("."), finding["code"]


def test_no_recording_was_lost(outcome: dict[str, Any]) -> None:
    """Each job ran as often as the shop enqueued it: at least once in each round that waits for its jobs."""
    for case, planned in zip(outcome["cases"], CASES, strict=True):
        for found, load in ((case["sick"], planned.sick), (case["healthy"], planned.healthy)):
            assert found["executions"] >= (rounds_of(load, True) if load.pause_ms is None else 1)


def test_nothing_is_left_running(outcome: dict[str, Any], reports: Path) -> None:
    left = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(reports) in command:
            left.append(command)
    assert left == []
