"""JD203: slow requests that wait for one another; pages, redirects, loops, polls and concurrent ones are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.external.sequential_calls import SequentialCalls
from jobdoctor.model import SpanGroup
from tests.builders import MS, make_execution, make_group
from tests.diagnosis.asking import alike, ask, only

SHOP = "http://shop.test"


def request(path: str, ms: float = 80, host: str = SHOP, **fields: Any) -> SpanGroup:
    name = path.strip("/").partition("/")[0].partition("?")[0]
    defaults = {
        "fingerprint": f"GET {host}{path}",
        "target": host,
        "callsite": f"app/clients.py:{10 + len(name)}",
        "function": name,
        "stack": [f"app/clients.py:{10 + len(name)} {name}", f"app/pages.py:{len(name)} refresh"],
        "statuses": {"200": fields.get("count", 1)},
    }
    return make_group("http", ms=ms, **{**defaults, **fields})


THREE = (request("/offers?sku", 90), request("/reviews?sku", 75), request("/delivery?sku", 60))


def test_fires_on_three_services_of_one_host() -> None:
    assert only(ask(SequentialCalls, alike(*THREE, run_ms=250))).severity == "warning"


def test_fires_on_two_hosts() -> None:
    groups = [request("/rates/{}", 150), request("/stock/{}", 150, host="http://stock.test")]
    finding = only(ask(SequentialCalls, alike(*groups, run_ms=320)))
    assert (finding.severity, finding.confidence) == ("warning", 0.75)


@pytest.mark.parametrize(
    ("paths", "severity"),
    [
        (["/orders/{}", "/customers/{}"], "info"),
        (["/orders/{}", "/customers/{}", "/addresses/{}"], "info"),
        (["/orders?id", "/customers?email"], "info"),
        (["/orders/{}", "/customers/{}", "/stock/{}", "/rates/{}"], "warning"),
        (["/rates", "/holidays"], "warning"),
        (["/orders/{}", "/rates", "/holidays"], "warning"),
    ],
    ids=["pair", "chain", "other names", "too many for a chain", "nothing varies", "only the first varies"],
)
def test_what_may_be_a_chain_is_only_remarked(paths: list[str], severity: str) -> None:
    groups = [request(path, 150, first_start_ns=number * MS) for number, path in enumerate(paths)]
    finding = only(ask(SequentialCalls, alike(*groups, run_ms=1_300)))
    assert finding.severity == severity
    assert ("an earlier answer" in finding.evidence[1].text) == ("{}" in "".join(paths[1:]) or "?email" in paths[-1])


@pytest.mark.parametrize(
    ("groups", "run_ms"),
    [
        ([request("/a/{}", 99), request("/b/{}", 99)], 210.0),
        ([request("/a/{}", 300), request("/b/{}", 29), request("/c/{}", 29), request("/d/{}", 29)], 400.0),
        ([request("/a/{}", 110), request("/b/{}", 100)], 1_005.0),
    ],
    ids=["saving", "length of a request", "share"],
)
def test_silent_just_below_each_limit(groups: list[SpanGroup], run_ms: float) -> None:
    assert ask(SequentialCalls, alike(*groups, run_ms=run_ms)) == []


@pytest.mark.parametrize(
    "groups",
    [
        [request(f"/{name}/{{}}", 200, concurrent=1) for name in ("offers", "reviews", "delivery")],
        [request("/token", 200), request("/oauth/token", 200), request("/items", 200)],
        [request("/items", 200), request("/items?cursor", 200), request("/items?limit&page", 200)],
        [request("/a", 200, statuses={"302": 1}), request("/b", 200, statuses={"301": 1}), request("/c", 200)],
        [request("/pickups/{}", 600, count=4, distinct=1), request("/rates", 60)],
        [request("/stock/{}", 600, count=6), request("/rates", 60)],
        [request(f"/users/{name}", 100, callsite="app/tasks.py:9") for name in ("ada", "bob", "cy", "dee", "eve")],
        [request("/charges", 200, operation="POST"), request("/orders", 200, operation="PUT"), request("/a", 50)],
        [request("/a", 200, errors=1), request("/b", 200)],
        [make_group("sql", ms=200), make_group("sql", ms=200, fingerprint="SELECT ?")],
    ],
    ids=["concurrent", "token first", "pages", "redirects", "poll", "loop", "names", "writes", "error", "sql"],
)
def test_silent_on_look_alikes(groups: list[SpanGroup]) -> None:
    assert ask(SequentialCalls, alike(*groups, run_ms=700)) == []


def test_a_request_that_few_executions_make_does_not_count() -> None:
    executions = [
        make_execution(groups=list(THREE) if number == 0 else [THREE[0]], run_ms=250, at_ms=1_000 * number)
        for number in range(5)
    ]
    assert ask(SequentialCalls, executions) == []


def test_the_whole_finding() -> None:
    finding = only(ask(SequentialCalls, alike(*THREE, run_ms=250)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD203", "external", "isolate")
    assert finding.title == "3 requests to http://shop.test one after the other take 225 ms, the longest 90 ms"
    # The sum without the longest: 135 ms. Low: only half of it, for some may depend on others.
    assert (finding.saving_ms.low, finding.saving_ms.mid, finding.saving_ms.high) == pytest.approx(
        (0.9 * 67.5, 0.95 * 135, 1.1 * 135)
    )
    assert finding.callsite == "app/pages.py:6"  # the function that makes all of them
    assert "pool.submit(offers, ...)" in finding.recommendation.snippet
    assert "independent" in finding.recommendation.text
    assert finding.evidence[0].data["groups"][0]["total_ms"] == 90 * MS / MS
