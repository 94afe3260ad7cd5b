"""killed: the work horse died before the job ended.

## What it looks for

Executions whose work horse was killed by a signal, was ended by the worker for running over its timeout, left without
a word, died with its worker, or met a limit of its process. Each has a death certificate: signal or exit code, the
kernel's counters, the last memory, the call in flight and the last known Python stack, which is read from outside while
the job runs and written by the process itself when native code faults. A job that somebody stopped does not count, nor
does one whose worker was told twice to stop. One such execution is enough.

## Why it costs time

All the work of the execution is lost, and what it had already written stays written. RQ says only "work-horse
terminated unexpectedly"; when memory is the reason, other jobs on the host suffer too, and every retry dies again.

## What to do

Look at the last memory and at the call that was running. Out of memory: process in slices, stream instead of loading
all, or give the queue a host with more. Over the timeout: split the job, or give the call a timeout of its own, and do
not catch `Exception` around all of it. A segmentation fault comes from native code: update the library that the stack
names, or do not share its objects over the fork.

## When it is a false alarm

When a deploy or an operator killed the workers: several jobs then die at one instant.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import to_builtins

from jobdoctor import words
from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import words_bytes, words_ms, words_share
from jobdoctor.diagnosis.rule import Limit, Rule
from jobdoctor.model import Death, Evidence, Execution, Finding, JobHistory, RecommendationKind

#: Whose words leave no doubt.
_SURE = frozenset({"oom", "timeout", "segfault", "exit", "memory-limit", "cpu-limit", "file-limit", "lost-worker"})
_MEMORY_LIMITS = frozenset({"cgroup", "machine", "RLIMIT_AS", "RLIMIT_DATA"})
_SHOWN_FRAMES = 3
_FAULTS: dict[int, str] = {
    signal.SIGBUS: "a bus error",
    signal.SIGABRT: "an abort",
    signal.SIGILL: "an illegal instruction",
    signal.SIGFPE: "a floating point exception",
}


class Killed(Rule):
    """JD306."""

    code = "JD306"
    name = "killed"
    step = "internals"
    kind = "memory"

    memory_bytes = Limit(
        500_000_000,
        "bytes",
        "memory above the fork's baseline from which an unexplained SIGKILL is put down to memory",
        "seeds of alerts of the field: mean RSS of 500 MB",
    )

    def check(self, history: JobHistory) -> Iterator[Finding]:
        died = [execution for execution in history.executions if _died(execution)]
        if not died:
            return
        by_cause: dict[str, list[Execution]] = {}
        for execution in died:
            by_cause.setdefault(self._cause(execution), []).append(execution)
        for cause, executions in sorted(by_cause.items(), key=lambda item: -len(item[1])):
            # The outcomes count every execution of the window, the details are a sample of them.
            alone = len(by_cause) == 1 and not any(_ended_by_somebody(each) for each in history.executions)
            number = max(len(executions), history.outcomes.get("killed", 0) if alone else 0)
            yield self._describe(history, cause, executions, number)

    def _cause(self, execution: Execution) -> str:
        """The suspect: what the recording says, or memory when a SIGKILL met much of it."""
        death = execution.death or Death()
        if death.oom_kills is not None:
            return death.cause  # the counters of its control group say whether it was memory
        if death.cause == "signal" and death.signal == signal.SIGSEGV:
            return "segfault"
        if death.cause in ("signal", "unknown") and death.signal == signal.SIGKILL:
            return "oom" if _memory_bytes(execution) >= self.limits.memory_bytes else "signal"
        return death.cause

    def _describe(self, history: JobHistory, cause: str, executions: Sequence[Execution], number: int) -> Finding:
        newest = executions[0]
        death = newest.death or Death()
        lost = measure.run_ms(executions)
        share = measure.share(number, max(number, history.executions_total))
        peak = max(_memory_bytes(execution) for execution in executions)
        last = max((execution.death or Death()).last_rss_bytes or _last_rss(execution) for execution in executions)
        doing = next((each.death.in_flight for each in executions if each.death and each.death.in_flight), "")
        kind, suspect, text = _advice(cause, death, newest, peak)
        were = "was" if number == 1 else "were"
        ended = "cut short" if cause in ("memory-limit", "file-limit") else "killed"
        total = max(number, history.executions_total)
        title = f"{number} of {words.count(total, 'execution')} {were} {ended}: {suspect}"
        data: dict[str, Any] = {"cause": cause, "signal": death.signal, "certificate": to_builtins(death)}
        facts = [Evidence("fact", f"The suspect: {death.suspect or suspect}", data)]
        if last:
            limit = f", of a limit of {words.binary_size(death.limit_value)}" if death.limit in _MEMORY_LIMITS else ""
            facts.append(
                Evidence(
                    "fact", f"Last memory {words_bytes(last)}, {words_bytes(peak)} above the fork's baseline{limit}"
                )
            )
        facts.append(Evidence("fact", f"It was in {doing}" if doing else "No recorded call was running when it died"))
        if death.stack:
            facts.append(Evidence("fact", *_stack(death)))
        series = [[sample.at_ns, sample.rss_bytes] for sample in newest.samples]
        if series:
            curve: dict[str, Any] = {"rss_bytes": series}
            if death.limit in _MEMORY_LIMITS:
                curve["limit_bytes"] = death.limit_value
            facts.append(Evidence("series", "Memory of the newest killed execution", curve))
        facts.append(measure.execution_evidence(newest, "Newest killed execution"))
        saving = lost * share
        return self.finding(
            severity="critical",
            confidence=0.95 if cause in _SURE else 0.8,
            title=title,
            cost_ms=saving,
            saving=measure.give_or_take(saving / 2, saving, saving),
            kind=kind,
            text=text,
            callsite=_in_flight_callsite(newest) or _stack_callsite(newest),
            evidence=[
                *facts,
                Evidence(
                    "fact",
                    f"{words_ms(lost)} of work are lost each time, in {words_share(share)} of the executions",
                ),
            ],
        )


def _died(execution: Execution) -> bool:
    if _ended_by_somebody(execution):
        return False
    if execution.outcome == "timeout":
        return False  # by RQ's exception: the horse lived, and timeout-misfit looks at it
    return execution.outcome == "killed" or execution.death is not None


def _ended_by_somebody(execution: Execution) -> bool:
    death = execution.death
    return execution.outcome == "stopped" or (death is not None and death.cause in ("stopped", "shutdown"))


def _stack(death: Death) -> tuple[str, dict[str, Any]]:
    """The last known stack as a sentence, and as data."""
    when = {"fault": "as it died", "exit": "as it left", "exception": "where it was cut"}.get(death.stack_source, "")
    if not when:
        age_ms = death.stack_age_ns / 1e6
        when = f"{words_ms(age_ms)} before" if age_ms >= 1 else "in the call"
    frames = [frame for frame in death.stack if frame.application] or death.stack
    shown = ", called from ".join(f"{frame.callsite} {frame.function}" for frame in frames[:_SHOWN_FRAMES])
    rows = [[frame.callsite, frame.function, frame.application] for frame in death.stack]
    return f"Last known stack ({when}): {shown}", {"stack": rows}


def _last_rss(execution: Execution) -> int:
    return execution.samples[-1].rss_bytes if execution.samples else 0


def _memory_bytes(execution: Execution) -> int:
    """Most memory seen, above what the horse inherited at the fork."""
    seen = [sample.rss_bytes for sample in execution.samples]
    if execution.death is not None:
        seen.append(execution.death.last_rss_bytes)
    if execution.rusage is not None:
        seen.append(execution.rusage.max_rss_bytes)
    baseline = execution.rusage.baseline_rss_bytes if execution.rusage is not None else 0
    return max(0, max(seen, default=0) - baseline)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _in_flight_callsite(execution: Execution) -> str:
    span = execution.in_flight
    if span is None or not 0 <= span.group < len(execution.groups):
        return ""
    return execution.groups[span.group].callsite


def _stack_callsite(execution: Execution) -> str:
    """The application's line in the last known stack; none when that stack was seen before the function had begun."""
    death = execution.death or Death()
    body_ns = next((phase.start_ns for phase in execution.phases if phase.name == "body"), 0)
    if execution.run_ns - death.stack_age_ns < body_ns:
        return ""
    return next((frame.callsite for frame in death.stack if frame.application), "")


