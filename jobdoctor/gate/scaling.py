"""Do the calls of a job grow with its input? A small fixture is enough: two sizes tell a loop of calls from a batch.

A call that is made for each item has a slope of 1: six more items, six more calls. One that is made for each chunk has
the slope 1/chunk. From ``GROWS`` on it is a loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from jobdoctor.gate import counting
from jobdoctor.gate.cures import cure_of
from jobdoctor.gate.failure import Failure, call_of
from jobdoctor.gate.profile import Profile
from jobdoctor.model import SpanGroup

#: More calls for each more item from which calls grow with the input. Own: half of an N+1's slope, so that a call for
#: each second item is still seen, and chunks of three and more, or a search in log(n) steps, are not.
GROWS = 0.5


def check(sizes: Sequence[int], profiles: Sequence[Profile], channels: Sequence[str]) -> list[Failure]:
    """Calls that grow from the smallest size to the largest, one failure for each shape and line, the most first."""
    ends = sorted(zip(sizes, profiles, strict=True), key=lambda pair: pair[0])
    (small, before), (large, after) = ends[0], ends[-1]
    fewer = _by_identity(before, channels)
    failures = []
    for identity, groups in _by_identity(after, channels).items():
        count = sum(group.count for group in groups)
        less = sum(group.count for group in fewer.get(identity, []))
        if (count - less) / (large - small) < GROWS:
            continue
        rule, cure = cure_of(groups[0])
        call = call_of(groups[0], count)
        what = f"{after.job}: {less} -> {count} {groups[0].channel} calls for {small} -> {large} items"
        failures.append((count - less, Failure("scales", what, [call], rule, cure)))
    return [failure for _, failure in sorted(failures, key=lambda pair: -pair[0])]


def _by_identity(profile: Profile, channels: Sequence[str]) -> dict[tuple[str, ...], list[SpanGroup]]:
    found: dict[tuple[str, ...], list[SpanGroup]] = defaultdict(list)
    for group in counting.counted(profile.groups):
        if group.channel in channels:
            found[group.channel, group.operation, group.fingerprint, group.callsite, group.relationship].append(group)
    return found
