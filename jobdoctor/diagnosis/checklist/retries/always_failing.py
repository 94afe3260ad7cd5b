"""always-failing: the job keeps failing, and nobody turned it off.

## What it looks for

A job of which (nearly) every execution fails, over at least five executions and three enqueues. One job with one bad
argument is not enough, however often it is retried.

## Why it costs time

All of the worker time it takes is lost, and so is the queue's time behind it. A registry full of failures hides the
failures that matter, and failed jobs stay in Redis for a year by default (`failure_ttl`).

## What to do

Fix the error named here first. Until then stop enqueuing the job, or let it return early. If nobody missed its work
while it failed, delete it.

## When it is a false alarm

When the window shows an outage only, which is over by now: look at a longer one. When the job fails on purpose, to
be retried until something is there: poll with `enqueue_in` instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.attempts import FAILING, busy_ms, chains, error_words, exceptions_by_digest
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.model import Evidence, Finding, JobHistory

#: What to do about errors that no line of the job can be fixed for.
_ADVICE = {
    "killed": "Find out what kills it",
    "timeout": "Give it less to do, or the time it needs",
    "failed": "Look at its error in RQ's failed registry",
    "rq.exceptions.DeserializationError": "Install what the arguments are made of where the worker runs, or pass ids "
    "and primitives",
}


class AlwaysFailing(Rule):
    code = "JD606"
    name = "always-failing"
    step = "retries"
    kind = "retry"
    related_to = ("JD306",)

    min_failures = Limit(5, "executions", "failed executions below which the rule is silent", "own: not one bad day")
    min_enqueues = Limit(
        3,
        "jobs",
        "enqueues that failed for good below which the rule is silent",
        "own: one bad argument is not the job",
    )
    min_failure_rate = Limit(0.9, "share", "failed share of the executions", "own: seeds of alerts start at 2%")

    def check(self, history: JobHistory) -> Iterable[Finding]:
        outcomes = {name: number for name, number in history.outcomes.items() if name != "stopped"}
        ended = sum(outcomes.values())
        failures = sum(number for name, number in outcomes.items() if name in FAILING)
        if failures < self.limits.min_failures or failures < self.limits.min_failure_rate * ended:
            return
        if not history.trace:
            raise NotChecked(
                f"{failures} of {ended} executions failed, but the rows of the trace are gone, and only they tell "
                f"enqueues from retries: look at a newer window (--since)"
            )
        attempts = chains(history.trace)
        lost = [chain for chain in attempts if chain.last.outcome in FAILING]
        for_good = [chain for chain in lost if chain.last.outcome != "retried"]
        if len(for_good) < self.limits.min_enqueues:
            return
        failed = [row for row in history.trace if row.outcome in FAILING]
        errors = Counter(row.error_type or row.outcome for row in failed)
        main_error, times = errors.most_common(1)[0]
        digests = Counter(row.error_digest for row in failed if row.error_digest)
        known = exceptions_by_digest(history)
        info = next((known[digest] for digest, _ in digests.most_common() if digest in known), None)
        cost = busy_ms(failed) / len(history.trace)
        said = f" ({info.message_shape})" if info and info.message_shape else ""
        retries = sum(len(chain.retries) for chain in lost)
        never = failures == ended
        name = error_words(main_error)
        callsite = info.callsite if info and main_error not in _ADVICE else ""
        example = next((each for each in history.executions if each.outcome in FAILING), None)
        evidence = [
            Evidence(
                "retries",
                f"{failures} of {ended} executions failed, {times} of {len(failed)} with {name}{said}; "
                f"{len(for_good)} enqueues failed for good" + (f", after {retries} retries in all" if retries else ""),
                {
                    "failures": failures,
                    "executions": ended,
                    "failed_for_good": len(for_good),
                    "retries": retries,
                    "errors": dict(errors.most_common(5)),
                    "message_shape": info.message_shape if info else "",
                    "callsite": info.callsite if info else "",
                    "error": main_error,
                },
            )
        ]
        if example is not None:
            evidence.append(measure.execution_evidence(example, "A failed execution"))
        advice = _ADVICE.get(main_error, f"Fix the {name}" + (f" at {callsite}" if callsite else ""))
        yield self.finding(
            severity="critical" if never else "warning",
            confidence=0.97 if never else 0.9,
            title=(f"All {failures}" if never else f"{failures} of {ended}")
            + f" executions failed, {'mostly ' if times < len(failed) else ''}with {name}",
            cost_ms=cost,
            saving=measure.give_or_take(cost / 2, cost, cost),
            text=(f"{advice}, and stop enqueuing the job until then. If nobody missed its work, delete it"),
            snippet=(
                "# until it is fixed: keep failed jobs for a day, not for a year, and do not retry\n"
                "queue.enqueue(this_job, *args, failure_ttl=86_400)"
            ),
            callsite=callsite,
            evidence=evidence,
        )
