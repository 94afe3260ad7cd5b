"""One execution over time: its phases, its calls in lanes, its CPU and memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from jobdoctor.model import Execution, Phase

#: Lanes shown; the costliest stay, in the order in which they began.
SHOWN_LANES = 28
#: Bars closer together than this share of the axis are drawn as one: a pixel of 1,000.
MERGE_SHARE = 0.001
#: Points of a line: more than a sparkline has pixels says nothing.
SHOWN_POINTS = 300


class Bar(Struct, frozen=True):
    """``start`` and ``end`` are shares of the axis, 0 to 1."""

    start: float
    end: float
    count: int


class Lane(Struct, frozen=True):
    """Calls of one shape from one line, of one thread. ``bars`` has runs of calls merged."""

    channel: str
    label: str
    callsite: str
    calls: int  # in the log of spans
    total_ms: float
    bars: list[Bar]
    thread: int
    in_flight: bool


class PhaseBar(Struct, frozen=True):
    name: str
    start: float
    end: float
    ms: float


class Timeline(Struct, frozen=True):
    execution_id: str
    job_id: str
    outcome: str
    length_ms: float  # from dequeue to reap
    phases: list[PhaseBar]
    lanes: list[Lane]
    lanes_left_out: int
    spans: int
    spans_dropped: int


class UsagePoint(Struct, frozen=True):
    at: float  # share of the axis
    cpu: float  # cores in use since the point before
    rss_bytes: int


class Usage(Struct, frozen=True):
    """CPU and memory of one work horse, read from outside."""

    execution_id: str
    length_ms: float
    points: list[UsagePoint]
    peak_rss_bytes: int
    baseline_rss_bytes: int  # inherited at the fork, 0 when not known
    cpu_mean: float
    waits: list[tuple[str, float]]  # what it was blocked in, share of the samples


def timeline(executions: Sequence[Execution]) -> Timeline | None:
    """The slowest execution that has spans, or else phases; None when there is neither."""
    candidates = [execution for execution in executions if execution.spans or execution.in_flight]
    candidates = candidates or [execution for execution in executions if execution.phases]
    if not candidates:
        return None
    chosen = max(candidates, key=lambda execution: execution.run_ns)
    length = max(chosen.run_ns, 1)
    lanes = _lanes(chosen, length)
    kept = sorted(lanes, key=lambda lane: -lane.total_ms)[:SHOWN_LANES]
    kept.sort(key=lambda lane: lane.bars[0].start)
    return Timeline(
        execution_id=chosen.id,
        job_id=chosen.job_id,
        outcome=chosen.outcome,
        length_ms=chosen.run_ns / 1e6,
        phases=list(_phases(chosen.phases, length)),
        lanes=kept,
        lanes_left_out=len(lanes) - len(kept),
        spans=len(chosen.spans),
        spans_dropped=chosen.spans_dropped,
    )


def _share(ns: int, length: int) -> float:
    return min(1.0, max(0.0, ns / length))


def _phases(phases: Iterable[Phase], length: int) -> Iterable[PhaseBar]:
    for phase in phases:
        start, end = _share(phase.start_ns, length), _share(phase.end_ns, length)
        if phase.end_ns > phase.start_ns:
            yield PhaseBar(phase.name, start, end, (phase.end_ns - phase.start_ns) / 1e6)


def _lanes(execution: Execution, length: int) -> list[Lane]:
    flying = execution.in_flight
    spans = [*execution.spans, *([flying] if flying else [])]
    by_lane: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for span in spans:
        if 0 <= span.group < len(execution.groups):
            # A call in flight lasted until the end, whatever was written before it began.
            end = execution.run_ns if span is flying else span.start_ns + span.duration_ns
            by_lane.setdefault((span.group, span.thread), []).append((span.start_ns, max(span.start_ns, end)))
    lanes = []
    for (index, thread), stretches in by_lane.items():
        group = execution.groups[index]
        stretches.sort()
        bars: list[Bar] = []
        for start_ns, end_ns in stretches:
            bar = Bar(_share(start_ns, length), _share(end_ns, length), 1)
            if bars and bar.start - bars[-1].end < MERGE_SHARE:
                last = bars.pop()
                bar = Bar(last.start, max(last.end, bar.end), last.count + 1)
            bars.append(bar)
        lanes.append(
            Lane(
                channel=group.channel,
                label=group.fingerprint or group.operation,
                callsite=group.callsite,
                calls=len(stretches),
                total_ms=sum(end - start for start, end in stretches) / 1e6,
                bars=bars,
                thread=thread,
                in_flight=flying is not None and flying.group == index and flying.thread == thread,
            )
        )
    return lanes


def usage(executions: Sequence[Execution]) -> Usage | None:
    """CPU and memory of the execution with the most samples; None when none has three."""
    sampled = [execution for execution in executions if len(execution.samples) >= 3]
    if not sampled:
        return None
    chosen = max(sampled, key=lambda execution: len(execution.samples))
    samples = sorted(chosen.samples, key=lambda sample: sample.at_ns)
    # Instants are of the epoch; a position below any real epoch is one from the dequeue already.
    origin = chosen.dequeued_at_ns if samples[0].at_ns >= chosen.created_at_ns else 0
    length = max(chosen.run_ns, samples[-1].at_ns - origin, 1)
    step = max(1, -(-len(samples) // SHOWN_POINTS))
    points: list[UsagePoint] = []
    before_at, before_cpu = samples[0].at_ns, samples[0].cpu_ns
    for position in range(step, len(samples), step):
        sample = samples[position]
        elapsed = sample.at_ns - before_at
        if elapsed <= 0:
            continue
        rss = max(one.rss_bytes for one in samples[position - step + 1 : position + 1])
        cpu = max(0, sample.cpu_ns - before_cpu) / elapsed
        points.append(UsagePoint(_share(sample.at_ns - origin, length), cpu, rss))
        before_at, before_cpu = sample.at_ns, sample.cpu_ns
    if not points:
        return None
    waits: dict[str, int] = {}
    for sample in samples:
        if sample.wait:
            waits[sample.wait] = waits.get(sample.wait, 0) + 1
    span = max(1, samples[-1].at_ns - samples[0].at_ns)
    return Usage(
        execution_id=chosen.id,
        length_ms=length / 1e6,
        points=points,
        peak_rss_bytes=max(sample.rss_bytes for sample in samples),
        baseline_rss_bytes=chosen.rusage.baseline_rss_bytes if chosen.rusage else 0,
        cpu_mean=max(0, samples[-1].cpu_ns - samples[0].cpu_ns) / span,
        waits=[
            (name, number / len(samples))
            for name, number in sorted(waits.items(), key=lambda item: (-item[1], item[0]))
        ],
    )
