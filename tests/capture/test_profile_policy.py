"""Which executions are profiled, under a budget for each job."""

from __future__ import annotations

from jobdoctor.capture.profile_policy import BUDGET_SHARE, JOBS, Figures, ProfilePolicy

MS = 1_000_000


def run(policy: ProfilePolicy, job: str, durations_ms: list[float]) -> list[int]:
    """The numbers of the executions that were profiled."""
    profiled = []
    for number, duration_ms in enumerate(durations_ms):
        chosen = policy.wants(job)
        policy.report(job, int(duration_ms * MS), profiled=chosen)
        if chosen:
            profiled.append(number)
    return profiled


def test_always_and_never() -> None:
    assert ProfilePolicy("always").wants("job")
    assert not ProfilePolicy("never").wants("job")


def test_the_first_execution_of_each_job() -> None:
    policy = ProfilePolicy()
    assert policy.wants("one")
    policy.report("one", 1000 * MS, profiled=True)
    assert not policy.wants("one")
    assert policy.wants("other")


def test_a_first_profile_that_another_worker_made_counts() -> None:
    policy = ProfilePolicy()
    policy.jobs["job"] = Figures(executions=50, total_ns=5000 * MS, profiled_ns=100 * MS)
    assert not policy.wants("job")
    policy.jobs["job"] = Figures(executions=50, total_ns=5000 * MS)
    assert policy.wants("job")


def test_the_budget_holds() -> None:
    policy = ProfilePolicy()
    profiled = run(policy, "job", [100.0] * 2_000)
    figures = policy.jobs["job"]
    assert figures.total_ns == 200_000 * MS
    assert figures.profiled_ns == len(profiled) * 100 * MS
    assert 0.85 * BUDGET_SHARE * figures.total_ns <= figures.profiled_ns <= BUDGET_SHARE * figures.total_ns


def test_a_slow_execution_brings_the_next_profile_forward() -> None:
    steady = run(ProfilePolicy(), "job", [100.0] * 320)
    slow = run(ProfilePolicy(), "job", [100.0] * 250 + [400.0] + [100.0] * 69)
    assert steady == [0, 300]
    assert slow == [0, 251]


def test_short_jobs_are_not_worth_a_second_profile() -> None:
    assert run(ProfilePolicy(), "job", [5.0] * 1_000) == [0]


def test_jobs_without_end_are_not_profiled_without_end() -> None:
    policy = ProfilePolicy()
    for number in range(JOBS):
        policy.report(f"job {number}", MS, profiled=True)
    assert not policy.wants("one more")
    assert policy.report("one more", MS, profiled=False) is None
    assert len(policy.jobs) == JOBS
