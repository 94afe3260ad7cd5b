"""Which executions of a job are kept in full: a few of each kind that somebody will want to look at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from jobdoctor.config import Retention

#: Outcomes of an execution that ended in an error of its own.
FAILURES = frozenset({"failed", "retried", "timeout"})


class Candidate(NamedTuple):
    """What the choice depends on."""

    execution_id: str
    reaped_at_ns: int
    run_ns: int
    outcome: str
    profiled: bool


def chosen(candidates: Iterable[Candidate], retention: Retention, *, remembered_since_ns: int = 0) -> set[str]:
    """Ids to keep: the newest of all, of the failed, of the killed and of the profiled, and the slowest.

    ``remembered_since_ns``: older ones are kept among the newest only, so that the slowest execution of last year does
    not stay for ever. Choosing again from what was chosen and more gives the same as choosing from everything.
    """
    newest_first = sorted(candidates, key=lambda one: (-one.reaped_at_ns, one.execution_id))
    kept = newest_first[: retention.newest]
    recent = [one for one in newest_first if one.reaped_at_ns >= remembered_since_ns]
    kept += [one for one in recent if one.outcome in FAILURES][: retention.failed]
    kept += [one for one in recent if one.outcome == "killed"][: retention.killed]
    kept += [one for one in recent if one.profiled][: retention.profiled]
    kept += sorted(recent, key=lambda one: -one.run_ns)[: retention.slowest]
    return {one.execution_id for one in kept}
