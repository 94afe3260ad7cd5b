"""The gate of the pytest plugin: does it ever fail for noise, and does it catch what it should?

Under deliberate load (processes that take this core, the other one, or the memory's bandwidth), on unchanged code and
on changed code:

- counts and bytes: whole sessions of pytest with the plugin and a baseline; N tests unchanged, N with an N+1, N with
  a payload that is a tenth larger,
- time: a job of 100 ms of CPU against its baseline, unchanged and 30% slower. The measuring goes on in two processes,
  one on each core, each with its own load in turns. Beside it, on the same runs: what the mean of the wall times, which
  is what pytest-benchmark's ``--benchmark-compare-fail=mean:15%`` compares, would have said,
- pytest-benchmark itself: whole sessions of it, beside the same loads,
- what the plugin costs a session that does not use it.

``python benchmarks/gate.py [--quick] [--runs 200]``: about seven minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.machine import heading
from jobdoctor.gate import timing

LOADS = {
    "none": [],
    "this core": [("spin", "this")],
    "the other core": [("spin", "other")],
    "memory": [("memory", "other")],
    "all": [("spin", "this"), ("memory", "other")],
}
CODE = {
    "spin": "while True:\n    sum(range(10_000))\n",
    "memory": "a = bytearray(1 << 26)\nb = bytearray(1 << 26)\nwhile True:\n    a[:] = b\n    b[:] = a\n",
}
SLOWER = 1.3
MEAN_FAIL = 1.15
BENCHMARK_ROUNDS = 7

JOBS = """
import os
import sqlite3

VARIANT = os.environ.get("VARIANT", "")
ROWS = [{"sku": f"SKU-{number:05}", "cents": number * 7 % 9_973} for number in range(60)]


def price_orders(database, ids):
    with sqlite3.connect(database) as connection:
        if VARIANT == "n_plus_one":
            return [connection.execute("SELECT price FROM orders WHERE id = ?", [one]).fetchone()[0] for one in ids]
        marks = ", ".join("?" * len(ids))
        return [price for price, in connection.execute(f"SELECT price FROM orders WHERE id IN ({marks})", ids)]


def take_list(rows):
    return len(rows)


def compute(times=1.0):
    found = {}
    for number in range(int(105_000 * times)):
        row = {"sku": f"SKU-{number % 997:05}", "cents": number * 7 % 9_973}
        found[row["sku"]] = found.get(row["sku"], 0) + row["cents"]
    return sum(sorted(found.values()))
"""
TESTS = """
import sqlite3
import pytest
import jobs


@pytest.mark.parametrize("number", range({runs}))
def test_gate(jobdoctor, tmp_path, number):
    database = str(tmp_path / "shop.db")
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, price INTEGER)")
        connection.executemany("INSERT INTO orders VALUES (?, ?)", [(one, one * 3) for one in range(1, 7)])
    jobdoctor.run(jobs.price_orders, database, [1, 2, 3, 4, 5, 6])
    rows = jobs.ROWS + (jobs.ROWS[:6] if jobs.VARIANT == "payload" else [])
    jobdoctor.run(jobs.take_list, [dict(row) for row in rows])
"""
BENCHMARK_TESTS = """
import os
import jobs


