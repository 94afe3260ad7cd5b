"""What was recorded, what was not, and what recording cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from jobdoctor.model import Diagnosis, Execution


class ProbeRow(Struct, frozen=True):
    """``reasons`` say why a library's probe failed."""

    channel: str
    status: str
    libraries: list[str]
    reasons: list[str]


class Capture(Struct, frozen=True):
    probes: list[ProbeRow]
    overhead_ms: float | None  # mean for each execution
    overhead_share: float | None  # of the run time
    truncated: bool
    spans_dropped: int
    not_captured: list[tuple[str, int]]  # sentence, executions
    looked_at: int
    total: int
    lost: int
    sampled: int
    profiled: int
    worker_kinds: list[str]
    rq_versions: list[str]
    python_versions: list[str]


def probe_rows(executions: Iterable[Execution]) -> list[ProbeRow]:
    """One row for each channel: failed when any library's probe failed, else active when any was, else absent."""
    statuses: dict[str, set[str]] = {}
    libraries: dict[str, set[str]] = {}
    reasons: dict[str, set[str]] = {}
    for execution in executions:
        for probe in execution.probes:
            statuses.setdefault(probe.channel, set()).add(probe.status)
            if probe.status == "active":
                libraries.setdefault(probe.channel, set()).add(probe.library)
            if probe.status == "failed":
                reasons.setdefault(probe.channel, set()).add(f"{probe.library}: {probe.reason or 'no reason given'}")
    return [
        ProbeRow(
            channel,
            next(status for status in ("failed", "active", "absent") if status in seen),
            sorted(libraries.get(channel, ())),
            sorted(reasons.get(channel, ())),
        )
        for channel, seen in sorted(statuses.items())
    ]


def mean_overhead_ms(executions: Sequence[Execution]) -> float | None:
    """jobdoctor's own cost for each execution; None when nothing was looked at."""
    if not executions:
        return None
    return sum(execution.overhead_ns for execution in executions) / len(executions) / 1e6


def capture(diagnosis: Diagnosis) -> Capture:
    """What the recordings hold and lack, over the executions looked at."""
    history = diagnosis.history
    executions = history.executions
    missing: dict[str, int] = {}
    for execution in executions:
        for sentence in dict.fromkeys(execution.not_captured):
            missing[sentence] = missing.get(sentence, 0) + 1
    overhead = mean_overhead_ms(executions)
    run_ms = sum(execution.run_ns for execution in executions) / 1e6 / len(executions) if executions else 0.0
    return Capture(
        probes=probe_rows(executions),
        overhead_ms=overhead,
        overhead_share=overhead / run_ms if overhead is not None and run_ms else None,
        truncated=any(execution.truncated for execution in executions),
        spans_dropped=sum(execution.spans_dropped for execution in executions),
        not_captured=sorted(missing.items(), key=lambda item: (-item[1], item[0])),
        looked_at=len(executions),
        total=history.executions_total,
        lost=history.lost,
        sampled=sum(bool(execution.samples) for execution in executions),
        profiled=sum(execution.profile is not None for execution in executions),
        worker_kinds=sorted({execution.worker_kind for execution in executions}),
        rq_versions=sorted({execution.rq_version for execution in executions if execution.rq_version}),
        python_versions=sorted({execution.python_version for execution in executions if execution.python_version}),
    )
