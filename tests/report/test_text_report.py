"""The report for a terminal."""

from __future__ import annotations

import ast
import re

import pytest
from msgspec.structs import replace
from rich.cells import cell_len

from jobdoctor.model import Check, LedgerPart, Saving
from jobdoctor.report import fitted_code, text_report
from jobdoctor.report.context import build_context
from tests.builders import MS
from tests.report import diagnoses


def rendered(name: str, **options: bool) -> str:
    return text_report.render(build_context(getattr(diagnoses, name)()), **options)


@pytest.mark.parametrize("name", ["rich", "empty", "healthy", "hostile"])
def test_fits_80_columns_and_is_plain(name: str) -> None:
    text = rendered(name)
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.endswith("\n")


def test_says_what_to_act_on() -> None:
    text = rendered("rich")
    assert "INSIDE AND AROUND THE JOB  (97% sure)" in text
    assert (
        "1. 412 queries of one shape from one line\n   critical, JD401 n-plus-one-query\n   at app/tasks.py:41" in text
    )
    assert "saves 3.1 s each time (64% of it), 2.4 s to 3.2 s; 97% sure" in text
    assert "select(Order).options(selectinload(Order.customer))" in text
    assert "with it: JD404 repeated-query" in text
    assert "SQL                      3.0 s   62%" in text


def test_the_first_lines_say_what_is_wrong_and_what_to_do() -> None:
    diagnosis = diagnoses.rich()
    lead = diagnosis.findings[0]
    said = f"{lead.title}: load it at once; gives back about 3.1 s of 4.2 s an execution"
    verdict = replace(diagnosis.verdict, headline=said)
    head = text_report.render(build_context(replace(diagnosis, verdict=verdict))).splitlines()[:12]
    place = head.index(lead.title)
    assert head[place - 1].endswith("sure)")
    assert head[place + 1 : place + 3] == ["do:   Load it at once", "gain: 3.1 s of 4.2 s an execution"]


def test_a_number_stays_with_its_unit() -> None:
    diagnosis = diagnoses.rich()
    for length in range(60, 80):
        text = f"{'x' * length} 12 ms of it"
        lead = diagnosis.findings[0]
        finding = replace(lead, recommendation=replace(lead.recommendation, text=text))
        page = text_report.render(build_context(replace(diagnosis, findings=[finding])))
        assert "12 ms" in page
        assert max(map(cell_len, page.splitlines())) <= 80


def test_wrapped_lines_stand_below_their_beginning() -> None:
    diagnosis = diagnoses.rich()
    long = replace(diagnosis.findings[0], title="412 queries of one shape " * 4 + "end")
    text = text_report.render(build_context(replace(diagnosis, findings=[long])))
    assert "\n1. 412 queries of one shape 412 queries" in text
    assert re.search(r"\n   (\w+ )*end\n", text)


def test_clear_rules_are_not_torn() -> None:
    checks = [Check("locks", f"JD50{n}", "a-rule-with-a-name", "clear") for n in range(1, 7)]
    text = text_report.render(build_context(replace(diagnoses.rich(), checklist=checks)))
    assert text.count("JD50") == len(re.findall(r"JD50\d a-rule-with-a-name", text)) == 6


def test_a_long_wait_does_not_hide_the_run() -> None:
    parts = [LedgerPart("queue_wait", "", 900 * MS), LedgerPart("cpu", "", 8 * MS), LedgerPart("sql", "", 2 * MS)]
    text = text_report.render(build_context(replace(diagnoses.rich(), ledger=parts)))
    assert "  2 smaller parts, 10 ms together\n  The run alone, 10 ms:\n  CPU                     8.0 ms   80%" in text


def test_every_status_looks_different() -> None:
    text = rendered("rich")
    assert "! found:       JD401 n-plus-one-query" in text
    assert "+ clear:       JD602 retry-storm" in text
    assert "? not checked: JD402 n-plus-one-http\n                   http calls through httpx were not recorded" in text
    assert "x crashed:     JD305 sleeping\n                   KeyError in JD305 sleeping: 'nanosleep'" in text


def test_the_steps_are_in_order() -> None:
    text = rendered("rich")
    places = [text.index(f"\n  {number} ") for number in range(1, 9)]
    assert places == sorted(places)


def test_says_what_was_not_captured() -> None:
    text = rendered("rich")
    assert "8 of 40 looked at, jobdoctor's own cost 9.0 ms each" in text
    assert "  calls seen: enqueue (rq), file (io), lock (fcntl, redis, threading)" in text
    assert "http calls not seen: httpx: httpx 0.99 is not known" in text


def test_colours_only_where_wanted() -> None:
    coloured = rendered("rich", color=True)
    assert "\x1b[1m" in coloured
    assert "[31m" not in rendered("hostile")[: rendered("hostile").index("INSIDE")].replace(
        "\N{REPLACEMENT CHARACTER}[31m", ""
    )


def test_inside_and_around_are_told_apart_without_colour() -> None:
    text = rendered("rich")
    assert "  █ inside the job 3.9 s 79%, ░ around it 664 ms 14%\n" in text
    assert re.search(r"queue wait .*  ░+\n", text)
    assert re.search(r"SQL .*  █+\n", text)


def test_nothing_is_no_saving() -> None:
    diagnosis = diagnoses.rich()
    small = replace(diagnosis.findings[0], saving_ms=Saving(0.0, 0.01, 0.02))
    text = text_report.render(build_context(replace(diagnosis, findings=[small])))
    assert "saves" not in text.split("Checklist")[0]
    assert "\n   97% sure\n" in text


def test_a_long_snippet_is_broken_so_that_it_can_still_be_run() -> None:
    code = (
        "def load(session):\n"
        "    orders = session.scalars(select(Order).options(selectinload(Order.customer))).all()  # with customers\n"
        "    tell('a comma, (a bracket), # and a sign', [one.customer for one in orders], orders)\n"
        "    return orders\n"
    )
    lines = fitted_code.fitted(code, 68)
    assert max(map(len, lines)) <= 68
    assert ast.dump(ast.parse("\n".join(lines))) == ast.dump(ast.parse(code))
    assert lines[1:4] == [
        "    # with customers",
        "    orders = session.scalars(",
        "        select(Order).options(selectinload(Order.customer))).all()",
    ]


def test_a_line_without_brackets_is_continued() -> None:
    code = "if 400 <= answer.status < 500 and answer.status not in (408, 425, 429):\n    pass\n"
    lines = fitted_code.fitted(code, 50)
    assert lines[0].endswith(" \\")
    assert ast.dump(ast.parse("\n".join(lines))) == ast.dump(ast.parse(code))
    lines = fitted_code.fitted("rq worker high low --with-scheduler --name xxxxx", 40)
    assert lines == ["rq worker high low --with-scheduler \\", "    --name xxxxx"]
    assert fitted_code.fitted("x" * 50, 40) == ["x" * 50]
