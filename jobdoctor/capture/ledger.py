"""Where every nanosecond from enqueue to reap went: disjoint parts that add up to the wall time exactly.

The run is first cut into phases (dispatch, fork, deserialize, import, body, callback, result, persist, reap): time in a
phase other than the body belongs to that phase, whatever was done in it; only the waits of imports for a processor are
``cpu_wait``. The body is then divided:

1. Calls seen by probes have the wall time that the recorder attributed to their channel; it is disjoint already. Of it
   the client-side CPU goes to ``cpu`` with the channel as detail, what is known to be blocked by another database
   session to ``lock``, the rest to the channel with the target as detail.
2. CPU outside of calls is ``cpu`` (of it, garbage collection is ``gc``, and imports inside the function ``import``).
   What the job's own thread computed beyond that, it computed while calls were in flight (a loop of asyncio, threads):
   it did not wait then, and the time is taken off the calls' waits. CPU of other threads in that time overlaps with
   the wait: wall time is counted once, as the wait, and the overlap is left out.
3. Run-queue delay is ``cpu_wait``: first of the time outside of calls in which samples did not find the job blocked;
   what does not fit there was spent waking up from calls, and is taken off their waits evenly, off sleeps last.
4. What then remains was blocked in the kernel outside of any probe: as far as samples show in what, it is
   ``other_wait`` with that, and else ``unexplained``. While the job waited for threads of its own (in a futex, or in
   the loop of asyncio) and these waited for a processor, the wait is ``cpu_wait``, too.

For its own thread the kernel's figures leave no gap: wall time = CPU + run-queue delay + blocked. What can be wrong is
which of the waits the blocked time belongs to, where no probe saw it; that is what samples are asked.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from msgspec import Struct, field

from jobdoctor.model import LEDGER_PARTS, LedgerPart, Phase, Sample

_Put = Callable[[str, str, int], None]  # adds ns to the part of this name and detail

#: Channels whose part has another name. Mail has no part of its own.
_PART_OF_CHANNEL = {"enqueue": "redis", "mail": "other_wait"}
_PART_OF_PHASE = {
    "dispatch": "dispatch",
    "setup": "dispatch",
    "fork": "fork",
    "deserialize": "deserialize",
    "import": "import",
    "callback": "callback",
    "result": "result",
    "persist": "persist",
    "reap": "reap",
}
_BLOCKED = frozenset({"futex", "socket", "sleep", "disk", "child"})
#: What a main thread is blocked in that waits for other threads: a lock, or the selector of asyncio.
_AWAITS_THREADS = frozenset({"futex", "socket"})
_ORDER = {name: index for index, name in enumerate(LEDGER_PARTS)}


class LedgerInputs(Struct):
    """What the parts are built from. Positions are ns since the dequeue; None and empty mean not known."""

    queue_wait_ns: int
    run_ns: int  # dequeue to reap
    forked_ns: int | None = None  # the fork call began; None: the job ran in the worker's own process
    exited_ns: int | None = None  # the horse was gone
    phases: list[Phase] = field(default_factory=list)  # closed, as the horse marked them
    channel_ns: dict[str, int] = field(default_factory=dict)  # of the body, disjoint
    channel_cpu_ns: dict[str, int] = field(default_factory=dict)  # of the body
    targets: dict[str, dict[str, int]] = field(default_factory=dict)  # channel: target: weight
    blocked_ns: dict[str, int] = field(default_factory=dict)  # target: SQL time known to be blocked by another session
    body_cpu_ns: int | None = None
    threads_cpu_ns: int | None = None  # of ``body_cpu_ns``: threads beside the job's own
    body_runqueue_ns: int = 0
    gc_ns: int = 0  # while the body ran
    import_ns: int = 0  # imports while the body ran
    import_runqueue_ns: int = 0  # run-queue delay of the import phases
    samples: list[Sample] = field(default_factory=list)
    busy: list[tuple[int, int]] = field(default_factory=list)  # stretches in which a probe saw a call, or may have


def build(inputs: LedgerInputs) -> list[LedgerPart]:
    """The parts in the order of ``LEDGER_PARTS``, larger ones of a name first; none is empty, none negative, and their
    sum is exactly ``queue_wait_ns + run_ns``."""
    parts: dict[tuple[str, str], int] = {}

    def put(name: str, detail: str, ns: int) -> None:
        if ns > 0:
            parts[name, detail] = parts.get((name, detail), 0) + ns

    put("queue_wait", "", inputs.queue_wait_ns)
    bodies = _cut(inputs, put)
    _divide(inputs, bodies, put)
    return sorted(
        (LedgerPart(name, detail, ns) for (name, detail), ns in parts.items()),
        key=lambda part: (_ORDER[part.name], -part.ns, part.detail),
    )


def _cut(inputs: LedgerInputs, put: _Put) -> list[tuple[int, int]]:
    """Put every phase but the body; returns the stretches of the body."""
    run = max(0, inputs.run_ns)
    cursor = 0
    bodies: list[tuple[int, int]] = []
    exited = run if inputs.exited_ns is None else min(max(0, inputs.exited_ns), run)
    phases = sorted((phase for phase in inputs.phases), key=lambda phase: phase.start_ns)
    if inputs.forked_ns is not None:
        forked = min(max(0, inputs.forked_ns), run)
        put("dispatch", "", forked)
        cursor = forked
        first = "fork"
    else:
        first = "dispatch"
    if not phases:
        # Nothing was marked: the horse is looked at from outside only.
        if inputs.forked_ns is None:
            exited = run
        bodies.append((cursor, max(cursor, exited)))
        put("reap", "", run - max(cursor, exited))
        return bodies
    gap = first
    delay = inputs.import_runqueue_ns
    for phase in phases:
        start = min(max(cursor, phase.start_ns), run)
        end = min(max(start, phase.end_ns), run)
        put(gap, "", start - cursor)
        if phase.name == "body":
            bodies.append((start, end))
        else:
            waited = min(end - start, max(0, delay)) if phase.name == "import" else 0
            delay -= waited
            put("cpu_wait", "", waited)
            put(_PART_OF_PHASE.get(phase.name, "unexplained"), "", end - start - waited)
        cursor = end
        gap = "unexplained"
    put("reap", "", run - cursor)
    return bodies


def _divide(inputs: LedgerInputs, bodies: list[tuple[int, int]], put: _Put) -> None:
    body = sum(end - start for start, end in bodies)
    waits = {channel: ns for channel, ns in inputs.channel_ns.items() if ns > 0}
    if sum(waits.values()) > body:
        waits = _share(body, waits)
    outside = body - sum(waits.values())

    # CPU: within calls, and outside of them.
    inside = {
        channel: min(inputs.channel_cpu_ns.get(channel, 0), ns)
        for channel, ns in waits.items()
        if inputs.channel_cpu_ns.get(channel, 0) > 0
    }
    if inputs.body_cpu_ns is not None and sum(inside.values()) > inputs.body_cpu_ns:
        inside = _share(max(0, inputs.body_cpu_ns), inside)
    for channel, ns in inside.items():
        put("cpu", channel, ns)
        waits[channel] -= ns
    own = 0
    if inputs.body_cpu_ns is not None:
        own = min(outside, max(0, inputs.body_cpu_ns - sum(inside.values())))
        collected = min(own, max(0, inputs.gc_ns))
        # An import computes, and like all that computes it also waits for the processor.
        ready = own + min(max(0, inputs.body_runqueue_ns), outside - own)
        imported = min(own - collected, inputs.import_ns * own // ready) if ready else 0
        put("gc", "", collected)
        put("import", "", imported)
        put("cpu", "", own - collected - imported)
        if inputs.threads_cpu_ns is not None:
            beside = inputs.body_cpu_ns - max(0, inputs.threads_cpu_ns) - sum(inside.values()) - own
            beside = min(max(0, beside), sum(waits.values()))
            _take(beside, waits)
            put("cpu", "", beside)
    outside -= own

    # Runnable, not running.
    seen = _blocked_outside(inputs, bodies)
    delay = max(0, inputs.body_runqueue_ns)
    delayed = min(delay, max(0, outside - sum(seen.values())))
    waking = min(delay - delayed, sum(waits.values()))
    delayed = min(delay - waking, outside)  # samples are few: the kernel's sum stands above them
    outside -= delayed
    _take(waking, waits)
    put("cpu_wait", "", delayed + waking)

    # Waits that probes saw.
    for channel, ns in waits.items():
        targets = _share(ns, inputs.targets.get(channel) or {"": 1})
        part = _PART_OF_CHANNEL.get(channel, channel)
        for target, share in targets.items():
            blocked = min(share, inputs.blocked_ns.get(target, 0)) if channel == "sql" else 0
            put("lock", target, blocked)
            put(part, target or (channel if part == "other_wait" else ""), share - blocked)

    # Waits that they did not.
    total = min(outside, sum(seen.values()))
    awaiting = {wait: ns for wait, ns in seen.items() if wait in _AWAITS_THREADS}
    queued = min(total, sum(awaiting.values()), _threads_delay(inputs.samples, bodies))
    put("cpu_wait", "", queued)
    for wait, ns in _share(queued, awaiting).items():
        seen[wait] -= ns
    outside -= queued
    total -= queued
    for wait, ns in _share(total, seen).items():
        put("other_wait", wait, ns)
    put("unexplained", "", outside - total)


def _take(ns: int, waits: dict[str, int]) -> None:
    """Take time off the waits, in proportion. A sleep ends late by one wake-up at most, for its length was chosen:
    other waits give way first."""
    chosen = {channel: wait for channel, wait in waits.items() if channel == "sleep"}
    others = {channel: wait for channel, wait in waits.items() if channel not in chosen}
    from_others = min(ns, sum(others.values()))
    for channel, share in (*_share(from_others, others).items(), *_share(ns - from_others, chosen).items()):
        waits[channel] -= share


def _blocked_outside(inputs: LedgerInputs, bodies: list[tuple[int, int]]) -> dict[str, int]:
    """Time for which samples found the body blocked while no probe saw a call, by what it was blocked in. A sample
    stands for the stretch from half-way to the one before to half-way to the one after, as far as the kernel did not
    count CPU or run-queue delay there."""
    samples = sorted(inputs.samples, key=lambda sample: sample.at_ns)
    busy = sorted(inputs.busy)
    found: dict[str, int] = {}
    index = 0
    for start, end in bodies:
        within = [sample for sample in samples if start <= sample.at_ns < end]
        for number, sample in enumerate(within):
            if sample.wait not in _BLOCKED:
                continue
            while index < len(busy) and busy[index][1] < sample.at_ns:
                index += 1
            if any(begin <= sample.at_ns <= finish for begin, finish in busy[index : index + 8]):
                continue
            before = _halved(within[number - 1], sample) if number else sample.at_ns - start
            after = _halved(sample, within[number + 1]) if number + 1 < len(within) else end - sample.at_ns
            found[sample.wait] = found.get(sample.wait, 0) + before + after
    return found


def _halved(first: Sample, second: Sample) -> int:
    """Half of the time between two samples, or less when the thread was not blocked for that long between them."""
    lasted = second.at_ns - first.at_ns
    ready = max(0, second.runqueue_ns - first.runqueue_ns)
    if first.thread_cpu_ns:  # else not known of this thread alone
        ready += max(0, second.thread_cpu_ns - first.thread_cpu_ns)
    blocked = max(0, lasted - ready)
    if first.wait in _BLOCKED and second.wait in _BLOCKED:
        return blocked // 2
    return min(lasted // 2, blocked)


def _threads_delay(samples: list[Sample], bodies: list[tuple[int, int]]) -> int:
    """Run-queue delay of the body's other threads while its main thread may have waited for them; at most the time
    between two samples for each pair, for several threads may have waited at once."""
    ordered = sorted(samples, key=lambda sample: sample.at_ns)
    delay = 0
    for before, after in pairwise(ordered):
        if _AWAITS_THREADS.isdisjoint((before.wait, after.wait)) or not any(
            start <= after.at_ns < end for start, end in bodies
        ):
            continue
        grown = after.threads_runqueue_ns - before.threads_runqueue_ns
        delay += max(0, min(grown, after.at_ns - before.at_ns))
    return delay


def _share(total: int, weights: dict[str, int]) -> dict[str, int]:
    """``total`` divided in proportion to the weights, in whole ns; the sum is exact, and no share is above its weight
    as long as ``total`` is not above theirs."""
    whole = sum(weights.values())
    if whole <= 0:
        return dict.fromkeys(weights, 0) if total <= 0 or not weights else {next(iter(weights)): total}
    shares: dict[str, int] = {}
    given = taken = 0
    for name, weight in weights.items():
        # Cumulative rounding: each share is the difference of two rounded-down prefixes.
        taken += weight
        upto = total * taken // whole
        shares[name] = upto - given
        given = upto
    return shares
