"""call-in-transaction: a request, a mail, a process or a sleep while a database transaction is open.

## What it looks for

HTTP calls, mails, subprocesses and sleeps that began while the same thread had a database transaction open, for at
least `held_ms` in each execution. When the transaction had written or locked rows before, it is a warning; one that
had only read is mentioned as info.

## Why it costs time

While the job waits for something slow, the transaction keeps its row locks (others wait for them), its connection
(others wait for one from the pool) and its snapshot (the database cannot clean up). One slow service becomes a slow
database.

## What to do

Do the slow call before the transaction begins, or after it ends: read, commit, call, then write in a new one. Where
the call must follow the write for certain, write it to an outbox table and let another job make it after the commit.

## When it is a false alarm

When nothing else touches these rows, the pool is larger than the number of workers, and the call is always fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms
from jobdoctor.diagnosis.rule import Limit, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, Severity, SpanGroup


class CallInTransaction(Rule):
    """JD204."""

    code = "JD204"
    name = "call-in-transaction"
    step = "external"
    kind = "isolate"
    related_to = ("JD305",)  # a sleep that goes is in no transaction
    needs = ("sql",)

    held_ms = Limit(
        20, "ms", "time in such calls for each execution", "own: twice what a fork costs; shorter holds harm nobody"
    )
    critical_ms = Limit(
        1_000,
        "ms",
        "time for each execution from which it is critical, rows being locked",
        "PostgreSQL deadlock_timeout",
    )

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        found = measure.merge_calls(
            executions, "http", "mail", "subprocess", "sleep", where=lambda group: group.in_transaction > 0
        )
        for calls in found:
            held = _held_ms(calls)
            if held >= self.limits.held_ms:
                yield self._describe(calls, held, executions)

    def _describe(self, calls: Calls, held: float, executions: Sequence[Execution]) -> Finding:
        first = calls.first
        locked = _rows_were_locked(calls, executions)
        severity: Severity = "info"
        if locked:
            severity = "critical" if held >= self.limits.critical_ms else "warning"
        count = calls.per_execution(lambda group: group.in_transaction)
        what = {"http": f"{first.operation} to {first.target}", "sleep": "sleep", "mail": "mail"}.get(
            first.channel, first.operation
        )
        holding = "with rows written or locked" if locked else "after reads only"
        return self.finding(
            severity=severity,
            confidence=0.9 if locked else 0.7,
            title=f"{words_ms(held)} of {what} from {first.callsite or 'an unknown line'} inside an open database "
            "transaction",
            cost_ms=held,
            saving=(0.0, 0.0, held),
            text="Move the call out of the transaction. Commit before it, or begin the transaction after it; what must "
            "follow the commit for certain goes through an outbox table.",
            snippet=f"# {first.callsite}\n"
            "answer = call_the_service(...)     # first, with no transaction open\n"
            "with session.begin():              # then write, in a short one\n"
            "    save(answer)",
            callsite=first.callsite,
            calls=max(1, round(count)),
            evidence=[
                measure.calls_evidence(
                    f"{words_count(count)} such {'call' if round(count) == 1 else 'calls'} for each execution while a "
                    f"transaction was open, {holding}",
                    [calls],
                ),
                Evidence("fact", f"The transaction was held open {words_ms(held)} longer in each execution"),
                measure.execution_evidence(calls.largest_execution, "Longest held"),
            ],
        )


def _held_ms(calls: Calls) -> float:
    """Time of the calls that began in a transaction: by their share, for the total is of all of them."""
    return calls.per_execution(lambda group: group.total_ns * group.in_transaction / group.count) / measure.NS_PER_MS


def _rows_were_locked(calls: Calls, executions: Sequence[Execution]) -> bool:
    """Whether a write (or SELECT FOR UPDATE) came before such a call in its transaction.

    The log of spans tells the order. Without it (it is bounded), any write in an execution counts.
    """
    logged = False
    for execution in executions:
        own = {index for index, group in enumerate(execution.groups) if group in calls.groups}
        written: dict[int, bool] = {}
        for span in sorted(execution.spans, key=lambda span: span.start_ns):
            group = execution.groups[span.group] if 0 <= span.group < len(execution.groups) else None
            if group is None:
                continue
            if _locks(group):
                written[span.thread] = True
            elif group.channel == "sql" and group.effect == "transaction" and _ends(group):
                written[span.thread] = False
            elif span.group in own and span.in_transaction:
                logged = True
                if written.get(span.thread):
                    return True
    if logged:
        return False
    return any(_locks(group) for execution in calls.owners for group in execution.groups)


def _locks(group: SpanGroup) -> bool:
    if group.channel != "sql":
        return False
    return group.effect in ("write", "lock") or " FOR UPDATE" in group.fingerprint.upper()


def _ends(group: SpanGroup) -> bool:
    return group.operation.upper() in ("COMMIT", "ROLLBACK", "END", "ABORT")
