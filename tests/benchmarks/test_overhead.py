"""The harness works: real workers, one round, and the tables' shape."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from benchmarks import overhead
from benchmarks.arms import AGENTS, ARMS, AUTO, CONTROL, JOBDOCTOR, PLAIN, Arm, versions
from benchmarks.overhead import Figures, Measured
from benchmarks.workers import Bench


def columns(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def rows(lines: list[str], title: str) -> list[list[str]]:
    """The table of a section, its heading first."""
    section = lines[lines.index(title) + 1 :]
    table = [
        columns(line)
        for line in section[: next((n for n, x in enumerate(section) if x[:3] == "## "), None)]
        if line[:1] == "|"
    ]
    assert len({len(row) for row in table}) == 1
    return [table[0], *table[2:]]


def test_one_round_of_real_workers(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(overhead.BATCHES, "no_op", {"forked": 2, "simple": 2})
    bench = Bench(valkey_url, sys.executable, compiled="")  # modules are where they always are
    arms = [replace(arm, settings="tests.benchmarks.quiet_settings") for arm in (PLAIN, JOBDOCTOR)]
    with bench.running(arms, "forked") as pids:
        measured = overhead._measure_job(bench, arms, pids, "no_op", "forked", rounds=1)
    assert set(pids) == {"plain", "jobdoctor"}
    assert all(len(times) == 1 and times[0] > 0 for times in measured.times.values())
    assert all(len(times) == overhead.WARM_UP for times in measured.warm_up.values())
    assert set(measured.cpu) == {"plain", "jobdoctor"}
    with pytest.raises(SystemExit, match="the worker of plain did not start: "):
        bench.running([Arm("plain", settings="no_such_module")], "forked").__enter__()


def test_the_tables() -> None:
    arms = [PLAIN, CONTROL, JOBDOCTOR, AUTO]
    times = {"plain": [10.0, 20.0], "control": [10.0, 20.0], "jobdoctor": [10.5, 21.0]}
    times["jobdoctor, profiles"] = [10.5, 23.1]
    memory = {"plain": 80.0, "control": 80.5, "jobdoctor": 84.0, "jobdoctor, profiles": 85.0}
    figures = Figures(
        jobs=[
            Measured("no_op", "forked", times, {name: [8.0, 8.0] for name in times}, {name: [9.0] for name in times})
        ],
        starts={name: [1_000.0, 1_100.0] for name in times},
        resident={"forked": memory},
        proportional={"forked": memory},
    )
    lines = list(overhead._tables(figures, arms, ["forked"]))
    assert rows(lines, "## Time for each job, against plain RQ") == [
        ["job", "worker", "plain", "control", "jobdoctor", "jobdoctor, profiles"],
        ["no-op", "forked", "15.0 ms", "x1.00", "x1.05", "x1.10"],
    ]
    details = rows(lines, "## Forked workers: spread, added time, CPU")
    assert details[2][:2] == ["no-op", "jobdoctor"]
    assert details[2][2:3] + details[2][5:] == ["x1.050", "+0.75 ms", "x1.00", "+0.00 ms"]
    policy = rows(lines, "## Profiles, as the policy spreads them")
    assert policy[1][:3] == ["no-op", "forked", f"x{(9 + 10.5 + 23.1) / (9 + 10.5 + 21):.3f}"]
    assert policy[1][4] == "not measured"
    assert rows(lines, "## Memory and start of the worker")[3][:3] == ["jobdoctor", "84.0 MB (+4.0)", "84.0 MB (+4.0)"]


def test_an_agent_that_is_not_installed_is_named() -> None:
    absent = replace(AGENTS[0], needs="no-such-distribution")
    assert versions(sys.executable, [PLAIN, absent]) == {"sentry": ""}
    notes = list(overhead._footnotes([PLAIN], {}, ["sentry"]))
    assert notes[-1].startswith("- **sentry**: not measured, sentry-sdk is not installed")


def test_each_arm_starts_its_own_worker_class() -> None:
    assert ARMS["plain"].arguments("simple")[-1] == "rq.SimpleWorker"
    assert ARMS["scout"].arguments("forked")[-3:] == [
        "benchmarks.agents.scout",
        "--worker-class",
        "benchmarks.agents.scout.Worker",
    ]
    assert ARMS["jobdoctor"].arguments("forked")[:3] == ["-m", "jobdoctor", "run"]
