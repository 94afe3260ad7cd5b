"""The executions of one profile as a history, so that the checklist can be walked over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from jobdoctor.model import Diagnosis, Execution, JobHistory, Quantiles

#: Limits of rules that say how much time must be saved before anything is said. A test's database has a handful of rows
#: and no network: what is wrong is seen in the calls, not in their time.
_LEAST = "least_ms"


def diagnosis_of(executions: Sequence[Execution]) -> Diagnosis:
    """The diagnosis of some executions of one job, with the project's own limits. ConfigError when these are wrong."""
    from jobdoctor import config  # here: most tests look at counts only
    from jobdoctor.diagnosis import registry
    from jobdoctor.diagnosis.engine import diagnose

    limits: dict[str, Mapping[str, float]] = dict(config.load().limits)
    for code in registry.RULES:
        if _LEAST in registry.load_rule(code).declared_limits():
            limits[code] = {_LEAST: 0.0, **limits.get(code, {})}
    return diagnose(history_of(executions), overrides=limits)


def history_of(executions: Sequence[Execution]) -> JobHistory:
    """Their history, the newest first as the model asks."""
    from jobdoctor.store.trace import oldest_first, row_of

    rows = oldest_first([row_of(execution) for execution in executions])
    waits = [execution.wait_ns / 1e6 for execution in executions]
    runs = [execution.run_ns / 1e6 for execution in executions]
    return JobHistory(
        job=executions[0].job,
        from_ns=min(execution.enqueued_at_ns for execution in executions),
        to_ns=max(execution.reaped_at_ns for execution in executions),
        executions_total=len(executions),
        outcomes=dict(Counter(str(execution.outcome) for execution in executions)),
        wait_ms=_quantiles(waits),
        run_ms=_quantiles(runs),
        executions=sorted(executions, key=lambda execution: -execution.dequeued_at_ns),
        trace=rows,
        neighbours=rows,
    )


def _quantiles(values: Sequence[float]) -> Quantiles:
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return Quantiles(at(0.5), at(0.95), at(0.99), sum(values) / len(values), ordered[-1], len(values))
