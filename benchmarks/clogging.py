# ruff: noqa: E402 -- runs as a script
"""Anti-clogging: what a job that breaks its promise does to the others, without it and with it; and what it costs.

Three arms, in turns, each with the same arrivals of the other jobs, on real workers (`jobdoctor run --slo --workers 8`,
two of them for fast jobs only, simple workers):

- *alone*: the others without the job that clogs;
- *clogged*: with it (6 s each, 300 ms promised: eight at once, then one a second), anti-clogging switched off;
- *moved*: with it, anti-clogging on. Before each turn what is known of the job is forgotten, so it has to be found out;
  that stretch is told apart from the one after it.

What it costs is measured in pairs, one job each with and without the question, in random order, in this process.

``python benchmarks/clogging.py`` takes about 3 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import redis
from rq import Queue
from rq.worker import SimpleWorker

import jobdoctor
from benchmarks import promised
from benchmarks.machine import heading
from benchmarks.pairs import interval
from jobdoctor.config import Settings
from jobdoctor.promises import SLOWEST_QUEUE
from jobdoctor.rq.slo_gate import SloGate
from jobdoctor.rq.slo_state import read_states, record
from sample_app import servers

WORKERS = 8
FAST = "within_300_milliseconds"
#: Arrivals a second, Poisson.
RATES = {"small": 8.0, "medium": 1.5, "clogging": 1.0}
#: So many of those that clog come at once: each worker has one.
AT_ONCE = 8
#: Seconds of a turn in which it is found out, and after that.
FINDING_S, MEASURED_S = 8.0, 8.0
#: Without the job that clogs there is nothing to be found out.
BEFORE_S = 1.0
ROUNDS = 3
_RUN = (
    *("run", "--slo", "--workers", str(WORKERS), "--worker-class", "rq.SimpleWorker"),
    *("--profile", "never", "--no-collect", "--quiet"),
)


class Arrival(NamedTuple):
    at_s: float
    job: str


class Turn(NamedTuple):
    """Milliseconds from enqueue to done of the other jobs."""

    finding: list[float]
    measured: list[float]
    moved: int
    demoted_after_s: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, few pairs")
    options = parser.parse_args()
    print(report(quick=options.quick))


def report(*, quick: bool) -> str:
    loads = [os.getloadavg()[0]]
    turns: dict[str, list[Turn]] = {"alone": [], "clogged": [], "moved": []}
    with servers.started_valkey() as off_url, servers.started_valkey() as on_url:
        with _workers(off_url, minding="0"), _workers(on_url, minding="1"):
            for number in range(1 if quick else ROUNDS):
                arrivals = _arrivals(number)
                for arm in random.sample(list(turns), len(turns)):
                    turn = _turn(off_url if arm == "clogged" else on_url, arrivals, clogging=arm != "alone")
                    turns[arm].append(turn)
                    print(f"round {number + 1}, {arm}: p95 {_p95(turn.measured):.0f} ms", file=sys.stderr)
        costs = _costs(on_url, 300 if quick else 2_000)
    loads.append(os.getloadavg()[0])
    return _table(turns, costs, heading("python benchmarks/clogging.py", loads))


# ----------------------------------------------------------------------------------------------------------------- load


def _arrivals(seed: int) -> list[Arrival]:
    rng = random.Random(seed)
    found = [Arrival(0.0, "clogging")] * AT_ONCE
    for job, rate in RATES.items():
        at = rng.expovariate(rate)
        while at < FINDING_S + MEASURED_S:
            found.append(Arrival(at, job))
            at += rng.expovariate(rate)
    return sorted(found)


@contextlib.contextmanager
def _workers(url: str, *, minding: str) -> Iterator[None]:
    client = redis.Redis.from_url(url)
    Queue(FAST, connection=client).enqueue(promised.no_op)  # the queue of this promise is there when they begin
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobdoctor", *_RUN],
            cwd=folder,
            env={**os.environ, "RQ_REDIS_URL": url, "PYTHONPATH": str(ROOT), "JOBDOCTOR_ANTI_CLOGGING": minding},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while client.scard("rq:workers") < WORKERS:
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"the workers did not start: {log.read().decode(errors='replace')[-2_000:]}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(30)
            client.close()


def _turn(url: str, arrivals: Sequence[Arrival], *, clogging: bool) -> Turn:
    client = redis.Redis.from_url(url)
    _clear(client)
    queue = jobdoctor.SLOQueue(client)
    start_s = 0.0 if clogging else FINDING_S - BEFORE_S
    arrivals = [each for each in arrivals if each.at_s >= start_s and (clogging or each.job != "clogging")]
    functions = {name: getattr(promised, name) for name in RATES}
    begun = time.time() - start_s
    demoted_after_s = None
    boundary: dict[str, int] = {}
    for arrival in arrivals:
        if not boundary and arrival.at_s >= FINDING_S:
            _sleep_until(begun + FINDING_S)
            boundary = {name: client.llen(promised.DONE_KEY + name) for name in ("small", "medium")}
            since = next((state.demoted_since_ns for state in read_states(client)), None)
            demoted_after_s = since / 1e9 - begun if since is not None else None
        _sleep_until(begun + arrival.at_s)
        queue.enqueue(functions[arrival.job], time.time(), result_ttl=0)
    expected = {name: sum(arrival.job == name for arrival in arrivals) for name in ("small", "medium")}
    deadline = time.monotonic() + 60  # all of the others are waited for: late ones count
    while any(client.llen(promised.DONE_KEY + name) < expected[name] for name in expected):
        if time.monotonic() > deadline:
            raise SystemExit("some jobs were never done")
        time.sleep(0.02)
    done = {name: [float(ms) for ms in client.lrange(promised.DONE_KEY + name, 0, -1)] for name in expected}
    states = [state for state in read_states(client) if state.demoted_since_ns is not None]
    for state in states:
        print(f"  {state.job}: {state.moved} moved, p95 {state.p95_ms:.0f} ms", file=sys.stderr)
    moved = sum(state.moved for state in states)
    client.close()
    return Turn(
        [ms for name, all_ms in done.items() for ms in all_ms[: boundary[name]]],
        [ms for name, all_ms in done.items() for ms in all_ms[boundary[name] :]],
        moved,
        demoted_after_s,
    )


def _clear(client: Any) -> None:
    """Nothing waits, nothing runs, and nothing is known."""
    client.delete(f"rq:queue:{FAST}", f"rq:queue:{SLOWEST_QUEUE}")
    while any(client.hget(key, "state") == b"busy" for key in client.smembers("rq:workers")):
        time.sleep(0.05)
    time.sleep(0.3)  # the witnesses write what they have
    for pattern in ("jobdoctor:slo*", "rq:job:*", f"{promised.DONE_KEY}*"):
        keys = list(client.scan_iter(pattern, 1_000))
        if keys:
            client.delete(*keys)


def _sleep_until(at_s: float) -> None:
    pause = at_s - time.time()
    if pause > 0:
        time.sleep(pause)


# ----------------------------------------------------------------------------------------------------------------- cost


def _costs(url: str, pairs: int) -> dict[str, list[float]]:
    """Differences in us between taking a job with the question and without it; "noise": without it, twice."""
    client = redis.Redis.from_url(url)
    _clear(client)
    for _ in range(20):
        record(client, "benchmarks.promised.small", now_ms=int(time.time() * 1_000), took_ms=10, slo_ms=300)
    found: dict[str, list[float]] = {}
    for name, queue_name, asks, anew in (
        ("noise", "bench", False, False),
        ("a queue without a promise", "bench", True, True),
        ("a queue of a promise", "within_150_milliseconds", True, True),
        ("the same, within a second of the last one", "within_150_milliseconds", True, False),
    ):
        queue = Queue(queue_name, connection=client)
        worker: Any = SimpleWorker([queue_name, "bench-other"], connection=client)
        gate = SloGate(worker, Settings())
        differences = []
        for _ in range(pairs):
            took = {}
            for with_it in random.sample((True, False), 2):
                queue.enqueue(promised.small, 0.0)
                if anew:
                    gate._may_run.clear()
                begun = time.perf_counter()
                taken = worker.dequeue_job_and_maintain_ttl(None)
                if asks and with_it and gate.moved(*taken):
                    raise SystemExit("it was moved, and kept its promise")
                took[with_it] = time.perf_counter() - begun
                taken[0].delete()
            differences.append(1e6 * (took[True] - took[False]))
        found[name] = differences
    client.close()
    return found


# ---------------------------------------------------------------------------------------------------------------- table


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def _ratio(turns: Sequence[tuple[Turn, Turn]]) -> float:
    """Of the p95 of all rounds together."""
    return _p95([ms for mine, _ in turns for ms in mine.measured]) / _p95(
        [ms for _, alone in turns for ms in alone.measured]
    )


def _table(turns: dict[str, list[Turn]], costs: dict[str, list[float]], head: str) -> str:
    lines = [
        "# Anti-clogging",
        "",
        head,
        "",
        f"{WORKERS} workers of `jobdoctor run --slo`, two of them for fast jobs only. Jobs of 10 and 40 ms arrive "
        f"{RATES['small']:g} and {RATES['medium']:g} times a second, all promised within 300 ms; the one that clogs "
        "takes 6 s, and comes eight times at once, then once a second. Enqueue to done of the others, ms, "
        f"{len(turns['alone'])} rounds of {MEASURED_S:g} s:",
        "",
        "| arm | p50 | p95 | p95 by round | against alone (95 % interval of rounds) | p95 while it is found out |",
        "|---|---|---|---|---|---|",
    ]
    for arm, of_arm in turns.items():
        pairs = list(zip(of_arm, turns["alone"], strict=True))
        every = [ms for turn in of_arm for ms in turn.measured]
        each = [_p95(mine.measured) / _p95(alone.measured) for mine, alone in pairs]
        low, high = interval(each, statistics.median)
        finding = "" if arm == "alone" else f"{_p95([ms for turn in of_arm for ms in turn.finding]):.0f}"
        against = "" if arm == "alone" else f"x{_ratio(pairs):.2f} ({low:.2f} to {high:.2f})"
        by_round = ", ".join(f"{_p95(turn.measured):.0f}" for turn in of_arm)
        lines.append(
            f"| {arm} | {statistics.median(every):.0f} | {_p95(every):.0f} | {by_round} | {against} | {finding} |"
        )
    after = [turn.demoted_after_s for turn in turns["moved"] if turn.demoted_after_s is not None]
    moved = sum(turn.moved for turn in turns["moved"])
    verdict = "kept" if _ratio(list(zip(turns["moved"], turns["alone"], strict=True))) <= 1.5 else "MISSED"
    lines += [
        "",
        f"Found out after {', '.join(f'{each:.1f}' for each in after)} s (5 runs of 6 s have to end, and to be told); "
        f"{moved} jobs were moved. Asked for: within 1.5 times of the load without it: {verdict}.",
        "",
        "What the question costs each job that is taken (us, median of paired differences, 95 % interval):",
        "",
        "| a job of | added |",
        "|---|---|",
    ]
    for name, differences in costs.items():
        low, high = interval(differences, statistics.median)
        lines.append(f"| {name} | {statistics.median(differences):+.0f} ({low:+.0f} to {high:+.0f}) |")
    lines += ["", "Asked for: at most 200 us. Counting what a job took is the witness's work, beside the worker."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
