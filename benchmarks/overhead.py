"""What recording costs: plain RQ against jobdoctor, in pairs, interleaved, with plain against plain as the control.

Three workers run at once, each on a queue of its own; one batch of jobs is given to one of them at a time, in turns.
Times are wall time for each job, enqueue to result, in batches; the figures are ratios of medians over the rounds,
with the range of the ratios of single rounds. Take ratios: absolute times are the machine's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from rq import Queue
from rq.job import JobStatus

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from sample_app import servers  # noqa: E402 -- runs as a script

ARMS = {
    "plain": ["-m", "rq.cli", "worker", "--quiet"],
    "control": ["-m", "rq.cli", "worker", "--quiet"],
    "jobdoctor": ["-m", "jobdoctor", "run", "--quiet", "--no-collect"],
}
START_PATIENCE_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=20, help="jobs in a batch")
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
        stack.enter_context(_workers(connection, redis_url))
        print(f"{options.rounds} rounds of {options.batch} jobs, interleaved; ms for each job\n")
        print(f"{'job':<8} {'arm':<10} {'median':>8} {'ratio':>7}   range of single rounds")
        for job in (jobs.no_op, jobs.mixed):
            times = _measure(connection, job, options.rounds, options.batch)
            for arm in ARMS:
                ratios = sorted(mine / plain for mine, plain in zip(times[arm], times["plain"], strict=True))
                ratio = statistics.median(times[arm]) / statistics.median(times["plain"])
                spread = "" if arm == "plain" else f"   x{ratios[0]:.2f} to x{ratios[-1]:.2f}"
                print(f"{job.__name__:<8} {arm:<10} {statistics.median(times[arm]):8.1f} {f'x{ratio:.2f}':>7}{spread}")


@contextlib.contextmanager
def _workers(connection: redis.Redis, redis_url: str) -> Iterator[None]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, *command, "--url", redis_url, "-c", "sample_app.worker_settings", arm],
            env=environment,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        for arm, command in ARMS.items()
    ]
    try:
        deadline = time.monotonic() + START_PATIENCE_S
        while connection.scard("rq:workers") < len(ARMS):
            if time.monotonic() > deadline or any(worker.poll() is not None for worker in started):
                raise SystemExit("the workers did not start")
            time.sleep(0.05)
        yield
    finally:
        for worker in started:
            worker.terminate()
        for worker in started:
            worker.wait(15)


def _measure(connection: redis.Redis, job: object, rounds: int, batch: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(rounds + 1):
        arms = list(ARMS)
        random.shuffle(arms)
        for arm in arms:
            took = _batch_ms(Queue(arm, connection=connection), job, batch)
            if number:  # the first round warms up
                times[arm].append(took)
    return times


def _batch_ms(queue: Queue, job: object, batch: int) -> float:
    begun = time.perf_counter()
    last = [queue.enqueue(job) for _ in range(batch)][-1]  # one worker: the last one ends last
    while last.get_status(refresh=True) != JobStatus.FINISHED:
        if last.is_failed:
            raise SystemExit(f"{last.func_name} failed")
        time.sleep(0.002)
    return (time.perf_counter() - begun) * 1_000 / batch


if __name__ == "__main__":
    main()
