"""Failures as annotations of a GitHub workflow: ``::error file=app/tasks.py,line=41,title=...::message``.

The escapes are those of GitHub's toolkit (packages/core/src/command.ts).
"""

from __future__ import annotations

from collections.abc import Sequence

from jobdoctor.gate.failure import Failure, lines
from jobdoctor.gate.places import Place, place_of


def error_lines(test: str, failures: Sequence[Failure], location: Place) -> list[str]:
    """One line for each failure, at the line of the job that did it, or else at the test."""
    found = []
    for failure in failures:
        place = place_of(failure.callsite) or location
        title = _property(f"jobdoctor {failure.check}" + (f" {failure.rule}" if failure.rule else ""))
        message = _data("\n".join([*lines(failure), f"in {test}"]))
        found.append(f"::error file={_property(place.file)},line={place.line},title={title}::{message}")
    return found


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
