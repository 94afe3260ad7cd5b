"""The death certificate: from what is known of an execution that was ended, who or what ended it, in words.

The words say what is certain and what is only likely: a SIGKILL does not tell its sender, so that the out-of-memory
killer is known by the counters of the control group, and suspected by the memory.
"""

from __future__ import annotations

import os
import signal as signals

from msgspec import Struct, field

from jobdoctor.capture.cgroup import MemoryFacts
from jobdoctor.model import Death, ExceptionInfo, Rusage, Sample, SpanGroup, StackFrame

#: Of a limit: memory from which a SIGKILL without a sender is put down to it. The kernel kills at the limit; the last
#: sample may be 50 ms older, in which a process fills a few hundred MB.
_NEAR_CGROUP = 0.8
#: Of the machine's memory, which others use too.
_NEAR_MACHINE = 0.5
#: Seconds of standing at one line from which the words say so.
_HELD_S = 1.0

_FAULTS = {
    signals.SIGSEGV: "segmentation fault",
    signals.SIGBUS: "bus error",
    signals.SIGILL: "illegal instruction",
    signals.SIGFPE: "floating point exception",
    signals.SIGABRT: "abort",
}
_MEMORY_LIMITS = ("RLIMIT_AS", "RLIMIT_DATA")
_TIMEOUT = "JobTimeoutException"
#: In the message of an OSError: a write beyond RLIMIT_FSIZE.
_TOO_LARGE = "File too large"


class Circumstances(Struct, frozen=True):
    """All that the certificate is made from."""

    outcome: str = "killed"  # with an exit code of 0: the process left in the middle of the job
    wait_status: int | None = None  # of the process that ran the job; None: it lives, or nobody saw it end
    killed_by: str = ""  # "timeout", "stopped", "shutdown", "lost-worker": known to whoever did or saw it
    timeout_s: float | None = None
    lived_ns: int = 0  # the horse's life
    samples: list[Sample] = field(default_factory=list)
    rusage: Rusage | None = None
    call: SpanGroup | None = None  # in flight at the end, or cut short by the timeout
    call_ns: int = 0
    exception: ExceptionInfo | None = None
    raised: list[StackFrame] = field(default_factory=list)  # where the exception came from
    timeout_was_raised: bool = False  # the exception of RQ's timeout went through a recorded call
    fault: list[StackFrame] = field(default_factory=list)  # written as the process died of a fault
    observed: list[StackFrame] = field(default_factory=list)  # seen from outside
    observed_age_ns: int = 0
    observed_held_ns: int = 0
    threads: list[list[StackFrame]] = field(default_factory=list)
    memory: MemoryFacts | None = None
    limits: dict[str, int] = field(default_factory=dict)  # of the process: RLIMIT_CPU, RLIMIT_AS, ...


def certificate(facts: Circumstances) -> Death | None:
    """How it was ended; None when the job ended by itself, be it with an exception of its own."""
    status = facts.wait_status
    if not status and not facts.killed_by and not (status == 0 and facts.outcome == "killed"):
        return _cut(facts)
    number = os.WTERMSIG(status) if status and os.WIFSIGNALED(status) else 0
    code = os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None
    cause, certain = _cause(facts, number)
    limit, value = _limit(facts, cause)
    return _written(
        facts, Death(signal=number, exit_code=code, cause=cause, certain=certain, limit=limit, limit_value=value)
    )


def _cut(facts: Circumstances) -> Death | None:
    """What cut the job short while its process lived on."""
    raised = facts.exception
    if facts.outcome == "timeout":
        return _written(facts, Death(cause="timeout", certain=True))
    if raised is None or facts.outcome not in ("failed", "retried"):
        return None
    if raised.type_name.endswith("MemoryError"):
        cause = "memory-limit"
    elif raised.type_name == "OSError" and _TOO_LARGE in raised.message_shape:
        cause = "file-limit"
    else:
        return None
    limit, value = _limit(facts, cause)
    return _written(facts, Death(cause=cause, certain=True, limit=limit, limit_value=value)) if limit else None


def _cause(facts: Circumstances, number: int) -> tuple[str, bool]:
    if facts.killed_by in ("timeout", "stopped", "shutdown", "lost-worker"):
        return facts.killed_by, True
    if facts.outcome == "stopped":
        return "stopped", True
    if number in _FAULTS:
        return "segfault", True
    if number == signals.SIGXCPU:
        return "cpu-limit", True
    if number == signals.SIGKILL:
        memory = facts.memory or MemoryFacts()
        if memory.oom_kills:
            return "oom", memory.watched == "cgroup"
        if memory.watched != "cgroup" and _near_limit(facts):
            return "oom", False
        cpu_limit = facts.limits.get("RLIMIT_CPU", 0)
        if cpu_limit and _cpu_s(facts) >= cpu_limit:
            return "cpu-limit", False  # the hard limit kills without a SIGXCPU when both are the same
    return ("signal", True) if number else ("exit", True)


