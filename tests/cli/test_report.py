"""``jobdoctor report``, from a store and a stream."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator
from msgspec.structs import replace

from jobdoctor import wire
from jobdoctor.cli.main import cli
from jobdoctor.cli.report import file_name
from jobdoctor.report import schema
from jobdoctor.store import Store
from tests.builders import EPOCH_NS, SECOND, make_execution
from tests.report import diagnoses

JOB = "app.tasks.sync_orders"
Invoke = Callable[..., Result]

#: Nothing listens there: the store has data, so that is no error.
AWAY = "redis://127.0.0.1:1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("JOBDOCTOR_", "RQ_", "REDIS_")) and not name.startswith("JOBDOCTOR_TEST"):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def filled(folder: Path) -> Path:
    with Store.open("sqlite:///jobdoctor.db") as store:
        store.add(diagnoses.rich().history.executions)
        store.add([diagnoses.execution(20, job="app.tasks.other")])
    return folder


@pytest.fixture
def invoke() -> Invoke:
    def call(*args: str, url: str = AWAY) -> Result:
        return CliRunner().invoke(cli, ["report", *args, "--url", url])

    return call


def one_line(result: Result) -> str:
    """The error: one line, exit 2, nothing on standard output, no traceback."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Note: ")]
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert "; " in lines[0], "an error has a next step"
    return lines[0]


def test_html_by_default(filled: Path, invoke: Invoke) -> None:
    result = invoke(JOB)
    assert result.exit_code == 0
    assert f"{JOB}: inside the job" in result.stdout
    assert result.stdout.endswith(f"reports/{JOB}.html\n")
    assert result.stderr.startswith("Note: recordings on the stream were not collected: no server answers")
    html = (filled / "reports" / f"{JOB}.html").read_text()
    assert html.startswith("<!doctype html>")
    assert "JD401" in html


def test_quiet_says_nothing(filled: Path, invoke: Invoke) -> None:
    result = invoke(JOB, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_json_to_standard_output(filled: Path, invoke: Invoke) -> None:
    result = invoke(JOB, "--format", "json")
    found = json.loads(result.stdout)
    Draft202012Validator(schema()).validate(found)
    assert found["job"] == JOB
    assert found["executions"] == 8
    assert not (filled / "reports").exists()


def test_text_is_plain_when_piped(filled: Path, invoke: Invoke) -> None:
    result = invoke(JOB, "--format", "text")
    assert result.stdout.startswith(f"{JOB}\n8 executions (2 did not finish: HTTPError, killed)")
    assert "\x1b" not in result.stdout


def test_dash_is_standard_output(filled: Path, invoke: Invoke) -> None:
    assert invoke(JOB, "--output", "-").stdout.startswith("<!doctype html>")
    assert not (filled / "reports").exists()


@pytest.mark.parametrize("format_", ["html", "json", "text"])
def test_output_file(filled: Path, invoke: Invoke, format_: str) -> None:
    result = invoke(JOB, "--format", format_, "--output", "new/folder/x")
    assert result.exit_code == 0
    path = filled / "new" / "folder" / "x"
    assert path.read_text()
    assert [one.name for one in path.parent.iterdir()] == ["x"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("wanted", ["sync_orders", "tasks.sync_orders"])
def test_the_end_of_a_name_will_do(filled: Path, invoke: Invoke, wanted: str) -> None:
    assert json.loads(invoke(wanted, "--format", "json").stdout)["job"] == JOB


@pytest.mark.parametrize("wanted", ["0b9f3a52-77c1-4f0e-9d7e-000000000003", "execution-3"])
def test_one_job_by_its_id_or_an_executions(filled: Path, invoke: Invoke, wanted: str) -> None:
    found = json.loads(invoke(wanted, "--format", "json").stdout)
    assert (found["job"], found["executions"]) == (JOB, 1)
    assert invoke(wanted).stdout.endswith(f"reports/{JOB}-0b9f3a52-77c1-4f0e-9d7e-000000000003.html\n")


def test_unknown_job_names_those_seen_and_the_close_one(filled: Path, invoke: Invoke) -> None:
    error = one_line(invoke("app.tasks.sync_order"))
    assert "no recordings of 'app.tasks.sync_order' in jobdoctor.db" in error
    assert "jobs seen: app.tasks.other, app.tasks.sync_orders" in error
    assert "app.tasks.sync_orders" in error.split(";")[-1]
    assert not (filled / "reports").exists()


def test_empty_store_and_no_server(folder: Path, invoke: Invoke) -> None:
    assert "no server answers at redis://127.0.0.1:1" in one_line(invoke(JOB))
    assert list(folder.iterdir()) == []


def test_empty_store_and_empty_stream(folder: Path, invoke: Invoke, valkey_url: str, redis_client: redis.Redis) -> None:
    assert "run `jobdoctor run` first" in one_line(invoke(JOB, url=valkey_url))
    assert "run `jobdoctor run` first" in one_line(invoke("--all", url=valkey_url))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "no job was named"),
        ([JOB, "--all"], "both"),
        ([JOB, "--since", "nonsense"], "give a span such as 30m, 24h or 7d"),
        ([JOB, "--since", "1h"], "give an earlier --since"),
        (["--all", "--since", "1h"], "in this window; widen --since"),
        ([JOB, "--format", "yaml"], "'yaml' is not one of"),
        ([JOB, "--output", "."], "is a directory; give a file, such as report.html"),
        ([JOB, "--output", ""], "--output is empty"),
        ([JOB, "--open", "--format", "json"], "--open needs an HTML file"),
        ([JOB, "--open", "--output", "-"], "--open needs an HTML file"),
        (["--all", "--output", "-"], "give a folder as --output"),
        (["--all", "--output", "jobdoctor.db"], "jobdoctor.db is a file"),
        ([JOB, "--output", "jobdoctor.db/x.html"], "cannot write"),
        ([JOB, "--output", "x" * 300], "cannot write"),
        ([JOB, "--store", "nonsense"], "no database URL"),
        ([JOB, "--store", "postgresql://127.0.0.1:1/x"], "127.0.0.1"),
    ],
)
def test_bad_input(filled: Path, invoke: Invoke, args: list[str], said: str) -> None:
    before = (filled / "jobdoctor.db").read_bytes()
    assert said in one_line(invoke(*args))
    assert (filled / "jobdoctor.db").read_bytes() == before
    assert not (filled / "reports").exists()


