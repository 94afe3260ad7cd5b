"""The gate of the pytest plugin: does it ever fail for noise, and does it catch what it should?

Under deliberate load (processes that take this core, the other one, or the memory's bandwidth), on unchanged code and
on changed code:

- counts and bytes: whole sessions of pytest with the plugin and a baseline; N tests unchanged, N with an N+1, N with
  a payload that is a tenth larger,
- time: jobs of 100 ms of CPU against their baseline, unchanged and 30% slower: four of five times one that works in
  Python, and then executes more lines of it; otherwise one that works within a few calls into C, whose lines tell
  nothing. The measuring goes on in two processes,
  one on each core, each with its own load in turns. Beside it, on the same runs: what the mean of the wall times, which
  is what pytest-benchmark's ``--benchmark-compare-fail=mean:15%`` compares, would have said,
- pytest-benchmark itself: whole sessions of it, beside the same loads,
- what the plugin costs a session that does not use it: the same session with it, without it, and without it once more,
  in turns.

``python benchmarks/gate.py [--quick] [--runs 200] [--part counts]``: about seventeen minutes on two cores
that do nothing else; each part by itself takes a few. On a busier machine it takes as much longer as that is busier.
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
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.machine import heading
from benchmarks.pairs import interval
from jobdoctor.gate import timing, work

LOADS = {
    "none": [],
    "this core": [("spin", "this")],
    "the other core": [("spin", "other")],
    "memory": [("memory", "other")],
    "all": [("spin", "this"), ("memory", "other")],
}
WHILE_WANTED = "import os\nstarter = os.getppid()\nwhile os.getppid() == starter:\n    "
CODE = {
    "spin": f"{WHILE_WANTED}sum(range(10_000))\n",
    "memory": f"a = bytearray(1 << 26)\nb = bytearray(1 << 26)\n{WHILE_WANTED}a[:] = b\n    b[:] = a\n",
}
PARTS = ("counts", "time", "pytest-benchmark", "start")
SLOWER = 1.3
MEAN_FAIL = 1.15
BENCHMARK_ROUNDS = 7

JOBS = """
import json
import os
import re
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


TEXT = " ".join(f"order {number}: {number * 7 % 101} x SKU-{number * 13 % 997:05}" for number in range(30_000))


