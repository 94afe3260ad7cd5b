"""JD402: requests of one template, one after the other; paging, polling and requests beside one another are not."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.batching.n_plus_one_http import NPlusOneHttp
from jobdoctor.model import SpanGroup
from tests.builders import make_group
from tests.diagnosis.asking import alike, ask, only


def test_fires_on_a_loop_of_requests() -> None:
    assert only(ask(NPlusOneHttp, alike(make_group("http", count=60, ms=600), run_ms=700))).severity == "critical"


def test_fires_when_names_in_the_path_make_each_request_a_template_of_its_own() -> None:
    groups = [
        make_group("http", fingerprint=f"GET http://api.test/users/{name}", count=1, ms=30)
        for name in ("ada", "bob", "cy", "dee", "eve", "fay")
    ]
    finding = only(ask(NPlusOneHttp, alike(*groups, run_ms=300)))
    assert finding.calls == 6
    assert "GET http://api.test/users/{}" in finding.title


def test_different_endpoints_through_one_client_line_are_not_one_template() -> None:
    groups = [
        make_group("http", fingerprint=f"GET http://api.test/{path}", count=1, ms=30)
        for path in ("users/me", "orders/open", "stock", "rates/today", "health/live", "a/b/c")
    ]
    assert ask(NPlusOneHttp, alike(*groups, run_ms=300)) == []


@pytest.mark.parametrize(
    "group",
    [
        make_group("http", count=4, ms=500),
        make_group("http", count=50, distinct=9, ms=500),
        make_group("http", count=5, ms=4),
    ],
    ids=["calls", "distinct share", "milliseconds"],
)
def test_silent_just_below_each_limit(group: SpanGroup) -> None:
    assert ask(NPlusOneHttp, alike(group, run_ms=1_000)) == []


def test_fires_at_the_limit_of_calls() -> None:
    assert ask(NPlusOneHttp, alike(make_group("http", count=5, ms=500), run_ms=1_000))


@pytest.mark.parametrize(
    "group",
    [
        make_group("http", count=60, concurrent=59, ms=600, last_end_ns=60_000_000),
        make_group("http", count=60, fingerprint="GET http://api.test/orders?limit&page", ms=600),
        make_group("http", count=60, distinct=1, ms=600),
        make_group("http", count=60, operation="POST", fingerprint="POST http://api.test/orders", ms=600),
    ],
    ids=["concurrent", "paging", "polling", "posts"],
)
def test_silent_on_look_alikes(group: SpanGroup) -> None:
    assert ask(NPlusOneHttp, alike(group, run_ms=1_000)) == []


def test_the_whole_finding() -> None:
    finding = only(ask(NPlusOneHttp, alike(make_group("http", count=60, ms=600), run_ms=700)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD402", "batching", "batch")
    assert finding.title == "60 requests of GET http://api.test/orders/{} from app/tasks.py:41, one after the other"
    # Low: four at a time. High: one request as fast as the fastest.
    assert (finding.saving_ms.low, finding.saving_ms.mid, finding.saving_ms.high) == (450.0, 570.0, 590.0)
    assert 'session.get("http://api.test/orders", params=' in finding.recommendation.snippet


def test_aiohttps_snippet_is_aiohttps() -> None:
    loop = make_group("http", library="aiohttp", count=40, ms=400)
    assert "aiohttp.ClientSession(" in only(ask(NPlusOneHttp, alike(loop, run_ms=600))).recommendation.snippet