def test_a_store_that_is_nowhere(folder: Path, invoke: Invoke, valkey_url: str, redis_client: redis.Redis) -> None:
    assert "/nowhere/x.db" in one_line(invoke(JOB, "--store", "sqlite:////nowhere/x.db", url=valkey_url))


def test_a_url_that_is_none(filled: Path, invoke: Invoke) -> None:
    assert "no Redis URL" in one_line(invoke(JOB, url="nonsense"))


def test_a_setting_that_is_none(filled: Path, invoke: Invoke) -> None:
    (filled / "pyproject.toml").write_text("[tool.jobdoctor.limits.JD401]\nno_such_limit = 3\n")
    assert "no limit 'no_such_limit'" in one_line(invoke(JOB))


def test_nothing_is_overwritten_on_an_error(filled: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    (filled / "old.html").write_text("old")
    one_line(invoke("app.unknown", "--output", "old.html"))

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_room)
    assert "No space left on device" in one_line(invoke(JOB, "--output", "old.html"))
    assert (filled / "old.html").read_text() == "old"
    assert sorted(one.name for one in filled.iterdir() if one.suffix != ".db") == ["old.html"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(filled: Path, invoke: Invoke) -> None:
    (filled / "closed").mkdir(mode=0o500)
    assert "Permission denied" in one_line(invoke(JOB, "--output", "closed/x.html"))


def test_a_link_is_followed_and_a_mode_is_kept(filled: Path, invoke: Invoke) -> None:
    (filled / "real.html").write_text("old")
    (filled / "real.html").chmod(0o640)
    (filled / "link.html").symlink_to("real.html")
    assert invoke(JOB, "--output", "link.html").exit_code == 0
    assert (filled / "link.html").is_symlink()
    assert (filled / "real.html").read_text().startswith("<!doctype html>")
    assert stat.S_IMODE((filled / "real.html").stat().st_mode) == 0o640


def test_a_device_is_written_to(filled: Path, invoke: Invoke) -> None:
    assert invoke(JOB, "--output", "/dev/null").exit_code == 0
    assert Path("/dev/null").is_char_device()


def test_all_jobs_and_the_index(filled: Path, invoke: Invoke) -> None:
    with Store.open("sqlite:///jobdoctor.db") as store:
        store.add(diagnoses.hostile().history.executions)
    result = invoke("--all", "--output", "out")
    assert result.exit_code == 0
    assert result.stdout == "3 reports: out/index.html\n"
    names = sorted(one.name for one in (filled / "out").iterdir())
    assert len(names) == 4
    assert {"app.tasks.other.html", "app.tasks.sync_orders.html", "index.html"} < set(names)
    index = (filled / "out" / "index.html").read_text()
    for name in names:
        assert name == "index.html" or f'href="{name}"' in index


def test_all_as_json_is_an_array(filled: Path, invoke: Invoke) -> None:
    found = json.loads(invoke("--all", "--format", "json").stdout)
    assert [one["job"] for one in found] == ["app.tasks.other", JOB]
    invoke("--all", "--format", "json", "--output", "all.json")
    assert json.loads((filled / "all.json").read_text()) == found


def test_all_as_text_is_one_after_the_other(filled: Path, invoke: Invoke) -> None:
    text = invoke("--all", "--format", "text").stdout
    assert text.index("app.tasks.other\n") < text.index("=" * 80) < text.index(f"{JOB}\n8 executions")


def test_drains_the_stream_first(folder: Path, invoke: Invoke, valkey_url: str, redis_client: redis.Redis) -> None:
    # What is older than the retention would be dropped at once.
    ago = time.time_ns() - EPOCH_NS - 60 * SECOND
    for number in range(1, 4):
        old = diagnoses.execution(number)
        shifted = {field: getattr(old, field) + ago for field in old.__struct_fields__ if field.endswith("ed_at_ns")}
        redis_client.xadd(wire.STREAM_KEY, wire.encode(replace(old, **shifted)))  # type: ignore[arg-type]
    result = invoke(JOB, "--format", "json", url=valkey_url)
    assert result.stderr == ""
    assert json.loads(result.stdout)["executions"] == 3
    again = invoke(JOB, "--format", "json", url=valkey_url)
    assert json.loads(again.stdout)["executions"] == 3


def test_source_lines_of_the_project(filled: Path, invoke: Invoke) -> None:
    (filled / "app").mkdir()
    (filled / "app" / "tasks.py").write_text("\n".join(f"marker_{number} = {number}" for number in range(60)))
    invoke(JOB, "--output", "with.html")
    assert "marker_40" in (filled / "with.html").read_text()
    invoke(JOB, "--output", "without.html", "--no-source")
    assert "marker_40" not in (filled / "without.html").read_text()


def test_open_shows_the_file(filled: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)))
    result = invoke(JOB, "--open")
    assert opened == [(filled / "reports" / f"{JOB}.html").as_uri()]
    assert "no browser could be started" in result.stderr


