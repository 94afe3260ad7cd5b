"""Two runs of one test compared: calls that grow with the input, and writes that a second run makes again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jobdoctor.gate import idempotency, scaling
from jobdoctor.gate.profile import Profile
from jobdoctor.model import Span, SpanGroup
from tests.builders import make_execution, make_group
from tests.pytest_plugin.test_budgets import profile_of

Session = Callable[..., pytest.RunResult]
CHANNELS = ("sql", "redis", "http")


@pytest.mark.parametrize(
    ("before", "after", "fails"),
    [(2, 8, True), (1, 1, False), (2, 4, False), (2, 5, True), (0, 1, False), (4, 16, True), (8, 2, False)],
)
def test_growth_is_half_a_call_for_each_item(before: int, after: int, fails: bool) -> None:
    profiles = [profile_of(make_group(count=count, callsite="app/a.py:1")) for count in (before, after)]
    assert bool(scaling.check([2, 8], profiles, CHANNELS)) is fails


def test_other_lines_and_channels_are_not_mixed() -> None:
    small = profile_of(make_group(count=4, callsite="app/a.py:1"), make_group("http", count=2))
    large = profile_of(make_group(count=4, callsite="app/b.py:9"), make_group("http", count=8))
    assert [failure.what for failure in scaling.check([2, 8], [small, large], CHANNELS)] == [
        "app.sync: 2 -> 8 http calls for 2 -> 8 items",
        "app.sync: 0 -> 4 sql calls for 2 -> 8 items",
    ]
    assert scaling.check([2, 8], [small, large], ["redis"]) == []


def test_scales_in_a_session(session: Session) -> None:
    result = session(
        """
def arrange(size):
    return (list(range(1, size + 1)),)

def test_sick(jobdoctor):
    jobdoctor.scales(shop.one_by_one, sizes=[2, 8], arrange=arrange)

@pytest.mark.parametrize("job", [shop.at_once, shop.in_chunks])
def test_healthy(jobdoctor, job):
    small, large = jobdoctor.scales(job, sizes=[8, 2], arrange=arrange)
    assert len(small.result) == 2

def test_left_out(jobdoctor):
    jobdoctor.scales(shop.one_by_one, arrange=lambda size: {"ids": [1] * size}, channels=["http"])

def test_one_size(jobdoctor):
    with pytest.raises(Exception, match="give two or more, such as .2, 8."):
        jobdoctor.scales(shop.at_once, sizes=[2, 2], arrange=arrange)
    with pytest.raises(Exception, match="give two or more"):
        jobdoctor.scales(shop.at_once, sizes=[-1, 2], arrange=arrange)
    with pytest.raises(Exception, match="'lock' cannot be compared; give of sql, "):
        jobdoctor.scales(shop.at_once, arrange=arrange, channels=["lock"])
    assert jobdoctor.scales(shop.return_much)[0].result == "xx"
