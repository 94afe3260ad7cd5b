"""How grave a finding is, from the time it would give back: the same scale for every rule that saves time."""

from __future__ import annotations

from jobdoctor.diagnosis.measure import share
from jobdoctor.diagnosis.rule import Limit, Rule
from jobdoctor.model import Severity


class TimeRule(Rule):
    """A rule whose findings are weighed by the time they would give back to each execution."""

    warning_ms = Limit(
        50, "ms", "saving for each execution from which a finding is a warning", "Sentry's N+1 rule: 50 ms"
    )
    warning_least_share = Limit(
        0.05,
        "share",
        "share of the job's time below which a saving is never more than info",
        "Sentry's M(N+1) rule: database share of 0.05",
    )
    larger_share = Limit(
        0.25,
        "share",
        "share of the job's time from which a saving of trivial_ms is a warning already",
        "own: a quarter of a short job; 50 local queries of 0.3 ms are 15 ms, and sick in a job of 40 ms",
    )
    trivial_ms = Limit(
        10,
        "ms",
        "saving below which a finding is never more than info",
        "own: RQ's cost of forking for one job is 10 to 13 ms on the reference machine",
    )
    many_calls = Limit(
        100,
        "calls",
        "calls for each execution from which systematic_share is enough for a warning",
        "own: what takes 0.1 ms on the same host takes 1 ms across a network; Scout's 150 ms misses 500 fast queries",
    )
    systematic_share = Limit(
        0.02,
        "share",
        "share of the job's time from which a saving is a warning when calls are many or grow with the input",
        "own: below it, it is progress that a long job writes now and then",
    )
    critical_ms = Limit(
        1_000,
        "ms",
        "saving for each execution from which a finding is critical",
        "own: a second of a worker, each time",
    )
    critical_share = Limit(
        0.5, "share", "share of the job's time from which a saving of critical_least_ms is critical", "own: over half"
    )
    critical_least_ms = Limit(
        200, "ms", "saving below which a finding is never critical by its share alone", "own: 15 times a fork"
    )

    def severity(self, saving_ms: float, whole_ms: float, *, calls: float = 0.0, grows: bool = False) -> Severity:
        """Weighs a saving against the job's time. ``calls`` is how many would go away for each execution; ``grows``
        says that their number was seen to grow with the input."""
        limits = self.limits
        part = share(saving_ms, whole_ms)
        if saving_ms < limits.trivial_ms:
            return "info"
        if saving_ms >= limits.critical_ms and part >= limits.larger_share:
            return "critical"
        if saving_ms >= limits.critical_least_ms and part >= limits.critical_share:
            return "critical"
        if part >= limits.larger_share:
            return "warning"
        if (grows or calls >= limits.many_calls) and part >= limits.systematic_share:
            return "warning"
        if saving_ms >= limits.warning_ms and part >= limits.warning_least_share:
            return "warning"
        return "info"
