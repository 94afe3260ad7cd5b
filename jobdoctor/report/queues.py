"""The queues as text and as JSON: how deep, how long a job enqueued now will wait, who is ahead, who listens."""

from __future__ import annotations

import io
import json
import shlex
import textwrap
from collections.abc import Sequence
from math import isfinite
from typing import Any

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobdoctor import words
from jobdoctor.model import DepthPoint, Route
from jobdoctor.queueing.expectation import Ahead, Expected
from jobdoctor.queueing.observation import Observed, ObservedQueue
from jobdoctor.report.whatif import seconds

WIDTH = 80
#: How jobs came to a queue, in words, and what is said before the median of the time until then.
_WAYS: dict[Route, str] = {
    "straight": "straight",
    "scheduled": "scheduled",
    "deferred": "deferred",
    "rate-limited": "rate-limited",
    "retried": "retried",
    "repeated": "repeated",
    "requeued": "requeued by hand",
    "moved": "moved here (waits from their enqueue on)",
    "unknown": "in a way not known",
}
_BEFORE: dict[Route, str] = {
    "scheduled": "due after",
    "deferred": "dependencies took",
    "rate-limited": "held for",
    "retried": "paused for",
    "repeated": "paused for",
    "requeued": "put back after",
}
_NAMED = 8
_BARS = "▁▂▃▄▅▆▇█"
_COURSE = 20
_AHEAD = 3
_SHARES = 3
_DAY_S = 86_400.0


class QueueRow(Struct, frozen=True):
    """One queue. None: not known."""

    name: str
    depth: int | None
    oldest_s: float | None  # age of its first job; None: empty, or not known
    scheduled: int | None
    deferred: int | None
    listening: int | None  # workers
    expected: Expected | None
    unknown: str  # why there is no expectation
    basis: str
    observed: ObservedQueue | None
    busy: float | None = None  # share of the workers' time
    silent: int = 0  # workers that are said to listen, and give no sign of life; not among the others
    course: list[DepthPoint] = []


class StalledRow(Struct, frozen=True):
    worker: str
    queues: list[str]
    what: str  # in words


class DemotedRow(Struct, frozen=True):
    """A job that is moved to the slowest queue for breaking its promise."""

    job: str
    slo_s: float
    p95_s: float | None
    since_ns: int
    moved: int


class QueuesReport(Struct, frozen=True):
    at_ns: int
    live: str  # the server looked at; empty: none answered
    source: str  # of the recordings, in words
    since_ns: int
    executions: int  # recorded in the window
    workers: int | None
    suspended: bool
    queues: list[QueueRow]
    stalled: list[StalledRow]
    demoted: list[DemotedRow]
    left_out: list[int]  # queues and workers beyond what is looked at
    gone: list[str] = []  # workers that went without a farewell
    held: dict[str, int] = {}  # jobs that wait for a rate limit, in no queue yet, by its key
    course_ns: tuple[int, int] = (0, 0)  # from when to when depths over time are shown
    sampled_ns: int = 0  # without a server: the moment of the newest sample of the queues; 0: none


# ---------------------------------------------------------------------------------------------------------------- text


def render_text(report: QueuesReport, *, color: bool = False) -> str:
    """For any terminal, with a final newline."""
    console = Console(
        file=io.StringIO(),
        width=WIDTH,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
    )
    console.print(Text(_heading(report)))
    console.print()
    if report.queues:
        console.print(_table(report))
    else:
        console.print(Text("There are no queues yet: RQ knows one from its first job, or worker, on."))
    for row in report.queues:
        for line in _below(row, report):
            console.print(Text(line))
    for text in _notes(report):
        console.print(Text(textwrap.fill(words.clean(text), WIDTH, subsequent_indent="  "), style="yellow"))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _table(report: QueuesReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, width=WIDTH)
    table.add_column("queue", ratio=1, overflow="fold")
    cells = [
        (
            "-" if row.depth is None else f"{row.depth:,}",
            "-" if row.oldest_s is None else seconds(row.oldest_s),
            _expected(row, report.suspended),
            "-" if row.busy is None else words.share(row.busy),
            Text("-") if row.listening is None else _listening(row),
        )
        for row in report.queues
    ]
    left = WIDTH
    for title, column in zip(
        ("jobs", "oldest", "enqueued now, waits", "busy", "workers"), zip(*cells, strict=True), strict=True
    ):
        width = max(len(title), *(len(cell) for cell in column))
        table.add_column(title, width=width)
        left -= width + 2
    for row, cell in zip(report.queues, cells, strict=True):
        table.add_row(Text(words.folded(words.clean(row.name), left), style="bold"), *cell)
    return table


