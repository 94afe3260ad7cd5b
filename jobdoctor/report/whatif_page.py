"""What-if as one HTML file: the waits over time, before and after, drawn on the server. It loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from msgspec import Struct

from jobdoctor import words
from jobdoctor.queueing.bootstrap import quantile
from jobdoctor.queueing.replay import Replayed
from jobdoctor.queueing.traffic import Traffic
from jobdoctor.queueing.whatif import Baseline, Waits
from jobdoctor.report.html_report import content_security_policy
from jobdoctor.report.whatif import (
    WhatIf,
    change_words,
    fit_words,
    heading,
    interval_words,
    search_words,
    seconds,
    shown,
    workers_words,
)

#: Points of a line at most and at least, jobs for each, and jobs with a picture of their own.
SLOTS, LEAST_SLOTS = 120, 12
JOBS_A_SLOT = 4
SHOWN_JOBS = 12
WIDTH, HEIGHT = 1_000.0, 100.0


class Course(Struct, frozen=True):
    """The waits of a job over time: points of polylines on 1,000 by 100 units, stretches without jobs left out."""

    job: str  # empty: all jobs
    before: list[str]
    after: list[str]
    highest_s: float
    waits_before: Waits
    waits_after: Waits | None


def render(whatif: WhatIf, base: Baseline) -> str:
    """The page, with a final newline."""
    style = _style()
    environment = Environment(
        loader=PackageLoader("jobdoctor.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: words.clean(value) if type(value) is str else value,
    )
    environment.filters |= {"seconds": seconds, "interval": interval_words, "share": words.share}
    outcome = whatif.outcome
    return (
        environment.get_template("whatif.html").render(
            style=Markup(style),  # noqa: S704 -- our own file
            script=Markup(""),
            policy=content_security_policy(style, ""),
            title="What if · jobdoctor",
            heading=_unwrapped(heading(whatif)),
            change=_unwrapped(change_words(outcome)),
            search=search_words(whatif.found).splitlines() if whatif.found is not None else [],
            fit=fit_words(whatif.fit),
            doubtful=whatif.fit.word == "poor",
            workers=[_unwrapped(line) for line in workers_words(outcome).split("\n")],
            courses=courses(whatif, base),
            left_out=max(0, len(outcome.before) - SHOWN_JOBS),
            from_=words.instant(whatif.from_ns) if whatif.from_ns else "the first arrival",
            to=words.instant(whatif.to_ns) if whatif.to_ns else "the last arrival",
        )
        + "\n"
    )


def courses(whatif: WhatIf, base: Baseline) -> list[Course]:
    """All jobs together, then those with the longest waits."""
    outcome = whatif.outcome
    after = {waits.job: waits for waits in outcome.after}
    pairs: list[tuple[Waits, Waits | None]] = [(outcome.all_before, outcome.all_after)]
    if len(outcome.before) > 1:
        pairs += [(waits, after.get(waits.job)) for waits in shown(outcome)[:SHOWN_JOBS]]
    found = []
    for before, then in pairs:
        lines = [
            _slots(base.traffic, base.replayed, before.job),
            _slots(outcome.traffic, outcome.replayed, before.job),
        ]
        highest = max((value for line in lines for value in line if value is not None), default=0.0) or 1e-3
        found.append(
            Course(before.job, _points(lines[0], highest), _points(lines[1], highest), highest, before, then)
        )  # fmt: skip
    return found


def _slots(traffic: Traffic, replayed: Replayed, job: str) -> list[float | None]:
    """The p95 of the waits of what arrived in each slot of the window; None where nothing did."""
    number = traffic.jobs.index(job) if job else -1
    first, span = traffic.arrival[0], traffic.span_s or 1.0
    number_of = max(LEAST_SLOTS, min(SLOTS, len(traffic) // JOBS_A_SLOT))
    slots: list[list[float]] = [[] for _ in range(number_of)]
    for index, own in enumerate(traffic.job):
        if number in (-1, own):
            wait = replayed.taken[index] - replayed.arrival[index]
            if isfinite(wait):
                place = int((replayed.arrival[index] - first) / span * number_of)
                slots[min(number_of - 1, max(0, place))].append(wait)
    return [quantile(sorted(slot), 0.95) if slot else None for slot in slots]


def _points(values: Sequence[float | None], highest: float) -> list[str]:
    """Polylines, one for each stretch without gaps. One slot alone is a stroke as wide as it."""
    lines: list[list[tuple[float, float]]] = [[]]
    slot = WIDTH / len(values)
    for place, value in enumerate(values):
        if value is None:
            lines.append([])
        else:
            lines[-1].append(((place + 0.5) * slot, HEIGHT - 2 - value / highest * (HEIGHT - 6)))
    found = []
    for line in filter(None, lines):
        points = line
        if len(line) == 1:
            ((x, y),) = line
            points = [(x - slot / 2, y), (x + slot / 2, y)]
        found.append(" ".join(f"{x:.1f},{y:.1f}" for x, y in points))
    return found


def _style() -> str:
    from jobdoctor.report.html_report import _static

    return _static("report.css") + "\n" + _static("whatif.css")


def _unwrapped(text: str) -> str:
    return " ".join(text.split())