def _near_limit(facts: Circumstances) -> bool:
    memory = facts.memory or MemoryFacts()
    peak = _peak_rss_bytes(facts)
    return bool(
        (memory.limit_bytes and peak >= _NEAR_CGROUP * memory.limit_bytes)
        or (memory.machine_bytes and peak >= _NEAR_MACHINE * memory.machine_bytes)
    )


def _limit(facts: Circumstances, cause: str) -> tuple[str, int]:
    """The limit it met, and its value."""
    memory = facts.memory or MemoryFacts()
    if cause == "oom":
        near = _peak_rss_bytes(facts) >= _NEAR_CGROUP * memory.limit_bytes
        if memory.limit_bytes and (memory.limit_hits or near):
            return "cgroup", memory.limit_bytes
        return ("machine", memory.machine_bytes) if memory.machine_bytes else ("", 0)
    if cause == "cpu-limit":
        return "RLIMIT_CPU", facts.limits.get("RLIMIT_CPU", 0)
    if cause == "file-limit" and "RLIMIT_FSIZE" in facts.limits:
        return "RLIMIT_FSIZE", facts.limits["RLIMIT_FSIZE"]
    if cause == "memory-limit":
        found = [(facts.limits[name], name) for name in _MEMORY_LIMITS if facts.limits.get(name)]
        return (min(found)[1], min(found)[0]) if found else ("", 0)
    return "", 0


def _written(facts: Circumstances, death: Death) -> Death:
    """The certificate with what it was doing, and the sentence."""
    stack, source, age_ns, held_ns = _stack(facts, death)
    memory = facts.memory
    values = {name: getattr(death, name) for name in death.__struct_fields__}
    values.update(
        last_rss_bytes=facts.samples[-1].rss_bytes if facts.samples else 0,
        peak_rss_bytes=_peak_rss_bytes(facts),
        in_flight=call_in_words(facts.call, facts.call_ns) if facts.call is not None else "",
        oom_kills=memory.oom_kills if memory is not None and memory.watched == "cgroup" else None,
        stack=stack,
        stack_source=source,
        stack_age_ns=age_ns,
        stack_held_ns=held_ns,
        threads=[] if source in ("fault", "exception", "exit") else facts.threads,
    )
    complete = Death(**values)
    values["suspect"] = _sentence(facts, complete)
    return Death(**values)


def _stack(facts: Circumstances, death: Death) -> tuple[list[StackFrame], str, int, int]:
    """(frames, source, age, held): what was written as it died, or else the best of what was seen before."""
    if death.cause in ("segfault", "lost-worker") and facts.fault:
        return facts.fault, "fault", 0, 0
    if not death.signal and facts.raised:
        # What was seen from outside at the same line says for how long it was there.
        same = _place(facts.raised) == _place(facts.observed)
        return (
            facts.raised,
            "exit" if death.cause == "exit" else "exception",
            0,
            facts.observed_held_ns + facts.observed_age_ns if same else 0,
        )
    call = _stack_of_call(facts.call)
    # A call that began after the last look is nearer to the end than what was seen then.
    if facts.observed and not (call and facts.call_ns < facts.observed_age_ns):
        return facts.observed, "observed", facts.observed_age_ns, facts.observed_held_ns
    return (call, "call", 0, facts.call_ns) if call else ([], "", 0, 0)


def _place(stack: list[StackFrame]) -> StackFrame | None:
    return next((frame for frame in stack if frame.application), None)


def _stack_of_call(call: SpanGroup | None) -> list[StackFrame]:
    if call is None:
        return []
    entries = call.stack or ([f"{call.callsite} {call.function}"] if call.callsite else [])
    return [StackFrame(*entry.partition(" ")[::2], True) for entry in entries]


def call_in_words(call: SpanGroup, ns: int) -> str:
    """A call that did not come back: "SELECT * FROM orders on postgresql://db/app at app/x.py:3, for 2.1 s"."""
    words = call.fingerprint
    if call.operation and call.operation.upper() not in words.upper():
        words = f"{call.operation} {words}".strip()
    if call.target and call.target not in words:
        words += f" on {call.target}"
    if call.callsite:
        words += f" at {call.callsite}"
    return f"{words}, for {ns / 1e9:.1f} s" if ns >= 1e8 else f"{words}, for {ns / 1e6:.1f} ms"


# --------------------------------------------------------------------------------------------------------------- words


