"""cpu-bound: the job's own computation takes most of the time.

## What it looks for

CPU of the job's own code (not the client side of database or HTTP calls) that is at least `cpu_share` of the run and
at least `cpu_ms`. When a profile was taken, the hottest path through the application's functions is named.

## Why it costs time

Python computes on one core at a time. While a heavy computation holds a worker, light jobs of the same queue wait, and
more threads do not help.

## What to do

Make the named function do less: a better algorithm, a set instead of a list, work hoisted out of the loop. Then let
native code do it (NumPy, a library in C or Rust, the database). What stays heavy gets its own queue and workers, or
a service of its own, sized for CPU.

## When it is a false alarm

When the computation is the purpose of the job, is as fast as it can be, and has workers of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import words_ms, words_share
from jobdoctor.diagnosis.rule import Limit, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, Profile, ProfileFrame, Severity

#: Channels whose client-side CPU stands under ``cpu`` with their name as the detail.
_CALL_DETAILS = frozenset({"sql", "http", "redis", "file", "lock", "pool", "mail", "subprocess", "enqueue"})

#: The function of a module's own code, which runs while it is imported.
_IMPORTED = "<module>"


class CpuBound(Rule):
    """JD301."""

    code = "JD301"
    name = "cpu-bound"
    step = "internals"
    kind = "extract"
    related_to = ("JD306",)

    cpu_share = Limit(
        0.6,
        "share",
        "share of the run, without its waits for a processor and what RQ does around the job, that is its own CPU",
        "own: clearly the larger part",
    )
    cpu_ms = Limit(200, "ms", "own CPU for each execution, below which nothing is said", "own: 15 times a fork")
    warning_ms = Limit(500, "ms", "own CPU for each execution from which it is a warning", "own: others wait behind it")
    critical_ms = Limit(5_000, "ms", "own CPU from which it is critical", "own: ten times a warning")
    hot_share = Limit(
        0.4, "share", "share of its caller's time with which a function continues the hot path", "own: one main branch"
    )

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        run = measure.run_ms(executions)
        cpu = _own_cpu_ms(executions)
        # What it waited for a processor it would have computed: a busy host does not make a job less CPU-bound.
        undisturbed = max(cpu, run - measure.ledger_ms(executions, "cpu_wait"))
        around = measure.ledger_ms(executions, *measure.AROUND_THE_JOB)
        if cpu < self.limits.cpu_ms or cpu < self.limits.cpu_share * max(cpu, undisturbed - around):
            return
        profiled = [execution for execution in history.executions if execution.profile and execution.profile.frames]
        # The longest profile has the most samples.
        profile = max(profiled, key=lambda e: e.profile.samples if e.profile else 0).profile if profiled else None
        path = hot_path(profile, self.limits.hot_share) if profile else []
        yield self._describe(cpu, run, undisturbed, path, profile, executions)

    def _describe(
        self,
        cpu: float,
        run: float,
        undisturbed: float,
        path: Sequence[ProfileFrame],
        profile: Profile | None,
        executions: Sequence[Execution],
    ) -> Finding:
        severity: Severity = "info"
        if cpu >= self.limits.warning_ms:
            severity = "critical" if cpu >= self.limits.critical_ms else "warning"
        evidence = [
            Evidence(
                "fact",
                f"{words_ms(cpu)} of {words_ms(run)} is CPU of the job's own code, "
                f"mean of {len(executions)} executions",
            )
        ]
        if undisturbed < 0.9 * run:
            evidence.append(
                Evidence(
                    "fact",
                    f"It waited {words_ms(run - undisturbed)} for a processor: the host has more to do than it can",
                )
            )
        leaf = path[-1] if path else None
        part = 0.0
        if leaf is not None and profile is not None:
            whole_ns = _without_imports_ns(profile)
            part = measure.share(leaf.ns, whole_ns)
            evidence.append(
                Evidence(
                    "profile",
                    "Hot path: " + " > ".join(f"{frame.function} ({frame.callsite})" for frame in path),
                    {
                        "path": [
                            {
                                "function": frame.function,
                                "callsite": frame.callsite,
                                "ms": round(frame.ns / 1e6, 3),
                                "share": round(measure.share(frame.ns, whole_ns), 4),
                            }
                            for frame in path
                        ]
                    },
                )
            )
        else:
            evidence.append(
                Evidence(
                    "fact", "No profile was taken: run the job under `jobdoctor run --profile always` to see where"
                )
            )
        place = f", {words_share(part)} of it in {leaf.function} ({leaf.callsite})" if leaf is not None else ""
        text = (
            f"Make {leaf.function} do less, or let native code do it. "
            if leaf
            else "Find the hot path and shorten it. "
        )
        saving = _saving(measure.with_waits(executions, cpu * (part or 1.0)))
        return self.finding(
            severity=severity,
            confidence=0.9 if leaf else 0.8,
            title=f"{words_ms(cpu)} of CPU in the job's own code ({words_share(measure.share(cpu, undisturbed))} of "
            f"the run{'' if undisturbed >= 0.9 * run else ' without its waits for a processor'}){place}",
            cost_ms=max(cpu, saving[1]),
            saving=saving,
            text=text
            + "What stays heavy gets a queue and workers of its own, so that light jobs do not wait behind it.",
            snippet=_snippet(leaf, executions[0]),
            callsite=leaf.callsite if leaf else "",
            evidence=evidence,
        )


def _saving(hot: float) -> tuple[float, float, float]:
    """(low, mid, high) in ms, of the CPU of the hot part and its waits for a processor.

    A guess, and a wide one: nobody knows the better algorithm before it is found. Low: work hoisted out of a loop, 1.2
    times as fast. High: a better algorithm leaves next to nothing. Mid: three times as fast, between what one gets from
    tuning Python (1.2 to 2) and from native code or an index in memory (10 and more).
    """
    return (hot / 6, hot * 2 / 3, hot)


def _own_cpu_ms(executions: Sequence[Execution]) -> float:
    """CPU without the client side of calls: that belongs to the calls."""
    return (
        measure.mean(
            sum(
                part.ns
                for part in execution.ledger
                if part.name == "cpu" and part.detail.partition(" ")[0] not in _CALL_DETAILS
            )
            for execution in executions
        )
        / measure.NS_PER_MS
    )


def _without_imports_ns(profile: Profile) -> int:
    """The profile's time without the outermost imports in it."""
    imported = 0
    inside: set[int] = set()
    for index, frame in enumerate(profile.frames):  # a parent stands before its children
        if frame.parent in inside:
            inside.add(index)
        elif frame.function == _IMPORTED:
            inside.add(index)
            imported += frame.ns
    return max(0, profile.duration_ns - imported)


