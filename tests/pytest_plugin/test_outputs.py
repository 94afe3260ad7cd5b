"""Where failures go beside the terminal: annotations, SARIF, HTML reports."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from jobdoctor.gate import github, sarif, summary
from jobdoctor.gate.failure import Call, Failure, lines
from jobdoctor.gate.places import Place, place_of
from jobdoctor.gate.session import _file_name

Session = Callable[..., pytest.RunResult]
FAILURE = Failure(
    "max_queries",
    "app.sync: 45 queries, 5 allowed",
    [Call(40, "SELECT 100% FROM a", "app/tasks.py:41", "sync"), Call(5, "SELECT b", "app/b.py:2")],
    "JD401 n-plus-one-query",
    "load them at once",
)
TEST = Place("tests/test_app.py", 7)
TESTS = """
@pytest.mark.jobdoctor(max_queries=1)
def test_sick(jobdoctor):
    jobdoctor.run(shop.one_by_one, [1, 2, 3])

def test_scales(jobdoctor):
    jobdoctor.scales(shop.one_by_one, arrange=lambda size: (list(range(1, size + 1)),))

@pytest.mark.jobdoctor(max_payload="1 B")
def test_bytes(jobdoctor):
    jobdoctor.run(shop.add, 1, 2)

def test_otherwise(jobdoctor):
    jobdoctor.run(shop.add, 1, 2)
    assert False

def test_healthy(jobdoctor):
    jobdoctor.run(shop.add, 1, 2)
"""

#: What SARIF 2.1.0 asks of a log like ours: required properties and types of the standard's JSON schema.
SCHEMA = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "$schema": {"type": "string", "format": "uri"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool"],
                "additionalProperties": False,
                "properties": {
                    "tool": {
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "required": ["name"],
                                "properties": {
                                    "rules": {
                                        "uniqueItems": True,
                                        "items": {
                                            "required": ["id"],
                                            "properties": {"shortDescription": {"required": ["text"]}},
                                        },
                                    }
                                },
                            }
                        },
                    },
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["message"],
                            "properties": {
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "message": {"required": ["text"]},
                                "partialFingerprints": {"additionalProperties": {"type": "string"}},
                                "locations": {"$ref": "#/$defs/locations"},
                                "relatedLocations": {"$ref": "#/$defs/locations"},
                            },
                        },
                    },
                },
            },
        },
    },
    "$defs": {
        "locations": {
            "type": "array",
            "items": {
                "required": ["physicalLocation"],
                "properties": {
                    "physicalLocation": {
                        "required": ["artifactLocation", "region"],
                        "properties": {
                            "artifactLocation": {"required": ["uri"], "properties": {"uri": {"type": "string"}}},
                            "region": {"properties": {"startLine": {"type": "integer", "minimum": 1}}},
                        },
                    }
                },
            },
        }
    },
}


@pytest.mark.parametrize(
    ("callsite", "place"),
    [
        ("app/tasks.py:41", Place("app/tasks.py", 41)),
        ("", None),
        ("app/tasks.py", None),
        ("app:x", None),
        (":4", None),
        ("a.py:0", None),
    ],
)
def test_places(callsite: str, place: Place | None) -> None:
    assert place_of(callsite) == place


def test_an_annotation_is_one_line_at_the_callsite() -> None:
    assert github.error_lines("t::a", [FAILURE], TEST) == [
        "::error file=app/tasks.py,line=41,title=jobdoctor max_queries JD401 n-plus-one-query::app.sync: 45 queries, "
        "5 allowed [max_queries]%0A  app/tasks.py:41 sync: 40 x SELECT 100%25 FROM a%0A  app/b.py:2: 5 x SELECT b%0A"
        "  JD401 n-plus-one-query: load them at once%0Ain t::a"
    ]
    [line] = github.error_lines("t::a", [Failure("max_time", "a\rb")], TEST)
    assert "\r" not in line
    [line] = github.error_lines("t::a", [Failure("max_time", "slow")], Place("a,b:c.py", 7))
    assert line.startswith("::error file=a%2Cb%3Ac.py,line=7,title=jobdoctor max_time::slow")


def test_sarif_has_the_structure_of_the_standard() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    text = sarif.render([("t::a", FAILURE, TEST), ("t::b", Failure("max_time", "slow"), TEST), ("t::c", FAILURE, TEST)])
    log = json.loads(text)
    jsonschema.Draft202012Validator(SCHEMA).validate(log)
    [run] = log["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["JD401", "max_time"]
    assert [result["ruleIndex"] for result in run["results"]] == [0, 1, 0]
    first, second, third = run["results"]
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "app/tasks.py", "uriBaseId": "%SRCROOT%"}
    assert place["region"] == {"startLine": 41}
    assert len(first["relatedLocations"]) == 1
    assert first["relatedLocations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "app/b.py"
    assert first["message"]["text"].splitlines()[0] == "app.sync: 45 queries, 5 allowed [max_queries]"
    assert second["locations"][0]["physicalLocation"]["region"] == {"startLine": 7}
    assert first["partialFingerprints"] != third["partialFingerprints"]
    moved = replace(FAILURE, calls=[replace(FAILURE.calls[0], callsite="app/tasks.py:99")])
    [result] = json.loads(sarif.render([("t::a", moved, TEST)]))["runs"][0]["results"]
    assert result["partialFingerprints"] == first["partialFingerprints"]
    assert json.loads(sarif.render([]))["runs"][0]["results"] == []


def test_absolute_files_have_no_base() -> None:
    failure = Failure("max_calls", "many", [Call(2, "GET", "/srv/my app/a.py:3")])
    place = json.loads(sarif.render([("t", failure, TEST)]))["runs"][0]["results"][0]["locations"][0]
    assert place["physicalLocation"]["artifactLocation"] == {"uri": "/srv/my%20app/a.py"}


def test_a_failure_shows_few_calls_and_no_control_characters() -> None:
    many = Failure(
        "max_calls", "many\x1b[31m", [Call(number, "x" * 500, f"a.py:{number}") for number in (9, 8, 7, 6, 5)]
    )
    shown = lines(many)
    assert len(shown) == 5
    assert shown[-1] == "  and 11 calls from elsewhere"
    assert "\x1b" not in shown[0]
    assert all(len(line) < 140 for line in shown)
    assert lines(Failure("max_time", "slow", rule="JD301 cpu-bound"))[-1] == "  JD301 cpu-bound"


def test_files_of_reports_have_names_that_every_system_takes() -> None:
    one, other = (_file_name(f"tests/a.py::test[{'x/' * 200}{end}]-app.sync") for end in "ab")
    assert one != other
    assert len(one) < 140
    assert re.fullmatch(r"[A-Za-z0-9._-]+\.html", one)


def test_remarks_are_few_and_said_once() -> None:
    told = ("t", {"less": ["a", "b"], "timing": ["other machine"], "new": ["j"]})
    assert summary._remarks([told, told]) == [
        "not in the baseline: 2 jobs; --jobdoctor-update adds them",
        "less than the baseline, which --jobdoctor-update would keep: a",
        "  b",
        "  a",
        "  b",
        "time: other machine",
    ]
    assert summary._remarks([("t", {"less": list("abcdefg")})])[-1] == "  and 2 more"
    assert summary._remarks([("t", {"less": list("abcde")})])[-1] == "  e"


def test_the_line_of_a_failure_is_the_first_that_is_known() -> None:
    assert Failure("max_calls", "many", [Call(2, "GET"), Call(1, "GET", "a.py:3")]).callsite == "a.py:3"


def test_a_try_that_is_made_again_does_not_count(session: Session, pytester: pytest.Pytester) -> None:
    session(
        "",
        retried="""
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    for report in runtestprotocol(item, nextitem=nextitem, log=False):
        if report.failed:
            report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
