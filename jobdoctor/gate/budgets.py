"""What a marker asks of a job, and whether a profile keeps it.

``@pytest.mark.jobdoctor(max_queries=5, max_calls={"http": 2}, max_payload="4 KiB", no=["JD401"])``
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from msgspec import Struct, field

from jobdoctor import words
from jobdoctor.errors import ConfigError
from jobdoctor.gate import counting, units
from jobdoctor.gate.cures import cure_of
from jobdoctor.gate.failure import Call, Failure, call_of
from jobdoctor.gate.profile import Profile
from jobdoctor.model import Finding, SpanGroup

CHANNELS = ("sql", "redis", "http", "file", "lock", "pool", "sleep", "subprocess", "mail", "enqueue")


class Budget(Struct, frozen=True):
    """A marker's keys, in the units of ``Profile``. None: not asked."""

    max_queries: int | None = None
    max_calls: dict[str, int] = field(default_factory=dict)
    max_payload: int | None = None  # bytes
    max_result: int | None = None  # bytes
    max_rss: int | None = None  # bytes
    max_time: float | None = None  # ms
    max_slowdown: float | None = None  # share, of jobdoctor.timed()
    no: tuple[str, ...] = ()
    idempotent: bool | Literal["strict"] = False


def parse(given: Mapping[str, object]) -> Budget:
    """The budget that a marker's keys mean. ConfigError, which lists what is right, for anything else."""
    for key in given:
        if key not in _READERS:
            close = difflib.get_close_matches(key, _READERS, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(f"mark.jobdoctor has no {key!r}", f"{hint}there are {', '.join(_READERS)}")
    values: dict[str, Any] = {}
    for key, value in given.items():
        try:
            values[key] = _READERS[key](value)
        except ValueError as error:
            raise ConfigError(f"mark.jobdoctor {key}={value!r}", str(error)) from None
    return Budget(**values)


def check(budget: Budget, profile: Profile) -> list[Failure]:
    """Where the profile breaks the budget."""
    failures = [*_counts(budget, profile), *_bytes(budget, profile), *_time(budget, profile)]
    failures += _rules(budget, profile)
    return failures


# ------------------------------------------------------------------------------------------------------------- reading


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("write a whole number, 0 or more")
    return value


def _calls(value: object) -> dict[str, int]:
    names = ", ".join(CHANNELS)
    if not isinstance(value, Mapping):
        raise ValueError(f'write a dict by channel, such as {{"http": 2}}; the channels are {names}')
    for channel, count in value.items():
        if channel not in CHANNELS:
            raise ValueError(f"{channel!r} is no channel: there are {names}")
        _count(count)
    return dict(value)


def _codes(value: object) -> tuple[str, ...]:
    from jobdoctor.diagnosis.registry import RULES

    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError('write a list of rules, such as ["JD401", "JD202"]')
    codes = tuple(value)
    for code in codes:
        if code not in RULES:
            raise ValueError(f"no rule has the code {code!r}: there are {', '.join(RULES)}")
    return codes


def _idempotent(value: object) -> bool | Literal["strict"]:
    if isinstance(value, bool):
        return value
    if value == "strict":
        return "strict"
    raise ValueError('write True, False or "strict"')


_READERS: dict[str, Callable[[object], Any]] = {
    "max_queries": _count,
    "max_calls": _calls,
    "max_payload": units.size,
    "max_result": units.size,
    "max_rss": units.size,
    "max_time": units.duration_ms,
    "max_slowdown": units.share,
    "no": _codes,
    "idempotent": _idempotent,
}


# ------------------------------------------------------------------------------------------------------------ checking


def _counts(budget: Budget, profile: Profile) -> Iterable[Failure]:
    if budget.max_queries is not None and profile.queries > budget.max_queries:
        what = f"{profile.job}: {words.count(profile.queries, 'query', 'queries')}, {budget.max_queries} allowed"
        yield calls_failure("max_queries", what, counting.largest(profile.groups, counting.is_query))
    for channel, most in budget.max_calls.items():
        made = profile.calls.get(channel, 0)
        if made > most:
            what = f"{profile.job}: {words.count(made, f'{channel} call')}, {most} allowed"
            yield calls_failure("max_calls", what, counting.largest(profile.groups, _counts_in(channel)))


def _counts_in(channel: str) -> Callable[[SpanGroup], bool]:
    return lambda group: group.channel == channel and (channel != "sql" or counting.is_query(group))


def calls_failure(check_: str, what: str, groups: list[SpanGroup]) -> Failure:
    """Too many calls: the most frequent ones, and the cure for these."""
    rule, cure = cure_of(groups[0]) if groups and groups[0].count > 1 else ("", "")
    return Failure(check_, what, [call_of(group) for group in groups], rule, cure)


def _bytes(budget: Budget, profile: Profile) -> Iterable[Failure]:
    job = profile.job
    size = profile.payload_bytes
    if budget.max_payload is not None:
        if size is None:
            yield _unknown("max_payload", job, "a recorded block has no payload: use jobdoctor.run()")
        elif size > budget.max_payload:
            what = f"{job}: payload of {words.binary_size(size)}, {words.binary_size(budget.max_payload)} allowed"
            yield Failure("max_payload", what, rule="JD101 large-payload", cure=payload_cure(profile))
    result = profile.result_bytes
    if budget.max_result is not None:
        if result is None and profile.execution.result is None and profile.error is None:
            yield _unknown("max_result", job, "a recorded block has no result: use jobdoctor.run()")
        elif result is not None and result > budget.max_result:
            what = f"{job}: result of {words.binary_size(result)}, {words.binary_size(budget.max_result)} allowed"
            yield Failure("max_result", what, rule="JD103 large-result", cure="store it and return a reference")
    if budget.max_rss is not None:
        if profile.rss_bytes is None:
            yield _unknown("max_rss", job, "the peak of the memory is not known here: /proc/self/clear_refs is needed")
        elif profile.rss_bytes > budget.max_rss:
            what = (
                f"{job}: {words.binary_size(profile.rss_bytes)} of memory above where it began, "
                f"{words.binary_size(budget.max_rss)} allowed"
            )
            cure = "work through the data in chunks, and keep none longer than needed"
            yield Failure("max_rss", what, rule="JD302 memory-peak", cure=cure)


def payload_cure(profile: Profile) -> str:
    """Which argument holds the bytes, and what to pass in its place."""
    payload = profile.execution.payload
    nodes = payload.nodes if payload is not None else []
    if not nodes:
        return "pass an id, and load the data in the job"
    return f"{nodes[0].path} ({nodes[0].type_name}) holds {words.binary_size(nodes[0].bytes)}: pass an id in its place"


def _time(budget: Budget, profile: Profile) -> Iterable[Failure]:
    if budget.max_time is None or profile.busy_ms <= budget.max_time:
        return
    spent = sorted(counting.counted(profile.groups), key=lambda group: -group.total_ns)
    calls = [call_of(group) for group in spent[:1] if group.total_ns / 1e6 > 0.2 * profile.busy_ms]
    what = (
        f"{profile.job}: {words.duration(profile.busy_ms)} without waits for a processor, "
        f"{words.duration(budget.max_time)} allowed"
    )
    share = f"{words.duration(spent[0].total_ns / 1e6)} of it are in these calls" if calls else ""
    yield Failure("max_time", what, calls, cure=share or f"{words.duration(profile.cpu_ms)} of it are CPU")


def _rules(budget: Budget, profile: Profile) -> Iterable[Failure]:
    if not budget.no:
        return
    checks = {each.code: each for each in profile.diagnosis.checklist}
    for code in budget.no:
        status = checks[code]
        if status.status == "found":
            for finding in profile.findings:
                if finding.code == code:
                    yield finding_failure(profile.job, finding)
        elif status.status != "clear":
            yield _unknown(code, profile.job, f"{code} {status.name} could not be checked: {status.reason}")


def finding_failure(job: str, finding: Finding) -> Failure:
    """A finding of a rule, as a failure."""
    calls = []
    for evidence in finding.evidence:
        for row in evidence.data.get("groups") or ():
            if isinstance(row, dict) and row.get("fingerprint"):
                count = round(float(row.get("count") or 0))
                calls.append(
                    Call(count, str(row["fingerprint"]), str(row.get("callsite", "")), str(row.get("function", "")))
                )
    if not calls and finding.callsite:
        calls = [Call(finding.calls or 1, finding.name, finding.callsite)]
    cure = finding.recommendation.text.partition(". ")[0].rstrip(".")
    return Failure(finding.code, f"{job}: {finding.title}", calls, f"{finding.code} {finding.name}", cure)


def _unknown(check_: str, job: str, why: str) -> Failure:
    return Failure(check_, f"{job}: {why}")
