"""What jobs cost before: written, compared, merged, kept stable."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from jobdoctor.errors import ConfigError
from jobdoctor.gate import baseline, summary
from jobdoctor.gate.baseline import Baseline, Entry
from jobdoctor.gate.profile import Profile
from jobdoctor.gate.session import baseline_path
from jobdoctor.gate.steady_size import steady_bytes
from jobdoctor.gate.timing import Timing
from tests.builders import make_group
from tests.pytest_plugin.test_budgets import profile_of

Session = Callable[..., pytest.RunResult]
TESTS = """
import os

def test_job(jobdoctor):
    job = shop.one_by_one if os.environ.get("SICK") else shop.at_once
    jobdoctor.run(shop.at_once, [1, 2, 3])
    with jobdoctor.record("block"):
        job([1, 2, 3])

def test_bytes(jobdoctor):
    jobdoctor.run(shop.return_much, int(os.environ.get("MUCH", "100")))
    jobdoctor.run(shop.add, "x" * int(os.environ.get("MUCH", "100")), "")

def test_without():
    pass
"""


@pytest.mark.parametrize("number", [1, 255, 256, 65_535, 65_536, 2**31, -5, 2**40])
def test_a_key_that_grew_is_no_larger_payload(number: int) -> None:
    def size(one: int) -> int:
        return steady_bytes(pickle.dumps(("app.sync", None, (one, "x"), {"b": [one] * 3}), 5), "pickle")

    assert size(number) == size(7)
    text = steady_bytes(f'["app.sync", null, [{number}, "1 x"], {{"b": {number}}}]'.encode(), "json")
    assert text == steady_bytes(b'["app.sync", null, [7, "1 x"], {"b": 7}]', "json")


@pytest.mark.parametrize(
    "directory",
    [
        "/tmp/pytest-of-root/pytest-9/",
        "/tmp/pytest-of-root/pytest-10/",
        "/tmp/pytest-of-root/pytest-10/popen-gw11/",
        "/private/var/folders/x1/T/pytest-of-maria/pytest-3/",
    ],
)
def test_the_directory_of_a_session_is_no_payload(directory: str) -> None:
    for path in ("{}test_it0/shop.db", "sqlite:///{}test_it0/shop.db"):
        given, usual = path.format(directory), path.format("/tmp/pytest-of-me/pytest-1/")
        assert steady_bytes(pickle.dumps(["a/b", given, "c"], 5), "pickle") == steady_bytes(
            pickle.dumps(["a/b", usual, "c"], 5), "pickle"
        )
        assert steady_bytes(json.dumps([given, 1]).encode(), "json") == steady_bytes(
            json.dumps([usual, 7]).encode(), "json"
        )
    longer = steady_bytes(pickle.dumps([f"{directory}test_it0/shops.db"], 5), "pickle")
    assert longer - steady_bytes(pickle.dumps([f"{directory}test_it0/shop.db"], 5), "pickle") == 1


def test_what_is_longer_is_larger() -> None:
    small, large = (pickle.dumps(("app.sync", None, ("x" * number,), {}), 5) for number in (100, 101))
    assert steady_bytes(large, "pickle") - steady_bytes(small, "pickle") == 1
    long = pickle.dumps(["x" * 50_000, "y" * 80_000, 1], 5)
    assert steady_bytes(long, "pickle") == pytest.approx(len(long), abs=30)
    assert steady_bytes(b"1234567", "app.Own") == 7
    assert steady_bytes(pickle.dumps(1), "app.Own") == len(pickle.dumps(1))
    short, framed = (steady_bytes(pickle.dumps(["a", "x" * number], 5), "pickle") for number in (60_000, 70_000))
    assert framed - short == 10_000
    assert steady_bytes(b"no pickle", "pickle") == 9
    assert steady_bytes(b'["a", "12345678"]', "json") == 17


def test_more_calls_fail_and_fewer_are_said() -> None:
    before = Entry(calls={"sql: SELECT * FROM orders WHERE id = ?": 5, "sql: SELECT ?": 2})
    profile = profile_of(
        make_group(count=40, callsite="app/a.py:4"),
        make_group(count=5, callsite="app/b.py:9"),
        make_group("http", count=1, fingerprint="GET http://api.test/x"),
        make_group("lock", count=9),
    )
    compared = baseline.compare(before, profile)
    assert [failure.what for failure in compared.failures] == [
        "app.sync: 5 -> 45 queries",
        "app.sync: 0 -> 1 http call, of a shape that the baseline has not",
    ]
    assert compared.failures[0].callsite == "app/a.py:4"
    assert [failure.rule for failure in compared.failures] == ["JD401 n-plus-one-query", ""]
    assert compared.less == ["app.sync: 2 -> 0 x sql: SELECT ?"]


def test_an_unchanged_profile_is_equal_to_its_own_entry() -> None:
    profile = profile_of(make_group(count=3), make_group("redis", count=2))
    profile.data, profile.result_data, profile.serializer = b"x" * 40, b"y", "app.Own"
    assert baseline.compare(baseline.entry_of(profile), profile) == baseline.Comparison()
    entry = baseline.entry_of(profile)
    profile.data, profile.result_data = b"x" * 44, b""
    compared = baseline.compare(entry, profile)
    assert [failure.what for failure in compared.failures] == ["app.sync: payload 40 -> 44 bytes"]
    assert compared.failures[0].rule == "JD101 large-payload"
    profile.data, profile.result_data = b"x" * 40, b"yy"
    assert [failure.rule for failure in baseline.compare(entry, profile).failures] == ["JD103 large-result"]
    assert compared.less == ["app.sync: result 1 -> 0 bytes"]


def test_an_entry_has_steady_sizes_and_names_with_their_relation() -> None:
    profile = profile_of(make_group(relationship="Order.items"), make_group(operation="COMMIT", effect="transaction"))
    profile.data, profile.result_data, profile.serializer = pickle.dumps([1]), pickle.dumps([2]), "pickle"
    before = baseline.entry_of(profile)
    assert "sql: SELECT * FROM orders WHERE id = ? [Order.items]" in before.calls
    profile.data, profile.result_data = pickle.dumps([2**20]), pickle.dumps([2**20])
    assert baseline.entry_of(profile) == before


def test_a_commit_for_each_row_has_its_own_rule() -> None:
    def committed(count: int) -> Profile:
        return profile_of(make_group(operation="COMMIT", fingerprint="COMMIT", effect="transaction", count=count))

    [failure] = baseline.compare(baseline.entry_of(committed(1)), committed(8)).failures
    assert (failure.what, failure.rule) == ("app.sync: 1 -> 8 queries", "JD406 commit-per-row")


def test_runs_that_are_only_compared_are_no_entries() -> None:
    first, again, compared = (profile_of(make_group()) for _ in range(3))
    compared.compared = True
    assert baseline.named([compared, first, compared, again]) == {"app.sync": first, "app.sync #2": again}


def test_merging_keeps_other_tests_and_other_machines() -> None:
    def timing(ms: float) -> Timing:
        return Timing("cpu", ms, "", [])

    old = Baseline(
        tests={"a": {"j": Entry(payload_bytes=1, timing={"one": timing(1), "two": timing(2)})}, "b": {"j": Entry()}}
    )
    new = {"a": {"j": Entry(payload_bytes=2, timing={"two": timing(3)})}, "c": {"j": Entry()}}
    kept, stale = baseline.merged(old, new, None)
    assert (sorted(kept.tests), stale) == (["a", "b", "c"], [])
    assert kept.tests["a"]["j"] == Entry(payload_bytes=2, timing={"one": timing(1), "two": timing(3)})
    whole, stale = baseline.merged(old, new, ["a", "c", "d"])
    assert (sorted(whole.tests), stale) == (["a", "c"], ["b"])


def test_the_file_is_sorted_and_stable(tmp_path: Path) -> None:
    one, other = tmp_path / "new" / "one.json", tmp_path / "other.json"
    times = {name: Timing("cpu", 1.0, "", []) for name in ("two", "one")}
    entry = Entry(calls={"b": 1, "a": 2}, payload_bytes=3, timing=times)
    one.parent.mkdir()
    baseline.write(one, Baseline(tests={"z": {"j": entry}, "a": {"y": Entry(), "x": entry}}))
    baseline.write(other, Baseline(tests={"a": {"x": entry, "y": Entry()}, "z": {"j": entry}}))
    assert one.read_bytes() == other.read_bytes()
    assert one.read_text().endswith("}\n")
    assert baseline.read(one).tests["a"]["x"] == entry
    written = msgspec.json.decode(one.read_bytes())["tests"]
    assert list(written) == ["a", "z"]
    assert list(written["z"]["j"]["calls"]) == ["a", "b"]
    assert list(written["z"]["j"]["timing"]) == ["one", "two"]
    assert one.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in one.parent.iterdir()] == ["one.json"]


CONFLICT = """{
<<<<<<< HEAD
 "schema": 1
=======
 "schema": 1
>>>>>>> branch
}
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no baseline.*; delete it and write it anew with --jobdoctor-update"),
        ('{"schema": 9}', "is of version 9, not 1; delete it and write it anew with --jobdoctor-update"),
        (CONFLICT, "has the conflict markers of a merge; take either side whole, then run with --jobdoctor-update"),
    ],
)
def test_a_file_that_is_no_baseline(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        baseline.read(path)


def test_what_cannot_be_read_or_written_says_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"cannot read {tmp_path}: Is a directory; make it readable"):
        baseline.read(tmp_path)
    within = tmp_path / "file" / "baseline.json"
    said = f"cannot write {within}: .*; give another --jobdoctor-baseline"
    with pytest.raises(ConfigError, match=said), baseline.alone(within):
        pass
    with pytest.raises(ConfigError, match=said):
        baseline.write(within, Baseline())