def hot_path(profile: Profile, least_share: float) -> list[ProfileFrame]:
    """From the outermost application frame down to where the time spreads out; library frames are passed through.

    What modules do while they are imported is import-cost's, and left out.
    """
    children: dict[int, list[int]] = {}
    for index, frame in enumerate(profile.frames):
        children.setdefault(frame.parent, []).append(index)

    def application_below(index: int) -> list[int]:
        found: list[int] = []
        for child in children.get(index, ()):
            if profile.frames[child].function == _IMPORTED:
                continue
            found.extend([child] if profile.frames[child].application else application_below(child))
        return found

    path: list[ProfileFrame] = []
    at = -1
    while below := application_below(at):
        heaviest = max(below, key=lambda index: profile.frames[index].ns)
        whole = profile.frames[at].ns if at >= 0 else _without_imports_ns(profile)
        if profile.frames[heaviest].ns < least_share * whole:
            break
        path.append(profile.frames[heaviest])
        at = heaviest
    return path


def _snippet(leaf: ProfileFrame | None, execution: Execution) -> str:
    function = execution.job.rpartition(".")[2]
    queue = f'Queue("heavy", connection=redis).enqueue({function}, ...)  # workers sized for CPU'
    return f"# {leaf.callsite} {leaf.function}\n{queue}" if leaf else queue
