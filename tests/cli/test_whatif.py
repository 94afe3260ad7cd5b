"""``jobdoctor whatif``: from a store and from CSV, as text, JSON and a page; and what cannot be asked."""

from __future__ import annotations

import html
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jobdoctor.cli.main import cli
from jobdoctor.model import Execution
from jobdoctor.store import Store
from tests.builders import make_execution

#: Nothing listens there: the store has data, so that is no error.
AWAY = "redis://127.0.0.1:1"
MAIL, REPORT = "app.tasks.send_mail", "app.tasks.build_report"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("JOBDOCTOR_STORE", "RQ_REDIS_URL", "JOBDOCTOR_SLO_MS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def recorded(count: int = 200) -> list[Execution]:
    """One worker, first come first served; every tenth is a report of 4 s, mails take 0.2 s."""
    rng = random.Random(4)
    at = free = 0.0
    executions = []
    for number in range(count):
        at += rng.expovariate(1.2)
        job, run = (REPORT, 4.0) if number % 10 == 0 else (MAIL, 0.2)
        start = max(at, free)
        free = start + run
        executions.append(
            make_execution(
                job=job, at_ms=1_000 * at, wait_ms=1_000 * (start - at), run_ms=1_000 * run,
                worker_queues=["high", "default"], slo_ms=2_000.0 if job == MAIL else None,
            )
        )  # fmt: skip
    return executions


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whatif") / "jobdoctor.db"
    with Store.open(f"sqlite:///{path}") as opened:
        opened.add(recorded())
    return path


@pytest.fixture
def store(folder: Path, filled: Path) -> Path:
    for file in filled.parent.glob("jobdoctor.db*"):  # with its write-ahead log
        shutil.copy(file, folder)
    return folder


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli, ["whatif", *args, "--url", AWAY])


