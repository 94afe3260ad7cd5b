"""Changes to try on recorded traffic, and what each means for jobs, queues and workers.

They are applied in a fixed order, whatever the order in which they are given: split queues, move jobs, change their
times, change their number, then workers. What a change names must exist, or be made by one before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import inf
from statistics import median
from typing import NamedTuple

from jobdoctor.errors import ConfigError
from jobdoctor.near import meant
from jobdoctor.queueing.traffic import COLUMNS, Link, Pool, Traffic

FAST, SLOW = "-fast", "-slow"

#: Names that a message lists.
_NAMED = 8
#: What a replay takes, in workers and in jobs: some seconds, and some GB.
MOST_WORKERS, MOST_JOBS = 10_000, 5_000_000
#: A factor beyond is a slip of the pen.
_MOST_TIMES = 1_000.0
#: A copy of the traffic comes so many mean gaps later, so that a burst does not fall on itself, and the day's course
#: stays what it was.
_SHIFT_GAPS = 25
#: Both sides of a split have at least this share of the queue's jobs, where they can.
_SPLIT_SHARE = 0.05


class Move(NamedTuple):
    """The job goes to another queue."""

    job: str
    queue: str

    def __str__(self) -> str:
        return f"--move {self.job}={self.queue}"


class Workers(NamedTuple):
    """So many workers listen to the queues.

    One queue: so many in all listen to it; what is added or taken away listens as most of those do that listen to it.
    Several: so many listen to precisely these, in this order.
    """

    queues: tuple[str, ...]
    number: int

    def __str__(self) -> str:
        return f"--workers {','.join(self.queues)}={self.number}"


class Reserve(NamedTuple):
    """So many workers more take jobs of this queue alone."""

    queue: str
    number: int

    def __str__(self) -> str:
        return f"--reserve {self.queue}={self.number}"


class Speedup(NamedTuple):
    """The job takes ``factor`` of its time: 0.5 is half of it."""

    job: str
    factor: float

    def __str__(self) -> str:
        return f"--speedup {self.job}={self.factor:g}"


class Rate(NamedTuple):
    """``factor`` times as many of the job arrive, with all that they enqueue."""

    job: str
    factor: float

    def __str__(self) -> str:
        return f"--rate {self.job}={self.factor:g}"


class Split(NamedTuple):
    """The queue's short jobs go to QUEUE-fast, its long ones to QUEUE-slow; workers look at the first one first."""

    queue: str

    def __str__(self) -> str:
        return f"--split {self.queue}"


Change = Move | Workers | Reserve | Speedup | Rate | Split


def check(changes: Sequence[Change]) -> None:
    """Raises ConfigError for changes that contradict one another or mean nothing by themselves."""
    seen: Counter[tuple[str, str]] = Counter()
    split = {change.queue for change in changes if isinstance(change, Split)}
    for change in changes:
        seen[_subject(change)] += 1
        if isinstance(change, Speedup | Rate) and not 0 < change.factor <= _MOST_TIMES:
            what = "time" if isinstance(change, Speedup) else "number"
            beyond = "not above 0" if not change.factor > 0 else f"above {_MOST_TIMES:,.0f}"
            raise ConfigError(f"{change}: the factor is {beyond}", f"give the {what} as a factor, such as 0.5 or 2")
        if isinstance(change, Workers | Reserve) and change.number > MOST_WORKERS:
            raise ConfigError(f"{change}: more than {MOST_WORKERS:,} workers", "give fewer: a replay has no more")
        if isinstance(change, Workers) and change.number < 0:
            raise ConfigError(f"{change}: fewer than no workers", "give 0 or more")
        if isinstance(change, Reserve) and change.number < 1:
            raise ConfigError(f"{change}: no worker", "give 1 or more")
        named = change.queues if isinstance(change, Workers) else (getattr(change, "queue", ""),)
        for name in named:
            if name in split and not isinstance(change, Split):
                raise ConfigError(
                    f"{change} and --split {name} contradict each other",
                    f"after the split there are {name}{FAST} and {name}{SLOW}: name one of them",
                )
    for (kind, name), number in seen.items():
        if number > 1:
            raise ConfigError(f"--{kind} {name} is given {number} times", "give it once")
    staffed = [change for change in changes if isinstance(change, Workers)]
    for alone in (change for change in staffed if len(change.queues) == 1):
        for within in staffed:
            if len(within.queues) > 1 and alone.queues[0] in within.queues:
                raise ConfigError(
                    f"{alone} and {within} both say how many listen to {alone.queues[0]}",
                    "give the whole lists, such as --workers high,default=2, or the one queue alone; --reserve adds "
                    "workers for one queue",
                )


