"""Every rule of the checklist, in the order of the report. To add a rule: its file, and its line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from jobdoctor.diagnosis.rule import Rule
from jobdoctor.model import Check

#: Module (below jobdoctor.diagnosis.checklist) and class of each rule, by code. Loaded on first use.
RULES: dict[str, tuple[str, str]] = {
    "JD101": ("payload.large_payload", "LargePayload"),
    "JD102": ("payload.object_argument", "ObjectArgument"),
    "JD103": ("payload.large_result", "LargeResult"),
    "JD104": ("payload.slow_deserialization", "SlowDeserialization"),
    "JD105": ("payload.import_cost", "ImportCostRule"),
    "JD201": ("external.slow_dependency", "SlowDependency"),
    "JD202": ("external.no_timeout", "NoTimeout"),
    "JD203": ("external.sequential_calls", "SequentialCalls"),
    "JD204": ("external.call_in_transaction", "CallInTransaction"),
    "JD205": ("external.connection_churn", "ConnectionChurn"),
    "JD206": ("external.slow_query", "SlowQuery"),
    "JD207": ("external.chatty_file_io", "ChattyFileIo"),
    "JD208": ("external.non_idempotent_call", "NonIdempotentCall"),
    "JD301": ("internals.cpu_bound", "CpuBound"),
    "JD302": ("internals.memory_peak", "MemoryPeak"),
    "JD303": ("internals.memory_growth", "MemoryGrowth"),
    "JD304": ("internals.gc_pressure", "GcPressure"),
    "JD305": ("internals.sleeping", "Sleeping"),
    "JD306": ("internals.killed", "Killed"),
    "JD307": ("internals.cpu_starved", "CpuStarved"),
    "JD401": ("batching.n_plus_one_query", "NPlusOneQuery"),
    "JD402": ("batching.n_plus_one_http", "NPlusOneHttp"),
    "JD403": ("batching.redis_round_trips", "RedisRoundTrips"),
    "JD404": ("batching.repeated_query", "RepeatedQuery"),
    "JD405": ("batching.row_by_row_write", "RowByRowWrite"),
    "JD406": ("batching.commit_per_row", "CommitPerRow"),
    "JD407": ("batching.monolithic_job", "MonolithicJob"),
    "JD408": ("batching.over_fetching", "OverFetching"),
    "JD501": ("locks.database_lock_wait", "DatabaseLockWait"),
    "JD502": ("locks.application_lock_wait", "ApplicationLockWait"),
    "JD503": ("locks.pool_wait", "PoolWait"),
    "JD504": ("locks.deadlock", "Deadlock"),
    "JD505": ("locks.overlapping_duplicates", "OverlappingDuplicates"),
    "JD506": ("locks.partial_write", "PartialWrite"),
    "JD601": ("retries.excessive_retries", "ExcessiveRetries"),
    "JD602": ("retries.retry_storm", "RetryStorm"),
    "JD603": ("retries.failure_cluster", "FailureCluster"),
    "JD604": ("retries.retrying_permanent_error", "RetryingPermanentError"),
    "JD605": ("retries.timeout_misfit", "TimeoutMisfit"),
    "JD606": ("retries.always_failing", "AlwaysFailing"),
    "JD701": ("queue.stuck_behind_heavy_jobs", "StuckBehindHeavyJobs"),
    "JD702": ("queue.underprovisioned", "Underprovisioned"),
    "JD703": ("queue.mixed_durations", "MixedDurations"),
    "JD704": ("queue.slo_missed", "SloMissed"),
    "JD705": ("queue.stalled_worker", "StalledWorker"),
    "JD706": ("queue.growing_backlog", "GrowingBacklog"),
    "JD801": ("trigger.duplicate_enqueues", "DuplicateEnqueues"),
    "JD802": ("trigger.no_effect", "NoEffect"),
    "JD803": ("trigger.unchanged_result", "UnchangedResult"),
    "JD804": ("trigger.too_small_to_queue", "TooSmallToQueue"),
    "JD805": ("trigger.enqueue_storm", "EnqueueStorm"),
    "JD806": ("trigger.circular_trigger", "CircularTrigger"),
}


def load_rule(code: str, overrides: Mapping[str, float] | None = None) -> Rule:
    """The rule with this code; KeyError when there is none. ``overrides``: limits by name."""
    module, name = RULES[code]
    rule_class: type[Rule] = getattr(import_module(f"jobdoctor.diagnosis.checklist.{module}"), name)
    return rule_class(dict(overrides or {}))


def load_rules(overrides: Mapping[str, Mapping[str, float]] | None = None) -> list[Rule]:
    """One instance of every rule, in the checklist's order. ``overrides``: limits by code and name."""
    return [load_rule(code, (overrides or {}).get(code)) for code in RULES]


def load_guarded(overrides: Mapping[str, Mapping[str, float]] | None = None) -> tuple[list[Rule], list[Check]]:
    """Like :func:`load_rules`, but a module that cannot be loaded is a crashed line of the checklist, not an error."""
    rules: list[Rule] = []
    broken: list[Check] = []
    for code, (module, _) in RULES.items():
        try:
            rules.append(load_rule(code, (overrides or {}).get(code)))
        except Exception as error:
            step, _, file_name = module.partition(".")
            reason = f"{type(error).__name__} while loading {code} from {module}: {error}"
            broken.append(Check(step, code, file_name.replace("_", "-"), "crashed", reason))
    return rules, broken
