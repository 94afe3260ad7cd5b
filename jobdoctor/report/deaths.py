"""How executions died or were cut short: one card for each way, with the certificate of its newest execution."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from msgspec import Struct

from jobdoctor import words
from jobdoctor.model import Death, Execution, StackFrame

SHOWN_DEATHS = 3

_TITLES = {
    "oom": "Out of memory",
    "timeout": "Over its timeout",
    "signal": "Killed by a signal",
    "stopped": "Stopped by a command",
    "shutdown": "Killed with its worker's shutdown",
    "segfault": "A fault in native code",
    "exit": "The process left by itself",
    "memory-limit": "Met its memory limit",
    "cpu-limit": "Met its limit of CPU time",
    "file-limit": "Met its limit of file size",
    "lost-worker": "Lost with its worker",
}


class DeathCard(Struct, frozen=True):
    """One way to die. Facts are (term, words)."""

    title: str
    died: bool  # false: its process lived on
    suspect: str
    executions: int  # that ended in this way, of those looked at
    at_ns: int  # of the newest
    job_id: str
    facts: list[tuple[str, str]]
    stack: list[StackFrame]  # innermost first
    stack_title: str
    threads: list[list[StackFrame]]


def death_cards(executions: Sequence[Execution]) -> list[DeathCard]:
    """Deaths before cuts, the most frequent way first."""
    ways: dict[tuple[str, int, str], list[Execution]] = {}
    for execution in executions:
        death = execution.death
        if death is not None:
            ways.setdefault((death.cause, death.signal, _place(death)), []).append(execution)
    ranked = sorted(ways.values(), key=lambda found: (found[0].outcome != "killed", -len(found)))
    return [_card(found) for found in ranked[:SHOWN_DEATHS]]


def _place(death: Death) -> str:
    """The application's innermost function: the line in it differs from time to time."""
    return next((frame.function for frame in death.stack if frame.application), "")


def heading(cards: Sequence[DeathCard]) -> str:
    """What the box is called: an execution that was cut short did not die."""
    return "How it died" if any(card.died for card in cards) else "How it was cut short"


def _card(executions: Sequence[Execution]) -> DeathCard:
    newest = max(executions, key=lambda execution: execution.dequeued_at_ns)
    death = newest.death or Death()
    return DeathCard(
        title=_TITLES.get(death.cause, "Ended before its end"),
        died=newest.outcome not in ("timeout", "failed", "retried"),
        suspect=_sentence(death),
        executions=len(executions),
        at_ns=newest.reaped_at_ns,
        job_id=newest.job_id,
        facts=_facts(newest, death),
        stack=death.stack,
        stack_title=_stack_title(death),
        threads=death.threads,
    )


def _sentence(death: Death) -> str:
    """The suspect; a recording of an older version has none."""
    text = death.suspect or f"{death.cause}{f', in {death.in_flight}' if death.in_flight else ''}"
    return text[:1].upper() + text[1:]


def _facts(execution: Execution, death: Death) -> list[tuple[str, str]]:
    facts = [("ended by", _end(death))]
    if death.last_rss_bytes:
        peak = f", {words.size(death.peak_rss_bytes)} at most" if death.peak_rss_bytes else ""
        facts.append(("last memory", f"{words.size(death.last_rss_bytes)}{peak}"))
    if death.limit:
        value = f"{death.limit_value} s" if death.limit == "RLIMIT_CPU" else words.binary_size(death.limit_value)
        facts.append(("limit", f"{death.limit}, {value}"))
    if death.oom_kills is not None and death.signal == signal.SIGKILL:
        facts.append(("out-of-memory kills in its cgroup", str(death.oom_kills)))
    usage = execution.rusage
    if usage is not None:
        faults = f", {words.count(usage.major_faults, 'major fault')}" if usage.major_faults else ""
        facts.append(("CPU used", f"{words.duration((usage.user_ns + usage.system_ns) / 1e6)}{faults}"))
    facts.append(("in flight", death.in_flight or "no recorded call"))
    return facts


def _end(death: Death) -> str:
    if death.signal:
        try:
            return f"{signal.Signals(death.signal).name} (signal {death.signal})"
        except ValueError:
            return f"signal {death.signal}"
    if death.exit_code is not None:
        return f"exit code {death.exit_code}"
    return "not known" if death.cause in ("lost-worker", "unknown") else "an exception; its process lived on"


def _stack_title(death: Death) -> str:
    if death.stack_source == "fault":
        return "Python stack, written as it died"
    if death.stack_source == "exit":
        return "Python stack, as it left"
    if death.stack_source == "exception":
        return "Python stack of the exception"
    if death.stack_source == "call":
        return "Python stack of the call in flight"
    held = f", at this line for {words.duration(death.stack_held_ns / 1e6)}" if death.stack_held_ns >= 1e9 else ""
    return f"Last known Python stack, seen {words.duration(death.stack_age_ns / 1e6)} before{held}"
