"""sleeping: the job sleeps or polls, and a worker sleeps with it.

## What it looks for

Time in `time.sleep` (or `asyncio.sleep` with nothing else to do) that is at least `sleep_ms` and `sleep_share` of the
run, its waits for a processor left out. Sleeps between repetitions of one and the same question are polling, which
counts from `polling_ms` on.

## Why it costs time

A sleeping job holds its worker as firmly as a working one. Ten workers that poll for a minute are ten workers less.

## What to do

Let the job end, and schedule the rest: `queue.enqueue_in(timedelta(...))` asks again later without holding a worker. A
webhook, or a job that depends on the other one, needs no polling at all. For rate limits, spread the jobs in time.

## When it is a false alarm

A short backoff before another attempt is healthy, and stays below the limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import Calls, words_count, words_ms, words_share
from jobdoctor.diagnosis.rule import Limit, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, Severity, SpanGroup


class Sleeping(Rule):
    """JD305."""

    code = "JD305"
    name = "sleeping"
    step = "internals"
    kind = "schedule"
    needs = ("sleep",)

    sleep_ms = Limit(250, "ms", "sleep in each execution", "own: longer than the first steps of a usual backoff, 0.1 s")
    polling_ms = Limit(100, "ms", "sleep in each execution when it is polling", "own: no backoff asks again and again")
    sleep_share = Limit(0.2, "share", "share of the run that is sleep", "own: a fifth of the worker")
    long_ms = Limit(5_000, "ms", "sleep in each execution that counts whatever its share", "own: a worker for 5 s")
    critical_ms = Limit(2_000, "ms", "sleep from which it is critical, when it is most of the run", "own")
    polling_calls = Limit(2, "calls", "sleeps between the same question from which they are polling", "own")

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        run = measure.run_ms(executions)
        sleeps = measure.merge_calls(executions, "sleep")
        slept = _slept_ms(sleeps, executions)
        polled = self._polled(sleeps, executions)
        if slept < (self.limits.sleep_ms if polled is None else self.limits.polling_ms):
            return
        undisturbed = run - measure.ledger_ms(executions, "cpu_wait")
        if slept < self.limits.sleep_share * undisturbed and slept < self.limits.long_ms:
            return
        yield self._describe(sleeps, slept, run, polled, executions)

    def _describe(
        self,
        sleeps: Sequence[Calls],
        slept: float,
        run: float,
        polled: Calls | None,
        executions: Sequence[Execution],
    ) -> Finding:
        part = measure.share(slept, run)
        severity: Severity = "critical" if slept >= self.limits.critical_ms and part >= 0.5 else "warning"
        first = sleeps[0].first if sleeps else None
        count = sum(each.count for each in sleeps)
        evidence = [
            measure.calls_evidence(
                f"{words_count(count)} {'sleep' if round(count) == 1 else 'sleeps'}, {words_ms(slept)} of "
                f"{words_ms(run)} in each execution",
                sleeps,
            )
        ]
        title = f"{words_ms(slept)} asleep ({words_share(part)} of the run)"
        if first is not None and first.callsite:
            title += f" at {first.callsite}"
        if polled is not None:
            title += f", polling {polled.first.fingerprint}"
            evidence.append(
                Evidence(
                    "fact",
                    f"Between the sleeps it asks again: {polled.first.fingerprint} at {polled.first.callsite}",
                )
            )
        saving = _saving(slept, sleeps, polled, executions)
        function = executions[0].job.rpartition(".")[2]
        text = "Let the job end and schedule the rest. `enqueue_in` asks again later without holding a worker."
        if polled is not None:
            text = (
                "Let the job end and ask again later with `enqueue_in`. A webhook, or a job that depends on the other, "
            )
            text += "needs no polling at all."
        return self.finding(
            severity=severity,
            confidence=0.95 if first is not None else 0.75,
            title=title,
            cost_ms=max(slept, saving[1]),
            saving=saving,
            text=text,
            snippet=f"# {first.callsite if first else function}: instead of the sleep\n"
            "from datetime import timedelta\n\n"
            f"queue.enqueue_in(timedelta(seconds=30), {function}, ...)  # needs `rq worker --with-scheduler`",
            callsite=first.callsite if first else "",
            calls=round(count),
            evidence=evidence,
        )

    def _polled(self, sleeps: Sequence[Calls], executions: Sequence[Execution]) -> Calls | None:
        """The call that is repeated between the sleeps, about once for each."""
        count = sum(each.count for each in sleeps)
        if count < self.limits.polling_calls:
            return None
        asked = measure.merge_calls(
            executions, "http", "sql", "redis", where=lambda group: group.effect == "read" or group.operation == "GET"
        )
        near = [each for each in asked if 0.5 * count <= each.count <= 2 * count + 1 and _is_one_question(each)]
        return near[0] if near else None


def _saving(
    slept: float, sleeps: Sequence[Calls], polled: Calls | None, executions: Sequence[Execution]
) -> tuple[float, float, float]:
    """(low, mid, high) in ms of worker time. Nothing of a sleep is left, but a job that is scheduled instead is one
    more execution, or one more for each time that it asks again: what is around one is taken off at the low end.

    Where it polls, who is told asks no more, or once: all but one of the questions go, and with them what the client
    computed between them.
    """
    turn = measure.around_ms(executions)
    if polled is None:
        return measure.give_or_take(max(slept / 2, slept - turn), max(slept / 2, slept - turn / 2), slept)
    fewer = 1 - 1 / max(1.0, polled.count)
    asking = polled.total_ms * fewer
    stretch = polled.per_execution(measure.stretch_ns) / measure.NS_PER_MS
    own = measure.ledger_ms(executions, "cpu", detail="") + measure.ledger_ms(executions, "cpu_wait")
    between = max(0.0, min(own, stretch - polled.total_ms - sum(each.total_ms for each in sleeps)))
    return measure.give_or_take(max(slept / 2, slept - turn), slept + asking + between / 2, slept + asking + between)


def _is_one_question(calls: Calls) -> bool:
    """Whether the calls ask the same again and get an answer; after an error, asking again is a retry."""
    errors = calls.per_execution(lambda group: group.errors + sum(_refusals(group)))
    return calls.distinct <= max(1.0, 0.5 * calls.count) and errors < 0.5 * calls.count


def _refusals(group: SpanGroup) -> list[int]:
    """Answers that mean "not now": too many requests, and server errors."""
    return [number for status, number in group.statuses.items() if status == "429" or status.startswith("5")]


def _slept_ms(sleeps: Sequence[Calls], executions: Sequence[Execution]) -> float:
    """Sleep in ms; by the ledger where it knows of any, for a thread may sleep while the job works.

    Without it, sleeps that began while another call was in flight are left out.
    """
    by_ledger = measure.ledger_ms(executions, "sleep")
    by_calls = sum(
        each.total_ms * (1 - sum(g.concurrent for g in each.groups) / sum(g.count for g in each.groups))
        for each in sleeps
    )
    if any(part.name == "sleep" for execution in executions for part in execution.ledger):
        return min(by_ledger, by_calls) if by_calls else by_ledger
    return by_calls
