"""How much of the sample app's jobs the ledger explains, and whether its parts add up to the wall time.

The jobs of the sample app run as in ``jobdoctor demo``: its workers, its lanes, its rounds, real servers. Their
executions are read from the stream as they are. What counts are executions whose wall time (enqueue to reap) is above
50 ms: the share of it that is *unexplained*, at the median and at the 95th percentile, also without the time in the
queue, which is the stricter figure. The sum of the parts is compared with the worker's own clock (dequeue to reap) and
the queue wait, to the nanosecond.

Whether what is explained is explained rightly, jobs tell that know the truth about themselves (``planted.py``).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import redis
from rq import Queue
from rq.job import JobStatus

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import planted  # noqa: E402 -- runs as a script
from benchmarks.machine import heading  # noqa: E402
from benchmarks.surroundings import started_shop  # noqa: E402
from jobdoctor import wire  # noqa: E402
from jobdoctor.model import Execution  # noqa: E402
from sample_app.catalogue import Lane  # noqa: E402

#: Executions that are shorter have nothing to explain: a single wake-up would be a percent of them.
LONG_NS = 50_000_000
WORST = 10
PLANTED_ROUNDS = 5
_ENDED = frozenset({JobStatus.FINISHED, JobStatus.FAILED})
START_PATIENCE_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds of each job")
    parser.add_argument("--output", type=Path, help="write the table there, too")
    options = parser.parse_args()
    text = report(quick=options.quick)
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")


def report(*, quick: bool = False) -> str:
    """Runs everything; the tables in markdown."""
    loads = [os.getloadavg()[0]]
    executions = recorded(quick=quick)
    loads.append(os.getloadavg()[0])
    known = planted_jobs(PLANTED_ROUNDS)
    loads.append(os.getloadavg()[0])
    return table(executions, loads) + planted_table(known)


def recorded(*, quick: bool = False) -> list[Execution]:
    """Every execution of the sample app's traffic."""
    with started_shop(latency_ms=5.0) as redis_url:
        import jobdoctor
        from sample_app import traffic
        from sample_app.catalogue import LANES

        jobdoctor.stamp_enqueues()
        connection = redis.Redis.from_url(redis_url)
        with contextlib.closing(connection), _workers(connection, redis_url, LANES):
            for phase in sorted({lane.phase for lane in LANES}):
                traffic.run_phase(connection, phase, quick=quick)
            time.sleep(1.0)  # the last executions may still be on their way to the stream
            return [wire.decode(fields) for _, fields in connection.xrange(wire.STREAM_KEY)]


def planted_jobs(rounds: int) -> list[tuple[Execution, planted.Truth]]:
    """Executions of the planted jobs, each with what it says of itself."""
    with started_shop(latency_ms=5.0) as redis_url:
        connection = redis.Redis.from_url(redis_url)
        with contextlib.closing(connection), _workers(connection, redis_url, (Lane("planted", ("planted",)),)):
            queue = Queue("planted", connection=connection)
            jobs = {job.id: job for _ in range(rounds) for job in (queue.enqueue(each) for each in planted.JOBS)}
            deadline = time.monotonic() + rounds * 2 * len(planted.JOBS) + START_PATIENCE_S
            while any(job.get_status(refresh=True) not in _ENDED for job in jobs.values()):
                if time.monotonic() > deadline:
                    raise SystemExit("the planted jobs did not end")
                time.sleep(0.1)
            time.sleep(1.0)
            executions = [wire.decode(fields) for _, fields in connection.xrange(wire.STREAM_KEY)]
            return [(each, jobs[each.job_id].return_value(refresh=True)) for each in executions]


