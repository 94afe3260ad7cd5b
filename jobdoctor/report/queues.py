"""The queues as text and as JSON: how deep, how long a job enqueued now will wait, who is ahead, who listens."""

from __future__ import annotations

import io
import json
import textwrap
from math import isfinite
from typing import Any

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobdoctor import words
from jobdoctor.queueing.expectation import Ahead, Expected
from jobdoctor.queueing.observation import Observed, ObservedQueue
from jobdoctor.report.whatif import seconds

WIDTH = 80
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
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, width=WIDTH)
    table.add_column("queue", ratio=1, overflow="fold")
    table.add_column("jobs", width=9)
    table.add_column("oldest", width=8)
    table.add_column("enqueued now, waits", width=20)
    table.add_column("busy", width=4)
    table.add_column("workers", width=7)
    for row in report.queues:
        table.add_row(
            Text(words.clean(row.name), style="bold"),
            "not known" if row.depth is None else f"{row.depth:,}",
            "-" if row.oldest_s is None else seconds(row.oldest_s),
            _expected(row),
            "-" if row.busy is None else words.share(row.busy),
            "-" if row.listening is None else _listening(row.listening),
        )
    console.print(table)
    for row in report.queues:
        for line in _below(row):
            console.print(Text(line))
    for text in _notes(report):
        console.print(Text(textwrap.fill(words.clean(text), WIDTH, subsequent_indent="  "), style="yellow"))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _heading(report: QueuesReport) -> str:
    where = f"as {report.live} has them" if report.live else "from the recordings alone: no server answered"
    if report.sampled_ns:
        where += f", depths as of {words.instant(report.sampled_ns)}"
    workers = "" if report.workers is None else f", {words.count(report.workers, 'worker')}"
    recorded = (
        f"{words.count(report.executions, 'execution')} recorded since {words.instant(report.since_ns)}"
        if report.executions
        else f"no recordings in {report.source}"
    )
    return textwrap.fill(
        words.clean(f"{words.count(len(report.queues), 'queue')}{workers}, {where}, {words.instant(report.at_ns)}; ")
        + words.clean(recorded),
        WIDTH,
    )


def _expected(row: QueueRow) -> Text:
    expected = row.expected
    if expected is None:
        return Text("not known", style="dim")
    if not isfinite(expected.p50):
        return Text("for ever", style="bold red")
    return Text(f"{seconds(expected.p50)}, p95 {seconds(expected.p95)}")


def _listening(number: int) -> Text:
    return Text(str(number), style="" if number else "bold red")


def _below(row: QueueRow) -> list[str]:
    lines = []
    if row.expected is not None and isfinite(row.expected.p50):
        lines.append(row.basis)
    elif row.unknown:
        lines.append(row.unknown)
    if row.expected is not None and row.expected.ahead:
        ahead = [f"{one.jobs:,.0f} {one.job} ({_work(one)})" for one in row.expected.ahead[:_AHEAD]]
        rest = len(row.expected.ahead) - _AHEAD
        lines.append("ahead: " + ", ".join(ahead) + (f" and {rest} other kinds" if rest > 0 else ""))
    if row.observed is not None:
        shares = [f"{job} {words.share(row.observed.share(job))}" for job in list(row.observed.jobs)[:_SHARES]]
        lines.append("worker time: " + ", ".join(shares))
        whole = row.observed.whole
        apart = [
            f"{number:,} {what}"
            for number, what in ((whole.scheduled, "held before it"), (whole.retried, "retries"))
            if number
        ]
        lines.append(
            f"recorded: {whole.executions:,} jobs, waits p50 {seconds(whole.wait_p50)}, p95 {seconds(whole.wait_p95)}"
            + (f"; {' and '.join(apart)}" if apart else "")
        )
    if row.scheduled or row.deferred:
        lines.append(f"not in line yet: {row.scheduled or 0:,} scheduled, {row.deferred or 0:,} deferred")
    if not lines:
        return []
    filled = [
        textwrap.fill(words.clean(line), WIDTH, initial_indent="  ", subsequent_indent="    ") for line in lines
    ]  # fmt: skip
    return ["", words.clean(row.name), *filled]


def _work(one: Ahead) -> str:
    return "work not known" if one.work_s is None else f"{seconds(one.work_s)} of work"


def _notes(report: QueuesReport) -> list[str]:
    notes = []
    if report.suspended:
        notes.append("All workers are suspended: `rq resume` lets them go on.")
    unheard = [row.name for row in report.queues if row.listening == 0 and row.depth]
    if unheard:
        notes.append(f"Nobody listens to {', '.join(unheard)}: start a worker, such as `rq worker {unheard[0]}`.")
    notes += [f"Stalled: worker {row.worker} ({', '.join(row.queues)}): {row.what}." for row in report.stalled]
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
            "queues": [_queue_json(row) for row in report.queues],
            "stalled": [{"worker": row.worker, "queues": row.queues, "what": row.what} for row in report.stalled],
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


def _queue_json(row: QueueRow) -> dict[str, Any]:
    expected, seen = row.expected, row.observed
    never = expected is not None and not isfinite(expected.p50)
    return {
        "queue": row.name,
        "depth": row.depth,
        "oldest_ms": _ms(row.oldest_s),
        "scheduled": row.scheduled,
        "deferred": row.deferred,
        "workers": row.listening,
        "expected_wait_ms": {
            "p50": _ms(expected.p50) if expected else None,
            "p95": _ms(expected.p95) if expected else None,
            "never": never,
            "basis": row.basis if expected and not never else None,
            "reason": row.unknown or None,
        },
        "ahead": [
            {"job": one.job, "jobs": round(one.jobs), "work_ms": _ms(one.work_s)}
            for one in (expected.ahead if expected else [])
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
    }


def _ms(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else round(1_000 * value, 3)
