"""gc-pressure: the garbage collector takes a real share of the run.

## What it looks for

Pauses of Python's cyclic garbage collector while the job function runs, against the function's time. Its own pauses
are measured by its callback, so explicit `gc.collect()` calls count as well.

## Why it costs time

A full collection looks at every container object of the process, whatever the job made: with a framework loaded that is
10 to 50 ms each time, and the job stands still. Collections come with the number of new objects (every 700 by default),
and most find nothing: reference counting has freed it already.

## What to do

Take explicit `gc.collect()` calls out of loops. Call `gc.freeze()` once in the worker, after its imports, so that full
collections leave the framework's objects alone. A job that builds millions of objects can switch the collector off
while it builds (`gc.disable()`), raise `gc.set_threshold`, or hold its data in arrays or columns instead of objects.

## When it is a false alarm

When the job makes large cycles itself and must give their memory back while it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import words_count, words_ms, words_share
from jobdoctor.diagnosis.rule import Limit, NotChecked
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory


class GcPressure(TimeRule):
    """JD304."""

    code = "JD304"
    name = "gc-pressure"
    step = "internals"
    kind = "optimize"
    related_to = ("JD301", "JD302", "JD408")

    gc_share = Limit(
        0.1, "share", "share of the function's time spent in collections", "Clinic.js Doctor: 100 ms of each second"
    )
    gc_ms = Limit(
        30,
        "ms",
        "time in collections for each execution, below which nothing is said",
        "measured: one full collection in a forked horse with a web framework takes 20 to 30 ms, once is natural",
    )
    full_ms = Limit(3, "ms", "mean pause from which collections are full ones", "own: young ones take 0.01 to 1 ms")
    full_calls = Limit(
        3, "collections", "full collections below which it is never more than info", "own: once, at the end, is tidy"
    )
    natural_ms = Limit(
        200,
        "ms",
        "time in collections below which it is never more than info, where they came by themselves",
        "measured: a list of 20,000 dicts in a forked horse of 60 MB brings one full collection, 30 to 100 ms",
    )

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        failed = [
            probe for each in executions for probe in each.probes if probe.library == "gc" and probe.status == "failed"
        ]
        if failed and not any(each.gc_count for each in executions):
            raise NotChecked(f"collections were not recorded: {failed[0].reason or 'the probe of gc failed'}")
        spent = measure.quantile([_collecting_ms(each) for each in executions], 0.5)
        own = measure.body_ms(executions) - measure.ledger_ms(executions, "cpu_wait")
        if spent < self.limits.gc_ms or spent < self.limits.gc_share * own:
            return
        yield self._describe(executions, spent, max(own, spent))

    def _describe(self, executions: Sequence[Execution], spent: float, own: float) -> Finding:
        own_share = measure.share(measure.mean(map(_collecting_ms, executions)), measure.ledger_ms(executions, "gc"))
        pauses = measure.mean(each.gc_count for each in executions)
        pause = measure.ledger_ms(executions, "gc") / pauses if pauses else 0.0
        count = pauses * own_share
        lone = self._in_lone_full_ones(executions)
        full = lone is None and pause >= self.limits.full_ms and count >= self.limits.full_calls
        most = max(executions, key=_collecting_ms)
        saving = _saving(spent, measure.with_waits(executions, spent), full)
        natural = (1 - (lone or 0.0)) * spent
        return self.finding(
            severity=self.severity(0.8 * spent, own) if full or natural >= self.limits.natural_ms else "info",
            confidence=0.85,
            title=f"{words_ms(spent)} of garbage collection ({words_share(measure.share(spent, own))} of the function) "
            f"in {words_count(count)} collections",
            cost_ms=max(spent, saving[1]),
            saving=saving,
            text=_LOOPED if full else _FREEZE if lone is not None and lone >= 0.5 else _SWITCH_OFF,
            snippet=_snippet(full, executions[0].job.rpartition(".")[2]),
            evidence=[
                Evidence(
                    "fact",
                    f"{words_count(count)} collections of {words_ms(pause)} each take {words_ms(spent)} of "
                    f"{words_ms(own)}, median of {len(executions)} executions"
                    + (": as long as that, they look at every object of the process" if full else ""),
                    {"collections": round(count, 1), "pause_ms": round(pause, 3), "gc_ms": round(spent, 3)},
                ),
                measure.execution_evidence(most, "Longest in collections"),
            ],
        )

    def _in_lone_full_ones(self, executions: Sequence[Execution]) -> float | None:
        """Share of the collections' time in full ones that come by themselves: so few are no loop of gc.collect(). None
        when they are more, or were not told apart."""
        told = [each for each in executions if each.gc_full_count is not None and each.gc_ns]
        if not told or measure.mean(each.gc_full_count or 0 for each in told) >= self.limits.full_calls:
            return None
        return measure.share(sum(each.gc_full_ns for each in told), sum(each.gc_ns for each in told))


_LOOPED = (
    "Take gc.collect() out of the loop, and freeze what the worker has imported. Full collections then come seldom, "
    "and leave the framework's objects alone"
)
_FREEZE = (
    "Freeze what the worker has imported. A full collection looks at every object of the process, and a forked work "
    "horse copies the memory of each one that it looks at"
)
_SWITCH_OFF = (
    "Switch the collector off while the objects are built, or raise its threshold. Reference counting frees all but "
    "cycles without it"
)


def _saving(spent: float, gone: float, full: bool) -> tuple[float, float, float]:
    """(low, mid, high) in ms; ``gone`` is with the waits for a processor. A collection also pushes the job's own data
    out of the processor's caches: a tenth more at most. Where no explicit collection is taken out of a loop, some come
    back."""
    return (0.5 * spent, 0.95 * gone, 1.1 * gone) if full else (0.3 * spent, 0.7 * gone, 1.1 * gone)


def _collecting_ms(execution: Execution) -> float:
    """Collections of the job's own objects: those that imports brought about belong to the imports."""
    return execution.ledger_ns("gc") / measure.NS_PER_MS - measure.collected_by_imports_ms([execution])


def _snippet(full: bool, function: str) -> str:
    frozen = "# in the worker's settings, after its imports\nimport gc\n\ngc.collect()\ngc.freeze()"
    if full:
        return f"# {function}: no gc.collect() in the loop\n\n{frozen}"
    return f"# {function}\ngc.disable()\ntry:\n    objects = build()\nfinally:\n    gc.enable()\n\n{frozen}"
