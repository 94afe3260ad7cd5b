"""The waterfall of executions: every recorded call on one time axis, calls of one shape in a row that opens.

A run is calls of one group in one thread that follow one another with few others between: what an N+1 looks like, also
where two of them take turns. Positions and lengths are whole microseconds from the dequeue, in columns: a start is the
distance from the start before it in its run, so that thousands of calls stay a few kilobytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from msgspec import Struct

from jobdoctor.model import Execution, Span, SpanGroup

#: Other calls of the same thread that may stand between two calls of one run: a loop's body rarely makes more.
BETWEEN = 12
#: Calls drawn of one execution, and of all of a page together. One call is 7 to 9 bytes of the page.
MOST_CALLS = 20_000
MOST_CALLS_OF_ALL = 32_000
#: What the executions after a very large one may still draw.
LEAST_CALLS = 1_000
#: Waits for locks that are told one by one.
MOST_WAITS = 200
#: A merged bar covers at most this share of the axis: merging begins far below a pixel and doubles up to this.
FIRST_MERGE_SHARE = 1 / 16_000
LAST_MERGE_SHARE = 1 / 250
#: Rows of the picture without a script, and the least of its axis that stands between two bars there.
SHOWN_LANES = 14
LANE_GAP = 4


class Shape(Struct, frozen=True):
    """What the calls of a run have in common."""

    channel: str
    label: str
    callsite: str
    function: str
    target: str
    relationship: str


class Run(Struct, frozen=True):
    """Calls of one shape in one thread. ``starts`` are deltas; with ``counts``, bars stand for several calls."""

    shape: int
    thread: int
    calls: int
    total_us: int
    longest_us: int
    different: int  # sets of parameters; 0: not known
    errors: int
    in_transaction: int
    starts: list[int]
    lengths: list[int]
    failed: list[int]  # positions of failed calls among the bars
    counts: list[int]  # calls behind each bar; empty: one each


class Stretch(Struct, frozen=True):
    name: str
    start_us: int
    length_us: int


class Blocked(Struct, frozen=True):
    """A wait for a lock, and who held it, as far as that is known."""

    start_us: int
    length_us: int
    holder: str


class Lane(Struct, frozen=True):
    """A run as it is shown without a script: an SVG path on 1,000 by 10 units."""

    shape: Shape
    run: Run
    from_us: int
    path: str
    in_flight: bool


class Waterfall(Struct, frozen=True):
    """``in_flight``: the run whose last bar is the call that never returned, -1 when there was none."""

    length_us: int
    phases: list[Stretch]
    blocked: list[Blocked]
    shapes: list[Shape]
    runs: list[Run]  # in the order in which they began
    in_flight: int
    calls: int
    left_out: int  # calls in the log that are not drawn
    dropped: int  # calls that the log had no room for
    threads: int

    def lanes(self) -> list[Lane]:
        """The runs that took the most time, in the order in which they began."""
        ranked = sorted(range(len(self.runs)), key=lambda at: (at != self.in_flight, -self.runs[at].total_us))
        return [
            Lane(
                self.shapes[self.runs[at].shape],
                self.runs[at],
                self.runs[at].starts[0],
                _path(self.runs[at], self.length_us),
                at == self.in_flight,
            )
            for at in sorted(ranked[:SHOWN_LANES])
        ]


def waterfalls(executions: Sequence[Execution]) -> list[Waterfall | None]:
    """One for each execution, None where it has neither calls nor phases. Bounded together: the first ones get most."""
    room = MOST_CALLS_OF_ALL
    drawn: list[Waterfall | None] = []
    for execution in executions:
        picture = waterfall(execution, max(LEAST_CALLS, min(MOST_CALLS, room)))
        room -= sum(len(run.starts) for run in picture.runs) if picture else 0
        drawn.append(picture)
    return drawn


def waterfall(execution: Execution, most: int = MOST_CALLS) -> Waterfall | None:
    """The calls and phases of one execution, with at most ``most`` bars; None when it has neither."""
    flying = execution.in_flight
    if flying is not None and not 0 <= flying.group < len(execution.groups):
        flying = None
    spans = [span for span in execution.spans if 0 <= span.group < len(execution.groups)]
    if flying is not None:
        # It lasted until the end, whatever was written before it began.
        spans.append(_until(flying, execution.run_ns))
    phases = [
        Stretch(phase.name, _us(phase.start_ns), _us(phase.end_ns - phase.start_ns))
        for phase in execution.phases
        if phase.end_ns > phase.start_ns
    ]
    if not spans and not phases:
        return None
    members = _runs(spans)
    length_us = max(1, _us(execution.run_ns), *(_us(span.start_ns + span.duration_ns) for span in spans), 1)
    in_flight = next((at for at, run in enumerate(members) if flying is not None and run[-1] is spans[-1]), -1)
    groups = sorted({run[0].group for run in members})
    places = {group: place for place, group in enumerate(groups)}
    runs = [_run(places[run[0].group], run) for run in members]
    share = FIRST_MERGE_SHARE
    while sum(len(run.starts) for run in runs) > most and share <= LAST_MERGE_SHARE:
        runs = [_merged(run, int(length_us * share), last_alone=at == in_flight) for at, run in enumerate(runs)]
        share *= 2
    kept, in_flight = _fitting(runs, most, in_flight)
    return Waterfall(
        length_us=length_us,
        phases=phases,
        blocked=_blocked(execution),
        shapes=[_shape(execution.groups[group]) for group in groups],
        runs=kept,
        in_flight=in_flight,
        calls=len(spans),
        left_out=len(spans) - sum(run.calls for run in kept),
        dropped=execution.spans_dropped,
        threads=len({span.thread for span in spans}),
    )


def data(picture: Waterfall) -> dict[str, object]:
    """What the script draws: short keys, columns, and nothing that is empty."""
    return {
        "length": picture.length_us,
        "phases": [[phase.name, phase.start_us, phase.length_us] for phase in picture.phases],
        "blocked": [[wait.start_us, wait.length_us, wait.holder] for wait in picture.blocked],
        "shapes": [
            [shape.channel, shape.label, shape.callsite, shape.function, shape.target, shape.relationship]
            for shape in picture.shapes
        ],
        "runs": [_columns(run) for run in picture.runs],
        "inFlight": picture.in_flight,
    }


def _blocked(execution: Execution) -> list[Blocked]:
    """The longest waits for locks, in order of time."""
    longest = sorted(execution.locks, key=lambda wait: -wait.waited_ns)[:MOST_WAITS]
    return [
        Blocked(
            _us(wait.start_ns),
            _us(wait.waited_ns),
            f"{wait.kind} lock held by {wait.blocking_job or wait.blocking_statement or 'somebody unknown'}",
        )
        for wait in sorted(longest, key=lambda wait: wait.start_ns)
        if wait.start_ns
    ]


def _columns(run: Run) -> dict[str, object]:
    columns: dict[str, object] = {
        "s": run.shape, "t": run.thread, "n": run.calls, "total": run.total_us, "max": run.longest_us,
        "p": run.different, "e": run.errors, "x": run.in_transaction,
        "at": run.starts, "us": run.lengths, "bad": run.failed, "of": run.counts,
    }  # fmt: skip
    return {key: value for key, value in columns.items() if value or key == "s"}


def _path(run: Run, length_us: int) -> str:
    scale = 1_000 / length_us
    path: list[str] = []
    left = right = -LANE_GAP - 1.0
    for start, length in zip(accumulate(run.starts), run.lengths, strict=True):
        begin, end = start * scale, max((start + length) * scale, start * scale + 2)
        if begin - right < LANE_GAP:
            right = max(right, end)
            continue
        if path or right > 0:
            path.append(f"M{left:.0f} 1h{right - left:.0f}v8h-{right - left:.0f}z")
        left, right = begin, end
    path.append(f"M{left:.0f} 1h{right - left:.0f}v8h-{right - left:.0f}z")
    return "".join(path)


def _us(ns: int) -> int:
    return max(0, round(ns / 1_000))


def _until(span: Span, end_ns: int) -> Span:
    return Span(
        span.group, span.start_ns, max(0, end_ns - span.start_ns), span.thread, span.params,
        in_transaction=span.in_transaction,
    )  # fmt: skip


def _shape(group: SpanGroup) -> Shape:
    return Shape(
        group.channel, group.fingerprint or group.operation, group.callsite, group.function, group.target,
        group.relationship,
    )  # fmt: skip


def _runs(spans: Sequence[Span]) -> list[list[Span]]:
    """Runs in the order in which they began, their calls in order of time; the last span stays the last of its run."""
    passed: dict[int, int] = {}  # calls of each thread so far
    open_: dict[tuple[int, int], tuple[int, list[Span]]] = {}
    runs: list[list[Span]] = []
    ordered = sorted(range(len(spans)), key=lambda at: (spans[at].start_ns, at))
    for at in ordered:
        span = spans[at]
        number = passed[span.thread] = passed.get(span.thread, 0) + 1
        before = open_.get((span.group, span.thread))
        if before is not None and number - before[0] <= BETWEEN + 1:
            run = before[1]
        else:
            run = []
            runs.append(run)
        run.append(span)
        open_[span.group, span.thread] = (number, run)
    return runs


def _run(shape: int, spans: Sequence[Span]) -> Run:
    starts = [_us(span.start_ns) for span in spans]
    params = {span.params for span in spans if span.params}
    lengths = [_us(span.duration_ns) for span in spans]
    return Run(
        shape=shape,
        thread=spans[0].thread,
        calls=len(spans),
        total_us=_us(sum(span.duration_ns for span in spans)),
        longest_us=max(lengths),
        different=len(params),
        errors=sum(span.error for span in spans),
        in_transaction=sum(span.in_transaction for span in spans),
        starts=[start - before for before, start in zip([0, *starts], starts, strict=False)],
        lengths=lengths,
        failed=[at for at, span in enumerate(spans) if span.error],
        counts=[],
    )


def _merged(run: Run, gap_us: int, *, last_alone: bool) -> Run:
    """Bars closer together than the gap become one, up to eight gaps long. Failed calls and the one in flight stay."""
    starts: list[int] = []
    lengths: list[int] = []
    counts: list[int] = []
    failed: list[int] = []
    bad = set(run.failed)
    last = len(run.starts) - 1
    alone = True
    for at, start in enumerate(accumulate(run.starts)):
        length, calls = run.lengths[at], run.counts[at] if run.counts else 1
        single = at in bad or (last_alone and at == last)
        if (
            not single
            and not alone
            and start - (starts[-1] + lengths[-1]) <= gap_us
            and start - starts[-1] < 8 * gap_us
        ):
            lengths[-1] = max(lengths[-1], start + length - starts[-1])
            counts[-1] += calls
        else:
            if at in bad:
                failed.append(len(starts))
            starts.append(start)
            lengths.append(length)
            counts.append(calls)
            alone = single
    return Run(
        run.shape, run.thread, run.calls, run.total_us, run.longest_us, run.different, run.errors, run.in_transaction,
        [start - before for before, start in zip([0, *starts], starts, strict=False)], lengths, failed, counts,
    )  # fmt: skip


def _fitting(runs: list[Run], most: int, in_flight: int) -> tuple[list[Run], int]:
    """The runs that took the most time, as many as there is room for; the call in flight is always among them."""
    if sum(len(run.starts) for run in runs) <= most:
        return runs, in_flight
    room = most
    kept: set[int] = set()
    for at in sorted(range(len(runs)), key=lambda at: (at != in_flight, -runs[at].total_us)):
        if len(runs[at].starts) <= room:
            room -= len(runs[at].starts)
            kept.add(at)
    order = sorted(kept)
    return [runs[at] for at in order], order.index(in_flight) if in_flight in kept else -1
