"""What recording costs: plain RQ against jobdoctor, in pairs, with a second plain worker as the control.

Three workers run at once, each on a queue of its own. In each round each of them, in random order, is given one batch;
the time of a batch is from the first job's result to the last one's, so that it holds whole cycles of the worker: the
dequeue, the fork, the job, the reap and what jobdoctor does then. A ratio is that of two batches of one round; what is
reported is the median over the rounds, with a 95 % interval (bootstrap) and the quartiles. Where the control's interval
is wide or does not hold 1, the machine was too busy for the figures to be trusted: run it again. Take ratios; absolute
times are the machine's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import redis
from rq import Queue
from rq.job import Job
from rq.results import Result
from rq.version import VERSION as RQ_VERSION

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from sample_app import servers  # noqa: E402 -- runs as a script

PLAIN = ["-m", "rq.cli", "worker", "--quiet"]
RECORDING = ["-m", "jobdoctor", "run", "--quiet", "--no-collect"]
ARMS = {"plain": PLAIN, "control": PLAIN, "jobdoctor": RECORDING}
START_PATIENCE_S = 60.0
JOB_PATIENCE_MS = 60_000
RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=10, help="jobs in a batch")
    parser.add_argument("--starts", type=int, default=5, help="starts of each worker")
    parser.add_argument("--job", choices=["no-op", "mixed"], help="measure one of the jobs only")
    parser.add_argument("--output", type=Path, help="write the table there, too")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        redis_url = stack.enter_context(servers.started_valkey())
        server = stack.enter_context(servers.started_postgres())
        os.environ.update(
            SHOP_REDIS_URL=redis_url,
            SHOP_DATABASE_URL=stack.enter_context(servers.own_database(server, "jobdoctor_bench")),
            SHOP_UPSTREAM_URL=stack.enter_context(servers.started_upstream(latency_ms=0.0)),
        )
        from benchmarks import jobs
        from sample_app import cache, db, seed

        seed.seed(db.engine(), cache.cache())
        db.engine().dispose()
        connection = redis.Redis.from_url(redis_url)
        compiled = stack.enter_context(tempfile.TemporaryDirectory())
        loads = [os.getloadavg()[0]]
        rows = _start_rows(connection, redis_url, options.starts, compiled)
        workers = stack.enter_context(_running(connection, redis_url, list(ARMS), compiled))
        for name, job in (("no-op", jobs.no_op), ("mixed", jobs.mixed)):
            if options.job in (None, name):
                rows += _time_rows(f"{name} job, forked", _measure(connection, job, options.rounds, options.batch))
            loads.append(os.getloadavg()[0])
        rows += _memory_rows({arm: process.pid for arm, process in workers.items()})
    text = _table(rows, loads, options.rounds, options.batch)
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------- workers


@contextlib.contextmanager
def _running(
    connection: redis.Redis, redis_url: str, arms: Sequence[str], compiled: str
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Workers of these arms, each on the queue of its name, ready for work."""
    # Modules are compiled once, as they are where things are installed, whatever this environment says of it.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONPYCACHEPREFIX": compiled,
        "PYTHONDONTWRITEBYTECODE": "",
    }
    connection.delete("rq:workers")  # of those that were ended before they could take leave
    started = {
        arm: subprocess.Popen(
            [sys.executable, *ARMS[arm], "--url", redis_url, "-c", "sample_app.worker_settings", arm],
            env=environment,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        for arm in arms
    }
    try:
        deadline = time.monotonic() + START_PATIENCE_S
        while connection.scard("rq:workers") < len(arms):
            if time.monotonic() > deadline or any(worker.poll() is not None for worker in started.values()):
                raise SystemExit("the workers did not start")
            time.sleep(0.002)
        yield started
    finally:
        for worker in started.values():
            worker.terminate()
        for worker in started.values():
            worker.wait(15)


def _start_rows(connection: redis.Redis, redis_url: str, starts: int, compiled: str) -> list[str]:
    """How long a worker takes to be ready, in turns."""
    times: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(starts + 1):
        for arm in random.sample(list(ARMS), len(ARMS)):
            begun = time.perf_counter()
            with _running(connection, redis_url, [arm], compiled):
                if number:  # the first start compiles
                    times[arm].append((time.perf_counter() - begun) * 1_000)
    plain = statistics.median(times["plain"])
    rows = []
    for arm in ("control", "jobdoctor"):
        more = sorted(mine - other for mine, other in zip(times[arm], times["plain"], strict=True))
        rows.append(
            f"| start of the worker | {arm} | {plain:.0f} ms | {statistics.median(times[arm]):.0f} ms "
            f"| {statistics.median(more):+.0f} ms | {more[0]:+.0f} to {more[-1]:+.0f} ms (range) | |"
        )
    return rows


def _memory_rows(pids: dict[str, int]) -> list[str]:
    """Resident memory of the workers after their jobs."""
    page = os.sysconf("SC_PAGE_SIZE")
    resident = {arm: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page / 1e6 for arm, pid in pids.items()}
    return [
        f"| memory of the worker | {arm} | {resident['plain']:.1f} MB | {resident[arm]:.1f} MB "
        f"| {resident[arm] - resident['plain']:+.1f} MB | | |"
        for arm in ("control", "jobdoctor")
    ]


# --------------------------------------------------------------------------------------------------------------- times


def _measure(connection: redis.Redis, job: Callable[[], object], rounds: int, batch: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(rounds + 2):
        for arm in random.sample(list(ARMS), len(ARMS)):
            took = _batch_ms(Queue(arm, connection=connection), job, batch)
            if number >= 2:  # the first rounds warm up; the first job of each worker is profiled, too
                times[arm].append(took)
    return times


def _batch_ms(queue: Queue, job: Callable[[], object], batch: int) -> float:
    """Milliseconds for each job, over whole cycles: from the first result, of one job more, to the last."""
    jobs = [queue.enqueue(job) for _ in range(batch + 1)]
    return (_ended_ms(queue.connection, jobs[-1]) - _ended_ms(queue.connection, jobs[0])) / batch


def _ended_ms(connection: redis.Redis, job: Job) -> int:
    """When the job's result was written, by the server's clock, in milliseconds: it is in the entry's identifier."""
    key = Result.get_key(job.id)
    if not connection.xread({key: "0-0"}, block=JOB_PATIENCE_MS):
        raise SystemExit(f"{job.func_name} has no result")
    [(identifier, fields)] = connection.xrange(key)
    if int(fields[b"type"]) != Result.Type.SUCCESSFUL.value:
        raise SystemExit(f"{job.func_name} failed")
    return int(identifier.partition(b"-")[0])


def _time_rows(name: str, times: dict[str, list[float]]) -> list[str]:
    plain = statistics.median(times["plain"])
    rows = []
    for arm in ("control", "jobdoctor"):
        ratios = [mine / other for mine, other in zip(times[arm], times["plain"], strict=True)]
        low, high = _interval(ratios)
        quartiles = statistics.quantiles(ratios, n=4)
        rows.append(
            f"| {name} | {arm} | {plain:.1f} ms | {statistics.median(times[arm]):.1f} ms "
            f"| x{statistics.median(ratios):.2f} | x{low:.2f} to x{high:.2f} "
            f"| x{quartiles[0]:.2f} to x{quartiles[2]:.2f} |"
        )
    return rows


def _interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Where the median is with 95 % confidence."""
    chosen = random.Random(1)
    medians = sorted(statistics.median(chosen.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


def _table(rows: Sequence[str], loads: Sequence[float], rounds: int, batch: int) -> str:
    machine = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    measured = " / ".join(f"{load:.1f}" for load in loads)
    return "\n".join(
        [
            "# What recording costs",
            "",
            f"`python benchmarks/overhead.py`, {datetime.now(UTC):%Y-%m-%d}: {machine}, "
            f"RQ {RQ_VERSION}; {rounds} rounds of {batch} jobs for each worker, interleaved.",
            f"Load of the machine (1 minute): {measured} at the start and after each job, of which "
            "the benchmark itself is 1 to 2.",
            "Ratios are medians of those of single rounds. The control is plain RQ against plain RQ: how far its "
            "interval is from 1, and how wide it is, is the machine's noise.",
            "",
            "| what | worker | plain | measured | difference | 95 % interval | quartiles of single rounds |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
