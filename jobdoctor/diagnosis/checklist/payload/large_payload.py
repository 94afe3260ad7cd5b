"""large-payload: the job's data is large; the argument that holds the bytes is named.

## What it looks for

The size of the job's serialised data before compression, as it was enqueued. From `warning_bytes` on it is a warning,
from `critical_bytes` on it is critical. The deepest argument path that holds most of the bytes is named.

## Why it costs time

The bytes are pickled and compressed by whoever enqueues, sent to Redis, kept there in memory until the job's result
expires (a year for failed jobs), sent to the worker, unpacked and unpickled. Every retry and every look at the job
pays again, and a full Redis stops all queues. That is what a key saves; the job itself may gain little, because it has
to load what it needs: the saving counts the unpickling, less such a load.

## What to do

Pass an id, a key or a path, and load the data in the job from where it lives. Put files and images in object storage
and pass their key. Slice a long list of ids into several jobs.

## When it is a false alarm

When the data exists nowhere else, is small after compression, and is enqueued rarely.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import words_bytes, words_ms
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, Payload, PayloadNode

#: Bytes a millisecond: 1 Gbit/s to Redis, and zlib unpacking at 250 MB/s. Used where the ledger cannot tell.
TRANSFER_BYTES_PER_MS = 125_000
UNPACK_BYTES_PER_MS = 250_000


class LargePayload(Rule):
    """JD101."""

    code = "JD101"
    name = "large-payload"
    step = "payload"
    kind = "payload"
    related_to = ("JD104",)  # and the other way round: many objects are large and slow to unpickle, one illness

    warning_bytes = Limit(
        100_000,
        "bytes",
        "median size of the job's data, before compression, from which it is a warning",
        "other queues' hard limits: 64 kB (Azure Storage queues), 100 kB (App Engine tasks), 256 kB (SQS)",
    )
    critical_bytes = Limit(
        1_000_000,
        "bytes",
        "median size from which it is critical",
        "own: 1,000 such jobs are 1 GB of Redis; zlib alone takes the caller 20 to 40 ms for each",
    )
    holder_share = Limit(0.5, "share", "share of the bytes that the named argument holds at least", "own: most of it")

    def check(self, history: JobHistory) -> Iterator[Finding]:
        payloads = [execution.payload for execution in history.executions if execution.payload is not None]
        if not payloads:
            raise NotChecked("the size of the job's data was not recorded: run it under `jobdoctor run`")
        raw = measure.quantile([payload.raw_bytes for payload in payloads], 0.5)
        if raw < self.limits.warning_bytes:
            return
        largest = max(payloads, key=lambda payload: (bool(payload.nodes), payload.raw_bytes))
        holder = self._holder(largest)
        looked_at = measure.typical(history)
        held = measure.share(holder.bytes, largest.raw_bytes) if holder else 1.0
        wires = [payload.wire_bytes for payload in payloads if payload.wire_bytes is not None]
        wire = measure.quantile(wires, 0.5) if wires else raw
        unpickling = measure.mean(map(measure.unpickling_ms, looked_at))
        moving = wire / TRANSFER_BYTES_PER_MS + raw / UNPACK_BYTES_PER_MS
        where = f"{holder.path} ({holder.type_name}) holds {words_bytes(holder.bytes)}" if holder else ""
        evidence = [
            Evidence(
                "payload",
                f"{words_bytes(raw)} as serialised, {words_bytes(wire)} in Redis"
                + (f"; {where}" if where else "")
                + (f"; {largest.not_measured}" if largest.not_measured else ""),
                {"raw_bytes": raw, "wire_bytes": wire, "nodes": [_row(node) for node in largest.nodes[:10]]},
            ),
            Evidence(
                "fact",
                f"Unpickling takes {words_ms(unpickling)} of each execution, fetching and unpacking about "
                f"{words_ms(moving)} more",
            ),
        ]
        name = holder.path if holder else "the arguments"
        saving = _saving(unpickling * held, moving * held, looked_at)
        yield self.finding(
            severity="critical" if raw >= self.limits.critical_bytes else "warning",
            confidence=0.95,
            title=f"{words_bytes(raw)} of arguments in each job" + (f", most of it in {name}" if holder else ""),
            cost_ms=max(unpickling + moving, saving[1]),
            saving=saving,
            text=f"Pass an id or a storage key instead of {name} and load the data in the job. Slice long lists of ids "
            "into several jobs.",
            snippet=_snippet(history, holder),
            callsite=_enqueued_at(history),
            evidence=evidence,
        )

    def _holder(self, payload: Payload) -> PayloadNode | None:
        """The deepest path that still holds most of the bytes."""
        large = [node for node in payload.nodes if node.bytes >= self.limits.holder_share * payload.raw_bytes]
        return max(large, key=lambda node: (len(node.path), -node.bytes), default=None)


def _saving(unpickling: float, moving: float, executions: Sequence[Execution]) -> tuple[float, float, float]:
    """What the worker gets back when the job is given a key, (low, mid, high) in ms.

    The bytes still come to the job, from where they live: what goes for certain is their unpickling, and what is added
    is a load by key. All of it goes only where the job needs no more than a part of them.
    """
    unpickled = measure.with_waits(executions, unpickling)
    return (0.0, max(0.0, 0.85 * unpickled - measure.load_by_key_ms(executions)), unpickled + 2 * moving)


def _row(node: PayloadNode) -> dict[str, object]:
    return {
        "path": node.path,
        "type_name": node.type_name,
        "bytes": node.bytes,
        "items": node.items,
        "rich": node.rich,
    }


def _enqueued_at(history: JobHistory) -> str:
    """Where the large jobs come from: the producer's line, when the trigger was stamped."""
    return next((e.trigger.callsite for e in history.executions if e.trigger and e.trigger.callsite), "")


def _snippet(history: JobHistory, holder: PayloadNode | None) -> str:
    function = history.job.rpartition(".")[2]
    line = _enqueued_at(history)
    head = f"# {line}\n" if line else ""
    if holder is not None and holder.type_name in ("bytes", "str", "bytearray"):
        return f"{head}key = storage.save(data)  # a file, an object store, a table\nqueue.enqueue({function}, key)"
    if holder is not None and holder.items > 1:
        return (
            f"{head}for chunk in itertools.batched(ids, 500):  # ids, not the rows themselves; Python 3.12+\n"
            f"    queue.enqueue({function}, chunk)"
        )
    return f"{head}queue.enqueue({function}, record.id)"
