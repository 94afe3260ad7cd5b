"""What jobs cost before: a JSON file, sorted and stable, made to be committed and reviewed.

A test has an entry for each job that it records. Calls by shape, payload and result compare exactly: more fails, less
is said (and kept by ``--jobdoctor-update``). Memory compares with a margin; for time see ``jobdoctor.gate.timing``.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct, field

from jobdoctor import words
from jobdoctor.errors import ConfigError
from jobdoctor.gate import counting
from jobdoctor.gate.budgets import payload_cure
from jobdoctor.gate.cures import cure_of
from jobdoctor.gate.failure import Call, Failure, call_of
from jobdoctor.gate.profile import Profile
from jobdoctor.gate.steady_size import steady_bytes
from jobdoctor.gate.timing import Timing
from jobdoctor.model import SpanGroup

SCHEMA = 1
_ANEW = "delete it and write it anew with --jobdoctor-update"
_CONFLICT = re.compile(rb"^(?:<{7}|>{7}) ", re.MULTILINE)


class Entry(Struct, omit_defaults=True):
    """What a job cost in a test. Bytes are as ``steady_size`` counts them."""

    calls: dict[str, int] = field(default_factory=dict)
    payload_bytes: int | None = None
    result_bytes: int | None = None
    timing: dict[str, Timing] = field(default_factory=dict)  # by machine


Tests = dict[str, dict[str, Entry]]


class Baseline(Struct):
    """``tests``: entries by test (its node id) and job."""

    schema: int = SCHEMA
    tests: Tests = field(default_factory=dict)


class Comparison(Struct):
    """``notes`` are what changed and does not fail."""

    failures: list[Failure] = field(default_factory=list)
    less: list[str] = field(default_factory=list)


def read(path: Path) -> Baseline:
    """The file's baseline. ConfigError when it is none, or another version's."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "make it readable") from None
    if _CONFLICT.search(data):
        raise ConfigError(
            f"{path} has the conflict markers of a merge", "take either side whole, then run with --jobdoctor-update"
        )
    try:
        found = msgspec.json.decode(data, type=Baseline)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is no baseline: {error}", _ANEW) from None
    if found.schema != SCHEMA:
        raise ConfigError(f"{path} is of version {found.schema}, not {SCHEMA}", _ANEW)
    return found


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While one session reads, merges and writes the file, others wait. ConfigError when its folder cannot be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def write(path: Path, baseline: Baseline) -> None:
    """Writes the file whole or not at all, sorted, one figure a line. Its folder is there: see ``alone``."""
    ordered = {
        test: {
            job: msgspec.structs.replace(
                entry, calls=dict(sorted(entry.calls.items())), timing=dict(sorted(entry.timing.items()))
            )
            for job, entry in sorted(jobs.items())
        }
        for test, jobs in sorted(baseline.tests.items())
    }
    text = msgspec.json.format(msgspec.json.encode(Baseline(tests=ordered)), indent=1) + b"\n"
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write {path}: {error.strerror}", "give another --jobdoctor-baseline")


def merged(old: Baseline, new: Mapping[str, dict[str, Entry]], ran: Iterable[str] | None) -> tuple[Baseline, list[str]]:
    """The old baseline with the new entries, and the tests whose entries were removed. ``ran``: all tests there are;
    None when only some ran, and the entries of the others stay. Timings of other machines stay."""
    tests = dict(old.tests)
    for test, jobs in new.items():
        before = old.tests.get(test, {})
        tests[test] = {
            job: msgspec.structs.replace(
                entry, timing={**(before[job].timing if job in before else {}), **entry.timing}
            )
            for job, entry in jobs.items()
        }
    stale = sorted(set(tests) - set(ran)) if ran is not None else []
    for test in stale:
        del tests[test]
    return Baseline(tests=tests), stale


# ----------------------------------------------------------------------------------------------------------- comparing


def named(profiles: Sequence[Profile]) -> dict[str, Profile]:
    """The profiles of a test by name: the job's, numbered from its second run on."""
    seen: Counter[str] = Counter()
    found = {}
    for profile in profiles:
        if not profile.compared and profile.executions:
            seen[profile.job] += 1
            number = seen[profile.job]
            found[profile.job if number == 1 else f"{profile.job} #{number}"] = profile
    return found


def entry_of(profile: Profile) -> Entry:
    """What a profile costs, without its timing."""
    return Entry(
        calls=counting.by_name(profile.groups),
        payload_bytes=None if profile.data is None else steady_bytes(profile.data, profile.serializer),
        result_bytes=None if profile.result_data is None else steady_bytes(profile.result_data, profile.serializer),
    )


def compare(before: Entry, profile: Profile) -> Comparison:
    """What is more than before, and what is less."""
    after = entry_of(profile)
    found = Comparison(_more_calls(before, after, profile), _fewer_calls(before, after, profile))
    for what, cure, then, now in (
        ("payload", payload_cure(profile), before.payload_bytes, after.payload_bytes),
        ("result", "store it and return a reference", before.result_bytes, after.result_bytes),
    ):
        if then is None or now is None or then == now:
            continue
        change = f"{profile.job}: {what} {then:,} -> {now:,} bytes"
        if now > then:
            rule = "JD101 large-payload" if what == "payload" else "JD103 large-result"
            found.failures.append(Failure("baseline", change, rule=rule, cure=cure))
        else:
            found.less.append(change)
    return found


def _more_calls(before: Entry, after: Entry, profile: Profile) -> list[Failure]:
    by_name: dict[str, list[Call]] = {}
    examples: dict[str, SpanGroup] = {}
    for group in counting.largest(profile.groups, lambda group: group.channel in counting.EXACT_CHANNELS):
        name = counting.name(group)
        by_name.setdefault(name, []).append(call_of(group))
        examples.setdefault(name, group)
    failures = []
    for name, now in after.calls.items():
        then = before.calls.get(name, 0)
        if now > then:
            rule, cure = cure_of(examples[name]) if now > 1 else ("", "")
            channel = examples[name].channel
            noun = ("query", "queries") if channel == "sql" else (f"{channel} call", f"{channel} calls")
            new = "" if then else ", of a shape that the baseline has not"
            what = f"{profile.job}: {then} -> {words.count(now, *noun)}{new}"
            failures.append((now - then, Failure("baseline", what, by_name[name], rule, cure)))
    return [failure for _, failure in sorted(failures, key=lambda pair: -pair[0])]


def _fewer_calls(before: Entry, after: Entry, profile: Profile) -> list[str]:
    return [
        f"{profile.job}: {then} -> {after.calls.get(name, 0)} x {name}"
        for name, then in before.calls.items()
        if after.calls.get(name, 0) < then
    ]
