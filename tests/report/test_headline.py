"""The verdict's sentence in its parts."""

from __future__ import annotations

from jobdoctor.diagnosis import verdict
from jobdoctor.model import Verdict
from jobdoctor.report.headline import Headline, headline
from tests.builders import make_execution
from tests.report import diagnoses


def test_the_sentence_of_the_verdict_is_parted_where_the_verdict_joined_it() -> None:
    executions = [make_execution(run_ms=4_200)]
    said = verdict.headline(diagnoses.N_PLUS_ONE, executions)
    parts = headline(Verdict("inside", said, 0.9), [diagnoses.BEHIND, diagnoses.N_PLUS_ONE])
    assert parts == Headline(
        "412 queries of one shape from one line",
        "Load the customers of all orders with one query",
        "3.1 s",
        "of 4.2 s an execution",
        "JD401",
    )
    # Nothing was lost on the way.
    assert said == f"{parts.problem}: l{parts.action[1:]}; gives back about {parts.gain} {parts.gain_of}"


def test_a_sentence_of_its_own_stays_whole() -> None:
    said = "All 3 executions failed"
    assert headline(Verdict("unknown", said, 0.3), [diagnoses.N_PLUS_ONE]) == Headline(said)
    assert headline(Verdict("none", "Nothing wrong found: 100 ms a run", 0.9), []) == Headline("100 ms a run")