def _advice(cause: str, death: Death, execution: Execution, peak: int) -> tuple[RecommendationKind, str, str]:
    """Kind of the recommendation, the suspect in words, and what to do."""
    if cause == "oom":
        return (
            "memory",
            f"out of memory at {words_bytes(peak)} of its own",
            "Process the data in slices or stream it. Or give this queue a host with more memory.",
        )
    if cause == "timeout":
        bound = f" of {words_ms(execution.timeout_s * 1_000)}" if execution.timeout_s else ""
        return (
            "timeout",
            f"over its timeout{bound}, and it did not react",
            "Split the job, or give the call it hangs in a timeout of its own. Raise the job's timeout only when the "
            "work is really that long.",
        )
    if cause == "segfault":
        fault = _FAULTS.get(death.signal, "a segmentation fault")
        where = next((frame.callsite for frame in death.stack if frame.application), "")
        called = f" called from {where}" if where else ""
        library = next((frame.callsite for frame in death.stack[:1] if not frame.application), "")
        below = f"below {library}" if library else "in the in-flight call"
        return (
            "isolate",
            f"{fault} in native code{called}",
            f"Find the native library {below} and update it. Do not share its objects over the fork.",
        )
    if cause == "memory-limit":
        return (
            "memory",
            f"it ran into {death.limit} of {words.binary_size(death.limit_value)}",
            "Process the data in slices or stream it. Or raise the limit, which the worker's service or the job sets.",
        )
    if cause == "cpu-limit":
        return (
            "optimize",
            "it used up its limit of CPU time (RLIMIT_CPU)",
            "Make the computation cheaper, or split the job. Or raise the limit, which the worker's service or the "
            "job sets.",
        )
    if cause == "file-limit":
        return (
            "config",
            f"a file outgrew {death.limit} of {words.binary_size(death.limit_value)}",
            "Write smaller files. Or raise the limit, which the worker's service or the job sets.",
        )
    if cause == "lost-worker":
        return (
            "config",
            "its worker was killed, and the job with it",
            "Look what ended the worker at that time: a deploy, an operator, or the container's limit. A control group "
            "with `memory.oom.group` loses all its processes when one of them takes too much.",
        )
    if cause == "exit":
        code = "" if death.exit_code is None else f" with code {death.exit_code}"
        return (
            "config",
            f"the process left by itself{code}",
            "Find what calls os._exit or kills its own process. Raise an exception instead, so that RQ can record it.",
        )
    if death.signal:
        return (
            "memory",
            f"{_signal_name(death.signal)} from outside",
            "Look who sent the signal at that time. The kernel's log (`dmesg`) and the container's events name "
            "the out-of-memory killer; deploys and operators send signals too.",
        )
    return (
        "memory",
        "the work horse vanished",
        "Look at the kernel's log and the container's events at that time. They name the out-of-memory killer.",
    )