def _heading(report: QueuesReport) -> str:
    now = words.instant(report.at_ns)
    where = f"as {report.live} has them, {now}" if report.live else f"from the recordings alone, {now}"
    if not report.live:
        where += ": no server answered"
    if report.sampled_ns:
        where += f", depths as of {words.instant(report.sampled_ns)}"
    workers = "" if report.workers is None else f", {words.count(report.workers, 'worker')}"
    recorded = (
        f"{words.count(report.executions, 'execution')} recorded since {words.instant(report.since_ns)}"
        if report.executions
        else f"no recordings in {report.source}"
    )
    return textwrap.fill(
        words.clean(f"{words.count(len(report.queues), 'queue')}{workers}, {where}; {recorded}"),
        WIDTH,
    )


def _expected(row: QueueRow, suspended: bool) -> Text:
    expected = row.expected
    if suspended:
        return Text("suspended", style="bold red")
    if expected is None:
        return Text("not known", style="dim")
    if not isfinite(expected.p50):
        return Text("for ever", style="bold red")
    return Text(f"{seconds(expected.p50)}, p95 {seconds(expected.p95)}")


def _listening(row: QueueRow) -> Text:
    number = row.listening or 0
    return Text(f"{number} of {number + row.silent}" if row.silent else str(number), style="" if number else "bold red")


def _below(row: QueueRow, report: QueuesReport) -> list[str]:
    lines = []
    expected = row.expected
    if expected is not None and isfinite(expected.p50):
        waits = f"{seconds(expected.p50)}, p95 {seconds(expected.p95)}"
        resumed = f"once workers go on: {waits}; " if report.suspended else ""
        if row.depth or row.observed is not None or expected.p95 > 0:
            lines.append(resumed + row.basis)
    elif row.unknown:
        lines.append(row.unknown)
    if row.expected is not None and row.expected.ahead:
        ahead = [f"{one.jobs:,.0f} {one.job} ({_work(one)})" for one in row.expected.ahead[:_AHEAD]]
        rest = len(row.expected.ahead) - _AHEAD
        lines.append("ahead: " + ", ".join(ahead) + (f" and {rest} other kinds" if rest > 0 else ""))
    lines += _course(row.course, *report.course_ns)
    if row.observed is not None:
        shares = [f"{job} {words.share(row.observed.share(job))}" for job in list(row.observed.jobs)[:_SHARES]]
        lines.append("worker time: " + ", ".join(shares))
        lines += _recorded(row.observed.whole)
    if row.scheduled or row.deferred:
        lines.append(f"not in line yet: {row.scheduled or 0:,} scheduled, {row.deferred or 0:,} deferred")
    if not lines:
        return []
    filled = [
        textwrap.fill(
            words.clean(line), WIDTH, initial_indent="  ", subsequent_indent="      " if line[0] == " " else "    "
        )
        for line in lines
    ]  # fmt: skip
    return ["", words.clean(row.name), *filled]


