"""Evidence of any rule becomes a table that can be read."""

from __future__ import annotations

from jobdoctor.model import Evidence
from jobdoctor.report.evidence_table import shown


def test_units_come_from_the_keys() -> None:
    data = {
        "waited_ms": 1_500.0,
        "raw_bytes": 2_000,
        "wait_share": 0.5,
        "gap_s": 30,
        "total_ns": 2_000_000,
        "calls": 1_200,
    }
    view = shown(Evidence("fact", "so it is", data))
    assert [(name, value.text) for name, value in view.facts] == [
        ("waited", "1.5 s"),
        ("raw", "2.0 kB"),
        ("wait share", "50%"),
        ("gap", "30.0 s"),
        ("total", "2.0 ms"),
        ("calls", "1,200"),
    ]


def test_calls_have_their_own_columns() -> None:
    row = {"extra": 1, "stack": ["a"], "channel": "sql", "fingerprint": "SELECT ?", "count": 3.0, "callsite": "a.py:1"}
    table = shown(Evidence("calls", "", {"groups": [row]})).tables[0]
    assert table.columns == ["channel", "shape", "calls", "callsite"]
    assert [cell.text for cell in table.rows[0]] == ["sql", "SELECT ?", "3", "a.py:1"]


def test_columns_that_say_nothing_new_are_left_out() -> None:
    rows = [{"target": "db", "kind": "row", "none": None}, {"target": "db", "kind": "table", "none": None}]
    view = shown(Evidence("lock", "", {"target": "db", "locks": rows}))
    assert view.tables[0].columns == ["kind"]
    assert [name for name, _ in view.facts] == ["target"]


def test_long_tables_are_cut_and_say_so() -> None:
    view = shown(
        Evidence("series", "", {"points": [[index, index * 2] for index in range(50)], "rows": [{"a": 1}] * 30})
    )
    assert [(len(table.rows), table.left_out) for table in view.tables] == [(20, 30), (20, 10)]


def test_what_is_empty_or_said_elsewhere_is_hidden() -> None:
    view = shown(Evidence("execution", "x", {"execution_id": "e", "none": None, "list": [], "words": ["a", "b"]}))
    assert [(name, value.text) for name, value in view.facts] == [("words", "a, b")]
    assert view.tables == []


def test_facts_within_a_cell_have_their_units_and_no_empty_ones() -> None:
    holders = [{"job": "app.a", "statement": "", "ms": 399.0}, {"job": "app.b", "statement": "SELECT ?", "ms": 1_500.0}]
    view = shown(Evidence("lock", "", {"locks": [{"kind": "row", "holders": holders}]}))
    assert view.tables[0].rows[0][1].text == "job app.a, 399 ms; job app.b, statement SELECT ?, 1.5 s"
