"""What recording adds to one call: to a query, a Redis command, an HTTP request, a lock, an open.

Batches of one kind of call run with recording and without (the probes taken away, as in a process that has none), in
one thread and in alternating order; what is compared is a batch with the one beside it. The recorder is that of a
worker, emptied before each batch. Each kind of recorder, the accelerator and the one in Python, has a process of its
own, and they take turns. Servers are real and on this machine, so that what stands under "plain" is a quick call: of a
slower one the same microseconds are less.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import heading  # noqa: E402 -- runs as a script
from benchmarks.pairs import interval  # noqa: E402
from benchmarks.surroundings import started_shop  # noqa: E402

#: Batches of each kind, in as many turns as there are processes for each recorder.
PAIRS, QUICK_PAIRS = 100, 16
TURNS = 2
WARM_UP = 3
#: Any value but "" and "0" makes jobdoctor do without its accelerator.
PURE = "JOBDOCTOR_PURE"
RECORDERS = {"accelerator": "", "Python": "1"}

Times = tuple[float, float]  # wall and CPU of one call, us
#: By kind and recorder: a call without recording and one with it, batch by batch.
Batches = dict[str, dict[str, list[tuple[Times, Times]]]]


def main() -> None:
    """Prints the report, or, in a process of its own, the batches of one recorder as JSON."""
    options = parser().parse_args()
    pairs = options.pairs or (QUICK_PAIRS if options.quick else PAIRS)
    if options.measure:
        print(json.dumps({"accelerated": _accelerated(), "batches": _measure(pairs, options.kinds)}))
        return
    print(report(pairs, options.kinds))


def parser() -> argparse.ArgumentParser:
    """What the script takes."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--quick", action="store_true", help="few batches: to see that it works, and the rough figures")
    found.add_argument("--pairs", type=int, help=f"batches of each kind with and without recording [default: {PAIRS}]")
    found.add_argument("--kinds", help="separated by semicolons, of the names in the table's first column")
    found.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    return found


# ------------------------------------------------------------------------------------------------------------- batches


def _accelerated() -> bool:
    from jobdoctor.capture import recorder

    return bool(getattr(recorder, "ACCELERATED", False))


@contextlib.contextmanager
def _kinds() -> Iterator[dict[str, tuple[Callable[[int], object], int]]]:
    """What is measured, and how many calls make a batch. The probes are in place, as in a worker."""
    import httpx
    import psycopg
    from sqlalchemy import select, text

    from sample_app import cache, clients, db
    from sample_app.models import Product

    engine, client = db.engine(), cache.cache()
    statement = text("SELECT price_cents FROM products WHERE id = :id")
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(db.new_session())
        core = stack.enter_context(engine.connect())
        driver = stack.enter_context(psycopg.connect(os.environ["SHOP_DATABASE_URL"])).cursor()
        lite = stack.enter_context(contextlib.closing(sqlite3.connect(":memory:")))
        lite.execute("CREATE TABLE products (id INTEGER PRIMARY KEY, price INTEGER)")
        lite.executemany("INSERT INTO products VALUES (?, ?)", ((number, number) for number in range(1, 101)))
        lite.commit()
        web = stack.enter_context(httpx.Client(trust_env=False))
        file = stack.enter_context(tempfile.NamedTemporaryFile()).name
        lock = threading.Lock()

        def orm(calls: int) -> None:
            for number in range(1, calls + 1):
                session.scalars(select(Product.price_cents).where(Product.id == number)).one()

        def core_query(calls: int) -> None:
            for number in range(1, calls + 1):
                core.execute(statement, {"id": number}).scalar_one()

        def psycopg_query(calls: int) -> None:
            for number in range(1, calls + 1):
                driver.execute("SELECT price_cents FROM products WHERE id = %s", (number,)).fetchone()

        def sqlite_query(calls: int) -> None:
            for number in range(1, calls + 1):
                lite.execute("SELECT price FROM products WHERE id = ?", (number,)).fetchone()

        def redis_command(calls: int) -> None:
            for number in range(calls):
                client.set(f"bench:{number}", number)

        def redis_pipeline(calls: int) -> None:
            for _ in range(calls):
                pipeline = client.pipeline(transaction=False)
                for number in range(10):
                    pipeline.set(f"bench:{number}", number)
                pipeline.execute()

        def requests_get(calls: int) -> None:
            for number in range(calls):
                clients.stock_of(f"SKU-{number:05}")

        def httpx_get(calls: int) -> None:
            for number in range(calls):
                web.get(f"{clients.upstream_url()}/stock/SKU-{number:05}").raise_for_status()

        def acquire(calls: int) -> None:
            for _ in range(calls):
                with lock:
                    pass

        def open_file(calls: int) -> None:
            for _ in range(calls):
                with open(file):
                    pass

        yield {
            "SQLAlchemy ORM": (orm, 30),
            "SQLAlchemy Core": (core_query, 30),
            "psycopg": (psycopg_query, 30),
            "sqlite3": (sqlite_query, 100),
            "Redis command": (redis_command, 30),
            "Redis pipeline of 10": (redis_pipeline, 10),
            "HTTP, requests": (requests_get, 10),
            "HTTP, httpx": (httpx_get, 10),
            "uncontended lock": (acquire, 500),
            "file open": (open_file, 100),
        }