def parse(times=1.0):
    found = re.findall(r"(\\d+) x (SKU-\\d+)", TEXT[: int(len(TEXT) / 1.3 * times)])
    return len(sorted(json.loads(json.dumps(found))))
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
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; can be given more than once")
    parser.add_argument("--measure", nargs=4, metavar=("CORE", "RUNS", "SLOW", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        core, runs, slow, folder = options.measure
        print(json.dumps(measured(int(core), int(runs), int(slow), Path(folder))))
        return
    runs = max(4, options.runs // 10) if options.quick else options.runs
    parts = options.part or PARTS
    began, loads, lines = time.monotonic(), [os.getloadavg()[0]], [*TABLE]
    with tempfile.TemporaryDirectory(prefix="jobdoctor-gate-") as name:
        folder = Path(name)
        (folder / "jobs.py").write_text(JOBS)
        (folder / "pytest.ini").write_text("[pytest]\n")
        notes: list[str] = []
        for part in PARTS:
            if part not in parts:
                continue
            started = time.monotonic()
            say(f"{part} ...")
            if part == "counts":
                lines += counts_rows(counts(folder, runs), runs)
            elif part == "time":
                times = both_cores(folder, runs, max(10, runs * 5 // 8))
                lines += time_rows(times)
                notes += ["", *time_notes(times)]
            elif part == "pytest-benchmark":
                lines += session_rows(benchmark_sessions(folder, max(2, runs // 14)))
            else:
                notes += ["", start_note(session_starts(folder, max(5, runs // 4)))]
            loads.append(os.getloadavg()[0])
            say(f"{part}: {time.monotonic() - started:.0f} s")
    only = "".join(f" --part {part}" for part in options.part or ())
    print(heading(f"python benchmarks/gate.py --runs {runs}{only}", loads))
    print("\n".join(["", *(lines if len(lines) > len(TABLE) else []), *notes, ""]))
    print(f"The whole took {(time.monotonic() - began) / 60:.1f} minutes.")


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
    in_order = ("-p", "no:randomly")
    pytest(folder, "test_counts.py", "--jobdoctor-update", *in_order)
    found = {}
    with loaded("all", 0):
        for name, variant, arguments in (
            ("unchanged", "", in_order),
            ("elsewhere", "", ("-n", "2", "--dist", "load")),
            ("n_plus_one", "n_plus_one", in_order),
            ("payload", "payload", in_order),
        ):
            said = pytest(folder, "test_counts.py", *arguments, VARIANT=variant)
            found[name] = number(said, "failed")
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
    """One entry for each comparison with the baseline of its job, which is written at the beginning and once more after
    half of the comparisons."""
    os.sched_setaffinity(0, {core})
    sys.path.insert(0, str(folder))
    jobs = __import__("jobs")
    walls: list[float] = []
    found: list[dict[str, Any]] = []
    kinds = list(LOADS)

    def timed(job: Callable[[float], int], times: float) -> Callable[[], tuple[float, float]]:
        def run() -> tuple[float, float]:
            wall, cpu = time.perf_counter(), time.thread_time()
            job(times)
            walls.append(1_000 * (time.perf_counter() - wall))
            spent = 1_000 * (time.thread_time() - cpu)
            return spent, spent

        return run

    def compare(job: Callable[[float], int], runs: int, slow: int) -> None:
        usual, slower = timed(job, 1.0), timed(job, SLOWER)
        usual()
        fit = timing.fit(timing.baseline_rounds(usual, "cpu", 1, timing.MARGIN), timing.MARGIN)
        lines = work.lines_of(usual)
        grown = {usual: work.lines_of(usual) / lines, slower: work.lines_of(slower) / lines}
        walls.clear()
        timing.measure(usual, "cpu", 1, BENCHMARK_ROUNDS)
        mean = statistics.fmean(walls)
        for turn in range(runs + slow):
            is_slow = (turn + 1) * slow // (runs + slow) > turn * slow // (runs + slow)
            kind = kinds[sum(each["slow"] is is_slow for each in found) % len(kinds)]
            run = slower if is_slow else usual
            first: list[float] = []
            walls.clear()

            def more(rounds: int, run: Callable[[], tuple[float, float]] = run) -> list[timing.Round]:
                rounds_ = timing.measure(run, "cpu", 1, rounds)
                first.extend(walls[:BENCHMARK_ROUNDS] if not first else ())  # noqa: B023
                return rounds_

            with loaded(kind, core):
                times, failed = timing.slower(fit, more, grown[run])
            found.append(
                {
                    "job": job.__name__,
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

    for half in (0, 1):
        for job, share_ in ((jobs.compute, 0.8), (jobs.parse, 0.2)):
            compare(job, *(part_of(number, share_, half) for number in (runs, slow)))
    return found


def part_of(number: int, share_: float, half: int) -> int:
    """A share of the runs, and of these one half or the other."""
    whole = max(2, round(share_ * number))
    return (whole + half) // 2


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


class Start(NamedTuple):
    """What a session cost, in ms. CPU is the kernel's account of the process, not in ticks of a clock."""

    cpu_ms: float
    wall_ms: float


def session_starts(folder: Path, rounds: int) -> dict[str, list[Start]]:
    """By arm, one entry a round, of sessions with one test that uses no plugin."""
    (folder / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    arms = {"without": [], "with": ["-p", "jobdoctor.pytest_plugin"], "without, again": []}
    found: dict[str, list[Start]] = {arm: [] for arm in arms}
    orders = list(permutations(arms))
    for turn in range(rounds + 1):
        for arm in orders[turn % len(orders)]:
            start = session_start(folder, arms[arm])
            if turn:  # the first one writes bytecode
                found[arm].append(start)
    return found


def session_start(folder: Path, arguments: Sequence[str]) -> Start:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "test_nothing.py"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # others' imports are most of the noise
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Start(1_000 * (usage.ru_utime + usage.ru_stime), 1_000 * wall)


# -------------------------------------------------------------------------------------------------------------- report

TABLE = ("| gate | code | runs under load | failed |", "|---|---|---|---|")


def counts_rows(failed: dict[str, int], runs: int) -> list[str]:
    rows = {
        "unchanged": "| counts, shapes, bytes | unchanged |",
        "elsewhere": "| the same, in random order, by pytest-xdist | unchanged |",
        "n_plus_one": "| counts | an N+1 of 6 queries |",
        "payload": "| payload | a tenth larger |",
    }
    return [f"{row} {runs} | {share(failed[name], runs)} |" for name, row in rows.items()]


def time_rows(times: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for name, key in (("time, 15%", "failed"), ("mean of wall times, 15%, same runs", "mean_failed")):
        for code, slow, jobs in (
            ("unchanged", False, ("compute", "parse")),
            ("30% slower, in Python", True, ("compute",)),
            ("30% slower, within calls into C", True, ("parse",)),
        ):
            of_code = [each for each in times if each["slow"] is slow and each["job"] in jobs]
            lines.append(f"| {name} | {code} | {len(of_code)} | {share(failures(of_code, key), len(of_code))} |")
    return lines


def session_rows(whole: dict[str, tuple[int, int]]) -> list[str]:
    name = "pytest-benchmark `mean:15%`, whole sessions"
    return [
        f"| {name} | {code} | {whole[key][1]} | {share(*whole[key])} |"
        for key, code in (("unchanged", "unchanged"), ("slow", "30% slower"))
    ]


def time_notes(times: Sequence[dict[str, Any]]) -> list[str]:
    unchanged = [each for each in times if not each["slow"]]
    slow = [each for each in times if each["slow"]]
    margins = sorted({each["margin"] for each in times})
    return [
        f"The job takes {statistics.median(each['ms'] for each in unchanged):.0f} ms. Against its baseline, unchanged "
        f"code came out {spread(unchanged)}, code that is 30% slower {spread(slow)}; the margin was "
        f"{margins[0]:.0%} to {margins[-1]:.0%}. By load, by time / by the mean of wall times:",
        "",
        "| load | unchanged, failed | 30% slower, caught |",
        "|---|---|---|",
        *by_load(unchanged, slow),
    ]


def spread(results: Sequence[dict[str, Any]]) -> str:
    ratios = sorted(each["times"] for each in results)
    return (
        f"{ratios[0]:.2f} to {ratios[-1]:.2f} times as slow (quartiles {quantile(ratios, 0.25):.2f} to "
        f"{quantile(ratios, 0.75):.2f})"
    )


def start_note(starts: dict[str, list[Start]]) -> str:
    plain, used, control = starts["without"], starts["with"], starts["without, again"]
    said = [
        f"{name}: {added([s[unit] for s in plain], [s[unit] for s in used])} "
        f"(control, without against without: {added([s[unit] for s in plain], [s[unit] for s in control])}; "
        f"a session without it takes {statistics.median(s[unit] for s in plain):.0f} ms)"
        for unit, name in enumerate(("CPU", "wall"))
    ]
    return f"A session of one test that does not use the plugin, {len(plain)} rounds. " + ". ".join(said) + "."


def added(plain: Sequence[float], other: Sequence[float]) -> str:
    """The median of the differences of pairs, and where it is with 95% confidence."""
    differences = [mine - theirs for mine, theirs in zip(other, plain, strict=True)]
    low, high = interval(differences, statistics.median)
    first, _, third = statistics.quantiles(differences, n=4)
    return (
        f"{statistics.median(differences):+.1f} ms, {low:+.1f} to {high:+.1f} with 95%, "
        f"quartiles {first:+.1f} to {third:+.1f}"
    )


def failures(results: Sequence[dict[str, Any]], key: str) -> int:
    return sum(bool(each[key]) for each in results)


def by_load(unchanged: Sequence[dict[str, Any]], slow: Sequence[dict[str, Any]]) -> list[str]:
    rows = []
    for kind in LOADS:
        cells = []
        for results in (unchanged, slow):
            of_kind = [each for each in results if each["load"] == kind]
            cells.append(f"{failures(of_kind, 'failed')} / {failures(of_kind, 'mean_failed')} of {len(of_kind)}")
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return rows


def share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.1%})" if whole else "-"


def quantile(ordered: Sequence[float], at: float) -> float:
    return ordered[min(len(ordered) - 1, int(at * len(ordered)))]


if __name__ == "__main__":
    main()
