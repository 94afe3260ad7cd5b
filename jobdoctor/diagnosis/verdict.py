"""Is the slowness inside the job, or in the system around it? One word, one sentence, and how sure it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from jobdoctor.diagnosis import measure, over_time
from jobdoctor.diagnosis.attempts import FAILING, error_words
from jobdoctor.model import AROUND_PARTS, Change, Execution, Finding, JobHistory, Verdict, VerdictWhere

#: Executions below which "nothing found" is not yet "nothing wrong". Clinic.js Doctor gives no verdict under 4 samples;
#: three whole executions say more than three samples of one.
ENOUGH_EXECUTIONS = 3

#: One side counts beside the other when it would give back at least this share of what the other would.
BESIDE_SHARE = 0.2

#: With no rule's finding, time around the job is a verdict of its own only from here on (or over the job's SLO).
AROUND_SHARE = 0.5
AROUND_MS = 10_000.0

#: A saving below this share of the whole is not worth a clause in the headline.
WORTH_SAYING_SHARE = 0.01


def reach_verdict(history: JobHistory, findings: Sequence[Finding], changes: Sequence[Change] = ()) -> Verdict:
    """The verdict over ranked findings. Findings of severity info, and parts of others, do not make a job sick, nor
    does a change over time: where no rule found anything it is said beside that."""
    executions = measure.typical(history)
    if not history.executions:
        return Verdict(
            "unknown",
            f"No execution of {history.job} is recorded in detail: run it under `jobdoctor run`",
            0.0,
        )
    mains = [finding for finding in findings if finding.part_of is None and finding.severity != "info"]
    failed = all(execution.outcome in FAILING for execution in history.executions)
    if mains and not (failed and _too_few(history) and not any(map(_explains_failures, mains))):
        where = _where(mains)
        lead = next((finding for finding in mains if where in ("both", finding.where)), mains[0])
        sure = lead.confidence * _trust(executions)
        return Verdict(where, headline(lead, executions), round(sure, 2))

    number = len(history.executions)
    if failed:
        return Verdict("unknown", _all_failed(history.executions), 0.3)
    if number < ENOUGH_EXECUTIONS or not executions:
        noun = "execution" if number == 1 else "executions"
        return Verdict(
            "unknown",
            f"Nothing found in {number} {noun}, too few to clear the job: "
            f"{ENOUGH_EXECUTIONS} are needed, run it more often",
            0.3,
        )
    return _without_findings(history, executions, [each for each in findings if each.part_of is None], changes)


def _too_few(history: JobHistory) -> bool:
    return len(history.executions) < ENOUGH_EXECUTIONS


def _explains_failures(finding: Finding) -> bool:
    """What a job that did nothing but fail, once or twice, may have failed of: a call, a lock, its own death, or what
    the rules of retries say. What it took until then is not what its owner has to know first."""
    return finding.step in ("external", "locks", "retries") or finding.code == "JD306"


def _all_failed(executions: Sequence[Execution]) -> str:
    """Too few failures for the rule that looks for them are no health either."""
    errors = Counter(each.exception.type_name if each.exception else each.outcome for each in executions)
    number = len(executions)
    told = next((each.exception.message_shape for each in executions if each.exception), "")
    return (
        f"{f'All {number} executions' if number > 1 else 'The only execution'} failed, "
        f"{'mostly ' if len(errors) > 1 else ''}with {error_words(errors.most_common(1)[0][0])}"
        + (f" ({told})" if told and len(errors) == 1 else "")
        + ": nothing more can be said before one finishes"
    )


def _where(mains: Sequence[Finding]) -> VerdictWhere:
    """Which side the findings are on, weighed by what they would give back."""
    weight = {"inside": 0.0, "around": 0.0}
    gravest: dict[str, int] = {}
    for finding in mains:
        weight[finding.where] += finding.saving_ms.mid * finding.confidence
        gravest[finding.where] = min(gravest.get(finding.where, 9), 0 if finding.severity == "critical" else 1)
    if len(gravest) == 1:
        return mains[0].where
    smaller, larger = sorted(weight.values())
    if gravest["inside"] == gravest["around"] or smaller >= BESIDE_SHARE * larger:
        return "both"
    return "inside" if weight["inside"] > weight["around"] else "around"


def _trust(executions: Sequence[Execution]) -> float:
    """How far the recordings carry a verdict: more executions and less unexplained time carry it further."""
    number = len(executions)
    by_number = 1.0 if number >= ENOUGH_EXECUTIONS else {0: 0.5, 1: 0.7}.get(number, 0.85)
    unexplained = measure.share(measure.ledger_ms(executions, "unexplained"), measure.wall_ms(executions))
    return by_number * (1 - unexplained / 2)


def headline(finding: Finding, executions: Sequence[Execution]) -> str:
    """One sentence to act on: the number and the place, what to do, and what it gives back."""
    advice = finding.recommendation.text.split(". ")[0].rstrip(".")
    if advice[:2].strip().isalpha() and not advice[:2].isupper():
        advice = advice[:1].lower() + advice[1:]
    sentence = f"{finding.title}: {advice}"
    whole = measure.wall_ms(executions) if finding.where == "around" else measure.run_ms(executions)
    saving = finding.saving_ms.mid
    if saving > 0 and saving >= WORTH_SAYING_SHARE * whole:
        of = f" of {measure.words_ms(whole)}" if whole > saving else ""
        sentence += f"; gives back about {measure.words_ms(saving)}{of} an execution"
    return sentence


def _without_findings(
    history: JobHistory, executions: Sequence[Execution], hints: Sequence[Finding], changes: Sequence[Change]
) -> Verdict:
    wall = measure.wall_ms(executions)
    around = measure.ledger_ms(executions, *AROUND_PARTS)
    part = measure.share(around, wall)
    too_long = wall > history.slo_ms if history.slo_ms else around >= AROUND_MS
    if too_long and part >= AROUND_SHARE:
        largest = max(AROUND_PARTS, key=lambda name: (measure.ledger_ms(executions, name), name))
        hinted = next((hint.title for hint in hints if hint.where == "around"), "")
        return Verdict(
            "around",
            f"{measure.words_share(part)} of the {measure.words_ms(wall)} from enqueue to done is spent "
            f"around the job, most of it in {largest.replace('_', ' ')}"
            + (f"; a hint: {hinted}" if hinted else ", and no rule names a cause: look at the queue's other jobs"),
            round(0.5 * _trust(executions), 2),
        )
    return Verdict(
        "none",
        f"Nothing wrong found: {measure.words_ms(measure.run_ms(executions))} a run, "
        f"{measure.words_ms(measure.mean(e.wait_ns for e in executions) / measure.NS_PER_MS)} in the queue, "
        f"over {len(executions)} executions" + (f"; a hint: {hints[0].title}" if hints else "") + _slower(changes),
        round(0.9 * _trust(executions), 2),
    )


def _slower(changes: Sequence[Change]) -> str:
    """The last change of the runs, when they became slower by it."""
    last = next((change for change in reversed(changes) if change.metric == "run"), None)
    if last is None or last.after_ms <= last.before_ms:
        return ""
    said = over_time.sentence(last)
    return f". But {said[:1].lower()}{said[1:]}"
