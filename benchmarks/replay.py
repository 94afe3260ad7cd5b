"""The replay of the queues: how fast it is, whether it agrees with the formulas, and whether its predictions come true.

Predictions are held against real RQ workers on servers of their own. For each change, recording workers run the load as
it is, and beside them, at the same time, others run the changed load: the changed traffic is really enqueued for really
changed workers. The waits under the change are predicted from the first recording alone, and the 95th percentiles of
the waits are compared with the second, of all jobs and of each kind. A prediction counts as right when that of all jobs
together is within 10%.

The jobs sleep for a given time (``naps.py``), and the loads are made faster than life:

- *generated*: Poisson arrivals of three kinds on two queues, simple workers;
- *bursty*: a stretch of an hour of requests to a language model, their sizes as service times, forking workers;
- *images*: the busiest stretch of 23 days of image generation, simple workers.

The last two are recorded traces that lie beside the repository (``--data``); without them only the first is run. Under
``--rate`` what is really enqueued are the very copies that the replay assumes: it is the queueing that is tested, and
not whether twice as many jobs come so.

``python benchmarks/replay.py`` takes about 7 minutes on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import redis
from rq import Queue

from benchmarks.machine import heading
from jobdoctor.config import Retention
from jobdoctor.model import TraceRow
from jobdoctor.queueing.bootstrap import quantile
from jobdoctor.queueing.capacity import mean_wait_s
from jobdoctor.queueing.changes import Change, Move, Rate, Reserve, Speedup, Split, Workers, apply
from jobdoctor.queueing.replay import replay
from jobdoctor.queueing.traffic import Pool, Traffic, steady
from jobdoctor.queueing.whatif import Baseline, baseline, predict
from jobdoctor.store import Store, drain
from sample_app import servers

ROOT = Path(__file__).parent.parent
SHORT, MIDDLING, LONG = (f"benchmarks.naps.{name}" for name in ("short", "middling", "long"))
#: Arrivals of a load are spread over so many seconds.
SPAN_S = 20.0
WITHIN = 0.10


class Load(NamedTuple):
    name: str
    traffic: Traffic
    pools: list[Pool]
    worker_class: str
    changes: list[tuple[Change, ...]]


class Kind(NamedTuple):
    """The p95 of the waits of one kind of job, in s; of all: ``job`` empty."""

    job: str
    before: float  # as recorded
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        return (self.predicted - self.measured) / self.measured if self.measured else 0.0


class Compared(NamedTuple):
    load: str
    changes: tuple[Change, ...]
    all: Kind
    kinds: list[Kind]
    added_ms: tuple[float, float]  # what a worker was busy beyond the nap, for each job, in either run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two changes, and a tenth of the jobs: a minute")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the recorded traces")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers and workers end, too
    load = [os.getloadavg()[0]]
    count = 100_000 if options.quick else 1_000_000
    parts = [speed(count), formulas(count, 1 if options.quick else 3)]
    loads = [generated()]
    if options.quick:
        loads = [loads[0]._replace(changes=loads[0].changes[:2])]
    elif (options.data / "genai_jobs.csv").exists():
        loads += [bursty(options.data / "bursty_arrivals.csv"), images(options.data / "genai_jobs.csv")]
    else:
        say(f"no recorded traces in {options.data}")
    with servers.started_valkey() as first, servers.started_valkey() as second:
        parts.append(predictions([each for one in loads for each in compared(one, [first, second])], loads))
    head = heading("python benchmarks/replay.py", [*load, os.getloadavg()[0]])
    print("\n\n".join([f"# Replay\n\n{head}", *parts]))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------------------------- speed


def markov(count: int, workers: int, utilisation: float, seed: int, queues: Sequence[str] = ("q",)) -> Traffic:
    """Poisson arrivals and exponential service times with mean 1 s."""
    rng = random.Random(seed)
    traffic = Traffic(["job"], list(queues))
    at = 0.0
    for _ in range(count):
        at += rng.expovariate(workers * utilisation)
        traffic.arrival.append(at)
        traffic.service.append(rng.expovariate(1.0))
    traffic.job = [0] * count
    traffic.queue = [rng.randrange(len(queues)) for _ in range(count)]
    traffic.overhead = [0.0] * count
    return traffic


def speed(count: int) -> str:
    """Wall and CPU time of replays of so many jobs."""
    lines = [
        f"## {count:,} jobs replayed",
        "",
        "| workers | queues | median of 3 | range | CPU |",
        "|---|---|---|---|---|",
    ]
    for workers, queues, order in ((1, 1, "default"), (4, 1, "default"), (8, 3, "default"), (8, 3, "round_robin")):
        names = [f"q{number}" for number in range(queues)]
        traffic = markov(count, workers, 0.8, 1, names)
        walls, cpus = [], []
        for _ in range(3):
            wall, cpu = time.perf_counter(), time.process_time()
            replay(traffic, [steady(names, workers, order)])  # type: ignore[arg-type]
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        say(f"{workers} workers, {queues} queues: {walls}")
        lines.append(
            f"| {workers} | {queues}, {order.replace('_', ' ')} order | {statistics.median(walls):.1f} s | "
            f"{min(walls):.1f} to {max(walls):.1f} s | {statistics.median(cpus):.1f} s |"
        )
    return "\n".join(lines)


def formulas(count: int, seeds: int) -> str:
    """Mean waits against Erlang C, which is exact for M/M/c."""
    lines = [
        f"## Against M/M/c, {seeds} x {count:,} jobs",
        "",
        "| workers | utilisation | mean wait, Erlang C | replayed | off |",
        "|---|---|---|---|---|",
    ]
    for workers, utilisation in ((1, 0.5), (1, 0.7), (2, 0.7), (4, 0.8), (8, 0.8)):
        means = []
        for seed in range(seeds):
            waits = replay(markov(count, workers, utilisation, seed + 1), [steady(["q"], workers)]).waits()
            means.append(statistics.fmean(waits))
        exact, found = mean_wait_s(workers * utilisation, 1.0, workers), statistics.fmean(means)
        say(f"M/M/{workers} at {utilisation}: {found / exact - 1:+.2%}")
        lines.append(f"| {workers} | {utilisation:.0%} | {exact:.4f} s | {found:.4f} s | {found / exact - 1:+.1%} |")
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------------- loads


def of_jobs(jobs: Sequence[tuple[float, str, str, float]]) -> Traffic:
    """Traffic of (arrival s, job, queue, service s)."""
    traffic = Traffic([SHORT, MIDDLING, LONG], sorted({"high", "default", *(queue for _, _, queue, _ in jobs)}))
    for arrival, job, queue, service in sorted(jobs):
        traffic.arrival.append(arrival)
        traffic.job.append(traffic.jobs.index(job))
        traffic.queue.append(traffic.queues.index(queue))
        traffic.service.append(service)
        traffic.overhead.append(0.0)
    return traffic


def generated() -> Load:
    rng = random.Random(20)
    jobs: list[tuple[float, str, str, float]] = []
    at = 0.0
    while at < SPAN_S:
        at += rng.expovariate(6.5)
        kind = rng.random()
        if kind < 0.6:
            jobs.append((at, SHORT, "default", rng.uniform(0.06, 0.24)))
        elif kind < 0.85:
            jobs.append((at, MIDDLING, "high", rng.uniform(0.16, 0.5)))
        else:
            jobs.append((at, LONG, "default", rng.uniform(1.0, 2.2)))
    return Load(
        "generated",
        of_jobs(jobs),
        [steady(["high", "default"], 3)],
        "rq.SimpleWorker",
        [
            (Speedup(LONG, 0.7),),
            (Workers(("default",), 2),),
            (Move(SHORT, "high"),),
            (Split("default"),),
            (Rate(SHORT, 1.5),),
        ],
    )


def bursty(path: Path) -> Load:
    """200 requests of a stretch; the time of each is its tokens, scaled to 75% of three workers."""
    with path.open(encoding="utf-8") as file:
        rows = [(float(row["arrival_s"]), int(row["generated_tokens"])) for row in csv.DictReader(file)]
    first = next(index for index, (at, _) in enumerate(rows) if at >= 18 * 60)
    rows = rows[first : first + 200]
    factor = SPAN_S / (rows[-1][0] - rows[0][0])
    sizes = [0.01 * min(tokens, 300) ** 0.8 for _, tokens in rows]
    scale = 0.75 * 3 * SPAN_S / sum(sizes)
    middle = statistics.median(sizes)
    jobs = [
        ((at - rows[0][0]) * factor, LONG if size > 2 * middle else SHORT, "default", size * scale)
        for (at, _), size in zip(rows, sizes, strict=True)
    ]
    return Load(
        "bursty",
        of_jobs(jobs),
        [steady(["default"], 3)],
        "rq.Worker",
        [(Workers(("default",), 4),), (Split("default"), Reserve("default-fast", 1))],
    )


def images(path: Path) -> Load:
    """The busiest 250 jobs in a row; long ones take more than half a minute in life."""
    with path.open(encoding="utf-8") as file:
        rows = sorted((float(row["arrival_s"]), float(row["service_s"])) for row in csv.DictReader(file))
    first = min(range(len(rows) - 250), key=lambda index: rows[index + 250][0] - rows[index][0])
    rows = rows[first : first + 250]
    factor = SPAN_S / (rows[-1][0] - rows[0][0])
    jobs = [
        ((at - rows[0][0]) * factor, LONG if service > 30 else SHORT, "default", service * factor)
        for at, service in rows
    ]
    return Load(
        "images",
        of_jobs(jobs),
        [steady(["high", "default"], 3)],
        "rq.SimpleWorker",
        [
            (Move(SHORT, "high"),),
            (Workers(("default",), 4), Speedup(LONG, 0.8)),
            (Reserve("high", 1), Move(LONG, "high")),
        ],
    )


# --------------------------------------------------------------------------------------------------------- predictions


def compared(load: Load, urls: Sequence[str]) -> Iterator[Compared]:
    """Runs the load with and without each change, and holds the prediction against what came of it."""
    say(f"{load.name}: {len(load.traffic)} jobs, {sum(load.traffic.service):.0f} s of work")
    for changes in load.changes:
        traffic, pools = apply(load.traffic, load.pools, changes)
        with ThreadPoolExecutor(2) as both:
            unchanged = both.submit(really, load.traffic, load.pools, load.worker_class, urls[0])
            changed = both.submit(really, traffic, pools, load.worker_class, urls[1])
        base = baseline(unchanged.result())
        added = added_ms(load.traffic, unchanged.result()), added_ms(traffic, changed.result())
        found = judged(load.name, base, changes, changed.result())._replace(added_ms=added)
        say(
            f"  {words_of(changes)}: fit {base.fit.error:.1%} off; predicted {found.all.predicted:.2f} s, measured "
            f"{found.all.measured:.2f} s ({found.all.error:+.1%}); "
            + ", ".join(f"{kind.job}: {kind.error:+.1%}" for kind in found.kinds)
        )
        yield found


def judged(load: str, base: Baseline, changes: tuple[Change, ...], rows: Sequence[TraceRow]) -> Compared:
    outcome = predict(base, changes)
    waits: dict[str, list[float]] = {}
    for row in rows:
        waits.setdefault(row.job, []).append((row.dequeued_at_ns - row.enqueued_at_ns) / 1e9)
    before = {each.job: each.p95 for each in outcome.before}
    kinds = [
        Kind(each.job.rpartition(".")[2], before[each.job], each.p95, quantile(sorted(waits[each.job]), 0.95))
        for each in outcome.after
    ]
    everything = sorted(wait for each in waits.values() for wait in each)
    whole = Kind("", outcome.all_before.p95, outcome.all_after.p95, quantile(everything, 0.95))
    return Compared(load, changes, whole, kinds, (0.0, 0.0))


def added_ms(traffic: Traffic, rows: Sequence[TraceRow]) -> float:
    """What the machine and the worker add to a nap, mean in ms. Where two runs differ in it, so do their waits, and no
    replay of the one can know that of the other."""
    busy_s = sum(row.reaped_at_ns - row.dequeued_at_ns for row in rows) / 1e9
    return 1_000 * (busy_s - sum(traffic.service)) / max(1, len(rows))


def predictions(found: Sequence[Compared], loads: Sequence[Load]) -> str:
    described = "; ".join(
        f"{load.name}, {len(load.traffic)} jobs, {sum(pool.size for pool in load.pools)} workers ({load.worker_class})"
        for load in loads
    )
    right = sum(abs(each.all.error) <= WITHIN for each in found)
    of_kinds = [kind for each in found for kind in each.kinds]
    near = sum(abs(kind.error) <= WITHIN for kind in of_kinds)
    lines = [
        "## Predictions against real workers",
        "",
        f"{right} of {len(found)} predicted p95 waits are within {WITHIN:.0%} of what the workers then did; kind by "
        f"kind {near} of {len(of_kinds)}. Loads: {described}.",
        "",
        "*Added* is what a worker was busy beyond each nap, in the run that was predicted from and in the one that was "
        "predicted, ms: where they differ, the machine was not the same in both.",
        "",
        "| load | change | p95 wait before | predicted | measured | off | kinds: predicted, measured | added |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        kinds = "; ".join(f"{kind.job} {kind.predicted:.2f}, {kind.measured:.2f} s" for kind in each.kinds)
        lines.append(
            f"| {each.load} | `{words_of(each.changes)}` | {each.all.before:.2f} s | {each.all.predicted:.2f} s | "
            f"{each.all.measured:.2f} s | {each.all.error:+.1%} | {kinds} | "
            f"{each.added_ms[0]:.0f}, {each.added_ms[1]:.0f} |"
        )
    return "\n".join(lines)


def words_of(changes: Sequence[Change]) -> str:
    return " ".join(str(change).replace("benchmarks.naps.", "") for change in changes)


# -------------------------------------------------------------------------------------------------------- real workers


def really(traffic: Traffic, pools: Sequence[Pool], worker_class: str, url: str) -> list[TraceRow]:
    """Enqueues the traffic for such workers, waits until all is done, and gives back what was recorded."""
    connection = redis.Redis.from_url(url)
    connection.flushall()
    with tempfile.TemporaryDirectory(prefix="jobdoctor-replay-") as folder:
        with running(pools, worker_class, url, connection, Path(folder)):
            enqueue(traffic, connection)
            done_by = time.monotonic() + 60 + sum(traffic.service)
            while int(connection.xlen("jobdoctor:executions")) < len(traffic) and time.monotonic() < done_by:
                time.sleep(0.1)
        with Store.open(f"sqlite:///{folder}/replay.db", Retention()) as store:
            drain(store, url)
            rows, _ = store.traffic()
    if len(rows) != len(traffic):
        say(f"  {len(traffic) - len(rows)} of {len(traffic)} executions were not recorded")
    return rows


@contextlib.contextmanager
def running(
    pools: Sequence[Pool], worker_class: str, url: str, connection: redis.Redis, folder: Path
) -> Iterator[None]:
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "JOBDOCTOR_PROFILE": "never", "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "jobdoctor-replay-compiled"),
    }  # fmt: skip
    lists = [pool.queues for pool in pools for _ in pool.spans]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / "workers.log").open("wb"))
        processes = [
            subprocess.Popen(
                [
                    sys.executable, "-m", "jobdoctor", "run", *queues, "--url", url, "--no-collect", "--quiet",
                    "--worker-class", worker_class,
                ],
                cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )
            for queues in lists
        ]  # fmt: skip
        try:
            until = time.monotonic() + 60
            while int(connection.scard("rq:workers")) < len(lists):
                if time.monotonic() > until or any(process.poll() is not None for process in processes):
                    raise SystemExit(f"the workers did not start: {(folder / 'workers.log').read_text()[-500:]}")
                time.sleep(0.05)
            time.sleep(0.5)
            yield
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)


def enqueue(traffic: Traffic, connection: redis.Redis) -> None:
    """Each job at its moment."""
    queues = [Queue(name, connection=connection) for name in traffic.queues]
    begin = time.perf_counter() - traffic.arrival[0]
    for index, at in enumerate(traffic.arrival):
        pause = begin + at - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        queues[traffic.queue[index]].enqueue(
            traffic.jobs[traffic.job[index]], traffic.service[index], result_ttl=0, job_timeout=60
        )


if __name__ == "__main__":
    main()
