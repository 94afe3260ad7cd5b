"""What recording costs: plain RQ against jobdoctor and other agents, in pairs, with a second plain worker as control.

All workers run at once, each on a queue of its own. In each round each of them, in random order, is given one batch;
the time of a batch is from the first job's result to the last one's, so that it holds whole cycles of the worker: the
dequeue, the fork, the job, the reap and what an agent does then. Ratios and differences are those of single rounds;
what is reported is the median over the rounds, with a 95 % interval (bootstrap) and the quartiles. Where the control's
interval is wide or does not hold 1, the machine was too busy for the figures to be trusted: run it again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import pairs, processes  # noqa: E402 -- runs as a script
from benchmarks.arms import ARMS, AUTO, CONTROL, JOBDOCTOR, KINDS, PLAIN, Arm, Kind, recorder, versions  # noqa: E402
from benchmarks.machine import heading  # noqa: E402
from benchmarks.sink import started_sink  # noqa: E402
from benchmarks.surroundings import started_shop  # noqa: E402
from benchmarks.workers import Bench  # noqa: E402

#: Jobs in a batch: some 0.3 s of work, forked and simple.
BATCHES: dict[str, dict[Kind, int]] = {
    "no_op": {"forked": 15, "simple": 50},
    "orm_queries": {"forked": 2, "simple": 2},
    "redis_commands": {"forked": 6, "simple": 8},
    "http_requests": {"forked": 4, "simple": 4},
    "call_heavy": {"forked": 3, "simple": 3},
    "mixed": {"forked": 3, "simple": 3},
}
TITLES = {
    "no_op": "no-op",
    "orm_queries": "501 ORM queries",
    "redis_commands": "300 Redis commands",
    "http_requests": "40 HTTP requests",
    "call_heavy": "call-heavy CPU",
    "mixed": "mixed",
}
ROUNDS, QUICK_ROUNDS = 20, 4
STARTS, QUICK_STARTS = 5, 2
#: The first rounds warm up; the first job of each worker may be profiled, too.
WARM_UP = 2
#: What an agent does after its job ended is its cost, too: it is given this long before the CPU is read.
SETTLE_S = 0.05


@dataclass
class Measured:
    """One job on one kind of worker: a figure for each round, by the arm's name."""

    job: str
    kind: Kind
    times: dict[str, list[float]] = field(default_factory=dict)  # ms for each job
    cpu: dict[str, list[float]] = field(default_factory=dict)  # ms for each job
    warm_up: dict[str, list[float]] = field(default_factory=dict)  # times of the rounds that do not count


@dataclass
class Figures:
    """All that was measured, by arm."""

    jobs: list[Measured] = field(default_factory=list)
    starts: dict[str, list[float]] = field(default_factory=dict)  # ms
    resident: dict[Kind, dict[str, float]] = field(default_factory=dict)  # MB, the worker alone
    proportional: dict[Kind, dict[str, float]] = field(default_factory=dict)  # MB, with its helpers
    loads: list[float] = field(default_factory=list)


