"""Evidence as tables: the data behind a sentence, with units read from the names of its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from jobdoctor import words
from jobdoctor.model import Evidence

SHOWN_ROWS = 20
SHOWN_COLUMNS = 10
SHOWN_CHARACTERS = 400

#: Columns of a table of calls, in the order in which they are read; what a rule adds beyond them is left to the JSON.
_CALL_COLUMNS = ("channel", "fingerprint", "count", "distinct", "total_ms", "mean_ms", "rows", "callsite")

#: Said elsewhere in the report, or by the evidence's own sentence.
_HIDDEN = frozenset({"execution_id", "stack", "certificate"})

_TITLES = {
    "fingerprint": "shape",
    "count": "calls",
    "mean": "each",
    "path": "argument",
    "type name": "type",
    "bytes": "size",
}


#: Keys that are a unit alone: their values say it.
_UNITS = frozenset({"ms", "ns", "bytes"})
_NOTHING: tuple[Any, ...] = (None, "", [], {})


class Cell(Struct, frozen=True):
    text: str
    code: bool = False  # a statement, a path, a callsite
    number: bool = False


class Table(Struct, frozen=True):
    columns: list[str]
    rows: list[list[Cell]]
    left_out: int


class Shown(Struct, frozen=True):
    """An evidence ready to print: its sentence, single facts as pairs, and tables."""

    kind: str
    text: str
    facts: list[tuple[str, Cell]]
    tables: list[Table]


def shown(evidence: Evidence) -> Shown:
    """The evidence's sentence with its data as facts and tables."""
    facts: list[tuple[str, Cell]] = []
    tables: list[Table] = []
    for key, value in evidence.data.items():
        if key in _HIDDEN or value in _NOTHING:
            continue
        if isinstance(value, list | tuple) and isinstance(value[0], Mapping):
            tables.append(_table([row for row in value if isinstance(row, Mapping)], evidence.data))
        elif isinstance(value, list | tuple) and isinstance(value[0], list | tuple):
            tables.append(_pairs_table(key, [row for row in value if isinstance(row, list | tuple)]))
        else:
            facts.append((title(key), cell(key, value)))
    return Shown(evidence.kind, evidence.text, facts, tables)


def title(key: str) -> str:
    """A key as a column's title: units belong to the values."""
    words_ = key
    for suffix in ("_ms", "_ns", "_s", "_bytes", "_at"):
        if words_.endswith(suffix) and words_ != suffix.lstrip("_"):
            words_ = words_.removesuffix(suffix)
    words_ = words_.replace("_", " ")
    return _TITLES.get(words_, words_)


def cell(key: str, value: Any) -> Cell:
    """A value in the unit that its key names."""
    if value is None:
        return Cell("unknown")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, int | float):
        return Cell(_figure(key, value), number=True)
    if isinstance(value, str):
        code = key in ("fingerprint", "callsite", "path", "statement", "blocking_statement", "function", "type_name")
        return Cell(value[:SHOWN_CHARACTERS], code=code)
    if isinstance(value, Mapping):
        parts = [
            f"{title(name)} {cell(name, one).text}" if name not in _UNITS else cell(name, one).text
            for name, one in value.items()
            if name not in _HIDDEN and one not in _NOTHING
        ]
        return Cell(", ".join(parts)[:SHOWN_CHARACTERS])
    if isinstance(value, list | tuple):
        sign = "; " if any(isinstance(one, Mapping) for one in value) else ", "
        return Cell(sign.join(cell(key, one).text for one in value[:SHOWN_ROWS])[:SHOWN_CHARACTERS])
    return Cell(str(value)[:SHOWN_CHARACTERS])


def _figure(key: str, value: float) -> str:
    if key.endswith("at_ns"):
        return words.instant(int(value))
    if key.endswith("_ms") or key == "ms":
        return words.duration(value)
    if key.endswith("_ns") or key == "ns":
        return words.duration(value / 1e6)
    if key.endswith("_s"):
        return words.duration(value * 1_000)
    if key.endswith("bytes"):
        return words.size(value)
    if key.endswith("share"):
        return words.share(value)
    if isinstance(value, float) and 0 < abs(value) < 10 and value != round(value):
        return f"{value:.2f}"
    return words.number(value)


def _table(rows: list[Mapping[str, Any]], facts: Mapping[str, Any]) -> Table:
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in _HIDDEN]
    if "fingerprint" in keys:
        keys = [key for key in _CALL_COLUMNS if key in keys]
    # A column that says nothing in any row, or what a fact above the table says already, only takes room.
    keys = [key for key in keys if any(row.get(key) not in (*_NOTHING, facts.get(key)) for row in rows)]
    keys = keys[:SHOWN_COLUMNS]
    return Table(
        [title(key) for key in keys],
        [[cell(key, row.get(key, "")) for key in keys] for row in rows[:SHOWN_ROWS]],
        max(0, len(rows) - SHOWN_ROWS),
    )


def _pairs_table(key: str, rows: list[list[Any] | tuple[Any, ...]]) -> Table:
    width = min(SHOWN_COLUMNS, max(len(row) for row in rows))
    return Table(
        [title(key), *[""] * (width - 1)],
        [[cell("", value) for value in [*row, *[""] * width][:width]] for row in rows[:SHOWN_ROWS]],
        max(0, len(rows) - SHOWN_ROWS),
    )
