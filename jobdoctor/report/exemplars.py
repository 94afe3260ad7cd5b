"""The executions that a report lists one by one and why each of them, and the few that it shows in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from jobdoctor.model import Death, Execution
from jobdoctor.report.ledger import Ledger, ledger_view

SHOWN_EXEMPLARS = 15
#: Shown in full: one of each kind that a reader compares, and a page stays below a megabyte.
SHOWN_DETAILS = 6


class Exemplar(Struct, frozen=True):
    execution_id: str
    job_id: str
    why: str  # "slowest", "killed", "failed", "newest", "profiled"
    outcome: str
    at_ns: int
    wait_ms: float
    run_ms: float
    attempt: int
    worker: str
    error: str
    death: Death | None
    peak_rss_bytes: int
    detail: str = ""  # key of its ExecutionDetail; empty: it is not shown in full


class PhaseRow(Struct, frozen=True):
    name: str
    ms: float


class ExecutionDetail(Struct, frozen=True):
    """One execution in full. ``key`` is a name for HTML ids, made up by us."""

    key: str
    title: str  # "Slowest", "Killed", ...
    execution: Execution
    ledger: Ledger
    phases: list[PhaseRow]
    calls: int
    peak_rss_bytes: int
    error: str


def exemplars(executions: Sequence[Execution], shown: Sequence[ExecutionDetail] = ()) -> list[Exemplar]:
    """Deaths and failures first, then the slowest; each says why it stands here."""
    newest = executions[0].id if executions else ""
    slowest = max(executions, key=lambda execution: execution.run_ns).id if executions else ""
    keys = {detail.execution.id: detail.key for detail in shown}

    def why(execution: Execution) -> str:
        if execution.outcome != "finished":
            return execution.outcome
        if execution.id == slowest:
            return "slowest"
        if execution.profile:
            return "profiled"
        return "newest" if execution.id == newest else "slow"

    def rank(execution: Execution) -> tuple[int, int]:
        return ({"killed": 0, "timeout": 1, "failed": 2}.get(execution.outcome, 3), -execution.run_ns)

    ordered = sorted(executions, key=rank)
    bad = [execution for execution in ordered if execution.outcome != "finished"]
    good = [execution for execution in ordered if execution.outcome == "finished"]
    # Never only failures: the slowest success is what the durations are about.
    room = SHOWN_EXEMPLARS - min(len(good), 5)
    chosen = [*bad[:room], *good][:SHOWN_EXEMPLARS]
    # What is shown in full is found in the list, too.
    chosen += [detail.execution for detail in shown if all(one.id != detail.execution.id for one in chosen)]
    return [
        Exemplar(
            execution_id=execution.id,
            job_id=execution.job_id,
            why=why(execution),
            outcome=execution.outcome,
            at_ns=execution.dequeued_at_ns,
            wait_ms=execution.wait_ns / 1e6,
            run_ms=execution.run_ns / 1e6,
            attempt=execution.attempt,
            worker=execution.worker,
            error=execution.exception.type_name if execution.exception else "",
            death=execution.death,
            peak_rss_bytes=_peak_rss_bytes(execution),
            detail=keys.get(execution.id, ""),
        )
        for execution in chosen
    ]


def details(executions: Sequence[Execution]) -> list[ExecutionDetail]:
    """The slowest first, then one killed, one that failed, a typical one, the newest and the one with most samples of
    its profile: each once. ``executions``: newest first."""
    titles: dict[str, str] = {}
    by_id = {execution.id: execution for execution in executions}
    for title, execution in _picked(executions):
        titles.setdefault(execution.id, title)
    return [_detail(f"x{number}", title, by_id[id_]) for number, (id_, title) in enumerate(titles.items(), 1)][
        :SHOWN_DETAILS
    ]


def _picked(executions: Sequence[Execution]) -> Iterator[tuple[str, Execution]]:
    if not executions:
        return
    finished = sorted((one for one in executions if one.outcome == "finished"), key=lambda one: one.run_ns)
    # A run that failed says little about how long runs take.
    yield "Slowest", (finished or sorted(executions, key=lambda one: one.run_ns))[-1]
    for title, outcomes in (("Killed", ("killed",)), ("Failed", ("failed", "retried", "timeout", "stopped"))):
        bad = [one for one in executions if one.outcome in outcomes]
        if bad:
            yield title, max(bad, key=lambda one: one.reaped_at_ns)
    if finished:
        yield "Typical", finished[(len(finished) - 1) // 2]
    yield "Newest", max(executions, key=lambda one: one.reaped_at_ns)
    profiled = [one for one in executions if one.profile is not None]
    if profiled:
        yield "Profiled", max(profiled, key=lambda one: one.profile.samples if one.profile else 0)


def _detail(key: str, title: str, execution: Execution) -> ExecutionDetail:
    raised = execution.exception
    error = f"{raised.type_name}: {raised.message_shape}" if raised and raised.message_shape else ""
    return ExecutionDetail(
        key=key,
        title=title,
        execution=execution,
        ledger=ledger_view(execution.ledger),
        phases=[PhaseRow(phase.name, (phase.end_ns - phase.start_ns) / 1e6) for phase in execution.phases],
        calls=sum(group.count for group in execution.groups),
        peak_rss_bytes=_peak_rss_bytes(execution),
        error=error or (raised.type_name if raised else ""),
    )


def _peak_rss_bytes(execution: Execution) -> int:
    return max(
        execution.rusage.max_rss_bytes if execution.rusage else 0,
        max((sample.rss_bytes for sample in execution.samples), default=0),
    )
