"""slow-deserialization: unpickling the job's arguments is a real share of the run.

## What it looks for

The time that the work horse takes to unpickle the job's data, without the import of the job's module, measured against
the run without what RQ does around it. The argument with the most elements is named.

## Why it costs time

Pickle rebuilds objects one by one: a list of 20,000 small ones takes tens of milliseconds however few bytes they are,
and objects with a constructor of their own (Decimal, datetime, model instances) several times as long. Each attempt
pays again, and the caller has paid as much to pickle them.

## What to do

Pass ids, or a key, and load what the job needs with one query. Where the data must travel, flat types are quickest:
one string, bytes, or an array of numbers instead of a list of objects.

## When it is a false alarm

When the job does hardly anything else: then a small share of a short run is not worth a change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import words_bytes, words_count, words_ms, words_share
from jobdoctor.diagnosis.rule import Limit, NotChecked
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, PayloadNode


class SlowDeserialization(TimeRule):
    """JD104."""

    code = "JD104"
    name = "slow-deserialization"
    step = "payload"
    kind = "payload"
    related_to = ("JD101", "JD102")

    deserialize_ms = Limit(
        10,
        "ms",
        "median time of unpickling below which nothing is said",
        "own: as much as RQ's fork takes, 10 to 13 ms",
    )
    deserialize_share = Limit(
        0.1, "share", "share of the run, without waits for a processor and what RQ does around the job", "own: a tenth"
    )

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        if executions and not any(execution.phases for execution in executions):
            raise NotChecked("the job's phases were not recorded: run it under `jobdoctor run`")
        spent = measure.quantile([measure.unpickling_ms(execution) for execution in executions], 0.5)
        run = measure.run_ms(executions)
        own = run - measure.ledger_ms(executions, "cpu_wait", *measure.AROUND_THE_JOB)
        if spent < self.limits.deserialize_ms or spent < self.limits.deserialize_share * own:
            return
        yield self._describe(history, executions, spent, own)

    def _describe(self, history: JobHistory, executions: Sequence[Execution], spent: float, own: float) -> Finding:
        payloads = [execution.payload for execution in executions if execution.payload is not None]
        largest = max(payloads, key=lambda payload: (bool(payload.nodes), payload.raw_bytes), default=None)
        node = _heaviest(largest.nodes) if largest is not None else None
        name = node.path if node is not None else "the arguments"
        evidence = [
            Evidence(
                "fact",
                f"Unpickling takes {words_ms(spent)} of {words_ms(own)} of each execution, median of {len(executions)}",
                {"deserialize_ms": round(spent, 3), "run_ms": round(own, 3)},
            )
        ]
        if largest is not None:
            evidence.append(
                Evidence(
                    "payload",
                    f"{words_bytes(largest.raw_bytes)} as serialised"
                    + (f"; {_said(node)}" if node is not None else "")
                    + (f"; {largest.not_measured}" if largest.not_measured else ""),
                    {
                        "raw_bytes": largest.raw_bytes,
                        "nodes": [
                            {"path": each.path, "type_name": each.type_name, "bytes": each.bytes, "items": each.items}
                            for each in largest.nodes[:10]
                        ],
                    },
                )
            )
        evidence.append(measure.execution_evidence(max(executions, key=measure.unpickling_ms), "Longest unpickling"))
        function = history.job.rpartition(".")[2]
        line = next((e.trigger.callsite for e in history.executions if e.trigger and e.trigger.callsite), "")
        gone = measure.with_waits(executions, spent)
        saving = measure.give_or_take(0.4 * spent, 0.85 * gone, gone)
        return self.finding(
            severity=self.severity(spent * 0.9, own),
            confidence=0.9,
            title=f"Unpickling {name} takes {words_ms(spent)} ({words_share(measure.share(spent, own))} of the run)",
            cost_ms=max(spent, saving[1]),
            # What loads the data instead takes some of it back.
            saving=saving,
            text=f"Pass ids instead of {name} and load the rows in the job. Where the data must travel, pass one "
            "string, bytes or an array of numbers instead of many objects",
            snippet=(f"# {line}\n" if line else "")
            + f"queue.enqueue({function}, ids)  # and in the job: select(...).where(... .in_(ids))",
            callsite=line,
            evidence=evidence,
        )


def _heaviest(nodes: Sequence[PayloadNode]) -> PayloadNode | None:
    """The container of the most elements, or what holds the most bytes."""
    return max(nodes, key=lambda node: (node.items, node.bytes), default=None)


def _said(node: PayloadNode) -> str:
    what = f"{words_count(node.items)} elements, " if node.items else ""
    return f"{node.path} ({node.type_name}) has {what}{words_bytes(node.bytes)}"