def _measure(pairs: int, chosen: str | None) -> dict[str, list[tuple[Times, Times]]]:
    """For each kind, batch by batch, one call without recording and one with it."""
    from jobdoctor.capture import probes, recorder

    probes.install_all()
    rec = recorder.Recorder(recorder.open_memory().buffer)

    def batch(run: Callable[[int], object], calls: int, recording: bool) -> Times:
        if recording:
            rec.reset()
            recorder.start(rec)
            rec.mark("body")
        else:
            probes.uninstall_all()
        gc.disable()
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        run(calls)
        cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
        gc.enable()
        if recording:
            rec.mark("end")
            recorder.stop()
        else:
            probes.install_all()
        return wall / calls / 1000, cpu / calls / 1000

    measured: dict[str, list[tuple[Times, Times]]] = {}
    with _kinds() as kinds:
        for name, (run, calls) in kinds.items():
            if chosen and name not in chosen.split(";"):
                continue
            if name == "uncontended lock":  # the lock was made with the probes in place: its plain one is the real one
                measured[name] = _lock_pairs(batch, pairs, calls, run)
                continue
            for _ in range(WARM_UP):
                batch(run, calls, False)
                batch(run, calls, True)
            found = measured[name] = []
            for number in range(pairs):
                first = batch(run, calls, bool(number % 2))
                second = batch(run, calls, not number % 2)
                found.append((second, first) if number % 2 else (first, second))
    return measured


def _lock_pairs(
    batch: Callable[[Callable[[int], object], int, bool], Times],
    pairs: int,
    calls: int,
    run: Callable[[int], object],
) -> list[tuple[Times, Times]]:
    import _thread

    real = _thread.allocate_lock()

    def acquire(calls: int) -> None:
        for _ in range(calls):
            with real:
                pass

    batch(run, calls, True)
    return [(batch(acquire, calls, False), batch(run, calls, True)) for _ in range(pairs)]


# -------------------------------------------------------------------------------------------------------------- report


def report(pairs: int, chosen: str | None) -> str:
    """Measures on servers of its own; the table in markdown."""
    batches: Batches = {}
    missing: set[str] = set()
    loads = [os.getloadavg()[0]]
    with started_shop(latency_ms=0.0):
        for turn in range(TURNS):
            for recorder, pure in RECORDERS.items():
                print(f"turn {turn + 1} of {TURNS}: recorder {recorder}", file=sys.stderr)
                accelerated, found = _in_a_process(pure, max(1, pairs // TURNS), chosen)
                if accelerated is not (recorder == "accelerator"):
                    missing.add(recorder)
                    continue
                for kind, measured in found.items():
                    batches.setdefault(kind, {}).setdefault(recorder, []).extend(measured)
            loads.append(os.getloadavg()[0])
    return "\n".join(
        [
            "# What recording adds to a call",
            "",
            heading("python benchmarks/calls.py", loads),
            f"{pairs} pairs of batches of each kind, with and without recording, one thread.",
            "",
            *_table(batches),
            "",
            "Plain: one call of the batch without recording, wall time and CPU of the thread. Added: the median of the "
            "pairs' differences, with its 95 % interval (bootstrap), and the quartiles of single pairs. Scale: "
            "what a call takes with recording, over what it takes without.",
            *[f"Not measured here: the recorder {name}." for name in sorted(missing)],
        ]
    )


def _in_a_process(pure: str, pairs: int, chosen: str | None) -> tuple[bool, dict[str, list[tuple[Times, Times]]]]:
    """Whether the recorder there was the accelerator, and the batches of each kind."""
    command = [sys.executable, str(Path(__file__)), "--measure", "--pairs", str(pairs)]
    if chosen:
        command += ["--kinds", chosen]
    done = subprocess.run(command, env={**os.environ, PURE: pure}, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    found = json.loads(done.stdout)
    return found["accelerated"], found["batches"]


def _table(batches: Batches) -> Iterator[str]:
    yield "| call | recorder | plain, wall / CPU | added wall, us | 95 % | quartiles | added CPU, us | 95 % | scale |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for kind, recorders in batches.items():
        for recorder, measured in recorders.items():
            yield _row(kind, recorder, measured)


def _row(kind: str, recorder: str, measured: list[tuple[Times, Times]]) -> str:
    columns = []
    for clock in (0, 1):
        added = [recorded[clock] - plain[clock] for plain, recorded in measured]
        low, high = interval(added, statistics.median)
        first, _, third = statistics.quantiles(added, n=4)
        columns.append((statistics.median(added), low, high, first, third))
    wall, cpu = columns
    plain_wall, plain_cpu = (statistics.median(plain[clock] for plain, _ in measured) for clock in (0, 1))
    scale = statistics.median(recorded[0] / plain[0] for plain, recorded in measured)
    return (
        f"| {kind} | {recorder} | {_us(plain_wall)} / {_us(plain_cpu)} us "
        f"| **{wall[0]:+.1f}** | {wall[1]:+.1f} to {wall[2]:+.1f} | {wall[3]:+.1f} to {wall[4]:+.1f} "
        f"| **{cpu[0]:+.1f}** | {cpu[1]:+.1f} to {cpu[2]:+.1f} | x{scale:.2f} |"
    )


def _us(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


if __name__ == "__main__":
    main()
