"""JD202: one request without a timeout is enough; those with one are nothing."""

from __future__ import annotations

from jobdoctor.diagnosis.checklist.external.no_timeout import NoTimeout
from tests.builders import make_group
from tests.diagnosis.asking import alike, ask, only


def test_fires_on_one_request() -> None:
    assert only(ask(NoTimeout, alike(make_group("http", no_timeout=1)))).severity == "warning"


def test_requests_to_one_host_are_one_finding() -> None:
    groups = [make_group("http", no_timeout=1), make_group("http", no_timeout=3, count=3, callsite="app/tasks.py:9")]
    finding = only(ask(NoTimeout, alike(*groups)))
    assert (finding.calls, finding.callsite) == (4, "app/tasks.py:9")


def test_silent_when_each_has_a_timeout() -> None:
    assert ask(NoTimeout, alike(make_group("http", count=50))) == []


def test_silent_below_an_override_that_allows_some() -> None:
    executions = alike(make_group("http", no_timeout=1), number=3)
    assert ask(NoTimeout, executions, {"calls": 4}) == []
    assert ask(NoTimeout, executions, {"calls": 3})


def test_the_whole_finding() -> None:
    finding = only(ask(NoTimeout, alike(make_group("http", count=3, no_timeout=2, ms=60))))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD202", "external", "isolate")
    assert finding.title == "2 requests to http://api.test without a timeout from app/tasks.py:41"
    assert (finding.cost_ms, finding.saving_ms.high) == (60.0, 0.0)
    assert "holds the worker until the job's timeout of 3 min" in finding.evidence[1].text
    assert "timeout=" in finding.recommendation.snippet


def test_the_snippet_is_of_the_library_that_was_called() -> None:
    for library, call in [("aiohttp", "aiohttp.ClientTimeout("), ("httpx", "httpx.Timeout("), ("", "requests.get(")]:
        finding = only(ask(NoTimeout, alike(make_group("http", no_timeout=1, library=library))))
        assert call in finding.recommendation.snippet