"""
    )
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(
        [
            ">*jobdoctor.scales(shop.one_by_one, sizes=[[]2, 8[]], arrange=arrange)",
            "E*shop.one_by_one: 2 -> 8 sql calls for 2 -> 8 items [[]scales[]]",
            "E*shop.py:* one_by_one: 8 x SELECT id FROM orders WHERE id = ?",
            "E*JD401 n-plus-one-query: ask for all rows*",
            "test_shop.py:*: GateError",
        ]
    )


# --------------------------------------------------------------------------------------------------------- idempotency


def _ran(group: SpanGroup, *params: int, dropped: int = 0) -> Profile:
    profile = Profile("app.sync")
    spans = [Span(0, 0, 1, params=each) for each in params]
    profile.executions = [make_execution(job="app.sync", groups=[group], spans=spans, spans_dropped=dropped)]
    return profile


def _sql(text: str, rows: int | None = 1, **fields: Any) -> SpanGroup:
    return make_group(operation=text.split()[0], fingerprint=text, effect="write", rows=rows, **fields)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (_sql("INSERT INTO log VALUES (?)"), "did it again: 1 INSERT (1 row)"),
        (_sql("INSERT INTO log VALUES (?)", rows=None), "did it again: 1 INSERT (rows not known)"),
        (_sql("UPDATE t SET n = n + ?"), "did it again: 1 UPDATE (1 row)"),
        (_sql("INSERT INTO t VALUES (?) ON CONFLICT (id) DO UPDATE SET n = t.n + ?"), "did it again: 1 INSERT (1 row)"),
        (_sql("INSERT INTO t VALUES (?) ON CONFLICT DO NOTHING", rows=0), ""),
        (_sql("INSERT INTO t VALUES (?) ON CONFLICT (id) DO UPDATE SET n = excluded.n"), ""),
        (_sql("UPDATE t SET n = ? WHERE id = ?"), ""),
        (_sql("DELETE FROM t WHERE id = ?", rows=0), ""),
        (_sql("UPDATE t SET n = n + ?", rows=0), ""),
        (_sql("INSERT INTO log VALUES (?)", errors=1), ""),
        (_sql("INSERT INTO log VALUES (?)", count=0), ""),
        (_sql("CREATE TABLE IF NOT EXISTS t (id INT)", rows=None), ""),
        (make_group("redis", operation="INCR", fingerprint="INCR n", effect="write"), "did it again: 1 INCR call"),
        (make_group("redis", operation="SET", fingerprint="SET a:{}", effect="write"), ""),
        (make_group("redis", operation="GET", fingerprint="GET a:{}", effect="read"), ""),
        (
            make_group("redis", operation="PIPELINE", fingerprint="PIPELINE SET a:{}; LPUSH b", effect="write"),
            "did it again: 1 PIPELINE call",
        ),
        (make_group("redis", operation="LPOP", fingerprint="LPOP b", effect="write", received_bytes=4), "did it again"),
        (make_group("redis", operation="LPOP", fingerprint="LPOP b", effect="write"), ""),
        (make_group("http", operation="POST", fingerprint="POST http://a/orders", effect="write"), "did it again"),
        (make_group("http", operation="POST", fingerprint="POST http://a/orders", idempotency_keys=1), ""),
        (make_group("http", operation="POST", fingerprint="POST http://a/search", effect="write"), ""),
        (make_group("http", operation="POST", fingerprint="POST http://a/x", statuses={"503": 1}), ""),
        (make_group("http", operation="PUT", fingerprint="PUT http://a/orders/{}", effect="write"), ""),
        (make_group("mail", operation="SEND", fingerprint="SEND", effect="write"), "did it again: 1 SEND call"),
        (make_group("mail", operation="CONNECT", fingerprint="CONNECT", effect="read"), ""),
        (make_group("enqueue", operation="enqueue", fingerprint="app.next", effect="write"), "did it again: 1 enqueue"),
    ],
)
def test_what_a_second_run_does_again(group: SpanGroup, said: str) -> None:
    failures = idempotency.check(_ran(group, 11), _ran(group, 11))
    assert len(failures) == bool(said)
    if said:
        assert said in failures[0].what
        assert failures[0].calls[0].shape == group.fingerprint


def test_an_overwrite_with_other_values_is_a_write() -> None:
    group = _sql("UPDATE t SET n = ? WHERE id = ?")
    [failure] = idempotency.check(_ran(group, 11), _ran(group, 12))
    assert failure.what == "app.sync: the second run wrote other values than the first: 1 UPDATE (1 row)"
    assert idempotency.check(_ran(group, 11, 12), _ran(group, 12)) == []


def test_what_failed_wrote_nothing_and_what_was_not_seen_is_not_guessed() -> None:
    group = _sql("UPDATE t SET n = ? WHERE id = ?", count=2)
    again = _ran(group, 11)
    again.execution.spans.append(Span(0, 0, 1, params=99, error=True))
    again.execution.spans.append(Span(0, 0, 1, params=98, rows=0))
    assert idempotency.check(_ran(group, 11), again) == []
    assert len(idempotency.check(_ran(group, 11), _ran(group, 12))) == 1
    assert idempotency.check(_ran(group, 11), _ran(group, 12, dropped=1)) == []


def test_two_statements_of_one_line_are_two() -> None:
    one, other = _sql("UPDATE t SET n = ?"), _sql("UPDATE u SET n = ?")

    def ran(first: int, second: int) -> Profile:
        profile = _ran(one, first)
        profile.execution.groups.append(other)
        profile.execution.spans.append(Span(1, 0, 1, params=second))
        return profile

    assert len(idempotency.check(ran(11, 12), ran(12, 11))) == 2


def test_strict_counts_every_write() -> None:
    group = _sql("UPDATE t SET n = ? WHERE id = ?")
    [failure] = idempotency.check(_ran(group, 11), _ran(group, 11), strict=True)
    assert "the second run wrote it again" in failure.what
    delete = make_group("http", operation="DELETE", fingerprint="DELETE http://a/orders/{}", effect="write")
    assert len(idempotency.check(_ran(delete, 11), _ran(delete, 11), strict=True)) == 1
    for text in ("CREATE TABLE IF NOT EXISTS t (id INT)", "SET search_path = a"):
        assert idempotency.check(_ran(_sql(text), 11), _ran(_sql(text), 11), strict=True) == []


def test_mails_have_the_rule_of_calls() -> None:
    mail = make_group("mail", operation="SEND", fingerprint="SEND", effect="write")
    [failure] = idempotency.check(_ran(mail, 11), _ran(mail, 11))
    assert failure.rule == "JD208 non-idempotent-call"


def test_idempotency_in_a_session(session: Session) -> None:
    result = session(
        """
@pytest.mark.jobdoctor(idempotent=True)
def test_adds(jobdoctor):
    jobdoctor.run(shop.add_points, 3)

def test_asserted(jobdoctor):
    with pytest.raises(AssertionError, match="did it again: 1 UPDATE"):
        jobdoctor.assert_idempotent(shop.add_points, 3)
    assert jobdoctor.assert_idempotent(shop.set_points, 3, 7).queries == 1

@pytest.mark.jobdoctor(idempotent=True, max_queries=1)
def test_sets(jobdoctor):
    jobdoctor.run(shop.set_points, 3, 7)

@pytest.mark.jobdoctor(idempotent="strict")
def test_strict(jobdoctor):
    with pytest.raises(AssertionError, match="wrote it again"):
        jobdoctor.assert_idempotent(shop.set_points, 3, 7)
    jobdoctor.run(shop.set_points, 3, 7)

@pytest.mark.jobdoctor(idempotent=True)
def test_nothing_to_set(jobdoctor):
    jobdoctor.run(shop.add_points, 99)
"""
    )
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(
        [
            "E*shop.add_points: the second run did it again: 1 UPDATE (1 row) [[]idempotent[]]",
            "E*shop.py:* add_points: 1 x UPDATE orders SET points = points + ? WHERE id = ?",
            "E*JD505 overlapping-duplicates: look first*",
            "E*shop.set_points: the second run wrote it again: 1 UPDATE (1 row) [[]idempotent[]]",
        ]
    )