@contextlib.contextmanager
def _workers(connection: redis.Redis, redis_url: str, lanes: Sequence[Lane]) -> Iterator[None]:
    workers = [
        subprocess.Popen(
            [
                sys.executable, "-m", "jobdoctor", "run", "--quiet", "--no-collect", "--url", redis_url,
                "-c", "sample_app.worker_settings", "--workers", str(lane.workers), *lane.options, *lane.queues,
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        for lane in lanes
    ]  # fmt: skip
    try:
        deadline = time.monotonic() + START_PATIENCE_S
        while connection.scard("rq:workers") < sum(lane.workers for lane in lanes):
            if time.monotonic() > deadline or any(worker.poll() is not None for worker in workers):
                raise SystemExit("the workers did not start")
            time.sleep(0.05)
        yield
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            try:
                worker.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()


# --------------------------------------------------------------------------------------------------------------- table


def table(executions: Sequence[Execution], loads: Sequence[float]) -> str:
    """The figures in markdown."""
    long = [execution for execution in executions if execution.wall_ns > LONG_NS]
    wrong = sum(1 for each in executions if sum(part.ns for part in each.ledger) != each.wall_ns)
    lines = [
        "# What the ledger explains",
        "",
        heading("python benchmarks/ledger.py", loads),
        f"{len(executions)} executions of the sample app, {len(long)} of them longer than 50 ms from enqueue to reap.",
        "",
        "| unexplained share | executions | median | p95 | largest |",
        "|---|---|---|---|---|",
        _row("of the wall time, enqueue to reap", [_unexplained(each) / each.wall_ns for each in long]),
        _row(
            "of the worker's time, dequeue to reap",
            [_unexplained(each) / each.run_ns for each in executions if each.run_ns > LONG_NS],
        ),
        "",
        f"Sum of the parts against the worker's own clock: {len(executions) - wrong} of {len(executions)} executions "
        "agree to the nanosecond.",
        "",
        f"## The {WORST} executions with the largest share",
        "",
        "| job | outcome | wall | unexplained | its other parts |",
        "|---|---|---|---|---|",
    ]
    worst = sorted(long, key=lambda each: _unexplained(each) / each.wall_ns, reverse=True)[:WORST]
    lines += [
        f"| {_name(each)} | {each.outcome} | {each.wall_ns / 1e6:.0f} ms "
        f"| {_unexplained(each) / 1e6:.1f} ms, {_unexplained(each) / each.wall_ns:.1%} | {_parts(each)} |"
        for each in worst
    ]
    lines += ["", "## All jobs", "", "| job | executions | wall, median | unexplained, median | largest |"]
    lines.append("|---|---|---|---|---|")
    by_job: dict[str, list[Execution]] = defaultdict(list)
    for each in long:
        by_job[_name(each)].append(each)
    for job, theirs in sorted(by_job.items()):
        shares = [_unexplained(each) / each.wall_ns for each in theirs]
        wall = statistics.median(each.wall_ns for each in theirs) / 1e6
        lines.append(f"| {job} | {len(theirs)} | {wall:.0f} ms | {statistics.median(shares):.1%} | {max(shares):.1%} |")
    return "\n".join([*lines, ""])


def planted_table(known: Sequence[tuple[Execution, planted.Truth]]) -> str:
    """How far the ledger is from the truth: for each part the difference, in percent of the time in the function."""
    lines = [
        "## Jobs that know where their time went",
        "",
        "The part that was planted, as the job itself measured it and as the ledger has it, and the largest difference "
        "in any part, in percent of the time in the function; medians (and the largest) of the executions.",
        "",
        "| job | planted | truth | ledger | unexplained | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    by_job: dict[str, list[tuple[Execution, planted.Truth]]] = defaultdict(list)
    for execution, truth in known:
        by_job[execution.job.rpartition(".")[2]].append((execution, truth or {}))
    for job, theirs in by_job.items():
        largest = max(theirs[0][1], key=lambda part: theirs[0][1][part])
        off = [_off(execution, truth) for execution, truth in theirs]
        lines.append(
            f"| {job} | {largest} | {statistics.median(truth[largest] for _, truth in theirs) / 1e6:.1f} ms "
            f"| {statistics.median(_body_parts(execution)[largest] for execution, _ in theirs) / 1e6:.1f} ms "
            f"| {statistics.median(_unexplained(execution) / execution.body_ns for execution, _ in theirs):.1%} "
            f"| {statistics.median(off):.1%} ({max(off):.1%}) |"
        )
    return "\n".join([*lines, ""])


def _body_parts(execution: Execution) -> defaultdict[str, int]:
    """The ledger as the planted jobs put it: CPU in one sum, waits outside of calls by what they were."""
    found: defaultdict[str, int] = defaultdict(int)
    for part in execution.ledger:
        name = "cpu" if part.name in ("gc", "import") else part.name
        found[f"{name} {part.detail}" if name == "other_wait" else name] += part.ns
    return found


def _off(execution: Execution, truth: planted.Truth) -> float:
    seen = _body_parts(execution)
    return max(abs(seen[part] - ns) for part, ns in truth.items()) / execution.body_ns


def _row(what: str, shares: Sequence[float]) -> str:
    ordered = sorted(shares)
    if not ordered:
        return f"| {what} | 0 | | | |"
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"| {what} | {len(ordered)} | {statistics.median(ordered):.2%} | {p95:.2%} | {ordered[-1]:.1%} |"


def _unexplained(execution: Execution) -> int:
    return execution.ledger_ns("unexplained")


def _name(execution: Execution) -> str:
    return execution.job.removeprefix("sample_app.jobs.")


def _parts(execution: Execution) -> str:
    sums: dict[str, int] = defaultdict(int)
    for part in execution.ledger:
        sums[part.name] += part.ns
    sums.pop("unexplained", None)
    largest = sorted(sums.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {ns / 1e6:.1f}" for name, ns in largest if ns >= 100_000)


if __name__ == "__main__":
    main()
