"""retrying-permanent-error: retries that repeat an error which cannot go away.

## What it looks for

Attempts of one job that ended in the same error each time (same type, same message shape, same line) and never
succeeded, where that error lasts by its nature: a 4xx answer other than 408, 425 and 429, a bug (`TypeError`,
`KeyError`, ...), bad data (validation, integrity). An error of a type of your own counts when several jobs met it in
every one of at least three attempts, while other jobs of the same function succeeded in the same stretch: then it is
the arguments, not the weather.

## Why it costs time

The outcome is known after the first attempt. Every further one takes a worker for as long again, delays the moment
when somebody is told, and repeats whatever the job did before it failed.

## What to do

Say which errors are worth another attempt, and let all others end the job at once: catch the permanent ones in the job,
record them where people look, and return. Check the data where the job is enqueued, so that bad data never becomes one.

## When it is a false alarm

When "not found" means "not there yet" (the job ran before the transaction that enqueued it was committed): enqueue
after the commit. Errors that later attempts did get past are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.attempts import Chain, busy_ms, chains, exceptions_by_digest
from jobdoctor.diagnosis.error_classes import Lasting, lasting
from jobdoctor.diagnosis.rule import Limit, NotChecked
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, ExceptionInfo, Finding, JobHistory, Severity, TraceRow


@dataclass
class _Error:
    """One error and the chains of attempts that ended in it."""

    type_name: str
    stuck: list[Chain] = field(default_factory=list)  # every failure was this error, none succeeded
    overcome: int = 0  # chains that met it and succeeded later
    wasted: list[TraceRow] = field(default_factory=list)  # attempts after the first that met it again


class RetryingPermanentError(TimeRule):
    code = "JD604"
    name = "retrying-permanent-error"
    step = "retries"
    kind = "retry"
    related_to = ("JD606",)

    min_wasted = Limit(
        2, "executions", "attempts that met the same permanent error again, below which the rule is silent", "own"
    )
    unknown_chains = Limit(
        3, "jobs", "jobs stuck at an error of unknown type before it counts as permanent", "own: twice may be chance"
    )
    unknown_attempts = Limit(3, "executions", "attempts of each of those jobs", "RQ's documentation: Retry(max=3)")
    max_overcome_share = Limit(
        0.2, "share", "jobs that got past the error by retrying, above which it is not permanent", "own: one in five"
    )
    warning_share = Limit(
        0.1, "share", "wasted attempts among all executions from which it is a warning", "SRE: retries above 10%"
    )

    def check(self, history: JobHistory) -> Iterable[Finding]:
        if not history.trace:
            if any(execution.attempt > 1 for execution in history.executions):
                raise NotChecked(
                    "The rows of the trace are gone, and only they put attempts of one job together: "
                    "look at a newer window (--since)"
                )
            return
        attempts = chains(history.trace)
        known = exceptions_by_digest(history)
        for digest, error in sorted(_errors(attempts).items(), key=lambda item: -len(item[1].wasted)):
            info = known.get(digest)
            nature = lasting(error.type_name, info.status if info else None)
            if self._is_permanent(error, nature, attempts):
                yield self._finding(history, attempts, digest, error, info, nature)

    def _is_permanent(self, error: _Error, nature: Lasting, attempts: Sequence[Chain]) -> bool:
        if nature == "transient" or len(error.wasted) < self.limits.min_wasted:
            return False
        if error.overcome > self.limits.max_overcome_share * (error.overcome + len(error.stuck)):
            return False
        if nature == "permanent":
            return True
        long = [chain for chain in error.stuck if len(chain.rows) >= self.limits.unknown_attempts]
        if len(long) < self.limits.unknown_chains:
            return False
        begin = min(chain.rows[0].dequeued_at_ns for chain in long)
        end = max(chain.last.reaped_at_ns for chain in long)
        return any(begin <= chain.last.dequeued_at_ns <= end for chain in attempts if chain.succeeded)

    def _finding(
        self,
        history: JobHistory,
        attempts: Sequence[Chain],
        digest: str,
        error: _Error,
        info: ExceptionInfo | None,
        nature: Lasting,
    ) -> Finding:
        executions = len(history.trace)
        wasted = len(error.wasted)
        cost = busy_ms(error.wasted) / executions
        name = error.type_name.rpartition(".")[2] or "error"
        status = f" {info.status}" if info and info.status else ""
        jobs = len(error.stuck)
        longest = max(len(chain.rows) for chain in error.stuck)
        least = cost if nature == "permanent" else cost / 2
        return self.finding(
            severity=self._severity(cost, history, wasted),
            confidence=0.95 if nature == "permanent" else 0.7,
            title=f"{wasted} attempts repeated {name}{status}, which cannot go away, and none succeeded",
            cost_ms=cost,
            saving=measure.give_or_take(least, (least + cost) / 2, cost),
            text=(
                f"Do not retry {name}{status}: catch it in the job, record it and return, so that only errors that "
                f"pass are retried"
            ),
            snippet=_snippet(name, info.status if info else None),
            callsite=info.callsite if info else "",
            calls=0,
            evidence=[
                Evidence(
                    "retries",
                    f"{jobs} {'job' if jobs == 1 else 'jobs'} tried up to {longest} times and met the same error "
                    f"every time; {sum(chain.succeeded for chain in attempts)} of {len(attempts)} jobs succeeded",
                    {
                        "error": error.type_name,
                        "message_shape": info.message_shape if info else "",
                        "status": info.status if info else None,
                        "digest": digest,
                        "jobs": jobs,
                        "wasted": wasted,
                        "attempts": dict(sorted(Counter(str(len(chain.rows)) for chain in error.stuck).items())),
                        "callsite": info.callsite if info else "",
                        "target": error.type_name,
                    },
                ),
                *_example(history, error),
            ],
        )

    def _severity(self, cost: float, history: JobHistory, wasted: int) -> Severity:
        graded = self.severity(cost, busy_ms(history.trace) / len(history.trace))
        if graded == "info" and wasted >= self.limits.warning_share * len(history.trace):
            return "warning"
        return graded


def _errors(attempts: Iterable[Chain]) -> dict[str, _Error]:
    """The errors that were met, by digest (by type where the digest was not kept)."""
    found: dict[str, _Error] = {}
    for chain in attempts:
        digests = [row.error_digest or row.error_type for row in chain.failures]
        for digest in dict.fromkeys(digests):
            if not digest:
                continue
            met = [row for row in chain.failures if (row.error_digest or row.error_type) == digest]
            error = found.setdefault(digest, _Error(met[0].error_type))
            if chain.succeeded:
                error.overcome += 1
            elif len(set(digests)) == 1 and len(met) > 1:
                error.stuck.append(chain)
                error.wasted.extend(met[1:])
    return {digest: error for digest, error in found.items() if error.stuck}


def _example(history: JobHistory, error: _Error) -> list[Evidence]:
    wasted = {row.execution_id for row in error.wasted}
    return [
        measure.execution_evidence(execution, f"Attempt {execution.attempt}")
        for execution in history.executions
        if execution.id in wasted
    ][:1]


def _snippet(name: str, status: int | None) -> str:
    if status is not None:
        return (
            "answer = client.post(url, json=data, timeout=10)\n"
            "if 400 <= answer.status_code < 500 and answer.status_code not in (408, 425, 429):\n"
            "    record_refusal(order_id, answer.status_code)  # an answer, not a failure: no retry\n"
            "    return\n"
            "answer.raise_for_status()                         # 5xx: worth another attempt"
        )
    return (
        f"try:\n"
        f"    process(order)\n"
        f"except {name} as error:      # will be the same next time\n"
        f"    record_bad_order(order.id, error)\n"
        f"    return                   # everything else is retried, after a pause\n"
        f"# queue.enqueue(..., retry=Retry(max=3, interval=[10, 60, 300]))"
    )
