"""How long a report takes over a large store, and how large it is.

An execution of each of two jobs is really recorded in this process (an N+1 of 400 queries; a job of two requests'
worth of sleep and a little CPU); the store is then filled with copies of them that differ in their times, ids, jobs,
queues and outcomes, through ``Store.add`` in batches as collectors do it, and pruned now and then as they do. What is
timed is the command itself, ``jobdoctor report JOB``, in a process of its own, start-up included; and its parts in
this process.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec.structs import replace

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import heading  # noqa: E402 -- runs as a script
from jobdoctor import record  # noqa: E402
from jobdoctor.diagnosis.engine import diagnose  # noqa: E402
from jobdoctor.model import Execution  # noqa: E402
from jobdoctor.report import html_report  # noqa: E402
from jobdoctor.report.context import build_context  # noqa: E402
from jobdoctor.store import Store  # noqa: E402

SECOND = 1_000_000_000
#: A collector that catches up takes many at once.
BATCH = 10_000
PRUNE_EVERY = 100_000
ROUNDS = 7
#: One job in ten executions is the one that is reported on; the others share them evenly.
OTHERS = 40
JOB = "app.orders.sync_orders"
QUEUES = ("default", "mail", "imports", "reports")
WORKERS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a store of 50,000 executions instead of 1,000,000")
    parser.add_argument("--executions", type=int, help="in the large store [default: 1,000,000]")
    parser.add_argument("--stores", type=Path, metavar="FOLDER", help="keep the stores there, and use those that are")
    parser.add_argument("--output", type=Path, help="write the table there, too")
    options = parser.parse_args()
    large = options.executions or (50_000 if options.quick else 1_000_000)
    text = report(large, options.stores)
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")


def report(large: int, stores: Path | None = None) -> str:
    """Fills and reads both stores; the tables in markdown."""
    loads = [os.getloadavg()[0]]
    lines = []
    for executions, days in ((1_000, 1), (large, 30)):
        with tempfile.TemporaryDirectory(prefix="jobdoctor-reading-") as folder:
            if stores is not None:
                stores.mkdir(parents=True, exist_ok=True)
            path = (stores or Path(folder)) / f"{executions}.db"
            adding = "kept" if path.exists() else _filled(path, executions, days)
            lines.append(f"| {executions:,} | {days} | {adding} | {_measured(path, Path(folder))} |")
        loads.append(os.getloadavg()[0])
    return "\n".join(
        [
            "# How long a report takes",
            "",
            heading("python benchmarks/reading.py", loads),
            f"Medians of {ROUNDS} reports of the busiest job, fastest and slowest in brackets. *Command* is the whole"
            " of `jobdoctor report JOB` in a process of its own; *history*, *diagnosis* and *page* are its parts.",
            "",
            "| executions | days | adding one | store | command | history | diagnosis | page | size of the page |",
            "|---|---|---|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


def _filled(path: Path, executions: int, days: int) -> str:
    partial = path.with_suffix(".part")
    with Store.open(f"sqlite:///{partial}") as store:
        began = time.perf_counter()
        for number, batch in enumerate(_batches(executions, days), start=1):
            store.add(batch)
            if number % (PRUNE_EVERY // BATCH) == 0:
                store.prune()
                print(f"{number * BATCH:,} executions added", file=sys.stderr)
        store.prune()
        adding = (time.perf_counter() - began) / executions
    with sqlite3.connect(partial) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    partial.rename(path)
    return f"{adding * 1e6:.0f} us"


def _measured(path: Path, folder: Path) -> str:
    url = f"sqlite:///{path}"
    with Store.open(url) as store:
        history = _median(lambda: store.history(JOB))
        found = store.history(JOB)
        diagnosis = _median(lambda: diagnose(found))
        diagnosed = diagnose(found)
        page = _median(lambda: html_report.render(build_context(diagnosed)))
        size = len(html_report.render(build_context(diagnosed)).encode())
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("JOBDOCTOR_", "PYTHONDONT"))},
        # Nothing answers there: the report says that the stream was not collected, and goes on.
        "RQ_REDIS_URL": "redis://127.0.0.1:1/0",
    }
    command = [sys.executable, "-m", "jobdoctor", "report", JOB, "--store", url, "-o", str(folder / "r.html"), "-q"]
    whole = _median(lambda: subprocess.run(command, check=True, cwd=folder, env=environment))
    stored = path.stat().st_size / 1e6
    return f"{stored:.0f} MB | **{whole}** | {history} | {diagnosis} | {page} | {size / 1e3:.0f} kB"


def _median(work: Callable[[], object]) -> str:
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return f"{statistics.median(taken):.2f} s ({min(taken):.2f} to {max(taken):.2f})"


def _batches(executions: int, days: int) -> Iterator[list[Execution]]:
    """Copies of what was recorded, spread over the days up to now, oldest first."""
    chosen = random.Random(7)
    sick, healthy = _recorded(_n_plus_one), _recorded(_short_work)
    step = days * 86_400 * SECOND // executions
    first = time.time_ns() - executions * step
    batch: list[Execution] = []
    for number in range(executions):
        reported = number % 10 == 0
        job = JOB if reported else f"app.jobs.job_{chosen.randrange(OTHERS)}"
        batch.append(_copy(sick if reported else healthy, job, number, first + number * step, chosen))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _copy(recorded: Execution, job: str, number: int, enqueued_ns: int, chosen: random.Random) -> Execution:
    wait = int(chosen.expovariate(1 / 0.05) * SECOND)
    run = int(recorded.run_ns * chosen.lognormvariate(0, 0.3))
    worker = chosen.randrange(WORKERS)
    return replace(
        recorded,
        id=f"{number:08}:1",
        job_id=f"{number:08}",
        job=job,
        queue=QUEUES[worker % len(QUEUES)],
        worker=f"host:{worker}",
        worker_kind="fork",
        worker_queues=[QUEUES[worker % len(QUEUES)], "default"],
        outcome="failed" if chosen.random() < 0.01 else "finished",
        created_at_ns=enqueued_ns,
        enqueued_at_ns=enqueued_ns,
        dequeued_at_ns=enqueued_ns + wait,
        reaped_at_ns=enqueued_ns + wait + run,
    )


def _recorded(work: Callable[[], None]) -> Execution:
    with record(work.__name__, profile=True) as recorded:
        work()
    assert recorded.execution is not None
    return recorded.execution


def _n_plus_one() -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE item (id INTEGER, amount REAL)")
        connection.executemany("INSERT INTO item VALUES (?, ?)", [(number, number / 3) for number in range(400)])
        for number in range(400):
            connection.execute("SELECT amount FROM item WHERE id = ?", (number,)).fetchone()


def _short_work() -> None:
    time.sleep(0.002)
    sum(number * number for number in range(20_000))


if __name__ == "__main__":
    main()
