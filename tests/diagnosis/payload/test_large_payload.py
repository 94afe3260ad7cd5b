"""JD101: large data is found and the argument that holds it named; ordinary arguments are not."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.payload.large_payload import LargePayload
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Payload, PayloadNode
from tests.builders import make_execution, make_group
from tests.diagnosis.asking import alike, ask, only

IMAGE = Payload(
    raw_bytes=2_100_000,
    wire_bytes=1_900_000,
    nodes=[
        PayloadNode("args[0]", "dict", 2_099_000, items=2),
        PayloadNode("args[0].image", "bytes", 2_090_000),
        PayloadNode("args[0].name", "str", 20),
    ],
)


def test_fires_and_names_the_path_that_holds_the_bytes() -> None:
    finding = only(ask(LargePayload, alike(payload=IMAGE)))
    assert finding.severity == "critical"
    assert "args[0].image" in finding.title


@pytest.mark.parametrize(("size", "severity"), [(100_000, "warning"), (999_999, "warning"), (1_000_000, "critical")])
def test_severity_follows_the_size(size: int, severity: str) -> None:
    assert only(ask(LargePayload, alike(payload=Payload(raw_bytes=size)))).severity == severity


def test_silent_just_below_the_limit() -> None:
    assert ask(LargePayload, alike(payload=Payload(raw_bytes=99_999))) == []


def test_one_large_job_among_many_small_ones_is_no_illness() -> None:
    executions = [*alike(payload=Payload(raw_bytes=300), number=9), make_execution(payload=IMAGE)]
    assert ask(LargePayload, executions) == []


def test_says_when_sizes_were_not_recorded() -> None:
    with pytest.raises(NotChecked, match="jobdoctor run"):
        ask(LargePayload, alike(payload=None))


def test_a_key_promises_no_time_where_unpickling_took_none() -> None:
    """An image of 2 MB unpickles in no time, and has to be loaded all the same."""
    quick = alike(payload=IMAGE, run_ms=100, ledger={"deserialize": 1, "cpu": 99})
    assert only(ask(LargePayload, quick)).saving_ms.mid == 0


def test_a_load_is_cheap_for_a_job_that_asks_a_database_anyway() -> None:
    executions = alike(make_group(ms=5), payload=IMAGE, run_ms=100, ledger={"deserialize": 30, "cpu": 70})
    assert only(ask(LargePayload, executions)).saving_ms.mid == pytest.approx(0.85 * 30 * 2_090 / 2_100 - 1, abs=0.01)


def test_the_whole_finding() -> None:
    finding = only(ask(LargePayload, alike(payload=IMAGE, run_ms=100, ledger={"deserialize": 30, "cpu": 70})))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD101", "payload", "payload")
    assert finding.title == "2.1 MB of arguments in each job, most of it in args[0].image"
    assert finding.callsite == "app/views.py:88"
    # Unpickling 30 ms, 1.9 MB at 1 Gbit/s 15.2 ms, unpacking 2.1 MB at 250 MB/s 8.4 ms.
    assert finding.cost_ms == pytest.approx(53.6)
    # A key costs a load: 12 ms where the job asks nobody else. The bytes come in any case.
    held = 2_090_000 / 2_100_000
    assert finding.saving_ms.low == 0
    assert finding.saving_ms.mid == pytest.approx(0.85 * 30 * held - 12, abs=0.01)
    assert finding.saving_ms.high == pytest.approx((30 + 2 * 23.6) * held, abs=0.01)
    assert "storage.save(data)" in finding.recommendation.snippet
    assert finding.evidence[0].data["nodes"][1]["path"] == "args[0].image"
