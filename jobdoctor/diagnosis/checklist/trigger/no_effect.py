"""no-effect: the job wrote nothing anywhere, and returned nothing that could be read.

## What it looks for

Finished executions that only read: no write to a database, Redis or a file, no request that changes something, no
mail, no enqueue, no process started; and a return value of `None`, or one that RQ throws away at once
(`result_ttl=0`). It must be so in every one of at least five executions. One call whose effect is not known is enough
to be silent.

## Why it costs time

The worker's whole time, the queue's turn and the load on whatever was read, for nothing.

## What to do

Delete the job, and what enqueues it. If it was meant to do something, the line that did it is gone or never reached:
look at what changed last. If it checks something and alerts only when it is wrong, let it return what it found, so
that somebody can see that it looked.

## When it is a false alarm

When its effect is where no probe looks: shared memory, a library of its own in C, a metric that is sent by UDP, a log
that somebody reads. When it warms a cache in the worker's own process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import words_ms
from jobdoctor.diagnosis.rule import Limit, NotChecked
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory

_NOTHING = frozenset({"NoneType", "None", "builtins.NoneType"})
_READING = frozenset({"read", "none", "transaction", "lock"})
#: Channels whose calls do something whatever they say of themselves.
_ACTING = frozenset({"mail", "enqueue", "subprocess"})


class NoEffect(TimeRule):
    """JD802."""

    code = "JD802"
    name = "no-effect"
    step = "trigger"
    kind = "delete"
    where = "around"
    needs = ("sql", "redis", "http", "file", "subprocess")
    min_executions = 5

    min_run_ms = Limit(
        20, "ms", "mean run below which a job is no loss, or too small to judge", "own: about twice a fork"
    )
    hidden_share = Limit(
        0.1, "share", "share of the run that was spent waiting where no probe looks, from which nothing can be said",
        "own: a request through a library that no probe knows may have any effect",
    )  # fmt: skip
    warning_executions = Limit(
        50, "executions", "executions in the window below which it is only a remark",
        "own: what a few did not do, the next one may",
    )  # fmt: skip
    written_bytes = Limit(1, "bytes", "bytes written to files in an execution that are an effect", "own: any")

    def check(self, history: JobHistory) -> Iterable[Finding]:
        if any(name not in ("finished", "stopped") and number for name, number in history.outcomes.items()):
            return  # what it does when all goes well is not known while it fails
        executions = [each for each in history.executions if each.outcome == "finished"]
        if len(executions) < self.min_executions:
            raise NotChecked(
                f"{len(executions)} executions finished, {self.min_executions} needed: run the job more often"
            )
        if any(row.writes is None or row.writes > 0 for row in history.trace):
            return
        if any(self._acts(execution) for execution in executions):
            return
        run = measure.run_ms(executions)
        if run < self.limits.min_run_ms:
            return
        hidden = measure.ledger_ms(executions, "other_wait")
        if hidden >= self.limits.hidden_share * run:
            raise NotChecked(
                f"{words_ms(hidden)} of each run were spent waiting for something that no probe knows, which may have "
                f"had an effect"
            )
        yield self._finding(history, executions, run)

    def _acts(self, execution: Execution) -> bool:
        """Whether it did, or may have done, anything; an unknown answer is a yes."""
        result = execution.result
        if result is None or not (result.type_name in _NOTHING or result.ttl_s == 0):
            return True
        if any(group.channel in _ACTING or group.effect not in _READING for group in execution.groups):
            return True
        return execution.file_io is not None and execution.file_io.written_bytes >= self.limits.written_bytes

    def _finding(self, history: JobHistory, executions: list[Execution], run: float) -> Finding:
        reads = Counter[str]()
        for execution in executions:
            for group in execution.groups:
                reads[group.channel] += group.count
        seen = ", ".join(f"{number / len(executions):.0f} {channel} calls" for channel, number in reads.most_common(3))
        callsite = next((e.trigger.callsite for e in executions if e.trigger and e.trigger.callsite), "")
        return self.finding(
            severity=self.severity(run, run) if history.executions_total >= self.limits.warning_executions else "info",
            confidence=0.75,
            title=f"{len(executions)} executions of {words_ms(run)} wrote nothing and returned nothing",
            cost_ms=run,
            saving=measure.give_or_take(run, run, run),
            text=(
                f"Delete the job and what enqueues it{f' ({callsite})' if callsite else ''}, or mend the line that was "
                f"to do something. If it only checks, let it return what it found"
            ),
            snippet="return {'checked': len(rows), 'wrong': wrong}  # so that somebody can see that it looked",
            callsite=callsite,
            evidence=[
                Evidence(
                    "calls",
                    f"In each of {len(executions)} executions nothing but reading: {seen or 'no call at all'}; the "
                    f"return value was None or thrown away",
                    {
                        "executions": len(executions),
                        "all_executions": history.executions_total,
                        "run_ms": round(run, 3),
                        "reads": dict(reads),
                    },
                )
            ],
        )
