"""What findings promised, and what came of it after the deploy that followed.

A prediction is applied when its rule no longer finds anything in the executions since the deploy. What was gained is
the difference of the means before and after, whatever else the deploy changed: the report says so beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from msgspec.structs import replace

from jobdoctor.diagnosis import measure
from jobdoctor.model import Finding, JobHistory, KeptPrediction, Mark, Prediction, Where

#: Executions since the deploy below which a mean says nothing yet: as many as the verdict needs to clear a job.
ENOUGH = 3
#: Rules look at the executions since the deploy alone: this is how they are asked.
Rules = Callable[[JobHistory], Sequence[Finding]]


def predictions(history: JobHistory, findings: Sequence[Finding], now_ns: int) -> list[Prediction]:
    """What these findings promise. Hints, parts of others and those without a saving promise nothing."""
    return [
        Prediction(
            job=history.job,
            code=finding.code,
            callsite=finding.callsite,
            title=finding.title,
            where=finding.where,
            at_ns=now_ns,
            before_ms=mean_ms(history, finding.where),
            low_ms=finding.saving_ms.low,
            mid_ms=finding.saving_ms.mid,
            high_ms=finding.saving_ms.high,
        )
        for finding in findings
        if finding.part_of is None and finding.severity != "info" and finding.saving_ms.mid > 0
    ]


def kept(history: JobHistory, ask: Rules) -> list[KeptPrediction]:
    """The predictions that a deploy followed, newest first: the last one of each rule before each deploy.

    Findings of one rule go together: lines move with an edit, so that a callsite is no identity over a deploy.
    """
    deploys = sorted((mark for mark in history.marks if mark.kind == "deploy"), key=lambda mark: mark.at_ns)
    last: dict[tuple[str, int], tuple[Mark, list[Prediction]]] = {}
    for made in history.predictions:
        deploy = next((mark for mark in deploys if mark.at_ns > made.at_ns), None)
        if deploy is not None:
            last.setdefault((made.code, deploy.at_ns), (deploy, []))[1].append(made)
    found: list[KeptPrediction] = []
    codes: dict[int, set[str]] = {}
    for (_, at_ns), (deploy, several) in last.items():
        until_ns = next((mark.at_ns for mark in deploys if mark.at_ns > at_ns), history.to_ns + 1)
        since = _between(history, at_ns, until_ns)
        if at_ns not in codes:
            codes[at_ns] = {finding.code for finding in ask(since)} if len(since.executions) >= ENOUGH else set()
        found.append(_judge(several, deploy, since, codes[at_ns]))
    return sorted(found, key=lambda each: (-each.deploy.at_ns, -each.prediction.mid_ms, each.prediction.code))


def _judge(several: Sequence[Prediction], deploy: Mark, since: JobHistory, codes: set[str]) -> KeptPrediction:
    promised = _together(several)
    number = sum(row.outcome == "finished" for row in since.trace) or len(since.executions)
    if number < ENOUGH:
        return KeptPrediction(promised, deploy, "too early", 0.0, number)
    after_ms = mean_ms(since, promised.where)
    gained_ms = promised.before_ms - after_ms
    status: Literal["came true", "more", "less", "not applied"] = "came true"
    if gained_ms < promised.low_ms:
        status = "not applied" if promised.code in codes else "less"
    elif gained_ms > promised.high_ms:
        status = "more"
    return KeptPrediction(promised, deploy, status, after_ms, number)


def mean_ms(history: JobHistory, where: Where) -> float:
    """Mean of what a finding inside (the run) or around the job (from enqueue to reap) is about: over every execution
    that finished, where they are known one by one, or else over those kept in detail."""
    rows = [row for row in history.trace if row.outcome == "finished"]
    if not rows:
        executions = measure.typical(history)
        return measure.run_ms(executions) if where == "inside" else measure.wall_ms(executions)
    begins = ((row.dequeued_at_ns if where == "inside" else row.enqueued_at_ns) for row in rows)
    return measure.mean(row.reaped_at_ns - begin for row, begin in zip(rows, begins, strict=True)) / measure.NS_PER_MS


def _together(several: Sequence[Prediction]) -> Prediction:
    """One rule's predictions of several places as one."""
    largest = max(several, key=lambda one: one.mid_ms)
    return replace(
        largest,
        at_ns=max(one.at_ns for one in several),
        low_ms=sum(one.low_ms for one in several),
        mid_ms=sum(one.mid_ms for one in several),
        high_ms=sum(one.high_ms for one in several),
    )


def _between(history: JobHistory, from_ns: int, until_ns: int) -> JobHistory:
    """The executions that began since ``from_ns`` and before ``until_ns``."""
    executions = [each for each in history.executions if from_ns <= each.dequeued_at_ns < until_ns]
    trace = [row for row in history.trace if from_ns <= row.dequeued_at_ns < until_ns]
    outcomes: dict[str, int] = {}
    for one in trace or executions:
        outcomes[one.outcome] = outcomes.get(one.outcome, 0) + 1
    return replace(
        history,
        from_ns=from_ns,
        to_ns=min(until_ns, history.to_ns),
        executions=executions,
        executions_total=max(len(trace), len(executions)),
        outcomes=outcomes,
        trace=trace,
        neighbours=[row for row in history.neighbours if from_ns <= row.dequeued_at_ns < until_ns],
        buckets=[],
        predictions=[],
    )
