"""JD103: large results, and small ones that are kept for ever; what is thrown away or short-lived is not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.payload.large_result import LargeResult
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Execution, ResultInfo
from tests.builders import SECOND
from tests.diagnosis.asking import alike, ask, only

DAY_S = 86_400


def giving(size: int | None, ttl: int | None = 500, type_name: str = "list", **fields: Any) -> list[Execution]:
    return alike(result=ResultInfo(type_name, size, "d" * 16, ttl), ledger={"cpu": 80, "result": 10}, **fields)


def test_fires_on_a_large_result() -> None:
    assert only(ask(LargeResult, giving(400_000))).severity == "warning"
    assert only(ask(LargeResult, giving(1_000_000))).severity == "critical"


def test_fires_on_results_kept_for_ever() -> None:
    assert only(ask(LargeResult, giving(1_000, -1))).severity == "warning"
    assert only(ask(LargeResult, giving(999, -1))).severity == "info"


def test_fires_on_what_adds_up() -> None:
    executions = giving(20_000, 30 * DAY_S)
    hour: dict[str, Any] = {"to_ns": executions[0].enqueued_at_ns + 3_600 * SECOND, "outcomes": {"finished": 10}}
    finding = only(ask(LargeResult, executions, **hour))
    assert finding.title == "Results are kept for 30 days, 144 MB at a time"
    assert finding.evidence[2].text == "At the rate seen 144 MB of results lie in Redis at a time"
    assert len(only(ask(LargeResult, giving(400_000))).evidence) == 2


@pytest.mark.parametrize(
    "executions",
    [giving(99_999), giving(50_000, 30 * DAY_S)],
    ids=["bytes", "standing bytes of a burst"],
)
def test_silent_just_below_each_limit(executions: list[Execution]) -> None:
    assert ask(LargeResult, executions) == []


@pytest.mark.parametrize(
    "executions",
    [
        giving(5_000_000, 0),
        giving(4, -1, type_name="NoneType"),
        giving(300),
        alike(result=ResultInfo("int", None, ttl_s=500)),
    ],
    ids=["thrown away", "nothing", "small", "size not known"],
)
def test_silent_on_look_alikes(executions: list[Execution]) -> None:
    assert ask(LargeResult, executions) == []


def test_not_checked_without_results() -> None:
    with pytest.raises(NotChecked, match="not recorded"):
        ask(LargeResult, alike())


def test_the_whole_finding() -> None:
    finding = only(ask(LargeResult, giving(500_000, type_name="builtins.list")))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD103", "payload", "payload")
    assert finding.title == "500 kB of result from each job"
    # 10 ms of pickling, and 500 kB at 1 Gbit/s.
    assert (finding.cost_ms, finding.saving_ms.low, finding.saving_ms.mid) == (14.0, 0.0, 0.0)  # stored elsewhere
    assert finding.saving_ms.high == 18.0  # read by nobody
    assert finding.evidence[0].text == ("A list of 500 kB as serialised, the largest of 5 500 kB, kept for 8 min 20 s")
    assert finding.recommendation.snippet.startswith("def sync_orders(...):")
