"""The marker: what it asks, what is said when it is broken, and what is wrong with a marker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobdoctor import config
from jobdoctor.errors import ConfigError
from jobdoctor.gate import budgets, counting, history, units
from jobdoctor.gate.budgets import Budget
from jobdoctor.gate.failure import lines
from jobdoctor.gate.profile import Profile
from jobdoctor.model import Payload, ResultInfo
from tests.builders import make_execution, make_group

Session = Callable[..., pytest.RunResult]


def profile_of(*groups: object, **fields: object) -> Profile:
    profile = Profile("app.sync")
    profile.executions = [make_execution(job="app.sync", groups=list(groups), **fields)]
    return profile


@pytest.mark.parametrize(
    ("text", "value"),
    [("4 KiB", 4096), ("4KiB", 4096), ("1.5 MB", 1_500_000), ("0 B", 0), ("2 kB", 2_000), ("1 GiB", 1 << 30)],
)
def test_sizes(text: str, value: int) -> None:
    assert units.size(text) == value


@pytest.mark.parametrize(("text", "value"), [("200 ms", 200), ("1.5 s", 1_500), ("20us", 0.02), ("2 min", 120_000)])
def test_durations(text: str, value: float) -> None:
    assert units.duration_ms(text) == pytest.approx(value)


@pytest.mark.parametrize("value", ["4", 4096, "4 kilo", "KiB", "-1 B", "", None, "4 ms"])
def test_what_is_no_size_lists_the_units(value: object) -> None:
    with pytest.raises(ValueError, match="write a size as a number and one of B, kB, KiB, MB, MiB, GB, GiB"):
        units.size(value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_querys": 5}, "has no 'max_querys'; did you mean max_queries[?] there are max_queries, max_calls, "),
        ({"max_queries": "5"}, "max_queries='5'; write a whole number"),
        ({"max_queries": True}, "write a whole number"),
        ({"max_queries": -1}, "write a whole number"),
        ({"max_calls": 3}, "write a dict by channel"),
        ({"max_calls": {"https": 3}}, "'https' is no channel: there are sql, redis, http, "),
        ({"max_calls": {"http": "3"}}, "write a whole number"),
        ({"max_payload": "4 kilo"}, "'kilo' is no unit: write a size"),
        ({"max_time": 200}, "write a duration as a number and one of us, ms, s, min"),
        ({"max_time": "200"}, "the unit is missing"),
        ({"max_slowdown": "15"}, "the unit is missing: write a share"),
        ({"no": "JD401"}, "write a list of rules"),
        ({"no": ["JD999"]}, "no rule has the code 'JD999': there are JD101, JD102, "),
        ({"idempotent": "yes"}, 'write True, False or "strict"'),
    ],
)
def test_a_wrong_marker_lists_what_is_right(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        budgets.parse(given)


def test_all_keys() -> None:
    assert budgets.parse(
        {
            "max_queries": 5,
            "max_calls": {"http": 2},
            "max_payload": "4 KiB",
            "max_result": "64 KiB",
            "max_rss": "50 MiB",
            "max_time": "200 ms",
            "max_slowdown": "20%",
            "no": ["JD401", "JD202"],
            "idempotent": True,
        }
    ) == Budget(5, {"http": 2}, 4096, 65_536, 50 << 20, 200.0, 0.2, ("JD401", "JD202"), True)


def test_counts_are_exact_and_leave_out_what_sets_a_connection_up() -> None:
    profile = profile_of(
        make_group(count=5),
        make_group(operation="COMMIT", fingerprint="COMMIT", effect="transaction", count=3),
        make_group(operation="SELECT", fingerprint="select pg_catalog.version()", count=1),
        make_group(operation="SAVEPOINT", fingerprint="SAVEPOINT", effect="transaction", count=1),
        make_group(operation="ROLLBACK", fingerprint="ROLLBACK", effect="transaction", count=2),
        make_group(fingerprint="SELECT typname AS name, oid::regtype::text FROM pg_type t WHERE t.oid = ?", count=1),
        make_group(operation="SHOW", fingerprint="show standard_conforming_strings", count=1),
        make_group(operation="PRAGMA", fingerprint="PRAGMA read_uncommitted", count=1),
        make_group(operation="DISCARD", fingerprint="DISCARD ALL", count=1),
        make_group(operation="SELECT", fingerprint="SELECT sqlite_version()", count=1),
        make_group(operation="SELECT", fingerprint="SELECT CAST(? AS VARCHAR(60)) AS anon_1", count=1),
        make_group(operation="SELECT", fingerprint="SELECT ? AS is_superuser", count=1),
        make_group(operation="DELETE", fingerprint="DELETE FROM a", count=0),
        make_group("redis", operation="CONNECT", fingerprint="CONNECT", count=1),
        make_group("http", count=2),
        make_group("redis", operation="SET", fingerprint="SET a:{}", count=4),
    )
    assert profile.queries == 5
    assert counting.by_name(profile.groups)["sql: COMMIT"] == 3
    assert len(counting.by_name(profile.groups)) == 4
    assert profile.calls == {"http": 2, "redis": 4, "sql": 5}
    assert budgets.check(Budget(max_queries=5, max_calls={"http": 2, "sql": 5, "redis": 4}), profile) == []
    failures = budgets.check(Budget(max_queries=4, max_calls={"http": 1}), profile)
    assert [failure.what for failure in failures] == [
        "app.sync: 5 queries, 4 allowed",
        "app.sync: 2 http calls, 1 allowed",
    ]


def test_too_many_queries_name_line_shape_rule_and_cure() -> None:
    group = make_group(count=40, callsite="app/tasks.py:41", function="sync", relationship="Order.items", effect="read")
    [failure] = budgets.check(Budget(max_queries=5), profile_of(group, make_group(count=5, callsite="app/a.py:1")))
    assert lines(failure) == [
        "app.sync: 45 queries, 5 allowed [max_queries]",
        "  app/tasks.py:41 sync: 40 x SELECT * FROM orders WHERE id = ? (Order.items)",
        "  app/a.py:1 sync_orders: 5 x SELECT * FROM orders WHERE id = ?",
        "  JD401 n-plus-one-query: Order.items is loaded lazily, one by one: load it with the rows that need it, by "
        "selectinload(... .items)",
    ]
    assert failure.callsite == "app/tasks.py:41"


def test_calls_of_sql_are_the_queries_and_one_call_is_no_loop() -> None:
    profile = profile_of(
        make_group(operation="COMMIT", fingerprint="COMMIT", effect="transaction", count=9), make_group(count=1)
    )
    [failure] = budgets.check(Budget(max_calls={"sql": 0}), profile)
    assert [call.shape for call in failure.calls] == ["SELECT * FROM orders WHERE id = ?"]
    assert (failure.rule, failure.cure) == ("", "")


def test_bytes_up_to_the_budget_are_kept() -> None:
    kept = profile_of(payload=Payload(raw_bytes=100), result=ResultInfo("str", bytes=50))
    assert budgets.check(Budget(max_payload=100, max_result=50), kept) == []
    assert len(budgets.check(Budget(max_payload=99, max_result=49), kept)) == 2
    [block] = budgets.check(Budget(max_result=50), profile_of())
    assert block.what == "app.sync: a recorded block has no result: use jobdoctor.run()"
    failed = profile_of()
    failed.error = ValueError()
    assert budgets.check(Budget(max_result=50), failed) == []


def test_only_findings_of_the_rules_that_are_named_fail() -> None:
    sick = profile_of(make_group(count=40), make_group("http", count=40))
    found = {finding.code for finding in sick.findings}
    assert {"JD401", "JD402"} <= found
    assert [failure.check for failure in budgets.check(Budget(no=("JD401",)), sick)] == ["JD401"]


def test_a_limit_of_the_project_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "load", lambda *_: config.Settings(limits={"JD401": {"least_ms": 1e9}}))
    assert budgets.check(Budget(no=("JD401",)), profile_of(make_group(count=40))) == []


def test_the_newest_execution_comes_first_in_a_history() -> None:
    first, last = make_execution(at_ms=0), make_execution(at_ms=500)
    found = history.history_of([first, last])
    assert (found.executions, found.executions_total) == ([last, first], 2)
    profile = Profile("app.sync")
    profile.executions = [first, last]
    assert profile.execution is last
    assert profile.diagnosis is profile.diagnosis


def test_time_and_memory() -> None:
    profile = profile_of()
    profile.busy_ms, profile.rss_bytes = 250.0, 60 << 20
    failures = budgets.check(Budget(max_time=200.0, max_rss=50 << 20), profile)
    assert [failure.what for failure in failures] == [
        "app.sync: 60 MiB of memory above where it began, 50 MiB allowed",
        "app.sync: 250 ms without waits for a processor, 200 ms allowed",
    ]
    assert budgets.check(Budget(max_time=250.0, max_rss=60 << 20), profile) == []
    profile.rss_bytes = None
    assert "is not known here" in budgets.check(Budget(max_rss=50 << 20), profile)[0].what


def test_a_rule_that_cannot_judge_one_run_fails_and_says_why() -> None:
    [failure] = budgets.check(Budget(no=("JD802",)), profile_of(make_group(count=5)))
    assert failure.what.startswith("app.sync: JD802 no-effect could not be checked: 1 execution recorded, 5 needed")
    assert budgets.check(Budget(no=("JD202",)), profile_of(make_group(count=5))) == []


def test_the_port_of_a_server_on_this_machine_is_not_a_shape() -> None:
    one, other = (
        counting.name(make_group("http", fingerprint=f"GET http://127.0.0.1:{port}/orders/{{}}"))
        for port in (4_001, 50_123)
    )
    assert one == other == "http: GET http://localhost/orders/{}"
    assert (
        counting.name(make_group("http", fingerprint="GET https://api.test:8443/a"))
        == "http: GET https://api.test:8443/a"
    )


def test_budgets_in_a_session(session: Session) -> None:
    result = session(
        """