def _subject(change: Change) -> tuple[str, str]:
    kind = type(change).__name__.lower()
    if isinstance(change, Move | Speedup | Rate):
        return kind, change.job
    return kind, ",".join(change.queues) if isinstance(change, Workers) else change.queue


def apply(traffic: Traffic, pools: Sequence[Pool], changes: Sequence[Change]) -> tuple[Traffic, list[Pool]]:
    """Traffic and workers with these changes. ConfigError, with the names that exist, for what cannot be."""
    changes = [named(traffic, change) for change in changes]
    check(changes)
    traffic = traffic.copy()
    changed = list(pools)
    for kind in (Split, Move, Speedup, Rate, Workers, Reserve):
        for change in changes:
            if not isinstance(change, kind):
                continue
            if isinstance(change, Split):
                changed = _split(traffic, changed, change.queue)
            elif isinstance(change, Move):
                _move(traffic, change)
            elif isinstance(change, Speedup):
                job = job_number(traffic, change.job)
                traffic.service = [
                    service * change.factor if number == job else service
                    for service, number in zip(traffic.service, traffic.job, strict=True)
                ]
                _scale_links(traffic, job, change.factor)
            elif isinstance(change, Rate):
                traffic = _multiplied(traffic, job_number(traffic, change.job), change.factor)
            elif isinstance(change, Workers):
                changed = _staffed(traffic, changed, change)
            else:
                _queue(traffic, changed, change.queue)
                changed = _with(changed, (change.queue,), change.number)
    _check_heard(traffic, changed)
    return traffic, changed


# ---------------------------------------------------------------------------------------------------------------- jobs


def job_number(traffic: Traffic, name: str) -> int:
    """The index of a job by its dotted name, or the end of one. ConfigError, with the names there are, for others."""
    if name in traffic.jobs:
        return traffic.jobs.index(name)
    ends = [job for job in traffic.jobs if job.endswith(f".{name}")]
    if len(ends) == 1:
        return traffic.jobs.index(ends[0])
    raise _unknown("job", name, ends or traffic.jobs)


def named(traffic: Traffic, change: Change) -> Change:
    """With the job's whole name, so that two names of one job are found to be one."""
    if isinstance(change, Move | Speedup | Rate):
        return change._replace(job=traffic.jobs[job_number(traffic, change.job)])
    return change


def _unknown(kind: str, name: str, known: Sequence[str]) -> ConfigError:
    listed = ", ".join(sorted(known)[:_NAMED]) + (f" and {len(known) - _NAMED} more" if len(known) > _NAMED else "")
    close = meant(name, known)
    hint = f"{close} " if close else ""
    return ConfigError(f"there is no {kind} {name!r} in this traffic", f"{hint}{kind}s: {listed or 'none'}")


def _move(traffic: Traffic, change: Move) -> None:
    job = job_number(traffic, change.job)
    queue = traffic.queue_index(change.queue)
    traffic.queue = [
        queue if number == job else own for own, number in zip(traffic.queue, traffic.job, strict=True)
    ]  # fmt: skip


def _scale_links(traffic: Traffic, job: int, factor: float) -> None:
    """What a job enqueues comes at its place within the run, which is shorter or longer now."""
    for index, links in traffic.links.items():
        if traffic.job[index] == job:
            traffic.links[index] = [
                link if link.from_end else link._replace(delay_s=link.delay_s * factor) for link in links
            ]


