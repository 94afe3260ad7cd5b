"""The fleet's figures for the profile policy: a hash in Redis for each day, which every witness counts up.

A hash has three numbers for each job (executions, their time, the time of those that were profiled), is kept for two
days, and is read once when a witness starts. Later the answers of the increments tell what other workers did.
"""

from __future__ import annotations

import time
from typing import Any

from jobdoctor.capture.profile_policy import JOBS, Figures, ProfilePolicy

_KEY = "jobdoctor:profiles:"
_DAY_S = 86_400
#: Seconds between two writes of what was counted, so that a flood of small jobs costs no round trip for each.
EVERY_S = 1.0
_FIELDS = ("executions", "total_ns", "profiled_ns")


class FleetProfiles:
    """Keeps a policy's figures those of the whole fleet. Its methods raise what the server's client raises."""

    def __init__(self, connection: Any, policy: ProfilePolicy) -> None:
        self.connection = connection
        self.policy = policy
        self._day = -1
        self._before: dict[str, Figures] = {}  # yesterday's
        self._counted: dict[str, Figures] = {}  # here, and not written yet
        self._next_s = 0.0

    @property
    def due_s(self) -> float | None:
        """Seconds until there is something to write; None when there is not."""
        return max(0.0, self._next_s - time.monotonic()) if self._counted else None

    def load(self) -> None:
        """Reads what the fleet did yesterday and today."""
        day = int(time.time()) // _DAY_S
        self._before = _read(self.connection.hgetall(f"{_KEY}{day - 1}"))
        jobs = _read(self.connection.hgetall(f"{_KEY}{day}"))
        for job, figures in self._before.items():
            jobs.setdefault(job, Figures()).add(figures)
        for job, figures in self._counted.items():
            jobs.setdefault(job, Figures()).add(figures)
        self.policy.jobs = jobs
        self._day = day

    def count(self, job: str, run_ns: int, *, profiled: bool) -> None:
        """An execution of the job took so long."""
        added = self.policy.report(job, run_ns, profiled=profiled)
        if added is not None:
            self._counted.setdefault(job, Figures()).add(added)
            if profiled:
                self._next_s = 0.0

    def write(self) -> list[str]:
        """Adds what was counted here, and learns what others have added; the jobs whose figures are new."""
        self._next_s = time.monotonic() + EVERY_S
        if int(time.time()) // _DAY_S != self._day:
            self.load()
        key = f"{_KEY}{self._day}"
        asked: list[tuple[str, str]] = []
        with self.connection.pipeline(transaction=False) as pipeline:
            for job, figures in self._counted.items():
                for name in _FIELDS:
                    pipeline.hincrby(key, f"{name}:{job}", getattr(figures, name))
                    asked.append((job, name))
            pipeline.expire(key, 2 * _DAY_S)
            answers = pipeline.execute()
        for (job, name), answer in zip(asked, answers, strict=False):
            setattr(self.policy.jobs[job], name, int(answer) + getattr(self._before.get(job, _NOTHING), name))
        written = list(self._counted)
        self._counted.clear()
        return written


_NOTHING = Figures()


def _read(found: dict[Any, Any]) -> dict[str, Figures]:
    jobs: dict[str, Figures] = {}
    for field, value in found.items():
        text = field.decode("utf-8", "replace") if isinstance(field, bytes) else field
        name, _, job = text.partition(":")
        if name in _FIELDS and (job in jobs or len(jobs) < JOBS):
            setattr(jobs.setdefault(job, Figures()), name, int(value))
    return jobs