def main() -> None:
    options = parser().parse_args()
    text = report(options)
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """The options, which ``python -m benchmarks`` has too."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--arms", help=f"comma-separated, beside plain and control: {', '.join(list(ARMS)[2:])}")
    found.add_argument("--jobs", help=f"comma-separated: {', '.join(BATCHES)}")
    found.add_argument("--kinds", help=f"comma-separated: {', '.join(KINDS)}")
    found.add_argument("--rounds", type=int, help=f"of each job [default: {ROUNDS}]")
    found.add_argument("--starts", type=int, help=f"of each worker [default: {STARTS}]")
    found.add_argument("--quick", action="store_true", help="few rounds: to see that it works, and the rough figures")
    found.add_argument("--python", default=sys.executable, help="interpreter of the workers, which has the agents")
    found.add_argument("--output", type=Path, help="write the tables there, too")
    return found


def report(options: argparse.Namespace) -> str:
    """Measures what was asked for; the tables in markdown."""
    arms, installed, missing = _chosen_arms(options.python, options.arms)
    jobs = _chosen(options.jobs, list(BATCHES))
    kinds = [kind for kind in KINDS if kind in _chosen(options.kinds, list(KINDS))]
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    starts = (QUICK_STARTS if options.quick else STARTS) if options.starts is None else options.starts
    with _bench(options.python) as bench:
        figures = _measure(bench, arms, jobs, kinds, rounds, starts)
    return "\n".join(
        [
            "# What recording costs",
            "",
            heading("python benchmarks/overhead.py", figures.loads),
            f"{rounds} rounds of each job, all arms in each round in random order. "
            f"jobdoctor's recorder: the one in {recorder(options.python)}.",
            "",
            *_tables(figures, arms, kinds),
            *_footnotes(arms, installed, missing),
            "",
        ]
    )


def _chosen(given: str | None, known: Sequence[str]) -> list[str]:
    if given is None:
        return list(known)
    wanted = [name.strip() for name in given.split(",")]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return [name for name in known if name in wanted]


def _chosen_arms(python: str, given: str | None) -> tuple[list[Arm], dict[str, str], list[str]]:
    """(arms to run, versions of what they need, names of those that are not installed)."""
    others = list(ARMS)[2:]
    arms = [PLAIN, CONTROL, *(ARMS[name] for name in _chosen(given, others))]
    found = versions(python, arms)
    missing = [arm.name for arm in arms if arm.needs and not found[arm.name]]
    return [arm for arm in arms if arm.name not in missing], found, missing


@contextlib.contextmanager
def _bench(python: str) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        redis_url = stack.enter_context(started_shop(latency_ms=0.0))
        os.environ["BENCH_SINK"] = stack.enter_context(started_sink())
        yield Bench(redis_url, python, stack.enter_context(tempfile.TemporaryDirectory()))


# ------------------------------------------------------------------------------------------------------------- measure


def _measure(
    bench: Bench, arms: Sequence[Arm], jobs: Sequence[str], kinds: Sequence[Kind], rounds: int, starts: int
) -> Figures:
    figures = Figures(loads=[os.getloadavg()[0]])
    if starts:
        figures.starts = bench.start_ms(arms, "forked", starts)
    for kind in kinds:
        with bench.running(arms, kind) as pids:
            for job in jobs:
                figures.jobs.append(_measure_job(bench, arms, pids, job, kind, rounds))
                figures.loads.append(os.getloadavg()[0])
                print(f"{kind} {job}: done", file=sys.stderr)
            time.sleep(1)  # the last horses are gone
            figures.resident[kind] = {name: processes.resident_mb(pid) for name, pid in pids.items()}
            figures.proportional[kind] = {name: processes.proportional_mb(pid) for name, pid in pids.items()}
    return figures


def _measure_job(
    bench: Bench, arms: Sequence[Arm], pids: dict[str, int], job: str, kind: Kind, rounds: int
) -> Measured:
    found = Measured(job, kind, *({arm.name: [] for arm in arms} for _ in range(3)))
    size = BATCHES[job][kind]
    for number in range(rounds + WARM_UP):
        for arm in random.sample(arms, len(arms)):
            before = processes.cpu_ms(pids[arm.name])
            took = bench.batch_ms(arm, f"benchmarks.jobs.{job}", size)
            if number < WARM_UP:
                found.warm_up[arm.name].append(took)
                continue
            time.sleep(SETTLE_S)
            found.times[arm.name].append(took)
            found.cpu[arm.name].append((processes.cpu_ms(pids[arm.name]) - before) / (size + 1))
    return found


# -------------------------------------------------------------------------------------------------------------- tables


def _tables(figures: Figures, arms: Sequence[Arm], kinds: Sequence[Kind]) -> Iterator[str]:
    others = [arm.name for arm in arms if arm is not PLAIN]
    yield from _summary(figures, others)
    for kind in kinds:
        yield from _details([measured for measured in figures.jobs if measured.kind == kind], kind, others)
    if AUTO in arms and JOBDOCTOR in arms:
        yield from _profiles(figures)
    yield from _memory_and_start(figures, others, kinds)


def _summary(figures: Figures, others: Sequence[str]) -> Iterator[str]:
    yield "## Time for each job, against plain RQ"
    yield ""
    yield f"| job | worker | plain | {' | '.join(others)} |"
    yield "|---|---|---|" + "---|" * len(others)
    for measured in figures.jobs:
        plain = measured.times[PLAIN.name]
        cells = [f"x{pairs.compare(plain, measured.times[name]).ratio:.2f}" for name in others]
        yield (
            f"| {TITLES[measured.job]} | {measured.kind} | {statistics.median(plain):.1f} ms | {' | '.join(cells)} |"
        )
    yield ""


def _details(jobs: Sequence[Measured], kind: Kind, others: Sequence[str]) -> Iterator[str]:
    yield f"## {kind.capitalize()} workers: spread, added time, CPU"
    yield ""
    yield "CPU is user and system time of the worker, its horses and its helpers, for each job, over all rounds."
    yield ""
    yield "| job | arm | ratio | 95 % interval | quartiles of rounds | added to a job | CPU | CPU added |"
    yield "|---|---|---|---|---|---|---|---|"
    for measured in jobs:
        plain = measured.times[PLAIN.name]
        plain_cpu = statistics.mean(measured.cpu[PLAIN.name])
        for name in others:
            seen = pairs.compare(plain, measured.times[name])
            cpu = statistics.mean(measured.cpu[name])
            yield (
                f"| {TITLES[measured.job]} | {name} | x{seen.ratio:.3f} | x{seen.low:.3f} to x{seen.high:.3f} "
                f"| x{seen.quartiles[0]:.2f} to x{seen.quartiles[1]:.2f} | {seen.added:+.2f} ms "
                f"| x{cpu / plain_cpu if plain_cpu else 1:.2f} | {cpu - plain_cpu:+.2f} ms |"
            )
    yield ""


def _profiles(figures: Figures) -> Iterator[str]:
    yield "## Profiles, as the policy spreads them"
    yield ""
    yield (
        "All executions together, the warm-up's too, because few are profiled: the time of all batches with profiles "
        "under their budget against that without any. pyinstrument on every job is beside it, against plain RQ."
    )
    yield ""
    yield "| job | worker | policy against never | 95 % interval | pyinstrument always |"
    yield "|---|---|---|---|---|"
    for measured in figures.jobs:
        never, auto = (measured.warm_up[name] + measured.times[name] for name in (JOBDOCTOR.name, AUTO.name))
        ratio, low, high = pairs.of_sums(never, auto)
        always = measured.times.get("pyinstrument")
        beside = f"x{pairs.compare(measured.times[PLAIN.name], always).ratio:.2f}" if always else "not measured"
        yield (f"| {TITLES[measured.job]} | {measured.kind} | x{ratio:.3f} | x{low:.3f} to x{high:.3f} | {beside} |")
    yield ""


def _memory_and_start(figures: Figures, others: Sequence[str], kinds: Sequence[Kind]) -> Iterator[str]:
    yield "## Memory and start of the worker"
    yield ""
    yield (
        "After all jobs. *Resident* is the worker's own; *with helpers* adds the processes beside it, shared pages "
        "divided among those that share them (PSS). The start is until the worker is registered; the range is over "
        "pairs of starts."
    )
    yield ""
    columns = [f"{what}, {kind}" for kind in kinds for what in ("resident", "with helpers")]
    yield f"| arm | {' | '.join(columns)} | start |"
    yield "|---|" + "---|" * (len(columns) + 1)
    for name in (PLAIN.name, *others):
        cells = []
        for kind in kinds:
            for measured in (figures.resident[kind], figures.proportional[kind]):
                more = "" if name == PLAIN.name else f" ({measured[name] - measured[PLAIN.name]:+.1f})"
                cells.append(f"{measured[name]:.1f} MB{more}")
        yield f"| {name} | {' | '.join(cells)} | {_start(figures, name)} |"
    yield ""


def _start(figures: Figures, name: str) -> str:
    if name not in figures.starts:
        return "not measured"
    mine, plain = figures.starts[name], figures.starts[PLAIN.name]
    if name == PLAIN.name:
        return f"{statistics.median(mine):.0f} ms"
    more = sorted(one - other for one, other in zip(mine, plain, strict=True))
    return f"{statistics.median(mine):.0f} ms ({statistics.median(more):+.0f}; {more[0]:+.0f} to {more[-1]:+.0f})"


def _footnotes(arms: Sequence[Arm], installed: dict[str, str], missing: Sequence[str]) -> Iterator[str]:
    yield "## The arms"
    yield ""
    for arm in arms:
        version = f" ({arm.needs} {installed[arm.name]})" if arm.needs else ""
        yield f"- **{arm.name}**{version}: {arm.note}."
    for name in missing:
        yield f"- **{name}**: not measured, {ARMS[name].needs} is not installed (see benchmarks/agents.txt)."


if __name__ == "__main__":
    main()