def test_an_slo_of_the_settings_reaches_the_report(
    filled: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    (filled / "pyproject.toml").write_text(f'[tool.jobdoctor.slo_ms]\n"{JOB}" = 1234\n')
    seen: list[float | None] = []
    from jobdoctor.diagnosis import engine

    real = engine.diagnose
    monkeypatch.setattr(
        engine, "diagnose", lambda history, **rest: seen.append(history.slo_ms) or real(history, **rest)
    )
    invoke(JOB)
    assert seen == [1234]


@pytest.mark.parametrize(
    ("job", "name"),
    [("app.tasks.x", "app.tasks.x.html"), ("../../etc/passwd", "_.._etc_passwd-"), ("", "job-"), ("-rf", "rf-"),
     ("a" * 300, "a" * 120 + "-")],
)  # fmt: skip
def test_file_names_are_safe(job: str, name: str) -> None:
    found = file_name(job, "html")
    assert found.startswith(name)
    assert "/" not in found
    assert len(found) < 200
    assert file_name("a/b", "html") != file_name("a_b", "html") != file_name("a:b", "html")


def test_what_a_report_promised_is_judged_after_the_next_deploy(filled: Path, invoke: Invoke) -> None:
    assert "became of predictions" not in invoke(JOB, "--format", "text").stdout
    with Store.open("sqlite:///jobdoctor.db") as store:
        [promised] = [one for one in store.history(JOB).predictions if one.code == "JD401"]
        assert promised.low_ms < promised.mid_ms < promised.before_ms
        store.add_mark("deploy", "3f9c2ab")
        now_ms = (time.time_ns() - EPOCH_NS) / 1e6 + 5_000
        store.add([make_execution(run_ms=90, at_ms=now_ms + number) for number in range(6)])
    text = " ".join(invoke(JOB, "--format", "text").stdout.split())
    assert "JD401 promised" in text
    assert "since deploy 3f9c2ab it is 90 ms" in text


def test_a_look_at_a_part_promises_nothing(filled: Path, invoke: Invoke) -> None:
    invoke(JOB, "--format", "text", "--since", "2026-01-01T00:00")
    invoke("execution-1", "--format", "text")
    with Store.open("sqlite:///jobdoctor.db") as store:
        assert store.history(JOB).predictions == []