def asked(*args: str) -> Any:
    result = invoke(*args, "--format", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_change_before_and_after(store: Path) -> None:
    text = invoke("--move", f"{MAIL}=high", "--workers", "default=2").stdout
    assert f"What if: --move {MAIL}=high --workers default=2" in text
    assert "Fit: good" in text
    assert "2.0 s promised" in text
    assert "Workers: 1 on high, default" in text
    assert "After:   2 on high, default" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    data = asked("--move", f"{MAIL}=high", "--workers", "default=2")
    mail = next(job for job in data["jobs"] if job["job"] == MAIL)
    assert mail["after"]["queues"] == ["high"]
    assert mail["after"]["wait_ms"]["p95"] < mail["before"]["wait_ms"]["p95"]
    low, high = mail["after"]["wait_ms"]["p95_interval"]
    assert low <= mail["after"]["wait_ms"]["p95"] <= high
    assert data["workers"]["after"] == 2
    assert data["fit"]["word"] == "good"


def test_no_change_says_how_it_is(store: Path) -> None:
    text = invoke().stdout
    assert "No change" in text
    assert "after" not in text.lower()
    data = asked()
    assert data["changes"] == []
    assert all(job["before"] == job["after"] for job in data["jobs"])
    assert data["slos_met"] is False


def test_the_search(store: Path) -> None:
    text = invoke("--find").stdout
    assert "The smallest change that keeps every promise: --" in text
    data = asked("--find")
    assert data["slos_met"] is True
    assert data["find"]["tried"][-1]["missed"] == []
    assert data["changes"] == data["find"]["changes"] != []
    faster = asked("--find", "--slo", "build_report=1s")["find"]
    assert f"--speedup {REPORT}=0.25" in faster["changes"]
    assert REPORT in faster["tried"][0]["missed"]


def test_the_page_is_one_file_that_loads_nothing(store: Path) -> None:
    result = invoke("--split", "default", "--html", "out/whatif.html")
    assert result.exit_code == 0, result.stderr
    page = Path("out/whatif.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 3  # all jobs, mails, reports
    assert "default-src 'none'" in html.unescape(page)
    assert "style=" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count('<polyline class="after"') > 3


def test_names_are_escaped(folder: Path) -> None:
    Path("jobs.csv").write_text("arrival_s,job,service_s\n0,<script>x</script>,1\n1,a,1\n", encoding="utf-8")
    invoke("--csv", "jobs.csv", "--workers", "default=1", "--html", "page.html")
    assert "<script>x" not in Path("page.html").read_text(encoding="utf-8")


def test_csv(folder: Path) -> None:
    lines = "".join(f"{n},{'long' if n % 5 == 0 else 'short'},{4 if n % 5 == 0 else 0.1}\n" for n in range(200))
    Path("jobs.csv").write_text(f"arrival_s,job,service_s\n{lines}", encoding="utf-8")
    data = asked("--csv", "jobs.csv", "--workers", "default=1", "--split", "default")
    assert data["fit"]["word"] == "unknown"
    assert data["workers"]["before"] == data["workers"]["after"] == 1
    short = next(job for job in data["jobs"] if job["job"] == "short")
    assert short["before"]["wait_ms"]["p95"] == pytest.approx(3_000)
    assert short["after"]["queues"] == ["default-fast"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--move", "app.tasks.send_mial=high"], "did you mean app.tasks.send_mail"),
        (["--move", f"{MAIL}=nowhere"], "queues with workers: default, high"),
        (["--move", "mail"], "write it like --move"),
        (["--move", f"{MAIL}=high", "--move", f"{MAIL}=default"], "given 2 times"),
        (["--split", "default", "--move", f"{MAIL}=default"], "contradict"),
        (["--workers", "default=x"], "is not a whole number"),
        (["--workers", "default=0"], "nobody listens to queue 'default'"),
        (["--workers", "default,default=1"], "names a queue twice"),
        (["--workers", "default=1", "--workers", "high,default=1"], "both say how many listen to default"),
        (["--workers", "default=99999999"], "more than 10,000 workers"),
        (["--reserve", "default=99999999"], "more than 10,000 workers"),
        (["--move", f"{MAIL}=hgih"], "did you mean high?"),
        (["--reserve", "elsewhere=1"], "queues: default, high"),
        (["--speedup", f"{MAIL}=inf"], "above 1,000"),
        (["--rate", f"{MAIL}=1e9"], "above 1,000"),
        (["--speedup", f"{MAIL}=0"], "not above 0"),
        (["--rate", f"{MAIL}=-2"], "not above 0"),
        (["--rate", f"{MAIL}=nan"], "not above 0"),
        (["--slo", f"{MAIL}=soon"], "is no duration"),
        (["--slo", "nobody=1s"], "there is no job 'nobody'"),
        (["--since", "1s"], "widen --since"),
        (["--html", ""], "give a path"),
        (["--csv", "absent.csv", "--workers", "default=1"], "cannot read absent.csv"),
    ],
)
def test_what_cannot_be_asked(store: Path, args: list[str], said: str) -> None:
    result = invoke(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2  # a note that no server answers may come first
    assert "Traceback" not in result.stderr


def test_a_promise_that_no_queue_can_keep_is_told_and_the_others_are_searched(store: Path) -> None:
    text = invoke("--find", "--slo", "build_report=100ms").stdout
    assert f"{REPORT} cannot keep its promise in any queue: its run alone takes 4.0 s" in " ".join(text.split())
    assert "No change keeps every promise. The smallest that keeps all others: --" in text
    found = asked("--find", "--slo", "build_report=100ms")["find"]
    assert found["hopeless"] == [{"job": REPORT, "run_p95_ms": 4_000, "slo_ms": 100}]
    assert found["changes"] is None
    assert found["nearest"]
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_promise_before_and_after(store: Path) -> None:
    text = invoke("--workers", "default=2").stdout
    assert "  2.0 s promised, p95 " in text
    assert "kept\n  before: p95 " in text
    assert "before:" not in invoke("--speedup", "send_mail=0.99").stdout  # missed as it was


def test_what_a_change_names_is_in_the_table(folder: Path) -> None:
    lines = ["arrival_s,job,service_s", *(f"{n},job{n % 40},{2 if n % 40 else 0}" for n in range(400))]
    Path("jobs.csv").write_text("\n".join(lines), encoding="utf-8")
    text = invoke("--csv", "jobs.csv", "--workers", "default=1", "--speedup", "job0=0.5").stdout
    assert text.index("job0 ") < text.index("job39")


def test_csv_without_workers_and_without_promises(folder: Path) -> None:
    Path("jobs.csv").write_text("arrival_s,job,service_s\n0,a,1\n", encoding="utf-8")
    assert "give --workers default=2" in invoke("--csv", "jobs.csv").stderr
    assert "needs promises" in invoke("--csv", "jobs.csv", "--workers", "default=1", "--find").stderr
    assert "no queue 'other'" in invoke("--csv", "jobs.csv", "--workers", "default,other=1").stderr
    twice = invoke("--csv", "jobs.csv", "--workers", "default=1", "--workers", "default=2")
    assert "--workers default is given 2 times" in twice.stderr


def test_what_came_by_no_queue_is_no_traffic(store: Path) -> None:
    with Store.open("sqlite:///jobdoctor.db") as opened:
        opened.add([make_execution(job="app.import", queue="", at_ms=1_000.0)])
    data = asked()
    assert data["all"]["executions"] == 200
    assert "app.import" not in {each["job"] for each in data["jobs"]}


def test_an_empty_store(folder: Path) -> None:
    result = invoke()
    assert result.exit_code == 2
    assert "; " in result.stderr
