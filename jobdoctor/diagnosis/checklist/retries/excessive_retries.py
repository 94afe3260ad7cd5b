"""excessive-retries: the job succeeds, but only after several attempts; the retries hide a failure.

## What it looks for

Jobs that mostly end well and need many attempts for it: at least half as many executions again as successes, in at
least a third of the jobs. It takes five jobs. Enqueues that never succeeded do not count: retries hide nothing there.

## Why it costs time

Every attempt that fails takes a worker for its time and gives nothing, and its job waits for the next one. Nobody sees
it, because in the end all is green: the error below is paid for each time, and a worse day of the same dependency
turns it into failures.

## What to do

Mend what fails first: the error, its line and its host are named. What is not there yet when the job begins should be
waited for before the job is enqueued (`depends_on`, after the commit, `enqueue_in`); what expires should be renewed
before it has; what is overloaded should be asked less often. Keep the retries for what is rare.

## When it is a false alarm

When the window shows an outage that is over: look at a longer one. When a job polls by failing on purpose until
something is there, the retries are its clock: `enqueue_in` says the same without a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.attempts import FAILING, Chain, busy_ms, chains, error_words, exceptions_by_digest
from jobdoctor.diagnosis.rule import Limit, NotChecked
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, ExceptionInfo, Finding, JobHistory, Severity, TraceRow


class ExcessiveRetries(TimeRule):
    """JD601."""

    code = "JD601"
    name = "excessive-retries"
    step = "retries"
    kind = "retry"
    related_to = ("JD602", "JD604", "JD306")

    min_jobs = Limit(5, "jobs", "jobs that succeeded, below which the rule is silent", "own: as many as JD606 asks for")
    attempts_per_success = Limit(
        1.5, "executions", "executions for each success from which retries are excessive",
        "SRE book: retries beyond a tenth of the requests are a sign of overload; half of them are the rule",
    )  # fmt: skip
    retried_share = Limit(
        1 / 3, "share", "share of the successful jobs that needed a retry", "own: one hopeless job is not the job"
    )
    warning_retry_share = Limit(
        0.3, "share", "failed attempts among all executions from which it is a warning however short they are",
        "own: a third of the job's turns in the queue",
    )  # fmt: skip

    def check(self, history: JobHistory) -> Iterable[Finding]:
        if not history.trace:
            if any(execution.attempt > 1 for execution in history.executions):
                raise NotChecked(
                    "The rows of the trace are gone, and only they put attempts of one job together: "
                    "look at a newer window (--since)"
                )
            return
        # An attempt that follows others of before the window says too little about those.
        succeeded = [chain for chain in chains(history.trace) if chain.succeeded and chain.rows[0].attempt == 1]
        if len(succeeded) < self.limits.min_jobs:
            return
        executions = sum(len(chain.rows) for chain in succeeded)
        retried = [chain for chain in succeeded if chain.failures]
        if executions < self.limits.attempts_per_success * len(succeeded):
            return
        if len(retried) < self.limits.retried_share * len(succeeded):
            return
        yield self._finding(history, succeeded, retried, executions)

    def _finding(
        self, history: JobHistory, succeeded: Sequence[Chain], retried: Sequence[Chain], executions: int
    ) -> Finding:
        failures = [row for chain in succeeded for row in chain.failures]
        errors = Counter(row.error_type or row.outcome for row in failures)
        main_error, times = errors.most_common(1)[0]
        info = _known(history, failures)
        callsite = info.callsite if info is not None else ""
        each = executions / len(succeeded)
        cost = busy_ms(failures) / len(history.trace)
        makes_up = _makes_up_ms(history, succeeded) / len(history.trace)
        lost_ms = measure.mean(chain.last.enqueued_at_ns - chain.rows[0].enqueued_at_ns for chain in retried) / 1e6
        name = error_words(main_error)
        where = f" at {callsite}" if callsite else ""
        status = f" (status {info.status})" if info is not None and info.status else ""
        return self.finding(
            severity=self._severity(cost, history, failures),
            confidence=0.9 if len(retried) >= 0.5 * len(succeeded) else 0.8,
            title=f"{each:.1f} attempts for each success: {times} of {len(failures)} failures are {name}{status}",
            cost_ms=cost,
            # A few will always fail: nineteen of twenty failed attempts are given back in the middle of the range.
            # High: the attempt that succeeds has to make up for what the failed one undid (a pass, a lock, a session).
            saving=(cost * 0.6, cost * 0.95, cost + makes_up),
            text=(
                f"Mend the {name}{where} that the retries hide: {len(retried)} of {len(succeeded)} jobs meet it before "
                f"they succeed, {measure.words_ms(lost_ms)} later than they could"
            ),
            snippet=_SNIPPET,
            callsite=callsite,
            evidence=[
                Evidence(
                    "retries",
                    f"{len(succeeded)} jobs succeeded, {len(retried)} of them at a later attempt; {len(failures)} of "
                    f"{executions} executions failed on the way",
                    {
                        "jobs": len(succeeded),
                        "retried": len(retried),
                        "executions": executions,
                        "failures": len(failures),
                        "attempts": dict(sorted(Counter(str(len(chain.rows)) for chain in succeeded).items())),
                        "errors": dict(errors.most_common(5)),
                        "message_shape": info.message_shape if info is not None else "",
                        "callsite": callsite,
                        "target": main_error,
                        "later_ms": round(lost_ms, 3),
                    },
                )
            ],
        )

    def _severity(self, cost: float, history: JobHistory, failures: Sequence[TraceRow]) -> Severity:
        graded = self.severity(cost, busy_ms(history.trace) / len(history.trace))
        if graded == "info" and len(failures) >= self.limits.warning_retry_share * len(history.trace):
            return "warning"
        return graded


def _makes_up_ms(history: JobHistory, succeeded: Sequence[Chain]) -> float:
    """Worker time of successes after failures beyond that of as many at the first attempt; at most a quarter of it.
    Where none came at the first attempt, there is nothing to compare with: a tenth."""
    profiled = {execution.id for execution in history.executions if execution.profile is not None}
    compared = [chain for chain in succeeded if chain.last.execution_id not in profiled]
    first = [busy_ms([chain.last]) for chain in compared if not chain.failures]
    later = [busy_ms([chain.last]) for chain in compared if chain.failures]
    spent = sum(later)
    if not first:
        return 0.1 * spent
    return min(0.25 * spent, max(0.0, spent - len(later) * measure.mean(first)))


def _known(history: JobHistory, failures: Sequence[TraceRow]) -> ExceptionInfo | None:
    """What is known of the commonest error among these."""
    known = exceptions_by_digest(history)
    digests = Counter(row.error_digest for row in failures if row.error_digest in known and row.outcome in FAILING)
    return known[digests.most_common(1)[0][0]] if digests else None


_SNIPPET = (
    "# what is not there yet: enqueue when it is\n"
    "job = queue.enqueue(this_job, *args, depends_on=what_it_needs)\n"
    "# what expires: renew it before it has\n"
    "if token.expires_at < time.time() + 30:\n"
    "    token = new_token()"
)
