"""JD205: a new connection for each call; a session, a pool's threads and a first connect are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.external.connection_churn import ConnectionChurn
from jobdoctor.model import SpanGroup
from tests.builders import MS, make_group
from tests.diagnosis.asking import alike, ask, only


def requests_of(count: int, new: int, ms: float = 100, **fields: Any) -> SpanGroup:
    defaults = {"operation": "PUT", "fingerprint": "PUT http://api.test/parcels/{}", "last_end_ns": int(ms * MS)}
    return make_group("http", count=count, new_connections=new, ms=ms, **{**defaults, **fields})


def connects(count: int, ms: float, **fields: Any) -> SpanGroup:
    defaults = {"operation": "CONNECT", "fingerprint": "CONNECT", "effect": "none", "distinct": 0}
    return make_group("sql", count=count, new_connections=count, ms=ms, **{**defaults, **fields})


def test_fires_on_a_connection_for_each_request() -> None:
    assert only(ask(ConnectionChurn, alike(requests_of(15, 15), run_ms=120))).severity == "warning"


def test_fires_on_a_database_connection_for_each_item() -> None:
    groups = [connects(20, 100), make_group("sql", count=40, ms=40)]
    finding = only(ask(ConnectionChurn, alike(*groups, run_ms=160)))
    assert finding.severity == "warning"
    assert finding.saving_ms.mid == pytest.approx(85.5)  # 90% of the 100 ms, less the one that is needed
    assert "psycopg.connect(dsn)" in finding.recommendation.snippet


def test_fires_on_a_mail_session_for_each_mail() -> None:
    groups = [
        make_group("mail", operation="CONNECT", fingerprint="CONNECT", target="smtp://mx:2525", count=8, ms=80,
                   new_connections=8, effect="none", library="smtplib"),
        make_group("mail", operation="SEND", fingerprint="SEND", target="smtp://mx", count=8, ms=40, effect="write"),
    ]  # fmt: skip
    finding = only(ask(ConnectionChurn, alike(*groups, run_ms=160)))
    assert finding.title == "8 connections for 8 calls to smtp://mx"
    assert "smtplib.SMTP" in finding.recommendation.snippet


def test_urllib3s_connect_and_its_request_are_one_connection() -> None:
    connect = requests_of(15, 15, ms=30, operation="CONNECT", fingerprint="CONNECT http://api.test", effect="none")
    finding = only(ask(ConnectionChurn, alike(connect, requests_of(15, 15), run_ms=150)))
    assert finding.title == "15 connections for 15 calls to http://api.test"


@pytest.mark.parametrize(
    "groups",
    [
        [requests_of(5, 5)],
        [requests_of(29, 7)],
        [connects(9, 90), make_group("sql", count=37, ms=40)],
    ],
    ids=["connections", "calls over each", "statements over each"],
)
def test_silent_just_below_each_limit(groups: list[SpanGroup]) -> None:
    assert ask(ConnectionChurn, alike(*groups, run_ms=200)) == []


@pytest.mark.parametrize(
    "groups",
    [
        [requests_of(60, 1)],
        [connects(1, 25), make_group("sql", count=2, ms=2)],
        [requests_of(8, 8, ms=400, concurrent=7, last_end_ns=50 * MS)],
        [requests_of(1, 1, target=f"http://host-{n}.test", fingerprint=f"GET http://host-{n}.test/") for n in range(9)],
        [connects(20, 10, target="sqlite:///shop.db"), make_group("sql", count=20, target="sqlite:///shop.db")],
    ],
    ids=["session", "first connect", "threads", "many hosts", "sqlite"],
)
def test_silent_on_look_alikes(groups: list[SpanGroup]) -> None:
    assert ask(ConnectionChurn, alike(*groups, run_ms=600)) == []


def test_threads_that_connect_for_each_request_are_found() -> None:
    """Four at a time need eight connections at most, and not a hundred."""
    group = requests_of(100, 100, ms=800, concurrent=97, last_end_ns=200 * MS)
    assert only(ask(ConnectionChurn, alike(group, run_ms=260))).title.startswith("100 connections for 100 calls")


def test_no_network_lies_between_a_job_and_its_own_machine() -> None:
    """A request of 8 ms over the loopback interface waits for its answer, and not for its connection."""
    near = requests_of(15, 15, ms=150, min_ns=8 * MS, target="http://127.0.0.1:8000")
    assert only(ask(ConnectionChurn, alike(near, run_ms=180))).saving_ms.mid == pytest.approx(14 * 0.3)
    assert only(ask(ConnectionChurn, alike(near, run_ms=180))).saving_ms.high == pytest.approx(14 * 3.5)
    named = requests_of(15, 15, ms=150, min_ns=8 * MS, target="http://127.0.0.1.example:8000")
    assert only(ask(ConnectionChurn, alike(named, run_ms=180))).saving_ms.mid == pytest.approx(28)


@pytest.mark.parametrize(("library", "mid"), [("http.client", 14 * (0.3 + 0.8)), ("httpx", 14 * (0.3 + 20))])
def test_a_client_of_its_own_for_each_request_computes(library: str, mid: float) -> None:
    """450 ms from the first request to the last, 150 of them requests; httpx takes 36 ms for each client."""
    near = requests_of(
        15, 15, ms=150, min_ns=8 * MS, target="http://localhost:8000", library=library, last_end_ns=450 * MS
    )
    executions = alike(near, run_ms=480, ledger={"cpu": 300, "http": 150})
    assert only(ask(ConnectionChurn, executions)).saving_ms.mid == pytest.approx(mid)


def test_the_whole_finding() -> None:
    finding = only(ask(ConnectionChurn, alike(requests_of(15, 15, ms=150, min_ns=8 * MS), run_ms=180)))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD205", "external", "isolate")
    assert finding.title == "15 connections for 15 calls to http://api.test"
    # At most a round trip, half of the fastest request, for 14 of the 15; at least next to nothing.
    assert (finding.saving_ms.low, finding.saving_ms.mid, finding.saving_ms.high) == (2.8, 28.0, 56.0)
    assert finding.recommendation.snippet == (
        "# app/tasks.py:41\nsession = requests.Session()  # once, for http://api.test\nsession.put(url, timeout=10)"
    )
    assert finding.evidence[1].data == {"target": "http://api.test", "opened": 15.0, "calls": 15.0}
