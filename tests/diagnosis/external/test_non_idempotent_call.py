"""JD208: what a retry did again; keys, refused requests, searches and attempts that go on are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.external.non_idempotent_call import NonIdempotentCall
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import ExceptionInfo, Execution, SpanGroup
from tests.builders import make_execution, make_group, make_row
from tests.diagnosis.asking import ask, only

ERROR = ExceptionInfo("requests.exceptions.HTTPError", "503 Server Error", status=503)


def post(count: int = 1, **fields: Any) -> SpanGroup:
    defaults = {
        "operation": "POST",
        "fingerprint": "POST http://pay.test/charges",
        "target": "http://pay.test",
        "effect": "write",
        "count": count,
        "statuses": {"201": count},
        "ms": 20.0 * count,
    }
    return make_group("http", **{**defaults, **fields})


def mail(count: int = 1) -> SpanGroup:
    return make_group(
        "mail", operation="SEND", fingerprint="SEND", target="smtp://mx", effect="write", count=count, library="smtplib"
    )


def attempts(*groups: SpanGroup | None, job: int = 0, last: str = "finished") -> list[Execution]:
    """The attempts of one job, with what each of them called."""
    return [
        make_execution(
            job_id=f"order-{job}",
            attempt=number,
            outcome=last if number == len(groups) else "retried",
            exception=None if number == len(groups) and last == "finished" else ERROR,
            groups=[group] if group is not None else [],
            at_ms=10_000 * job + 1_000 * number,
        )
        for number, group in enumerate(groups, 1)
    ]


def test_fires_on_a_charge_made_twice() -> None:
    assert only(ask(NonIdempotentCall, attempts(post(), post()))).severity == "warning"


def test_fires_on_a_mail_sent_twice() -> None:
    finding = only(ask(NonIdempotentCall, attempts(mail(3), mail(3), last="failed")))
    assert finding.title == "Retries sent 3 mails again that had been sent"


def test_many_repeats_are_critical() -> None:
    executions = [each for job in range(10) for each in attempts(post(), post(), job=job)]
    assert only(ask(NonIdempotentCall, executions)).severity == "critical"
    assert only(ask(NonIdempotentCall, executions[:18])).severity == "warning"


def test_silent_below_an_override_that_allows_some() -> None:
    assert ask(NonIdempotentCall, attempts(post(), post()), {"repeats": 2}) == []


@pytest.mark.parametrize(
    "executions",
    [
        attempts(post(idempotency_keys=1), post(idempotency_keys=1)),
        attempts(post(statuses={"503": 1}), post()),
        attempts(post(errors=1, statuses={}), post()),
        attempts(post(), None),
        attempts(post(), post(fingerprint="POST http://pay.test/refunds")),
        attempts(
            post(fingerprint="POST http://pay.test/oauth/token"), post(fingerprint="POST http://pay.test/oauth/token")
        ),
        attempts(
            post(fingerprint="POST http://es.test/shop/_search"), post(fingerprint="POST http://es.test/shop/_search")
        ),
        attempts(post(operation="PUT"), post(operation="PUT")),
        [*attempts(post()), *attempts(post(), job=1)],
    ],
    ids=["key", "refused", "failed", "guarded", "another", "token", "search", "put", "two jobs"],
)
def test_silent_on_look_alikes(executions: list[Execution]) -> None:
    assert ask(NonIdempotentCall, executions) == []


def test_an_attempt_that_makes_what_is_left_over_goes_on() -> None:
    whole = attempts(post(10), job=9)
    assert ask(NonIdempotentCall, [*whole, *attempts(post(4), post(6))]) == []
    assert only(ask(NonIdempotentCall, [*whole, *attempts(post(4), post(10))])).calls == 4


def test_without_a_whole_run_fewer_calls_than_before_may_go_on() -> None:
    assert ask(NonIdempotentCall, attempts(post(6), post(4))) == []
    assert ask(NonIdempotentCall, attempts(post(6), post(10)))


def test_not_checked_when_no_two_attempts_are_kept() -> None:
    executions = attempts(post(), post())
    history: dict[str, Any] = {"trace": [make_row(each) for each in executions]}
    with pytest.raises(NotChecked, match="no two attempts"):
        ask(NonIdempotentCall, executions[1:], **history)


def test_the_whole_finding() -> None:
    finding = only(ask(NonIdempotentCall, [*attempts(post(), post()), *attempts(post(), job=2)]))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD208", "external", "retry")
    assert finding.title == (
        "Retries repeated 1 call that had succeeded: POST to http://pay.test without an idempotency key"
    )
    assert finding.callsite == "app/tasks.py:41"
    assert finding.evidence[0].data["errors"] == {"requests.exceptions.HTTPError": 1}
    assert "failed after it with HTTPError" in finding.evidence[0].text
    assert 'headers={"Idempotency-Key": f"sync_orders-{order_id}"}' in finding.recommendation.snippet