def _sentence(facts: Circumstances, death: Death) -> str:
    doing = _doing(facts, death)
    where = f", while it was {doing}" if doing else ""
    if death.cause == "oom":
        if death.limit == "cgroup":
            met = f"the cgroup's limit of {_bytes(death.limit_value)} was reached"
        elif death.limit == "machine":
            met = f"the machine's memory ({_bytes(death.limit_value)}) was full"
        else:
            met = "memory was full"
        held = f" (the job's process held {_bytes(death.peak_rss_bytes)})" if death.peak_rss_bytes else ""
        likely = "" if death.certain else "very likely "
        return f"{likely}the kernel's out-of-memory killer: {met}{held}{where}"
    if death.cause == "timeout":
        return _timeout(facts, death, doing)
    if death.cause == "segfault":
        return _fault(death)
    if death.cause == "memory-limit":
        return (
            f"MemoryError: the process's own limit of memory ({death.limit} of {_bytes(death.limit_value)}) was "
            f"reached{where}"
        )
    if death.cause == "file-limit":
        return f"a file outgrew the process's limit ({death.limit} of {_bytes(death.limit_value)}){where}"
    if death.cause == "cpu-limit":
        limit = f" of {death.limit_value} s" if death.limit_value else ""
        return f"the kernel: the process had used up its limit of CPU time (RLIMIT_CPU{limit}){where}"
    if death.cause == "stopped":
        return f"stopped by a stop command{where}"
    if death.cause == "shutdown":
        return f"killed by its worker, which was told twice to stop{where}"
    if death.cause == "lost-worker":
        if facts.fault:
            return f"a fault in native code ended the worker itself{where}"
        return f"its worker was killed or lost, and the job with it{where}"
    if death.cause == "exit":
        code = "" if death.exit_code is None else f" with code {death.exit_code}"
        return f"the process left by itself{code}, by os._exit or by exit() in native code{where}"
    return f"{signal_name(death.signal)} from an unknown sender{where}"


def _doing(facts: Circumstances, death: Death) -> str:
    """ "in GET https://api.example.com at app/x.py:12 for 178 s", or "in load at app/x.py:12"."""
    if facts.call is not None and death.stack_source != "fault":
        return f"in {death.in_flight}".replace(", for ", " for ")
    frame = _place(death.stack)
    if frame is None:
        return ""
    inner = death.stack[0]
    words = f"in {frame.function} at {frame.callsite}"
    if inner is not frame:
        words = (
            f"in {_module(inner)}.{inner.function.rpartition('.')[2]}, called from {frame.function} at {frame.callsite}"
        )
    held_s = death.stack_held_ns / 1e9
    if held_s >= _HELD_S:
        return f"{words} for at least {_seconds(held_s)}"
    age_s = death.stack_age_ns / 1e9
    return f"{words} ({_seconds(age_s)} before)" if age_s >= 0.1 else words


def _module(frame: StackFrame) -> str:
    """ "requests/sessions.py:589" is of requests.sessions."""
    path = frame.callsite.rpartition(":")[0].removesuffix(".py").removesuffix("/__init__")
    return path.strip("/").replace("/", ".")


def _timeout(facts: Circumstances, death: Death, doing: str) -> str:
    bound = f" of {_seconds(facts.timeout_s)}" if facts.timeout_s else ""
    if not death.signal:
        return f"cut by its timeout{bound}" + (f", {doing}" if doing else "")
    late = facts.lived_ns / 1e9 - facts.timeout_s if facts.timeout_s else 0
    words = (
        f"killed by its worker {_seconds(late)} after its timeout{bound}"
        if late > 0
        else (f"killed by its worker after its timeout{bound}")
    )
    if doing:
        words += f": it was {doing}"
    if facts.timeout_was_raised:
        return f"{words}; the timeout's exception was raised, and swallowed by the job"
    held_ns = max(death.stack_held_ns + death.stack_age_ns, facts.call_ns)
    if facts.timeout_s and late > 0 and held_ns >= late * 0.9 * 1e9:
        return f"{words}, which does not come back to Python for the timeout's exception"
    return f"{words}; the timeout's exception was swallowed, or could not be raised in the job's thread"


def _fault(death: Death) -> str:
    kind = _FAULTS.get(signals.Signals(death.signal), "fault") if death.signal else "fault"
    words = f"{kind} ({signal_name(death.signal)}) in native code"
    application = _place(death.stack)
    if application is None:
        return words
    inner = death.stack[0]
    if inner is application:
        words += f", called from {application.callsite} in {application.function}"
    else:
        words += (
            f" below {inner.callsite} in {inner.function}, called from {application.callsite} in {application.function}"
        )
    if death.stack_source != "fault":
        age = f", {_seconds(death.stack_age_ns / 1e9)} before" if death.stack_age_ns else ""
        words += f" (last seen there{age})"
    return words


def signal_name(number: int) -> str:
    """ "SIGKILL"; a real-time signal by its number."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _seconds(seconds: float) -> str:
    if seconds >= 10:
        return f"{seconds:.0f} s"
    return f"{seconds:.1f} s".replace(".0 s", " s")


def _bytes(count: int) -> str:
    """In the units in which limits are set: 512 MiB."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            value = count / size
            return f"{value:.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.1f} {unit}"
    return f"{count} B"


def _peak_rss_bytes(facts: Circumstances) -> int:
    seen = [sample.rss_bytes for sample in facts.samples]
    if facts.rusage is not None:
        seen.append(facts.rusage.max_rss_bytes)
    return max(seen, default=0)


def _cpu_s(facts: Circumstances) -> float:
    usage = facts.rusage
    return (usage.user_ns + usage.system_ns) / 1e9 if usage is not None else 0.0


def timeout_raised(error_types: dict[str, int]) -> bool:
    """Whether RQ's timeout struck in one of a group's calls."""
    return any(name.rpartition(".")[2] == _TIMEOUT for name in error_types)