def _course(points: Sequence[DepthPoint], from_ns: int, to_ns: int) -> list[str]:
    """Depth over time as bars, the most of each stretch; nothing of a queue that was empty all the time."""
    deepest = max(points, key=lambda point: point.depth, default=None)
    if deepest is None or not deepest.depth:
        return []
    bars: list[int | None] = [None] * _COURSE
    for point in points:
        place = min(_COURSE - 1, (point.at_ns - from_ns) * _COURSE // max(1, to_ns - from_ns))
        bars[place] = max(point.depth, bars[place] or 0)
    top = len(_BARS) - 1
    drawn = "".join("·" if bar is None else _BARS[-(-bar * top // deepest.depth)] for bar in bars)
    span = words.duration((to_ns - from_ns) / 1e6).replace(".0 ", " ")
    oldest = max((point.oldest_s for point in points if point.oldest_s is not None), default=None)
    most = f"most {deepest.depth:,} at {words.instant(deepest.at_ns)[11:16]}"
    return [
        f"depth over {span}: {drawn} {most}" + ("" if oldest is None else f", oldest {seconds(oldest)}"),
    ]


def _recorded(whole: Observed) -> list[str]:
    """Executions and their waits; where not all came straight, each way into the queue for itself."""
    if set(whole.routes) <= {"straight"}:
        waits = f"waits p50 {seconds(whole.wait_p50)}, p95 {seconds(whole.wait_p95)}"
        return [f"recorded: {words.count(whole.executions, 'job')}, {waits}"]
    lines = [f"recorded: {words.count(whole.executions, 'job')}, and how long they waited in the queue:"]
    for route, came in whole.routes.items():
        held = ""
        if came.held_p50 is not None:
            held = f"; {_BEFORE[route]} {seconds(came.held_p50)}"
        lines.append(
            f"  {came.executions:,} {_WAYS[route]}: p50 {seconds(came.wait_p50)}, p95 {seconds(came.wait_p95)}{held}"
        )
    return lines


def _work(one: Ahead) -> str:
    return "work not known" if one.work_s is None else f"{seconds(one.work_s)} of work"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _notes(report: QueuesReport) -> list[str]:
    notes = []
    if report.suspended:
        notes.append("All workers are suspended: they take no jobs until `rq resume`.")
    unheard = [row.name for row in report.queues if row.listening == 0 and row.depth]
    if unheard:
        start = f"start a worker, such as `jobdoctor run {shlex.quote(unheard[0])}`"
        notes.append(f"Nobody listens to {_listed(unheard)}: {start}.")
    notes += [f"Stalled: worker {row.worker} ({', '.join(row.queues)}): {row.what}." for row in report.stalled]
    if report.held:
        most = sorted(report.held, key=lambda limit: -report.held[limit])
        limits = _listed([f"{limit} {report.held[limit]:,}" for limit in most])
        notes.append(
            f"In no queue yet, held by a rate limit: {words.count(sum(report.held.values()), 'job')} ({limits})."
        )
    if report.gone:
        number = words.count(len(report.gone), "worker")
        notes.append(f"{number} gone without a farewell (killed, or stopped for long): {_listed(report.gone)}.")
    for row in report.demoted:
        p95 = f"p95 {seconds(row.p95_s)}, " if row.p95_s is not None else ""
        notes.append(
            f"Moved to the slowest queue since {words.instant(row.since_ns)}: {row.job} ({p95}{seconds(row.slo_s)} "
            f"promised; {row.moved:,} jobs so far)."
        )
    if any(report.left_out):
        notes.append(f"Not looked at: {report.left_out[0]:,} queues and {report.left_out[1]:,} workers more.")
    return ["", *notes] if notes else []


# ---------------------------------------------------------------------------------------------------------------- JSON


def render_json(report: QueuesReport) -> str:
    """Schema 1, with a final newline. Times are ms; null: not known, or never."""
    return json.dumps(
        {
            "schema": 1,
            "at": words.iso(report.at_ns),
            "live": report.live or None,
            "window": {"from": words.iso(report.since_ns), "to": words.iso(report.at_ns)},
            "executions": report.executions,
            "workers": report.workers,
            "suspended": report.suspended,
            "sampled_at": words.iso(report.sampled_ns) if report.sampled_ns else None,
            "queues": [_queue_json(row, report.suspended) for row in report.queues],
            "stalled": [{"worker": row.worker, "queues": row.queues, "what": row.what} for row in report.stalled],
            "gone": report.gone,
            "rate_limited": report.held,
            "demoted": [
                {
                    "job": row.job,
                    "slo_ms": _ms(row.slo_s),
                    "p95_ms": _ms(row.p95_s),
                    "since": words.iso(row.since_ns),
                    "moved": row.moved,
                }
                for row in report.demoted
            ],
        },
        indent=2,
    ) + "\n"  # fmt: skip


def _queue_json(row: QueueRow, suspended: bool) -> dict[str, Any]:
    expected, seen = row.expected, row.observed
    never = expected is not None and not isfinite(expected.p50)
    return {
        "queue": row.name,
        "depth": row.depth,
        "oldest_ms": _ms(row.oldest_s),
        "scheduled": row.scheduled,
        "deferred": row.deferred,
        "workers": row.listening,
        "silent_workers": row.silent,
        "expected_wait_ms": {
            "p50": _ms(expected.p50) if expected else None,
            "p95": _ms(expected.p95) if expected else None,
            "never": never,
            "basis": row.basis if expected and not never else None,
            "reason": row.unknown or ("counted from `rq resume` on: workers are suspended" if suspended else None),
        },
        "ahead": [
            {"job": one.job, "jobs": round(one.jobs), "work_ms": _ms(one.work_s)}
            for one in (expected.ahead if expected else [])
        ],
        "depth_over_time": [
            {
                "at": words.iso(point.at_ns),
                "depth": point.depth,
                "oldest_ms": _ms(point.oldest_s),
                "workers": point.workers,
            }
            for point in row.course
        ],
        "utilisation": None if row.busy is None else round(row.busy, 4),
        "recorded": _observed_json(seen.whole) if seen else None,
        "jobs": [
            {"job": job, "worker_time_share": round(seen.share(job), 4), **_observed_json(own)}
            for job, own in seen.jobs.items()
        ]
        if seen
        else [],
    }


def _observed_json(own: Observed) -> dict[str, Any]:
    return {
        "executions": own.executions,
        "arrivals_per_s": round(own.arrivals.rate_per_s, 6),
        "gap_cv": round(own.arrivals.gap_cv, 3),
        "wait_ms": {"p50": _ms(own.wait_p50), "p95": _ms(own.wait_p95)},
        "run_ms": {"p50": _ms(own.service_p50), "p95": _ms(own.service_p95)},
        "worker_time_ms": _ms(own.work_s),
        "held": own.scheduled,
        "held_ms": {"p50": _ms(own.held_p50)} if own.scheduled else None,
        "retried": own.retried,
        "came": {
            route: {
                "executions": came.executions,
                "wait_ms": {"p50": _ms(came.wait_p50), "p95": _ms(came.wait_p95)},
                "held_ms": {"p50": _ms(came.held_p50)} if came.held_p50 is not None else None,
            }
            for route, came in own.routes.items()
        },
    }


def _ms(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else round(1_000 * value, 3)