""",
    )
    result = session(
        """
tries = iter([[1, 2], [1]])

@pytest.mark.jobdoctor(max_queries=1)
def test_it(jobdoctor):
    jobdoctor.run(shop.one_by_one, next(tries))
""",
        "-p",
        "retried",
        "--jobdoctor-sarif",
        "s.sarif",
    )
    result.stdout.fnmatch_lines(["SARIF: s.sarif, 0 results"])


def test_outputs_of_a_session(session: Session, pytester: pytest.Pytester) -> None:
    result = session(
        TESTS,
        "--jobdoctor-format",
        "github",
        "--jobdoctor-sarif",
        "out/gate.sarif",
        "--jobdoctor-report",
        "out/reports",
    )
    result.assert_outcomes(passed=1, failed=4)
    result.stdout.fnmatch_lines(
        [
            "::error file=shop.py,line=23,title=jobdoctor max_queries JD401 *::shop.one_by_one: 3 queries, 1 allowed*",
            "::error file=shop.py,line=23,title=jobdoctor scales JD401 *::shop.one_by_one: 2 -> 8 sql calls*",
            "::error file=test_shop.py,line=12,title=jobdoctor max_payload JD101 *::shop.add: payload of *",
            "SARIF: out/gate.sarif, 3 results",
            "report: *out/reports/test_shop.py_test_sick-shop.one_by_one-*.html",
        ]
    )
    log = json.loads((pytester.path / "out" / "gate.sarif").read_text())
    assert len(log["runs"][0]["results"]) == 3
    reports = sorted(path.name.partition("-shop")[0] for path in (pytester.path / "out" / "reports").iterdir())
    assert reports == [f"test_shop.py_test_{name}" for name in ("bytes", "otherwise", "scales", "sick")]
    [page] = (pytester.path / "out" / "reports").glob("*sick*")
    assert "SELECT" in page.read_text()


def test_without_options_nothing_is_written(session: Session, pytester: pytest.Pytester) -> None:
    result = session("def test_it(jobdoctor): jobdoctor.run(shop.add, 1, 2)", "--jobdoctor-sarif", "none.sarif")
    result.assert_outcomes(passed=1)
    assert json.loads((pytester.path / "none.sarif").read_text())["runs"][0]["results"] == []
    session("def test_it(jobdoctor): jobdoctor.run(shop.fail)").stdout.no_fnmatch_line("*= jobdoctor =*")
    assert not (pytester.path / ".jobdoctor").exists()


def test_a_folder_that_cannot_be_written(session: Session, pytester: pytest.Pytester) -> None:
    (pytester.path / "file").write_text("")
    result = session(TESTS, "--jobdoctor-report", "file/reports", "--jobdoctor-sarif", "file/x", "-k", "sick")
    result.stdout.fnmatch_lines(
        ["SARIF not written: *give another --jobdoctor-sarif", "report: not written: *give another --jobdoctor-report"]
    )
