"""Which executions are profiled: a budget for each job, over all workers of a fleet.

A profile costs nothing measurable in a job that waits and up to x2.7 in one that only calls Python functions. So the
executions that are profiled may take at most ``BUDGET_SHARE`` of all the time that their job takes, whatever they do;
what profiling adds is then below that share. The figures are those of yesterday and today: a job that was not profiled
in that time gets one profile whatever it costs, so that each job has a recent one.
"""

from __future__ import annotations

from msgspec import Struct

from jobdoctor.config import ProfileMode

#: Of a job's total time, what its profiled executions may take.
BUDGET_SHARE = 0.01
#: A job that takes less gives too few samples (at 1 ms) to be worth a second profile.
WORTHWHILE_NS = 20_000_000
#: An execution this many times as long as the mean is a slow one: the next has a right to what there is of the budget.
#: Otherwise the budget is saved until it is enough for two, so that there is something left when it gets slow.
SLOW = 1.5
#: Jobs that are known at most. Those beyond are not profiled.
JOBS = 2000


class Figures(Struct):
    """What a job's executions took, in a while."""

    executions: int = 0
    total_ns: int = 0
    profiled_ns: int = 0

    def add(self, other: Figures) -> None:
        """Sums, in place."""
        self.executions += other.executions
        self.total_ns += other.total_ns
        self.profiled_ns += other.profiled_ns


class ProfilePolicy:
    """Pure: it is told figures, and asked. ``auto`` is the budget; ``always`` and ``never`` are what they say."""

    def __init__(self, mode: ProfileMode = "auto") -> None:
        self.mode = mode
        self.jobs: dict[str, Figures] = {}
        self._slow: set[str] = set()

    def wants(self, job: str) -> bool:
        """Whether the job's next execution is to be profiled."""
        if self.mode != "auto":
            return self.mode == "always"
        figures = self.jobs.get(job)
        if figures is None:
            return len(self.jobs) < JOBS
        if not figures.profiled_ns:
            return True
        mean_ns = figures.total_ns / max(1, figures.executions)
        if mean_ns < WORTHWHILE_NS:
            return False
        left_ns = BUDGET_SHARE * figures.total_ns - figures.profiled_ns
        return left_ns >= mean_ns * (1 if job in self._slow else 2)

    def report(self, job: str, run_ns: int, *, profiled: bool) -> Figures | None:
        """An execution of the job took so long; what it adds to the job's figures (None: too many jobs)."""
        figures = self.jobs.get(job)
        if figures is None:
            if len(self.jobs) >= JOBS:
                return None
            figures = self.jobs[job] = Figures()
        if figures.executions and run_ns > SLOW * figures.total_ns / figures.executions:
            self._slow.add(job)
        else:
            self._slow.discard(job)
        added = Figures(1, run_ns, run_ns if profiled else 0)
        figures.add(added)
        return added
