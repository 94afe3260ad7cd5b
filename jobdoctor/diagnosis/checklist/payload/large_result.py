"""large-result: the job's return value is large, or is kept for long.

## What it looks for

The size of the return value as serialised for Redis, and how long it stays there (its `result_ttl`). From
`warning_bytes` on it is a warning. A smaller one counts when what is kept at a time, by the rate of executions and the
time to live, adds up, or when it is kept for ever. Whether anybody reads it cannot be seen.

## Why it costs time

The worker pickles the value and sends it to Redis at the end of each execution, and RQ compresses nothing of it. It
stays in Redis's memory until its time is over: results kept for ever fill any Redis, and a full Redis stops all queues.

## What to do

Return an id, a count or a path, and keep the data where it belongs: a table, a file, object storage, a cache with its
own time to live. Nobody reads the result? Return nothing, or enqueue with `result_ttl=0`; else choose a `result_ttl`
as long as somebody waits for it.

## When it is a false alarm

When a caller waits for the value and takes all of it, and the time to live is short.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import words_bytes, words_ms
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, ResultInfo, Severity

#: Bytes a millisecond: 1 Gbit/s to Redis. Used for the sending, which no part of the ledger has for itself.
TRANSFER_BYTES_PER_MS = 125_000
#: RQ's ``result_ttl`` for ever.
FOR_EVER = -1
_NS_PER_S = 1_000_000_000
_DAY_S = 86_400


class LargeResult(Rule):
    """JD103."""

    code = "JD103"
    name = "large-result"
    step = "payload"
    kind = "payload"

    warning_bytes = Limit(
        100_000, "bytes", "median size of the result from which it is a warning", "as for arguments (JD101)"
    )
    critical_bytes = Limit(
        1_000_000, "bytes", "median size from which it is critical", "as for arguments (JD101): 1,000 results are 1 GB"
    )
    standing_bytes = Limit(
        10_000_000,
        "bytes",
        "of results in Redis at a time, by the rate seen and the time to live, from which it is a warning",
        "own: a tenth of the smallest Redis that one can rent (100 MB)",
    )
    for_ever_bytes = Limit(
        1_000, "bytes", "median size from which a result that is kept for ever is a warning", "own: a million are 1 GB"
    )
    long_ttl_s = Limit(3_600, "s", "time to live from which a result is kept long", "own: RQ's default is 500 s")

    def check(self, history: JobHistory) -> Iterator[Finding]:
        finished = [execution for execution in measure.typical(history) if execution.outcome == "finished"]
        results = [each.result for each in finished if each.result is not None and each.result.bytes is not None]
        kept = [result for result in results if result.ttl_s != 0 and result.type_name not in ("NoneType", "None")]
        if not results:
            if finished and all(each.result is None for each in finished):
                raise NotChecked("the job's result was not recorded: run it under `jobdoctor run`")
            return
        if len(kept) < 0.5 * len(results):
            return
        size = measure.quantile([result.bytes or 0 for result in kept], 0.5)
        ttl = Counter(result.ttl_s for result in kept).most_common(1)[0][0]
        standing = self._standing(history, size, ttl)
        severity = self._severity(size, ttl, standing)
        if severity is not None:
            yield self._describe(history, kept, size, ttl, standing, severity)

    def _standing(self, history: JobHistory, size: float, ttl: int | None) -> float:
        """Bytes in Redis at a time. The rate is that of the window when it is long enough to have one."""
        window_s = (history.to_ns - history.from_ns) / _NS_PER_S
        number = history.outcomes.get("finished", 0)
        if ttl is None or ttl <= self.limits.long_ttl_s or window_s <= 0:
            return 0.0
        # A burst of minutes is no rate for a day: what ran in the window is what is known to be kept.
        return size * (number if window_s < self.limits.long_ttl_s else number / window_s * ttl)

    def _severity(self, size: float, ttl: int | None, standing: float) -> Severity | None:
        if size >= self.limits.warning_bytes:
            return "critical" if size >= self.limits.critical_bytes else "warning"
        if ttl == FOR_EVER:
            return "warning" if size >= self.limits.for_ever_bytes else "info"
        if ttl is not None and ttl > self.limits.long_ttl_s and standing >= self.limits.standing_bytes:
            return "warning"
        return None

    def _describe(
        self,
        history: JobHistory,
        kept: Sequence[ResultInfo],
        size: float,
        ttl: int | None,
        standing: float,
        severity: Severity,
    ) -> Finding:
        looked_at = measure.typical(history)
        pickling = measure.ledger_ms(looked_at, "result")
        sending = size / TRANSFER_BYTES_PER_MS
        type_name = Counter(result.type_name for result in kept).most_common(1)[0][0].removeprefix("builtins.")
        large = size >= self.limits.warning_bytes
        until = _kept_for(ttl)
        function = history.job.rpartition(".")[2]
        evidence = [
            Evidence(
                "fact",
                f"A {type_name} of {words_bytes(size)} as serialised, the largest of {len(kept)} "
                f"{words_bytes(max(result.bytes or 0 for result in kept))}, kept {until}",
                {"bytes": size, "ttl_s": ttl, "type": type_name, "standing_bytes": round(standing)},
            ),
            Evidence(
                "fact",
                f"Pickling it takes {words_ms(pickling)} of each execution, sending it about {words_ms(sending)} more",
            ),
        ]
        if standing >= self.limits.standing_bytes:
            evidence.append(
                Evidence("fact", f"At the rate seen {words_bytes(standing)} of results lie in Redis at a time")
            )
        title = f"{words_bytes(size)} of result from each job" if large else f"Results are kept {until}"
        if not large and standing >= self.limits.standing_bytes:
            title += f", {words_bytes(standing)} at a time"
        cost = pickling + sending
        return self.finding(
            severity=severity,
            confidence=0.9 if large else 0.75,
            title=title,
            cost_ms=cost,
            saving=_saving(looked_at, pickling, sending, large),
            text="Return an id or a path, and keep the data in a table, a file or object storage. "
            "Enqueue with result_ttl=0 where nobody reads the result"
            if large
            else "Keep the result as long as somebody waits for it. Enqueue with a short result_ttl, or with 0 where "
            "nobody reads it",
            snippet=_snippet(function, large, _enqueued_at(history)),
            callsite="" if large else _enqueued_at(history),
            evidence=evidence,
        )


def _saving(
    executions: Sequence[Execution], pickling: float, sending: float, large: bool
) -> tuple[float, float, float]:
    """(low, mid, high) in ms. Where nobody reads the result, it need not be pickled, turned into base64 and sent. Where
    somebody does, the job stores the same bytes elsewhere and commits: two calls of its own, and nothing is certain."""
    if not large:
        return (0.0, 0.0, pickling + 2 * sending)
    gone = measure.with_waits(executions, pickling) + sending
    return (0.0, max(0.0, gone - 2 * measure.load_by_key_ms(executions)), gone + sending)


def _kept_for(ttl: int | None) -> str:
    if ttl is None:
        return "for RQ's usual time"
    if ttl == FOR_EVER:
        return "for ever"
    return f"for {words_ms(ttl * 1_000)}" if ttl < 2 * _DAY_S else f"for {ttl / _DAY_S:.0f} days"


def _enqueued_at(history: JobHistory) -> str:
    return next((e.trigger.callsite for e in history.executions if e.trigger and e.trigger.callsite), "")


def _snippet(function: str, large: bool, line: str) -> str:
    if large:
        return (
            f"def {function}(...):\n"
            "    ...\n"
            "    key = storage.save(data)  # a table, a file, an object store\n"
            "    return key"
        )
    head = f"# {line}\n" if line else ""
    return f"{head}queue.enqueue({function}, ..., result_ttl=300)  # 0 when nobody reads it"
