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

from bisect import bisect_right
from collections.abc import Callable
from itertools import islice, pairwise

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
_NEVER = 1 << 62
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
        # A collection and an import compute, and like all that computes they also wait for the processor.
        ready = own + min(max(0, inputs.body_runqueue_ns), outside - own)
        collected = min(own, max(0, inputs.gc_ns) * own // ready) if ready else 0
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
    blocked = sum(seen.values()) - min(own, inputs.threads_cpu_ns or 0)  # it waited for threads that computed
    delay = max(0, inputs.body_runqueue_ns)
    delayed = min(delay, outside - min(outside, max(0, blocked)))
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
    seen.pop("", None)
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
    """Time for which the body was blocked while no probe saw a call, by what it was blocked in (empty: not known).

    A sample that found it blocked outside of calls stands for the time half-way to its neighbours. Where samples have
    the thread's CPU, the kernel's account stands above that: between two samples without a call the thread was blocked
    for what was neither CPU nor run-queue delay, however the samples found it.
    """
    ordered = sorted(inputs.samples, key=lambda sample: sample.at_ns)
    busy = _union(inputs.busy)
    found: dict[str, int] = {}
    for start, end in bodies:
        within = [sample for sample in ordered if start <= sample.at_ns < end]
        if not within:
            continue
        kinds = ["", *(_wait_outside(sample, busy) for sample in within), ""]
        account = _blocked_until(within)
        edges = [start, *(sample.at_ns for sample in within), end]
        calls = _overlaps(busy, edges)
        for number, (since, until) in enumerate(pairwise(edges)):
            lasted = until - since
            free = lasted - calls[number]
            inner = 0 < number < len(within)
            seen = [kind for kind in kinds[number : number + 2] if kind]
            blocked = min(lasted * len(seen) // 2 if inner else lasted * len(seen), free)
            if inner and number < len(account):
                counted = account[number] - account[number - 1]
                blocked = min(max(blocked, counted - calls[number]), counted, free)
            for kind in seen or [""]:
                found[kind] = found.get(kind, 0) + blocked // len(seen or [""])
    # Where the kernel counted it but no sample saw it, it was most likely blocked in what samples saw elsewhere.
    unseen = found.pop("", 0)
    if not found:
        return {"": unseen}
    for kind, ns in _share(unseen, found if any(found.values()) else dict.fromkeys(found, 1)).items():
        found[kind] += ns
    return found


def _wait_outside(sample: Sample, busy: list[tuple[int, int]]) -> str:
    """What a sample found the thread blocked in; empty when it was not, or in a call that a probe saw."""
    if sample.wait not in _BLOCKED:
        return ""
    index = bisect_right(busy, (sample.at_ns, _NEVER)) - 1
    return "" if index >= 0 and busy[index][1] >= sample.at_ns else sample.wait


def _blocked_until(samples: list[Sample]) -> list[int]:
    """At each sample, how long the thread had been blocked since the first one; empty when its CPU is not known.

    The kernel counts a stretch of CPU or delay when it ends. A sample within one shows too little of it, one that found
    the thread blocked shows all: what a later sample shows is right for earlier ones too, and after the last one that
    found it blocked nothing is known.
    """
    certain = max((number for number, sample in enumerate(samples) if sample.wait in _BLOCKED), default=0)
    if not samples[-1].thread_cpu_ns or not certain:
        return []
    first = samples[0]
    blocked: list[int] = []
    least = _NEVER
    for sample in reversed(samples[: certain + 1]):
        ready = sample.thread_cpu_ns - first.thread_cpu_ns + sample.runqueue_ns - first.runqueue_ns
        least = min(least, sample.at_ns - first.at_ns - ready)
        blocked.append(least)
    return blocked[::-1]


def _union(stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same time in disjoint stretches, in order."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(stretches):
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def _overlaps(busy: list[tuple[int, int]], edges: list[int]) -> list[int]:
    """How much of the time between each two edges lies in the disjoint stretches; both are in order."""
    found = []
    index = 0
    for since, until in pairwise(edges):
        while index < len(busy) and busy[index][1] <= since:
            index += 1
        inside = 0
        for start, end in islice(busy, index, None):
            if start >= until:
                break
            inside += min(end, until) - max(start, since)
        found.append(inside)
    return found


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
