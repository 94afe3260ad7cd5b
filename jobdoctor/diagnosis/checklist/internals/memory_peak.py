"""memory-peak: the job takes much more memory than its worker has.

## What it looks for

The largest memory of the work horse above what it inherited at the fork, as the kernel says at its end
(`ru_maxrss`). Four of five executions stay below the value that is judged, so a single outlier is none.

## Why it costs time

Each worker needs room for its largest job, all the time: four workers whose jobs peak at 500 MB need a host of 2 GB
that is mostly empty. When two such jobs meet, the kernel kills one, and its work is lost. And touching fresh memory
costs about a quarter of a millisecond for each megabyte.

## What to do

Process in slices: `yield_per()` or a server-side cursor instead of `.all()`, a generator instead of a list, a file
instead of joined strings, a response streamed in chunks. What stays large gets a queue and workers of its own, with
room for it.

## When it is a false alarm

When the workers have the room, and the job runs alone on its host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import words_bytes, words_count, words_ms
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, Severity

#: A page of 4 kB takes the kernel 0.1 us to clear, and a fault 0.5 to 1 us on the reference machine.
TOUCH_MS_PER_MB = 0.25
#: Copying within the memory, as a join of parts does; own: 5 GB/s.
COPY_MS_PER_MB = 0.2
#: Page faults of a work horse that does next to nothing: the fork's and RQ's own, measured 3,000 to 5,000.
BARE_FAULTS = 4_000


class MemoryPeak(Rule):
    """JD302."""

    code = "JD302"
    name = "memory-peak"
    step = "internals"
    kind = "memory"
    related_to = ("JD306", "JD101", "JD408", "JD303")

    info_bytes = Limit(
        64_000_000, "bytes", "memory above the fork's baseline below which nothing is said", "own: half a warning"
    )
    warning_bytes = Limit(
        128_000_000,
        "bytes",
        "memory above the fork's baseline from which it is a warning",
        "a small container (512 MB) divided among four workers",
    )
    critical_bytes = Limit(
        500_000_000, "bytes", "memory from which it is critical", "seeds of alerts of the field: RSS of 500 MB"
    )
    usual_share = Limit(0.8, "share", "executions that stay below the value judged", "own: one outlier in five is none")

    def check(self, history: JobHistory) -> Iterator[Finding]:
        known = [execution for execution in measure.typical(history) if peak_bytes(execution) is not None]
        if not known:
            raise NotChecked(
                "the memory of the job's process is not known: it is measured in forked work horses "
                "(`jobdoctor run`, jobdoctor.Worker)"
            )
        peaks = sorted(peak_bytes(execution) or 0 for execution in known)
        peak = measure.quantile(peaks, self.limits.usual_share)
        if peak >= self.limits.info_bytes:
            yield self._describe(known, peak)

    def _describe(self, known: Sequence[Execution], peak: float) -> Finding:
        severity: Severity = "info"
        if peak >= self.limits.warning_bytes:
            severity = "critical" if peak >= self.limits.critical_bytes else "warning"
        largest = max(known, key=lambda execution: peak_bytes(execution) or 0)
        peaks = [peak_bytes(execution) or 0 for execution in known]
        rows = [read_rows(execution) for execution in known]
        read = max(rows)
        baseline = largest.rusage.baseline_rss_bytes if largest.rusage else 0
        evidence = [
            Evidence(
                "series",
                f"From {words_bytes(min(peaks))} to {words_bytes(max(peaks))} above the {words_bytes(baseline)} that "
                f"the work horse inherits, over {len(known)} executions",
                {"peak_bytes": {execution.id: peak_bytes(execution) for execution in known}},
            )
        ]
        if where := _when(largest):
            evidence.append(Evidence("fact", where))
        source = _largest_source(largest)
        if source:
            evidence.append(Evidence("fact", source[0], {"callsite": source[1]} if source[1] else {}))
        evidence.append(measure.execution_evidence(largest, "Most memory"))
        touching = max(peak / 1e6 * TOUCH_MS_PER_MB, _faulting_ms(known))
        saving = _saving(known, touching, peak / 1e6 * COPY_MS_PER_MB)
        return self.finding(
            severity=severity,
            confidence=0.9,
            title=f"Each execution takes {words_bytes(peak)} of memory above its worker's"
            + (f", for {words_count(read)} rows" if read >= 1_000 else ""),
            cost_ms=max(touching, saving[1]),
            saving=saving,
            text="Process in slices. Stream the rows, write to a file as you go, and keep what is done no longer than "
            "needed; a job that stays large gets a queue whose workers have the room",
            snippet=_snippet(largest, source[1] if source else ""),
            callsite=source[1] if source else "",
            evidence=evidence,
        )


def _saving(known: Sequence[Execution], touching: float, copying: float) -> tuple[float, float, float]:
    """(low, mid, high) in ms. What works in slices uses the same pages again and again: only those of a slice, which
    are few, are touched for the first time. What held it all at once may have copied it, too, into one piece: half is
    the middle. Both are the kernel's and the process's CPU, with its waits for a processor. Low: blocks so large that
    the allocator gives them back after each slice are touched anew each time."""
    return measure.give_or_take(
        0.25 * touching,
        measure.with_waits(known, 0.95 * touching + copying / 2),
        measure.with_waits(known, touching + copying),
    )


def peak_bytes(execution: Execution) -> int | None:
    """The most memory of the execution above what was there before it; None when it is not known.

    A spawned horse begins with an empty interpreter: its own imports are not the job's, so the first sample of the job
    function is its baseline.
    """
    usage = execution.rusage
    if usage is None or not usage.max_rss_bytes or not usage.baseline_rss_bytes:
        return None
    baseline = usage.baseline_rss_bytes
    if execution.worker_kind == "spawn":
        begun = next((phase.start_ns for phase in execution.phases if phase.name == "body"), None)
        before = [each.rss_bytes for each in execution.samples if begun is not None and each.at_ns <= begun]
        if not before:
            return None
        baseline = max(baseline, before[-1])
    return max(0, usage.max_rss_bytes - baseline)


def read_rows(execution: Execution) -> int:
    """Rows that the execution read from databases, as far as drivers told."""
    return sum(group.rows or 0 for group in execution.groups if group.channel == "sql" and group.effect == "read")


def _when(execution: Execution) -> str:
    """When memory was at its highest, by the samples."""
    body = next((phase for phase in execution.phases if phase.name == "body"), None)
    if body is None or len(execution.samples) < 3:
        return ""
    top = max(execution.samples, key=lambda sample: sample.rss_bytes)
    at = (top.at_ns - body.start_ns) / measure.NS_PER_MS
    if at <= 0:
        return ""
    return (
        f"The highest reading, {words_bytes(top.rss_bytes)} in all, came {words_ms(at)} after the function began, "
        f"which took {words_ms((body.end_ns - body.start_ns) / measure.NS_PER_MS)}"
    )


def _largest_source(execution: Execution) -> tuple[str, str] | None:
    """What brought the most data into the job: (words, callsite)."""
    read = [
        group
        for group in execution.groups
        if group.effect == "read" and ((group.rows or 0) > 1 or group.received_bytes)
    ]
    if not read:
        return None
    group = max(read, key=lambda each: (each.received_bytes, each.rows or 0))
    if group.received_bytes >= 1_000_000:
        return f"{words_bytes(group.received_bytes)} came from {group.fingerprint} at {group.callsite}", group.callsite
    group = max(read, key=lambda each: each.rows or 0)
    if (group.rows or 0) < 100:
        return None
    return f"{words_count(group.rows or 0)} rows came from {group.fingerprint} at {group.callsite}", group.callsite


def _snippet(execution: Execution, callsite: str) -> str:
    library = next((g.library for g in execution.groups if g.callsite == callsite and g.channel == "sql"), "")
    head = f"# {callsite}\n" if callsite else f"# {execution.job}\n"
    if library == "sqlalchemy":
        return (
            f"{head}for row in session.execute(query.execution_options(yield_per=1_000)):  # a page at a time\n"
            "    output.write(render(row))  # a file, not a list"
        )
    if library.startswith("psycopg"):
        return (
            f'{head}with connection.cursor(name="pages") as cursor:  # on the server, a page at a time\n'
            "    for row in cursor.execute(query):\n        output.write(render(row))"
        )
    if library:
        return f"{head}for row in cursor:  # not fetchall()\n    output.write(render(row))"
    return (
        f"{head}with tempfile.TemporaryFile() as output:\n"
        "    for part in parts():  # a generator, not a list\n        output.write(part)"
    )


def _faulting_ms(known: Sequence[Execution]) -> float:
    """The kernel's time for the pages that were touched for the first time, by its own count of them: a fault takes 0.5
    us on one machine and 3 us on another, under a hypervisor."""
    return (
        measure.mean(
            each.rusage.system_ns
            * measure.share(max(0, each.rusage.minor_faults - BARE_FAULTS), each.rusage.minor_faults)
            for each in known
            if each.rusage is not None
        )
        / measure.NS_PER_MS
    )