@pytest.mark.jobdoctor(max_queries=2, no=["JD401"])
def test_queries(jobdoctor):
    jobdoctor.run(shop.one_by_one, list(range(1, 13)))

@pytest.mark.jobdoctor(max_payload="100 B", max_result="1 KiB")
def test_bytes(jobdoctor):
    jobdoctor.run(shop.add, "x" * 200, "")
    jobdoctor.run(shop.return_much, 2_000)

@pytest.mark.jobdoctor(max_rss="4 MiB")
def test_memory(jobdoctor):
    jobdoctor.run(shop.remember, 40_000_000)

@pytest.mark.jobdoctor(max_queries=1, max_payload="1 KiB", max_result="1 KiB", max_rss="900 MiB", max_time="60 s")
def test_kept(jobdoctor):
    jobdoctor.run(shop.at_once, [1, 2, 3])

@pytest.mark.jobdoctor(max_queries=1)
def test_no_fixture():
    pass

@pytest.mark.jobdoctor(max_queries=1)
def test_no_run(jobdoctor):
    pass

@pytest.mark.jobdoctor(max_queries=1)
def test_skipped():
    pytest.skip("not today")

@pytest.mark.jobdoctor(max_queries=0)
class TestNearest:
    @pytest.mark.jobdoctor(max_queries=3)
    def test_it(self, jobdoctor):
        jobdoctor.run(shop.one_by_one, [1, 2, 3])