def test_one_session_at_a_time_changes_the_file(tmp_path: Path) -> None:
    entered = threading.Event()
    path = tmp_path / "baseline.json"

    def other() -> None:
        with baseline.alone(path):
            entered.set()

    with baseline.alone(path):
        waiting = threading.Thread(target=other)
        waiting.start()
        assert not entered.wait(0.05)
    waiting.join(10)
    assert entered.is_set()


def test_a_baseline_from_session_to_session(
    session: Session, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = session(TESTS, "--jobdoctor-update")
    written.assert_outcomes(passed=3)
    written.stdout.fnmatch_lines(["baseline: .jobdoctor/baseline.json, 2 tests written"])
    path = pytester.path / ".jobdoctor" / "baseline.json"
    before = path.read_bytes()
    assert msgspec.json.decode(before)["tests"]["test_shop.py::test_job"]["block"]["calls"]

    same = session()
    same.assert_outcomes(passed=3)
    same.stdout.no_fnmatch_line("*= jobdoctor =*")
    session(None, "--jobdoctor-update")
    assert path.read_bytes() == before

    monkeypatch.setenv("SICK", "1")
    monkeypatch.setenv("MUCH", "110")
    sick = session()
    sick.assert_outcomes(passed=1, failed=2)
    sick.stdout.fnmatch_lines(
        [
            "block: 0 -> 3 queries, of a shape that the baseline has not [[]baseline[]]",
            "  shop.py:* one_by_one: 3 x SELECT id FROM orders WHERE id = ?",
            "  JD401 n-plus-one-query: *",
            "shop.return_much: result 1* -> 1* bytes [[]baseline[]]",
            "shop.add: payload 1* -> 1* bytes [[]baseline[]]",
            "*less than the baseline, which --jobdoctor-update would keep: block: 1 -> 0 x sql: SELECT id FROM *",
        ]
    )

    session(None, "--jobdoctor-update", "--jobdoctor-baseline", "sick.json").assert_outcomes(passed=3)
    session(None, "--jobdoctor-update", "--jobdoctor-baseline", "sick.json").assert_outcomes(passed=3)

    monkeypatch.setenv("MUCH", "90")
    monkeypatch.delenv("SICK")
    less = session()
    less.assert_outcomes(passed=3)
    less.stdout.fnmatch_lines(["less than the baseline, *: shop.return_much: result 1* -> * bytes"])


def test_updates_of_a_part_keep_the_rest_and_of_the_whole_remove_what_is_stale(
    session: Session, pytester: pytest.Pytester
) -> None:
    path = pytester.path / "b.json"
    arguments = ("--jobdoctor-update", "--jobdoctor-baseline", "b.json")
    session(TESTS, *arguments)
    tests = TESTS.replace("def test_bytes", "def test_renamed")
    part = session(tests, *arguments, "-k", "renamed")
    part.stdout.fnmatch_lines(["baseline: b.json, 1 test written; 2 others kept, as -k was given"])
    assert len(baseline.read(path).tests) == 3
    failing = session(tests + "\n    raise ValueError", *arguments, "test_shop.py")
    failing.stdout.fnmatch_lines(["baseline: b.json, * written; * kept, as only some paths were given"])
    whole = session(tests, *arguments)
    whole.stdout.fnmatch_lines(["baseline: b.json, 2 tests written, 1 stale one removed"])
    assert sorted(baseline.read(path).tests) == ["test_shop.py::test_job", "test_shop.py::test_renamed"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), ""),
        (("-m", "slow"), "-m was given"),
        (("-k", "a"), "-k was given"),
        (("--deselect", "a"), "--deselect was given"),
        (("--ignore", "a"), "--ignore was given"),
        (("--ignore-glob", "a"), "--ignore-glob was given"),
        (("--lf",), "--lf was given"),
        (("--stepwise",), "--stepwise was given"),
        ((".",), "only some paths were given"),
    ],
)
def test_what_leaves_tests_out(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # pytest-django would keep this process from databases
    config = pytester.parseconfig(*arguments)
    assert summary.narrowed(config, deselected=0, stopped=False) == said
    assert summary.narrowed(config, deselected=1, stopped=False) == (said or "tests were deselected")
    assert summary.narrowed(config, deselected=0, stopped=True) == (said or "the session did not end by itself")


def test_where_the_baseline_is(tmp_path: Path) -> None:
    def path(option: str | None, setting: str) -> Path:
        config: Any = SimpleNamespace(
            getoption=lambda name: option,
            getini=lambda name: setting,
            rootpath=tmp_path,
            invocation_params=SimpleNamespace(dir=tmp_path / "here"),
        )
        return baseline_path(config)

    assert path("b.json", "s.json") == tmp_path / "here" / "b.json"
    assert path(None, "s.json") == tmp_path / "s.json"
    assert path(None, "") == tmp_path / ".jobdoctor" / "baseline.json"


def test_failed_tests_are_not_written(session: Session, pytester: pytest.Pytester) -> None:
    session(
        "def test_it(jobdoctor):\n    jobdoctor.run(shop.add, 1, 2)\n    assert False\n"
        "def test_nothing(jobdoctor): pass",
        "--jobdoctor-update",
    )
    assert baseline.read(pytester.path / ".jobdoctor" / "baseline.json").tests == {}


def test_jobs_that_are_new_are_said(session: Session) -> None:
    first = session("def test_it(jobdoctor): jobdoctor.run(shop.add, 1, 2)", "--jobdoctor-update", "-k", "it")
    first.stdout.fnmatch_lines(["baseline: .jobdoctor/baseline.json, 1 test written"])
    result = session(
        "def test_it(jobdoctor):\n    jobdoctor.run(shop.add, 1, 2)\n    jobdoctor.run(shop.add, 1, 2)\n"
        "    jobdoctor.run(shop.at_once, [1])"
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["not in the baseline: 2 jobs; --jobdoctor-update adds them"])


def test_a_baseline_that_is_not_there_or_not_readable(session: Session, pytester: pytest.Pytester) -> None:
    missing = session(TESTS, "--jobdoctor-baseline", "none.json")
    assert missing.ret == pytest.ExitCode.USAGE_ERROR
    missing.stderr.fnmatch_lines(
        ["ERROR: --jobdoctor-baseline none.json: no such file; run with --jobdoctor-update first"]
    )
    (pytester.path / "bad.json").write_text("[]")
    bad = session(None, "--jobdoctor-baseline", "bad.json")
    bad.assert_outcomes(passed=1, failed=2)
    bad.stdout.fnmatch_lines(["*bad.json is no baseline: *write it anew with --jobdoctor-update*"])
    update = session(None, "--jobdoctor-baseline", "bad.json", "--jobdoctor-update")
    update.assert_outcomes(passed=3)
    assert update.ret == pytest.ExitCode.TESTS_FAILED
    update.stdout.fnmatch_lines(["baseline not written: *bad.json is no baseline: *; delete it and write it anew*"])


def test_workers_of_xdist_write_one_baseline(session: Session, pytester: pytest.Pytester) -> None:
    arguments = ("-p", "xdist", "-n", "2", "-p", "no:cacheprovider")
    tests = (
        TESTS + "\n@pytest.mark.jobdoctor(max_queries=1)\n"
        "def test_sick(jobdoctor):\n    jobdoctor.run(shop.one_by_one, [1, 2])"
    )
    result = session(tests, *arguments, "--jobdoctor-update", "--jobdoctor-format", "github")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "::error file=shop.py,line=*,title=jobdoctor max_queries JD401 *::shop.one_by_one: 2 queries*",
            "baseline: .jobdoctor/baseline.json, 2 tests written",
        ]
    )
    assert sorted(baseline.read(pytester.path / ".jobdoctor" / "baseline.json").tests) == [
        "test_shop.py::test_bytes",
        "test_shop.py::test_job",
    ]


def test_runs_that_are_made_to_compare_them_leave_one_entry(session: Session, pytester: pytest.Pytester) -> None:
    session(
        """
def test_it(jobdoctor):
    jobdoctor.scales(shop.at_once, arrange=lambda size: (list(range(1, size + 1)),))
    jobdoctor.assert_idempotent(shop.set_points, 3, 7)
""",
        "--jobdoctor-update",
    ).assert_outcomes(passed=1)
    [jobs] = baseline.read(pytester.path / ".jobdoctor" / "baseline.json").tests.values()
    assert list(jobs) == ["shop.set_points"]
