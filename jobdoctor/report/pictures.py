"""The interactive pictures of a report, as bounded data: what is drawn, and nothing that is only counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from jobdoctor.model import JobHistory
from jobdoctor.report import resources, waterfall
from jobdoctor.report.exemplars import ExecutionDetail
from jobdoctor.report.flame import Flame, flames
from jobdoctor.report.graphs import Graph, lock_graph, trigger_graph
from jobdoctor.report.resources import Resources
from jobdoctor.report.time_charts import TimeChart, attempts_over_time, waits_over_time
from jobdoctor.report.waterfall import Waterfall


class ExecutionPicture(Struct, frozen=True):
    """Calls, CPU and memory of one execution on one axis. One of the two is there."""

    waterfall: Waterfall | None
    resources: Resources | None

    def data(self) -> dict[str, Any]:
        """What the script draws."""
        return {
            "waterfall": waterfall.data(self.waterfall) if self.waterfall else None,
            "resources": resources.data(self.resources) if self.resources else None,
        }


class Pictures(Struct, frozen=True):
    """``executions``: by the key of the ExecutionDetail."""

    executions: dict[str, ExecutionPicture]
    flames: list[Flame]
    locks: Graph | None
    triggers: Graph | None
    attempts: TimeChart | None
    waits: TimeChart | None


def pictures(history: JobHistory, details: Sequence[ExecutionDetail]) -> Pictures:
    """All pictures of one job; ``details`` are the executions shown in full."""
    shown = [detail.execution for detail in details]
    drawn = {
        detail.key: ExecutionPicture(calls, lines)
        for detail, calls, lines in zip(
            details, waterfall.waterfalls(shown), map(resources.resources, shown), strict=True
        )
        if calls or lines
    }
    return Pictures(
        executions=drawn,
        flames=flames(details),
        locks=lock_graph(history),
        triggers=trigger_graph(history),
        attempts=attempts_over_time(history),
        waits=waits_over_time(history),
    )