def _multiplied(traffic: Traffic, job: int, factor: float) -> Traffic:
    """``factor`` times as many of the job. Copies are the same traffic again, some time later (at the end of the
    window they go on at its beginning); a part of a copy, or of what there was, is every so many of them."""
    roots = [index for index in range(len(traffic)) if traffic.job[index] == job]
    linked = {link.to: index for index, links in traffic.links.items() for link in links}
    # Retries and children of the job follow their root.
    roots = [index for index in roots if not _descends(traffic, linked, index, job)]
    if factor * len(roots) > MOST_JOBS:
        raise ConfigError(
            f"--rate {traffic.jobs[job]}={factor:g}: that makes {factor * len(roots):,.0f} jobs of {len(roots):,}",
            f"give a smaller factor, or a shorter window (--since): a replay has at most {MOST_JOBS:,}",
        )
    copies, part = divmod(factor, 1.0)
    keep: set[int] | None = None
    if copies == 0:
        keep = {index for position, index in enumerate(roots) if int((position + 1) * part) > int(position * part)}
    span = traffic.span_s
    shift = min(_SHIFT_GAPS * span / max(1, len(roots)), span / 4) if span else 0.0
    changed = traffic.copy()
    for copy in range(1, int(copies) + (part > 0)):
        whole = copy < copies
        for position, index in enumerate(roots):
            if whole or int((position + 1) * part) > int(position * part):
                _copy_tree(changed, traffic, linked, index, copy * shift)
    if keep is not None:
        dropped = {
            each for root in roots if root not in keep for each in _tree(traffic, root)
        }  # fmt: skip
        changed = _without(changed, dropped)
    return changed.sorted()


def _descends(traffic: Traffic, linked: dict[int, int], index: int, job: int) -> bool:
    while index in linked:
        index = linked[index]
        if traffic.job[index] == job:
            return True
    return False


def _tree(traffic: Traffic, root: int) -> list[int]:
    """The job and all that comes because of it."""
    found = [root]
    for index in found:
        found += [link.to for link in traffic.links.get(index, ())]
    return found


def _copy_tree(changed: Traffic, traffic: Traffic, linked: dict[int, int], root: int, shift: float) -> None:
    places: dict[int, int] = {}
    first, span = traffic.arrival[0], traffic.span_s
    for index in _tree(traffic, root):
        places[index] = len(changed)
        moved = traffic.arrival[index] + shift
        if moved > first + span:
            moved -= span
        changed.arrival.append(moved)
        for name in COLUMNS[1:]:
            if getattr(traffic, name):
                getattr(changed, name).append(getattr(traffic, name)[index])
        if index in traffic.fronts:
            changed.fronts.add(places[index])
    for index, place in places.items():
        if index in traffic.links:
            changed.links[place] = [link._replace(to=places[link.to]) for link in traffic.links[index]]
            changed.linked.update(places[link.to] for link in traffic.links[index])
    if root in linked:  # another job enqueues it: then it enqueues one more
        parent = linked[root]
        own = next(link for link in traffic.links[parent] if link.to == root)
        changed.links[parent] = [*changed.links[parent], Link(places[root], own.delay_s, own.from_end)]
        changed.linked.add(places[root])
    changed.waited = []


def _without(traffic: Traffic, dropped: set[int]) -> Traffic:
    kept = [index for index in range(len(traffic)) if index not in dropped]
    place = {old: new for new, old in enumerate(kept)}
    other = Traffic(traffic.jobs, traffic.queues, traffic.origin_ns)
    for name in COLUMNS:
        values = getattr(traffic, name)
        setattr(other, name, [values[old] for old in kept] if values else [])
    other.fronts = {place[old] for old in traffic.fronts if old in place}
    other.linked = {place[old] for old in traffic.linked if old in place}
    for old, links in traffic.links.items():
        left = [link._replace(to=place[link.to]) for link in links if link.to in place]
        if old in place and left:
            other.links[place[old]] = left
    return other


# -------------------------------------------------------------------------------------------------------------- queues


