"""memory-growth: memory grows with the input, or from execution to execution.

## What it looks for

Two things. With the input: executions whose peak memory rises with the rows they read, the bytes they received or the
size of their arguments, by a robust trend (Kendall's tau, the slope of Theil and Sen). And, in workers that run jobs in
their own process (SimpleWorker), memory that rises from execution to execution and is never given back. A forked work
horse carries nothing over, so there only the input is looked at.

## Why it costs time

A job whose memory follows its input works on today's data and is killed on next year's. A leak in a long-lived worker
ends with the host swapping, and then with the kernel killing whatever is largest.

## What to do

With the input: process in slices, so that memory is that of one slice whatever the input. From execution to execution:
look for what outlives the job: a module-level list or dict, `functools.cache` without a bound, a callback that is
registered each time. A worker's `--max-jobs` hides a leak until it is found.

## When it is a false alarm

When the input has a bound that is reached already, and the workers have room for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.checklist.internals.memory_peak import peak_bytes, read_rows
from jobdoctor.diagnosis.measure import words_bytes, words_count
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, Severity

#: Memory at which a leaking worker is said to end, in bytes.
_FULL = 1_000_000_000


def _received(execution: Execution) -> int:
    return sum(group.received_bytes for group in execution.groups)


def _arguments(execution: Execution) -> int:
    return execution.payload.raw_bytes if execution.payload is not None else 0


#: What an execution's input may be measured by: (size, what one of it is called).
_INPUTS: tuple[tuple[Callable[[Execution], int], str], ...] = (
    (read_rows, "row"),
    (_received, "byte received"),
    (_arguments, "byte of arguments"),
)


class MemoryGrowth(Rule):
    """JD303."""

    code = "JD303"
    name = "memory-growth"
    step = "internals"
    kind = "memory"
    min_executions = 6
    related_to = ("JD306",)

    tau = Limit(
        0.75,
        "tau",
        "Kendall's rank correlation from which memory follows: 1 is always, 0 never",
        "own: with 6 executions a chance of 1 in 100 or less",
    )
    input_factor = Limit(2.0, "factor", "the largest input over the smallest, below which nothing is compared", "own")
    growth_bytes = Limit(
        10_000_000,
        "bytes",
        "growth from the smallest to the largest input below which nothing is said",
        "own: an interpreter's arenas and caches vary by some MB",
    )
    warning_bytes = Limit(
        24_000_000, "bytes", "growth with the input from which it is a warning", "own: ten times the input is 240 MB"
    )
    explained_share = Limit(
        0.5, "share", "of the spread of memory that the trend must explain", "own: more than everything else"
    )
    warm_up = Limit(2, "executions", "of each process left out, while its caches fill", "Clinic.js trims warm-up, too")
    leak_executions = Limit(8, "executions", "of one process needed for a trend", "own: Mann-Kendall with 8 is sure")
    leak_bytes = Limit(
        100_000,
        "bytes",
        "for each execution from which it is a leak",
        "own: 10,000 executions, a day of a busy worker, are 1 GB",
    )

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        leaking = [each for each in executions if each.worker_kind in ("simple", "inline") and _at_end(each)]
        known = [each for each in executions if peak_bytes(each) is not None]
        if len(known) < self.min_executions and len(leaking) < self.limits.leak_executions:
            raise NotChecked(
                f"the memory of {len(known) + len(leaking)} executions is known, {self.min_executions} are needed: "
                "it is measured in forked work horses (`jobdoctor run`, jobdoctor.Worker)"
            )
        trend = self._with_input(known)
        if trend is not None:
            yield trend
        yield from self._leaks(leaking)

    # -- with the input

    def _with_input(self, known: Sequence[Execution]) -> Finding | None:
        best: tuple[float, Finding] | None = None
        for size, noun in _INPUTS:
            points = [(float(size(each)), float(peak_bytes(each) or 0), each) for each in known]
            points = [point for point in points if point[0] > 0]
            if len(points) < self.min_executions:
                continue
            inputs = [x for x, _, _ in points]
            if max(inputs) < self.limits.input_factor * min(inputs):
                continue
            pairs = [(x, y) for x, y, _ in points]
            tau, slope = kendall_tau(pairs), theil_sen(pairs)
            growth = slope * (max(inputs) - min(inputs))
            spread = max(y for _, y in pairs) - min(y for _, y in pairs)
            if tau < self.limits.tau or growth < self.limits.growth_bytes:
                continue
            if growth < self.limits.explained_share * spread:
                continue
            if best is None or tau > best[0] + 0.02:
                best = (tau, self._describe_input(points, noun, tau, slope, growth))
        return best[1] if best is not None else None

    def _describe_input(
        self, points: Sequence[tuple[float, float, Execution]], noun: str, tau: float, slope: float, growth: float
    ) -> Finding:
        severity: Severity = "warning" if growth >= self.limits.warning_bytes else "info"
        smallest, largest = min(points, key=lambda each: each[0]), max(points, key=lambda each: each[0])
        unit = "rows" if noun == "row" else noun.replace("byte", "bytes")
        at_ten = largest[1] + 9 * slope * largest[0]

        def said(size: float) -> str:
            return words_count(size) + " rows" if noun == "row" else f"{words_bytes(size)} {unit.partition(' ')[2]}"

        group = max(
            (g for g in largest[2].groups if g.effect == "read"),
            key=lambda g: (g.rows or 0) if noun == "row" else g.received_bytes,
            default=None,
        )
        line = group.callsite if group is not None and noun != "byte of arguments" else ""
        return self.finding(
            severity=severity,
            confidence=0.8 if len(points) >= 10 else 0.7,
            title=f"Memory grows with the input: {words_bytes(smallest[1])} for {said(smallest[0])}, "
            f"{words_bytes(largest[1])} for {said(largest[0])}",
            cost_ms=0.0,
            saving=(0.0, 0.0, 0.0),
            text="Process the input in slices, so that memory is that of one slice. Stream what is read, and write "
            "what is made to a file or a table as you go",
            snippet=(f"# {line}\n" if line else "")
            + "for row in session.execute(query.execution_options(yield_per=1_000)):  # a page at a time\n"
            "    output.write(render(row))  # a file, not a list",
            callsite=line,
            evidence=[
                Evidence(
                    "series",
                    f"{words_bytes(slope)} more for each {noun} over {len(points)} executions (Kendall's tau "
                    f"{tau:.2f}); ten times the largest input would take {words_bytes(at_ten)}",
                    {
                        "input": noun,
                        "tau": round(tau, 3),
                        "slope_bytes": round(slope, 3),
                        "points": [[x, y] for x, y, _ in sorted(points, key=lambda each: each[0])],
                    },
                ),
                measure.execution_evidence(largest[2], "Largest input"),
            ],
        )

    # -- from execution to execution

    def _leaks(self, executions: Sequence[Execution]) -> Iterator[Finding]:
        by_process: dict[tuple[str, int], list[Execution]] = {}
        for each in executions:
            by_process.setdefault((each.host, each.pid), []).append(each)
        for members in by_process.values():
            ordered = sorted(members, key=lambda each: each.dequeued_at_ns)[int(self.limits.warm_up) :]
            if len(ordered) < self.limits.leak_executions - self.limits.warm_up:
                continue
            pairs = [(float(number), float(_at_end(each))) for number, each in enumerate(ordered)]
            tau, slope = kendall_tau(pairs), theil_sen(pairs)
            if tau < self.limits.tau or slope < self.limits.leak_bytes:
                continue
            yield self._describe_leak(ordered, pairs, tau, slope)
            return

    def _describe_leak(
        self, ordered: Sequence[Execution], pairs: Sequence[tuple[float, float]], tau: float, slope: float
    ) -> Finding:
        left = max(0.0, _FULL - pairs[-1][1]) / slope
        function = ordered[0].job.rpartition(".")[2]
        return self.finding(
            severity="warning",
            confidence=0.75,
            title=f"Each execution leaves {words_bytes(slope)} behind in its worker",
            cost_ms=0.0,
            saving=(0.0, 0.0, 0.0),
            text="Find what outlives the job: a module-level list or dict, a cache without a bound, a callback that is "
            "registered each time. Until then let the worker end after some jobs, with --max-jobs",
            snippet="import tracemalloc\n\n"
            "tracemalloc.start(10)\n"
            "before = tracemalloc.take_snapshot()\n"
            f"for _ in range(20):\n    {function}(...)\n"
            'print(*tracemalloc.take_snapshot().compare_to(before, "lineno")[:5], sep="\\n")',
            evidence=[
                Evidence(
                    "series",
                    f"From {words_bytes(pairs[0][1])} to {words_bytes(pairs[-1][1])} over {len(pairs)} executions of "
                    f"one process (Kendall's tau {tau:.2f}); 1 GB is reached after {words_count(left)} more",
                    {"tau": round(tau, 3), "slope_bytes": round(slope), "points": [[x, y] for x, y in pairs]},
                ),
                measure.execution_evidence(ordered[-1], "The latest"),
            ],
        )


def _at_end(execution: Execution) -> int:
    """Memory of the worker's own process at the end of the execution; 0 when it is not known."""
    return execution.samples[-1].rss_bytes if execution.samples else 0


def kendall_tau(points: Sequence[tuple[float, float]]) -> float:
    """Kendall's rank correlation, ties in x left out: the share of pairs that agree less those that do not."""
    agreeing = compared = 0
    for (x1, y1), (x2, y2) in combinations(points, 2):
        if x1 == x2:
            continue
        compared += 1
        product = (x2 - x1) * (y2 - y1)
        agreeing += (product > 0) - (product < 0)
    return agreeing / compared if compared else 0.0


def theil_sen(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes of all pairs: a few wild points do not move it."""
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x1 != x2]
    return measure.quantile(slopes, 0.5)