def test_compute(benchmark):
    benchmark.pedantic(jobs.compute, args=(float(os.environ.get("TIMES", "1")),), rounds={rounds}, warmup_rounds=1)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="on unchanged code")
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    parser.add_argument("--measure", nargs=4, metavar=("CORE", "RUNS", "SLOW", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        core, runs, slow, folder = options.measure
        print(json.dumps(measured(int(core), int(runs), int(slow), Path(folder))))
        return
    runs = max(4, options.runs // 10) if options.quick else options.runs
    began, loads = time.monotonic(), [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="jobdoctor-gate-") as name:
        folder = Path(name)
        (folder / "jobs.py").write_text(JOBS)
        (folder / "pytest.ini").write_text("[pytest]\n")
        say("counts and bytes ...")
        exact = counts(folder, runs)
        say("time ...")
        times = both_cores(folder, runs, max(4, runs * 3 // 10))
        loads.append(os.getloadavg()[0])
        say("pytest-benchmark ...")
        whole = benchmark_sessions(folder, max(2, runs // 14))
        say("sessions that do not use it ...")
        unused = session_starts(folder, max(5, runs // 10))
    loads.append(os.getloadavg()[0])
    print(heading(f"python benchmarks/gate.py --runs {runs}", loads))
    print(report(exact, times, whole, unused, runs, time.monotonic() - began))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------------------------- loads


@contextmanager
def loaded(kind: str, core: int) -> Iterator[None]:
    """Processes that disturb whoever runs on ``core``."""
    cores = sorted(os.sched_getaffinity(0)) if core < 0 else list(range(os.cpu_count() or 1))
    other = cores[(cores.index(core) + 1) % len(cores)] if core in cores else cores[-1]
    processes = []
    try:
        for what, where in LOADS[kind]:
            process = subprocess.Popen([sys.executable, "-c", CODE[what]])
            processes.append(process)
            os.sched_setaffinity(process.pid, {max(core, 0) if where == "this" else other})
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


# -------------------------------------------------------------------------------------------------------------- counts


def counts(folder: Path, runs: int) -> dict[str, int]:
    """Failed tests by variant, of ``runs`` each."""
    (folder / "test_counts.py").write_text(TESTS.replace("{runs}", str(runs)))
    pytest(folder, "test_counts.py", "--jobdoctor-update")
    found = {}
    with loaded("all", 0):
        for variant in ("", "n_plus_one", "payload"):
            said = pytest(folder, "test_counts.py", VARIANT=variant)
            found[variant or "unchanged"] = number(said, "failed")
            if number(said, "failed") + number(said, "passed") != runs:
                raise SystemExit(f"the session did not run {runs} tests:\n{said[-2000:]}")
    return found


def pytest(folder: Path, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", *arguments]
    ran = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    return ran.stdout + ran.stderr


def number(said: str, word: str) -> int:
    found = re.findall(rf"(\d+) {word}", said)
    return int(found[-1]) if found else 0


# ---------------------------------------------------------------------------------------------------------------- time


def both_cores(folder: Path, runs: int, slow: int) -> list[dict[str, Any]]:
    """The results of a measuring process on each core, each with half of the runs."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                __file__,
                "--measure",
                str(core),
                str(runs // len(cores)),
                str(slow // len(cores)),
                folder,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for core in cores
    ]
    found: list[dict[str, Any]] = []
    for process in processes:
        found += json.loads(process.communicate()[0])
    return found


def measured(core: int, runs: int, slow: int, folder: Path) -> list[dict[str, Any]]:
    """One entry for each comparison with the baseline that was written at the beginning."""
    os.sched_setaffinity(0, {core})
    sys.path.insert(0, str(folder))
    jobs = __import__("jobs")
    walls: list[float] = []

    def timed(times: float) -> Callable[[], tuple[float, float]]:
        def run() -> tuple[float, float]:
            wall, cpu = time.perf_counter(), time.thread_time()
            jobs.compute(times)
            walls.append(1_000 * (time.perf_counter() - wall))
            spent = 1_000 * (time.thread_time() - cpu)
            return spent, spent

        return run

    usual, slower = timed(1.0), timed(SLOWER)
    usual()
    fit = timing.fit(timing.baseline_rounds(usual, "cpu", 1, timing.MARGIN), timing.MARGIN)
    walls.clear()
    timing.measure(usual, "cpu", 1, BENCHMARK_ROUNDS)
    mean = statistics.fmean(walls)
    found = []
    kinds = list(LOADS)
    for turn in range(runs + slow):
        is_slow = (turn + 1) * slow // (runs + slow) > turn * slow // (runs + slow)
        kind = kinds[turn % len(kinds)]
        with loaded(kind, core):
            walls.clear()
            run = slower if is_slow else usual
            first: list[float] = []

            def more(rounds: int, run: Callable[[], tuple[float, float]] = run) -> list[timing.Round]:
                rounds_ = timing.measure(run, "cpu", 1, rounds)
                first.extend(walls[:BENCHMARK_ROUNDS] if not first else ())  # noqa: B023
                return rounds_

            times, failed = timing.slower(fit, more)
        found.append(
            {
                "slow": is_slow,
                "load": kind,
                "times": times,
                "failed": failed,
                "mean_failed": statistics.fmean(first) > MEAN_FAIL * mean,
                "margin": fit.margin,
                "ms": statistics.median(first),
            }
        )
        gc.collect()
    return found


# ---------------------------------------------------------------------------------------------------- pytest-benchmark


def benchmark_sessions(folder: Path, sessions: int) -> dict[str, tuple[int, int]]:
    """(failed, sessions) of pytest-benchmark with ``mean:15%``: on unchanged code, and on code that is 30% slower."""
    (folder / "test_benchmark.py").write_text(BENCHMARK_TESTS.replace("{rounds}", str(BENCHMARK_ROUNDS)))
    pytest(folder, "test_benchmark.py", "--benchmark-save=base")
    kinds = list(LOADS)
    failed = {"1": 0, str(SLOWER): 0}
    made = {"1": 0, str(SLOWER): 0}
    for turn in range(2 * sessions):
        times = ("1", str(SLOWER))[turn % 2]
        with loaded(kinds[turn // 2 % len(kinds)], 0):
            said = pytest(
                folder,
                "test_benchmark.py",
                "--benchmark-compare=0001",
                "--benchmark-compare-fail=mean:15%",
                TIMES=times,
            )
        made[times] += 1
        failed[times] += "Performance has regressed" in said
    return {"unchanged": (failed["1"], made["1"]), "slow": (failed[str(SLOWER)], made[str(SLOWER)])}


# -------------------------------------------------------------------------------------------------------------- unused


def session_starts(folder: Path, pairs: int) -> list[float]:
    """CPU ms that the plugin adds to a session of one test that does not use it: differences of pairs."""
    (folder / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    differences = []
    pytest(folder, "test_nothing.py")
    for turn in range(pairs):
        spent = {}
        for without in (True, False) if turn % 2 else (False, True):
            before = os.times()
            pytest(folder, "test_nothing.py", *(["-p", "no:jobdoctor"] if without else []))
            after = os.times()
            spent[without] = 1_000 * (
                after.children_user + after.children_system - before.children_user - before.children_system
            )
        differences.append(spent[False] - spent[True])
    return differences


# -------------------------------------------------------------------------------------------------------------- report


def report(
    exact: dict[str, int],
    times: Sequence[dict[str, Any]],
    whole: dict[str, tuple[int, int]],
    unused: Sequence[float],
    runs: int,
    seconds: float,
) -> str:
    unchanged = [each for each in times if not each["slow"]]
    slow = [each for each in times if each["slow"]]
    first, _, third = statistics.quantiles(unused, n=4)
    ratios = sorted(each["times"] for each in unchanged)
    lines = [
        "",
        "| gate | code | runs under load | failed |",
        "|---|---|---|---|",
        f"| counts, shapes, bytes | unchanged | {runs} | {share(exact['unchanged'], runs)} |",
        f"| counts | an N+1 of 6 queries | {runs} | {share(exact['n_plus_one'], runs)} |",
        f"| payload | a tenth larger | {runs} | {share(exact['payload'], runs)} |",
        f"| time, 15% | unchanged | {len(unchanged)} | {share(failures(unchanged, 'failed'), len(unchanged))} |",
        f"| time, 15% | 30% slower | {len(slow)} | {share(failures(slow, 'failed'), len(slow))} |",
        f"| mean of wall times, 15%, same runs | unchanged | {len(unchanged)} "
        f"| {share(failures(unchanged, 'mean_failed'), len(unchanged))} |",
        f"| mean of wall times, 15%, same runs | 30% slower | {len(slow)} "
        f"| {share(failures(slow, 'mean_failed'), len(slow))} |",
        f"| pytest-benchmark `mean:15%`, whole sessions | unchanged | {whole['unchanged'][1]} "
        f"| {share(*whole['unchanged'])} |",
        f"| pytest-benchmark `mean:15%`, whole sessions | 30% slower | {whole['slow'][1]} | {share(*whole['slow'])} |",
        "",
        f"The job takes {statistics.median(each['ms'] for each in unchanged):.0f} ms. Unchanged code came out "
        f"{ratios[0]:.2f} to {ratios[-1]:.2f} times as slow as its baseline (quartiles "
        f"{quantile(ratios, 0.25):.2f} to {quantile(ratios, 0.75):.2f}); the margin was "
        f"{min(each['margin'] for each in times):.0%} to {max(each['margin'] for each in times):.0%}. By load, failed "
        "of unchanged by time / by the mean of wall times:",
        "",
        *by_load(unchanged),
        "",
        f"A session that does not use the plugin: {statistics.median(unused):+.1f} ms of CPU (quartiles {first:+.1f} "
        f"to {third:+.1f}, {len(unused)} pairs). The whole took {seconds / 60:.1f} minutes.",
    ]
    return "\n".join(lines)


def failures(results: Sequence[dict[str, Any]], key: str) -> int:
    return sum(bool(each[key]) for each in results)


def by_load(results: Sequence[dict[str, Any]]) -> list[str]:
    rows = []
    for kind in LOADS:
        of_kind = [each for each in results if each["load"] == kind]
        if of_kind:
            mine, theirs = failures(of_kind, "failed"), failures(of_kind, "mean_failed")
            rows.append(f"- {kind}: {mine} / {theirs} of {len(of_kind)}")
    return rows


def share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.1%})" if whole else "-"


def quantile(ordered: Sequence[float], at: float) -> float:
    return ordered[min(len(ordered) - 1, int(at * len(ordered)))]


if __name__ == "__main__":
    main()
