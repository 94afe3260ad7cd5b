"""The box that says how executions died."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.model import Death, Execution, Rusage, StackFrame
from jobdoctor.report import html_report, text_report
from jobdoctor.report.context import build_context
from jobdoctor.report.deaths import SHOWN_DEATHS, death_cards, heading
from tests.builders import MS, SECOND, make_execution
from tests.report import diagnoses

APP = StackFrame("app/img.py:40", "thumbnail", True)


def dead(at_ms: int = 0, outcome: Any = "killed", **fields: Any) -> Execution:
    usage = Rusage(user_ns=2 * SECOND, system_ns=SECOND, major_faults=3)
    return make_execution(outcome=outcome, at_ms=at_ms, death=Death(**fields), rusage=usage)


def test_a_card_says_what_is_known() -> None:
    (card,) = death_cards([dead(signal=9, cause="oom", last_rss_bytes=104_000_000, peak_rss_bytes=130_000_000,
                                limit="cgroup", limit_value=134_217_728, oom_kills=1, suspect="the kernel's killer",
                                in_flight="SELECT x", stack=[APP], stack_source="observed",
                                stack_age_ns=400 * MS, stack_held_ns=2_100 * MS)])  # fmt: skip
    assert (card.title, card.suspect, card.executions) == ("Out of memory", "The kernel's killer", 1)
    assert dict(card.facts) == {
        "ended by": "SIGKILL (signal 9)",
        "last memory": "104 MB, 130 MB at most",
        "limit": "cgroup, 128 MiB",
        "out-of-memory kills in its cgroup": "1",
        "CPU used": "3.0 s, 3 major faults",
        "in flight": "SELECT x",
    }
    assert card.stack == [APP]
    assert card.stack_title == "Last known Python stack, seen 400 ms before, at this line for 2.1 s"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"exit_code": 3, "cause": "exit"}, "exit code 3"),
        ({"exit_code": 0, "cause": "exit"}, "exit code 0"),
        ({"signal": 42, "cause": "signal"}, "signal 42"),
        ({"cause": "timeout"}, "an exception; its process lived on"),
        ({"cause": "lost-worker"}, "not known"),
    ],
)
def test_what_ended_it(fields: dict[str, Any], words: str) -> None:
    (card,) = death_cards([dead(**fields)])
    assert dict(card.facts)["ended by"] == words
    assert dict(card.facts)["in flight"] == "no recorded call"


def test_one_card_for_each_way_to_die_deaths_first() -> None:
    found = [
        dead(0, "timeout", cause="timeout"),
        dead(1, "timeout", cause="timeout"),
        dead(2, signal=11, cause="segfault", stack=[APP], stack_source="fault"),
        dead(9, signal=9, cause="signal"),
        dead(5, signal=9, cause="signal"),
    ]
    cards = death_cards(found)
    assert [(card.title, card.executions) for card in cards] == [
        ("Killed by a signal", 2), ("A fault in native code", 1), ("Over its timeout", 2),
    ]  # fmt: skip
    assert cards[0].at_ns == found[3].reaped_at_ns  # the newest
    assert len(death_cards([dead(signal=number, cause="signal") for number in range(1, 9)])) == SHOWN_DEATHS
    assert death_cards([make_execution()]) == []
    assert heading(cards) == "How it died"
    assert heading(cards[2:]) == "How it was cut short"


def test_reports_have_the_box() -> None:
    context = build_context(diagnoses.rich())
    page = html_report.render(context)
    assert 'id="deaths"' in page
    assert "limit of 128 MiB was reached" in page
    assert '<li class="library"><code>sqlalchemy/engine/cursor.py:1120</code>' in page
    assert "<li><code>app/orders.py:41</code> load_customers</li>" in page
    assert "<code>app/progress.py:9</code>" in page
    text = text_report.render(context)
    assert "How it died" in text
    assert "ended by: SIGKILL (signal 9)" in text
    assert "app/tasks.py:12 sync_orders" in text
    for absent in (diagnoses.healthy(), diagnoses.empty()):
        assert "How it died" not in text_report.render(build_context(absent))
        assert 'id="deaths"' not in html_report.render(build_context(absent))


def test_an_older_recording_without_a_sentence() -> None:
    (card,) = death_cards([dead(signal=9, cause="oom", in_flight="SELECT x")])
    assert card.suspect == "Oom, in SELECT x"
    assert card.stack == []
