"""non-idempotent-call: a retry makes a request or sends a mail again that the attempt before had made already.

## What it looks for

Attempts of one job (the same job id) of which the earlier one failed after a POST or PATCH without an
`Idempotency-Key`, or a mail, had succeeded, and the later one made the same call (shape and line) again. Requests that
only ask (searches, logins, tokens) and requests that failed themselves do not count. When a later attempt makes only
the calls that the earlier ones had left over, it goes on where they stopped, and nothing is said.

## Why it costs time

Not time, but trust: the customer is charged twice, gets the mail twice, or two parcels are sent. Each retry of a job
that fails after such a call repeats its effect.

## What to do

Send an `Idempotency-Key` that stays the same for the same order, so that the service answers a repeat with the first
result. Or remember in the database, before or together with the call, that it was made, and look there first. Or make
the call the last thing the job does, in a job of its own that has nothing left to fail.

## When it is a false alarm

When the service recognises a repeat by something in the request's body, such as an order number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.attempts import FAILING, chains, error_words
from jobdoctor.diagnosis.measure import words_count
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, SpanGroup

#: Paths at which a POST only asks, or tells what nobody minds hearing twice.
_ASKS = re.compile(
    r"/(?:_?search|_?m?get|query|graphql|oauth2?|token|auth|login|sessions?|lookup|validate|verify|preview|quote|"
    r"estimate|calculate|count|translate|embeddings?|completions?|traces|metrics|logs|envelope|telemetry)"
    r"(?=[/?]|$)",
    re.IGNORECASE,
)
#: Services whose every operation is a POST: what it does stands in the body.
_ALL_POST = re.compile(r"\.amazonaws\.com\b|/(?:rpc|jsonrpc|soap|xmlrpc)\b|\.asmx\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Repeat:
    """A call of one attempt that a later one made again."""

    group: SpanGroup
    before: Execution
    after: Execution
    times: int


class NonIdempotentCall(Rule):
    """JD208."""

    code = "JD208"
    name = "non-idempotent-call"
    step = "external"
    kind = "retry"
    needs = ("http",)
    related_to = ("JD601", "JD602", "JD604")

    repeats = Limit(
        1, "calls", "calls repeated by a retry, in all executions looked at", "own: one customer charged twice"
    )
    critical_repeats = Limit(
        10, "calls", "repeated calls from which it is critical", "FIELD: more than 10 failures of one job are an alarm"
    )

    def check(self, history: JobHistory) -> Iterator[Finding]:
        retried = [chain for chain in chains(history.trace) if chain.retries]
        by_id = {execution.id: execution for execution in history.executions}
        usual = _usual_counts(history.executions)
        found: dict[tuple[str, ...], list[_Repeat]] = {}
        compared = 0
        for chain in retried:
            attempts = [by_id[row.execution_id] for row in chain.rows if row.execution_id in by_id]
            compared += len(attempts) > 1
            for number, after in enumerate(attempts):
                for repeat in _repeated(attempts[:number], after, usual):
                    found.setdefault(_identity(repeat.group), []).append(repeat)
        if retried and not compared:
            raise NotChecked(
                f"{len(retried)} jobs were retried, but no two attempts of one are kept in detail: run the job more "
                "often, or keep more failed executions ([tool.jobdoctor.retention] failed)"
            )
        for repeats in found.values():
            total = sum(repeat.times for repeat in repeats)
            if total >= self.limits.repeats:
                yield self._describe(history, repeats, total)

    def _describe(self, history: JobHistory, repeats: Sequence[_Repeat], total: int) -> Finding:
        lead = max((repeat.group for repeat in repeats), key=lambda group: group.count)
        jobs = len({repeat.after.job_id for repeat in repeats})
        what = "mail" if lead.channel == "mail" else f"{lead.operation} to {lead.target}"
        errors = Counter(
            repeat.before.exception.type_name if repeat.before.exception else repeat.before.outcome
            for repeat in repeats
        )
        error, _ = errors.most_common(1)[0]
        spent = sum(repeat.group.total_ns / repeat.group.count * repeat.times for repeat in repeats) / measure.NS_PER_MS
        cost = spent / max(1, len(history.executions))
        return self.finding(
            severity="critical" if total >= self.limits.critical_repeats else "warning",
            confidence=0.85 if all(repeat.group.count == 1 for repeat in repeats) else 0.75,
            title=f"Retries repeated {words_count(total)} {'call' if total == 1 else 'calls'} that had succeeded: "
            f"{what} without an idempotency key"
            if lead.channel != "mail"
            else f"Retries sent {words_count(total)} {'mail' if total == 1 else 'mails'} again that had been sent",
            cost_ms=cost,
            saving=(0.0, cost, cost),
            text="Make a repeat harmless. Send a key that stays the same for the same order, or note in the database "
            "that the call was made and look there first"
            if lead.channel != "mail"
            else "Note that a mail was sent, and look there first. Or send it from a job of its own, that has nothing "
            "after it to fail",
            snippet=_snippet(lead, history.job),
            callsite=lead.callsite,
            calls=max(1, round(total / max(1, jobs))),
            evidence=[
                Evidence(
                    "retries",
                    f"{words_count(jobs)} retried {'job' if jobs == 1 else 'jobs'}: the attempt before had made "
                    f"{lead.fingerprint if lead.channel != 'mail' else 'the delivery'} at "
                    f"{lead.callsite or 'an unknown line'} with success, and failed after it with {error_words(error)}",
                    {
                        "repeated": total,
                        "jobs": jobs,
                        "errors": dict(errors.most_common(5)),
                        "target": lead.target,
                        "attempts": [[each.before.id, each.after.id] for each in repeats[:10]],
                    },
                ),
                measure.execution_evidence(repeats[0].after, "Made the call again"),
            ],
        )


def _identity(group: SpanGroup) -> tuple[str, ...]:
    return (group.channel, group.operation, group.fingerprint, group.target, group.callsite)


def changes_the_world(group: SpanGroup) -> bool:
    """Whether the calls do something anew each time: mails, POST and PATCH that do not only ask."""
    if group.channel == "mail":
        return group.effect == "write"
    if group.channel != "http" or group.operation.upper() not in ("POST", "PATCH"):
        return False
    return not (_ASKS.search(group.fingerprint) or _ALL_POST.search(group.fingerprint))


def succeeded(group: SpanGroup) -> int:
    """Calls without a key that were answered with success."""
    if group.channel == "mail":
        return group.count - group.errors
    refused = sum(number for status, number in group.statuses.items() if status[:1] not in "123")
    return max(0, group.count - max(group.errors, refused) - group.idempotency_keys)


def _usual_counts(executions: Sequence[Execution]) -> dict[tuple[str, ...], set[int]]:
    """How many such calls executions make that finish at their first attempt."""
    counts: dict[tuple[str, ...], set[int]] = {}
    for execution in executions:
        if execution.attempt == 1 and execution.outcome == "finished":
            for group in execution.groups:
                if changes_the_world(group):
                    counts.setdefault(_identity(group), set()).add(group.count)
    return counts


def _repeated(
    before: Sequence[Execution], after: Execution, usual: dict[tuple[str, ...], set[int]]
) -> Iterator[_Repeat]:
    """Calls of ``after`` that an earlier attempt of the same job had made with success."""
    for group in after.groups:
        if not changes_the_world(group) or not group.count - group.idempotency_keys:
            continue
        identity = _identity(group)
        earlier = [
            (each, other)
            for each in before
            if each.outcome in FAILING
            for other in each.groups
            if _identity(other) == identity and succeeded(other)
        ]
        if not earlier:
            continue
        done = sum(succeeded(other) for _, other in earlier)
        last, _ = earlier[-1]
        before_it = max(other.count for _, other in earlier)
        if _goes_on(done, group.count, before_it, usual.get(identity, set())):
            continue
        yield _Repeat(group, last, after, min(done, group.count))


def _goes_on(done: int, made: int, most_before: int, usual: set[int]) -> bool:
    """Whether the later attempt may have made only what was left over: it made fewer calls than a whole run makes, and
    together with the earlier ones as many. Without a whole run to compare with, fewer than before are what was left."""
    if usual:
        return done + made in usual and made not in usual
    return made < most_before


def _snippet(group: SpanGroup, job: str) -> str:
    function = job.rpartition(".")[2]
    if group.channel == "mail":
        return (
            f"# {group.callsite}\n"
            f'if not redis.set(f"sent:{function}:{{order_id}}", 1, nx=True, ex=7 * 86400):\n'
            "    return  # an earlier attempt has sent it\n"
            "smtp.send_message(message)"
        )
    client = "client" if group.library in ("httpx", "aiohttp") else "session"
    url = group.fingerprint.partition(" ")[2]
    return (
        f"# {group.callsite}: the same key for the same order, at every attempt\n"
        f"{client}.{group.operation.lower()}(\n"
        f'    "{url}", json=data, timeout=10,\n'
        f'    headers={{"Idempotency-Key": f"{function}-{{order_id}}"}},\n'
        ")"
    )
