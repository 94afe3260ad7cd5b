"""Flame graphs of the executions that were profiled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from jobdoctor import words
from jobdoctor.report import speedscope
from jobdoctor.report.exemplars import ExecutionDetail

#: Profiles on one page: each is 20 to 60 kB of it.
MOST_FLAMES = 3


class Flame(Struct, frozen=True):
    """``key`` is the ExecutionDetail's; ``shown``: the one in sight before another execution is chosen."""

    key: str
    shown: bool
    data: dict[str, Any]


def flames(details: Sequence[ExecutionDetail]) -> list[Flame]:
    """The profiles among the executions shown in full, at most a few; the one with most samples is shown first."""
    profiled = [
        (detail, detail.execution.profile)
        for detail in details
        if detail.execution.profile is not None and detail.execution.profile.frames
    ]
    profiled.sort(key=lambda pair: -pair[1].samples)
    found: list[Flame] = []
    for detail, profile in profiled[:MOST_FLAMES]:
        execution = detail.execution
        # The file leaves the page: its names are cleaned with the block they stand in.
        name = f"{execution.job} {execution.job_id}"
        file = re.sub(r"[^A-Za-z0-9._-]+", "_", execution.job)[:100].lstrip(".") or "job"
        samples = f"{words.number(profile.samples)} samples, every {words.duration(profile.interval_ms)}"
        found.append(
            Flame(
                detail.key,
                not found,
                {
                    "speedscope": speedscope.document(profile, name),
                    "application": speedscope.application_frames(profile),
                    "file": f"{file}.speedscope.json",
                    "note": f"{detail.title} execution, {samples}. As wide as the time spent, callers above what they "
                    "call; grey is library code.",
                },
            )
        )
    return found