@pytest.mark.jobdoctor(max_payload="1 KiB")
def test_block(jobdoctor):
    with jobdoctor.record():
        pass
"""
    )
    result.assert_outcomes(passed=2, failed=6, skipped=1)
    result.stdout.no_fnmatch_line("::error*")
    result.stdout.fnmatch_lines(
        [
            "shop.one_by_one: 12 queries, 2 allowed [[]max_queries[]]",
            "  shop.py:*one_by_one: 12 x SELECT id FROM orders WHERE id = ?",
            "  JD401 n-plus-one-query: ask for all rows before the loop*",
            "shop.one_by_one: 12 queries of one shape from shop.py:* [[]JD401[]]",
            "  JD401 n-plus-one-query: Load them in one query before the loop",
            "shop.add: payload of 2* B, 100 B allowed [[]max_payload[]]",
            "  JD101 large-payload: args[[]0[]] (str) holds 2* B: pass an id in its place",
            "shop.return_much: result of 2.0 KiB, 1 KiB allowed [[]max_result[]]",
            "shop.remember: * MiB of memory above where it began, 4 MiB allowed [[]max_rss[]]",
            "  JD302 memory-peak: *",
            "marked with jobdoctor, and nothing was recorded: use the fixture jobdoctor in it [[]marker[]]",
            "marked with jobdoctor, and nothing was recorded: call jobdoctor.run() in it [[]marker[]]",
            "block: a recorded block has no payload: use jobdoctor.run() [[]max_payload[]]",
        ]
    )


def test_wrong_markers_stop_the_collection(session: Session) -> None:
    result = session(
        """
@pytest.mark.jobdoctor(max_querys=5)
def test_name(jobdoctor):
    raise SystemExit

@pytest.mark.jobdoctor(max_payload="4 kilo")
def test_unit(jobdoctor):
    pass

@pytest.mark.jobdoctor(5)
def test_position(jobdoctor):
    pass
"""
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "test_shop.py:5: mark.jobdoctor has no 'max_querys'; did you mean max_queries? there are max_*",
            "test_shop.py:9: mark.jobdoctor max_payload='4 kilo'; 'kilo' is no unit: write a size as a number*",
            "test_shop.py:13: mark.jobdoctor takes names only: write max_queries=5, for example",
        ]
    )


def test_settings_that_mean_nothing(session: Session) -> None:
    result = session("", "-o", "jobdoctor_worker=thread")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: jobdoctor_worker = 'thread' is none of fork, simple, spawn; write one of them"]
    )
