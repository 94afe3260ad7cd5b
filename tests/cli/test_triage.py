"""``jobdoctor triage``, from a store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobdoctor.cli.main import cli
from jobdoctor.store import Store
from tests.report import diagnoses

#: Nothing listens there: the store has data, so that is no error.
AWAY = "redis://127.0.0.1:1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("JOBDOCTOR_STORE", "RQ_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli, ["triage", *args, "--url", AWAY])


def test_jobs_by_what_they_would_give_back(folder: Path) -> None:
    with Store.open("sqlite:///jobdoctor.db") as store:
        store.add(diagnoses.rich().history.executions)
        store.add([diagnoses.execution(20, job="app.tasks.other")])
    table = invoke().stdout
    assert table.index("app.tasks.sync_orders") < table.index("app.tasks.other")
    assert "JD401 n-plus-one-query" in table
    assert "app.tasks.other" not in invoke("--limit", "1").stdout
    assert table.endswith("\nNext: jobdoctor report app.tasks.sync_orders\n")
    data = json.loads(invoke("--format", "json", "--limit", "1").stdout)
    assert [job["job"] for job in data["jobs"]] == ["app.tasks.sync_orders", "app.tasks.other"]
    savings = [job["saving_ms_per_day"]["mid"] for job in data["jobs"]]
    assert savings[0] > savings[1] > 0


@pytest.mark.parametrize("args", [[], ["--since", "1m"]])
def test_an_empty_store_says_what_to_do(folder: Path, args: list[str]) -> None:
    result = invoke(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "; " in result.stderr
    assert "widen" not in result.stderr
    assert "Traceback" not in result.stderr
