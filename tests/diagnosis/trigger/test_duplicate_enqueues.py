"""JD801: equal jobs enqueued again within moments; schedules, retries and other arguments are not."""

from __future__ import annotations

import random

import pytest

from jobdoctor.diagnosis.checklist.trigger.duplicate_enqueues import DuplicateEnqueues
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Finding, TraceRow
from tests.diagnosis.asking import only
from tests.diagnosis.traffic import MAIL, attempts, history_of
from tests.queueing.traces import row


def ask(rows: list[TraceRow], **fields: object) -> list[Finding]:
    return list(DuplicateEnqueues().check(history_of(MAIL, rows, **fields)))


def enqueue(at: float, args: str, *, wait: float = 0.0, run: float = 0.1, **fields: object) -> TraceRow:
    return row(
        MAIL, at, at + wait, at + wait + run, job_id=f"job-{at}-{args}", args_hash=args, **fields
    )  # fmt: skip


def edits(products: int, saves: int, gap: float = 2.0, **fields: object) -> list[TraceRow]:
    """Each product is saved so many times, from two lines of the application."""
    return [
        enqueue(100 * n + gap * k + 0.1 * k * k, f"product-{n}", trigger_callsite=f"app/views.py:{k % 2}", **fields)
        for n in range(products)
        for k in range(saves)
    ]


def test_fires_on_products_saved_thrice() -> None:
    finding = only(ask(edits(8, 3)))
    assert finding.severity == "warning"
    assert finding.title == "16 of 24 jobs repeat one with the same arguments"
    assert finding.cost_ms == pytest.approx(100 * 16 / 24, abs=1e-2)
    assert finding.where == "around"
    assert finding.recommendation.kind == "delete"
    assert "unique=True" in finding.recommendation.snippet
    data = finding.evidence[0].data
    assert (data["variants"], data["repeated"], data["while_waiting"]) == (8, 16, 0)
    assert data["worker_time_share"] == pytest.approx(2 / 3, abs=1e-3)


def test_one_that_still_waits_makes_the_next_certainly_useless() -> None:
    waiting = only(ask(edits(8, 3, wait=30.0)))
    assert waiting.saving_ms.low == pytest.approx(0.9 * waiting.cost_ms, abs=1e-3)
    assert waiting.confidence > only(ask(edits(8, 3))).confidence
    assert only(ask(edits(8, 3))).saving_ms.low == 0


def test_two_repetitions_are_below_the_limit_three_are_not() -> None:
    single = [enqueue(1_000 + 100 * n, f"other-{n}") for n in range(5)]
    assert ask([*edits(1, 3), *single]) == []
    only(ask([*edits(1, 4, gap=3.0), *single]))


def test_one_in_ten() -> None:
    def others(number: int) -> list[TraceRow]:
        return [enqueue(5_000 + 100 * n, f"other-{n}") for n in range(number)]

    only(ask([*edits(3, 2), *others(24)]))
    assert ask([*edits(3, 2), *others(25)]) == []


def test_the_window() -> None:
    only(ask(edits(5, 2, gap=59.8)))
    assert ask(edits(5, 2, gap=60.1)) == []


def test_one_variant_from_one_line_is_only_remarked() -> None:
    """As a load test does it, or a trial run."""
    rows = [enqueue(0.3 * n * (1 + n % 3), "same") for n in range(20)]
    assert only(ask(rows)).severity == "info"


@pytest.mark.parametrize(
    ("wait", "order", "severity"),
    [
        (0.0, "abcdabcdabcd", "info"),
        (0.0, "abcdabc", "info"),
        (0.0, "abcdabdcabcd", "warning"),
        (30.0, "abcdabcdabcd", "warning"),
    ],
    ids=["sweeps", "the second one at work", "no order", "while the one before waits"],
)
def test_a_line_that_goes_round_is_only_remarked(wait: float, order: str, severity: str) -> None:
    rows = [enqueue(0.3 * n + 0.05 * (n % 3), f"shop-{of}", wait=wait, run=0.05) for n, of in enumerate(order)]
    assert only(ask(rows)).severity == severity


def test_changed_results_are_new_work() -> None:
    rows = [enqueue(100 * n + 3 * k, f"p-{n}", result_digest=f"r-{n}-{k}") for n in range(8) for k in range(3)]
    assert ask(rows) == []
    same = [enqueue(100 * n + 3 * k, f"p-{n}", result_digest=f"r-{n}") for n in range(8) for k in range(3)]
    only(ask(same))


chance = random.Random(3)


@pytest.mark.parametrize(
    "rows",
    [
        [enqueue(float(n), f"order-{n}") for n in range(50)],
        [enqueue(30.0 * n + chance.random(), "none") for n in range(50)],
        [enqueue(5.0 * n, "none", trigger_kind="cron") for n in range(50)],
        [enqueue(3.0 * n * (1 + n % 2), "none", trigger_kind="scheduler") for n in range(50)],
        [r for n in range(9) for r in attempts(f"j-{n}", ("retried", "finished"), at=n, args_hash=f"a-{n}")],
        edits(1, 2),
    ],
    ids=["other arguments", "a regular tick", "cron", "scheduler", "retries", "a double click"],
)
def test_look_alikes(rows: list[TraceRow]) -> None:
    assert ask(rows) == []


def test_without_hashes_it_cannot_tell() -> None:
    with pytest.raises(NotChecked, match="serializer"):
        ask([enqueue(float(n), "") for n in range(9)])
