"""JD604: the same lasting error again and again is found; errors that pass, and single failures, are not."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.retries.retrying_permanent_error import RetryingPermanentError
from jobdoctor.diagnosis.error_classes import lasting
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Finding, TraceRow
from tests.builders import make_execution, make_history
from tests.diagnosis.asking import only
from tests.diagnosis.traffic import MAIL, attempts, diagnosed, history_of

ALL = ("retried", "retried", "retried", "failed")


def ask(rows: list[TraceRow], **fields: object) -> list[Finding]:
    return list(RetryingPermanentError().check(history_of(MAIL, rows, **fields)))


def stuck(number: int, outcomes: tuple[str, ...] = ALL, *, at: float = 0.0, **fields: str) -> list[TraceRow]:
    details = {"error": "requests.exceptions.HTTPError", "digest": "http-402"} | fields
    return [r for n in range(number) for r in attempts(f"stuck-{n}", outcomes, at=at + n, **details)]


def fine(number: int, at: float = 0.0) -> list[TraceRow]:
    return [r for n in range(number) for r in attempts(f"fine-{n}", ("finished",), at=at + n)]


def test_fires_on_a_refused_card_tried_four_times() -> None:
    finding = only(ask([*stuck(3), *fine(5)]))
    assert finding.severity == "warning"
    assert finding.title == "9 attempts repeated HTTPError 402, which cannot go away, and none succeeded"
    assert finding.callsite == "app/tasks.py:12"
    assert finding.cost_ms == pytest.approx(9 * 50 / 17, abs=1e-3)
    assert finding.saving_ms.low == pytest.approx(0.9 * finding.cost_ms, abs=1e-3)
    assert finding.confidence == 0.95
    assert finding.evidence[0].data["jobs"] == 3
    assert "408, 425, 429" in finding.recommendation.snippet


def test_a_bug_is_permanent_without_a_status() -> None:
    finding = only(ask([*stuck(2, error="builtins.TypeError", digest="type"), *fine(5)]))
    assert "TypeError" in finding.title
    assert "except TypeError" in finding.recommendation.snippet


def test_one_wasted_attempt_is_below_the_limit_two_are_not() -> None:
    assert ask([*stuck(1, ("retried", "failed")), *fine(5)]) == []
    only(ask([*stuck(1, ("retried", "retried", "failed")), *fine(5)]))


@pytest.mark.parametrize("digest", ["http-408", "http-425", "http-429", "http-500", "http-503"])
def test_statuses_that_say_later(digest: str) -> None:
    assert ask([*stuck(5, digest=digest), *fine(5)]) == []


def test_an_outage_is_not_permanent() -> None:
    assert ask(stuck(5, error="builtins.ConnectionError", digest="gone")) == []


def test_an_error_of_ones_own_counts_when_others_succeed_meanwhile() -> None:
    own = {"error": "app.errors.CannotPrint", "digest": "own"}
    finding = only(ask([*stuck(3, **own), *fine(4, at=0.3)]))
    assert finding.confidence == 0.7
    assert ask(stuck(3, **own)) == [], "nobody succeeded: it may be the weather"
    assert ask([*stuck(2, **own), *fine(4, at=0.3)]) == [], "two may be chance"
    assert ask([*stuck(3, ("retried", "failed"), **own), *fine(4, at=0.3)]) == [], "two attempts are few"


def test_an_error_that_retries_get_past_is_not_permanent() -> None:
    race = {"error": "sqlalchemy.exc.IntegrityError", "digest": "race"}
    overcome = [r for n in range(3) for r in attempts(f"won-{n}", ("retried", "finished"), at=9 + n, **race)]
    assert ask([*stuck(2, **race), *overcome]) == []


@pytest.mark.parametrize(
    "rows",
    [
        stuck(20, ("failed",)),
        fine(20),
        [r for n in range(9) for r in attempts("nightly", ("failed",), at=n, error="TypeError", digest="t")],
        [*attempts("one", ("retried",), error="KeyError", digest="a"), *attempts("two", ("finished",), at=5)],
    ],
    ids=["no retries", "no failures", "a cron job's id", "one failure"],
)
def test_look_alikes(rows: list[TraceRow]) -> None:
    assert ask(rows) == []


def test_different_errors_in_one_chain_are_not_one_error() -> None:
    rows = [
        row_
        for n in range(4)
        for row_ in [
            *attempts(f"job-{n}", ("retried",), at=n, error="builtins.KeyError", digest="a"),
            *attempts(f"job-{n}", ("retried", "retried", "failed"), at=n + 0.1, error="builtins.TypeError", digest="b")[
                1:
            ],
        ]
    ]
    assert ask(rows) == []


def test_with_a_job_that_never_succeeds_there_is_one_main_finding() -> None:
    found = diagnosed(MAIL, stuck(6)).findings
    parts = {finding.code: finding.part_of for finding in found}
    assert parts["JD606"] is None
    assert parts["JD604"] == "JD606"
    assert parts["JD602"] in {"JD604", "JD606"}


def test_without_a_trace_it_says_so() -> None:
    with pytest.raises(NotChecked, match="--since"):
        list(RetryingPermanentError().check(make_history([make_execution(attempt=2)], trace=[])))


@pytest.mark.parametrize(
    ("type_name", "status", "expected"),
    [
        ("requests.exceptions.HTTPError", 404, "permanent"),
        ("requests.exceptions.HTTPError", 502, "transient"),
        ("httpx.HTTPStatusError", 429, "transient"),
        ("builtins.KeyError", None, "permanent"),
        ("psycopg.errors.UniqueViolation", None, "permanent"),
        ("pydantic_core._pydantic_core.ValidationError", None, "permanent"),
        ("redis.exceptions.ConnectionError", None, "transient"),
        ("sqlalchemy.exc.OperationalError", None, "transient"),
        ("json.decoder.JSONDecodeError", None, "unknown"),
        ("app.errors.Odd", None, "unknown"),
        ("app.errors.Odd", 23, "unknown"),
        ("", None, "unknown"),
    ],
)
def test_what_lasts(type_name: str, status: int | None, expected: str) -> None:
    assert lasting(type_name, status) == expected