def split_of(traffic: Traffic, queue: str) -> tuple[list[str], list[str]]:
    """The short and the long jobs of a queue: where the medians of the jobs' times are furthest apart. ConfigError
    when there are not two kinds."""
    number = traffic.queues.index(queue)
    times: dict[int, list[float]] = {}
    for job, own, service in zip(traffic.job, traffic.queue, traffic.service, strict=True):
        if own == number:
            times.setdefault(job, []).append(service)
    if len(times) < 2:
        raise ConfigError(
            f"--split {queue}: it has {'one job' if times else 'no job'} only", "split a queue of several jobs"
        )
    total = sum(len(each) for each in times.values())
    kinds = sorted((median(each), job) for job, each in times.items())
    best, at = -1.0, 1
    below = 0
    for place in range(1, len(kinds)):
        below += len(times[kinds[place - 1][1]])
        enough = min(below, total - below) >= _SPLIT_SHARE * total
        ratio = (kinds[place][0] / kinds[place - 1][0] if kinds[place - 1][0] > 0 else 1e9) * (1.0 if enough else 1e-3)
        if ratio > best:
            best, at = ratio, place
    names = [traffic.jobs[job] for _, job in kinds]
    return sorted(names[:at]), sorted(names[at:])


def _split(traffic: Traffic, pools: Sequence[Pool], queue: str) -> list[Pool]:
    _queue(traffic, pools, queue)
    return apart(traffic, pools, queue, split_of(traffic, queue)[0], queue + FAST, queue + SLOW)


def apart(
    traffic: Traffic, pools: Sequence[Pool], queue: str, first: Iterable[str], fast: str, slow: str
) -> list[Pool]:
    """Puts the jobs ``first`` of a queue into one (``fast``) that its workers look at before the other (``slow``, which
    may be the queue itself). Changes the traffic; gives the changed workers."""
    old = traffic.queues.index(queue)
    quick = {traffic.jobs.index(name) for name in first}
    to_fast, to_slow = traffic.queue_index(fast), traffic.queue_index(slow)
    traffic.queue = [
        own if own != old else to_fast if job in quick else to_slow
        for own, job in zip(traffic.queue, traffic.job, strict=True)
    ]
    return [
        pool._replace(
            queues=tuple(part for name in pool.queues for part in ([fast, slow] if name == queue else [name]))
        )
        for pool in pools
    ]


def _queue(traffic: Traffic, pools: Sequence[Pool], name: str) -> None:
    known = {*traffic.queues, *(queue for pool in pools for queue in pool.queues)}
    if name not in known:
        raise _unknown("queue", name, sorted(known))


# ------------------------------------------------------------------------------------------------------------- workers


def _staffed(traffic: Traffic, pools: Sequence[Pool], change: Workers) -> list[Pool]:
    if len(change.queues) > 1:
        for name in change.queues:
            _queue(traffic, pools, name)
        return _with([pool for pool in pools if pool.queues != change.queues], change.queues, change.number)
    (queue,) = change.queues
    _queue(traffic, pools, queue)
    listening = [pool for pool in pools if queue in pool.queues]
    if not listening:
        return _with(pools, change.queues, change.number)
    main = max(listening, key=lambda pool: (pool.size, -len(pool.queues)))
    others = sum(pool.size for pool in listening if pool is not main)
    if change.number < others:
        lists = " and ".join(f"{','.join(pool.queues)}={pool.size}" for pool in listening)
        raise ConfigError(
            f"{change}: {others + main.size} workers listen to it in several ways ({lists})",
            "give the number for one whole list, such as --workers " + ",".join(main.queues) + "=1",
        )
    left = [pool for pool in pools if pool is not main]
    return _with(left, main.queues, change.number - others, main.strategy)


def _with(pools: Sequence[Pool], queues: tuple[str, ...], number: int, strategy: str = "default") -> list[Pool]:
    """The pools, and so many workers more that are there all the time."""
    if not number:
        return list(pools)
    return [*pools, Pool(queues, ((-inf, inf),) * number, strategy)]  # type: ignore[arg-type]


def _check_heard(traffic: Traffic, pools: Sequence[Pool]) -> None:
    heard = {name for pool in pools for name in pool.queues}
    for number in sorted(set(traffic.queue)):
        name = traffic.queues[number]
        if name not in heard:
            known = ", ".join(sorted(heard)[:_NAMED]) or "none"
            close = meant(name, sorted(heard))
            raise ConfigError(
                f"nobody listens to queue {name!r}; queues with workers: {known}",
                (f"{close} Or add" if close else "add") + f" workers to it, such as --workers {name}=1",
            )


def total_workers(pools: Iterable[Pool]) -> int:
    """The most workers that are there, over all pools."""
    return sum(pool.size for pool in pools)
