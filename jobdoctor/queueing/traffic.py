"""Traffic: what arrived and how long it took, in flat lists that a replay runs over, and the workers that took it.

From recorded rows follow, beside arrivals and service times:

- **overhead**: what passed between the moment a worker and a job were both there and the moment the job was taken: of a
  worker that waited for jobs the round trip to Redis, of one that comes from the job before its bookkeeping, too, which
  is several times as long. It is kept for each job as it was; for the case that it was not in, it is that of another
  job that was. What is far above the usual is left out: then the worker was not there, or did something that nobody
  recorded.
- **links**: an attempt after the first, or a repetition, is put back by the end of the one before it, with its delay; a
  deferred job by the end of the dependency that was done last; a job that another one enqueued comes at its moment of
  that one's run. Whatever moves the first moves the second. What was scheduled comes when it was due, what a rate limit
  held and what was put back by hand when it did.
- **at front**: a job that was taken before others of its queue that had been there before it. The longest sequence of
  jobs that left in the order in which they came (C. Schensted, 1961) is taken as what was in order.
- **presence**: a worker is known from its first job to its last. Before and after that it counts as there unless a job
  of its queues waited meanwhile, which it would have taken. In between it was away where jobs of its queues waited for
  a minute and more, and it did nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from math import inf
from random import Random
from statistics import median
from typing import Literal, NamedTuple

from jobdoctor.model import TraceRow

Strategy = Literal["default", "round_robin", "random"]

_SECOND_NS = 1_000_000_000
#: Waits up to this are what a round trip and a busy machine take: nobody was missing.
AT_ONCE_S = 0.1
#: Overheads beyond so many medians, and beyond so many s, are none. On a busy machine some tenths of a second are.
_FAR, _FAR_S = 10.0, 1.0
#: A worker that did nothing for so long, while jobs of its queues waited, was not there. RQ takes a job at once, what
#: was not recorded is shorter, mostly, and a deploy restarts workers within a minute.
AWAY_S = 60.0
#: How long after its parent's reap a job may still be one that the parent enqueued.
_CHILD_SLACK_S = 0.5
#: A deferred job that came longer than this after its last recorded dependency waited for one that is not recorded.
_RELEASED_S = 2.0


#: What a traffic has of each job, but links and the recorded wait.
COLUMNS = ("arrival", "job", "queue", "service", "overhead", "between")


class Link(NamedTuple):
    """A job that comes because of another one."""

    to: int
    delay_s: float  # after the other's end, or after it was taken
    from_end: bool


class Pool(NamedTuple):
    """Workers that listen to the same queues in the same order; ``spans``: when each is there, in s."""

    queues: tuple[str, ...]
    spans: tuple[tuple[float, float], ...]
    strategy: Strategy = "default"

    @property
    def size(self) -> int:
        """The most workers that are there at one moment."""
        changes = sorted([(start, 1) for start, _ in self.spans] + [(end, -1) for _, end in self.spans])
        most = now = 0
        for _, change in changes:
            now += change
            most = max(most, now)
        return most


class Traffic:
    """Jobs in the order of their arrival; all lists have one entry for each. Times are seconds since ``origin_ns``."""

    __slots__ = (
        "arrival",
        "between",
        "created",
        "fronts",
        "job",
        "jobs",
        "linked",
        "links",
        "origin_ns",
        "overhead",
        "queue",
        "queues",
        "service",
        "waited",
    )

    def __init__(self, jobs: Sequence[str], queues: Sequence[str], origin_ns: int = 0) -> None:
        self.jobs = list(jobs)
        self.queues = list(queues)
        self.origin_ns = origin_ns
        self.arrival: list[float] = []
        self.job: list[int] = []  # index into ``jobs``
        self.queue: list[int] = []  # index into ``queues``
        self.service: list[float] = []
        self.overhead: list[float] = []  # when a worker waited for it
        self.between: list[float] = []  # when it waited for a worker; empty: the same
        self.waited: list[float] = []  # as recorded; empty: not known
        self.fronts: set[int] = set()
        self.links: dict[int, list[Link]] = {}
        self.linked: set[int] = set()  # those that come by a link

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def span_s(self) -> float:
        """From the first arrival to the last."""
        return self.arrival[-1] - self.arrival[0] if self.arrival else 0.0

    def copy(self) -> Traffic:
        """One that can be changed."""
        other = Traffic(self.jobs, self.queues, self.origin_ns)
        for name in (*COLUMNS, "waited"):
            setattr(other, name, list(getattr(self, name)))
        other.fronts = set(self.fronts)
        other.links = dict(self.links)
        other.linked = set(self.linked)
        return other

    def queue_index(self, name: str) -> int:
        """The queue's index, added when it is new."""
        if name not in self.queues:
            self.queues.append(name)
        return self.queues.index(name)

    def sorted(self) -> Traffic:
        """The same in the order of arrival, with links and fronts renumbered."""
        order = sorted(range(len(self)), key=self.arrival.__getitem__)
        place = {old: new for new, old in enumerate(order)}
        other = Traffic(self.jobs, self.queues, self.origin_ns)
        for name in (*COLUMNS, "waited"):
            values = getattr(self, name)
            setattr(other, name, [values[old] for old in order] if values else [])
        other.fronts = {place[old] for old in self.fronts}
        other.linked = {place[old] for old in self.linked}
        other.links = {
            place[old]: [link._replace(to=place[link.to]) for link in links] for old, links in self.links.items()
        }
        return other


def in_order(rows: Sequence[TraceRow]) -> list[TraceRow]:
    """Rows in the order in which a traffic has them."""
    return sorted(rows, key=lambda row: (row.enqueued_at_ns, row.dequeued_at_ns, row.execution_id))


def traffic_of(rows: Sequence[TraceRow]) -> tuple[Traffic, list[Pool]]:
    """Recorded executions as traffic, and the workers that took them. Every row's worker took part with all it did."""
    ordered = in_order(rows)
    traffic = Traffic(
        sorted({row.job for row in ordered}),
        sorted({name for row in ordered for name in (row.queue, *row.worker_queues)}),
        ordered[0].enqueued_at_ns if ordered else 0,
    )
    origin = traffic.origin_ns
    jobs = {name: index for index, name in enumerate(traffic.jobs)}
    queues = {name: index for index, name in enumerate(traffic.queues)}
    for row in ordered:
        taken_ns = max(row.dequeued_at_ns, row.enqueued_at_ns)
        traffic.arrival.append((row.enqueued_at_ns - origin) / _SECOND_NS)
        traffic.job.append(jobs[row.job])
        traffic.queue.append(queues[row.queue])
        traffic.service.append(max(0, row.reaped_at_ns - taken_ns) / _SECOND_NS)
        traffic.waited.append((taken_ns - row.enqueued_at_ns) / _SECOND_NS)
    traffic.overhead, traffic.between = _overheads(ordered)
    traffic.fronts = _fronts(ordered)
    _link(traffic, ordered)
    return traffic, _pools(ordered, origin)


def _overheads(rows: Sequence[TraceRow]) -> tuple[list[float], list[float]]:
    """When a worker waited for the job, and when the job waited for a worker."""
    found = [0.0] * len(rows)
    waited = [False] * len(rows)
    free: dict[str, int] = {}
    for index in sorted(range(len(rows)), key=lambda index: (rows[index].dequeued_at_ns, rows[index].reaped_at_ns)):
        row = rows[index]
        free_ns = free.get(row.worker, row.enqueued_at_ns)
        waited[index] = free_ns > row.enqueued_at_ns
        found[index] = max(0, row.dequeued_at_ns - max(row.enqueued_at_ns, free_ns)) / _SECOND_NS
        free[row.worker] = max(free.get(row.worker, 0), row.reaped_at_ns)
    rng = Random(1)  # noqa: S311 -- no secret
    cases = []
    for case in (False, True):
        own = [each for each, of in zip(found, waited, strict=True) if of is case] or found
        usual = median(own) if own else 0.0
        if usual > AT_ONCE_S:  # seldom was anybody there: what the quickest needed is all that is known
            usual = min(own)
        most = max(_FAR_S, _FAR * usual)
        known = [each if each <= most else usual for each in own]
        cases.append(
            [
                (each if each <= most else usual) if of is case else rng.choice(known)
                for each, of in zip(found, waited, strict=True)
            ]
        )
    return cases[0], cases[1]


def _fronts(rows: Sequence[TraceRow]) -> set[int]:
    """Rows that overtook others of their queue."""
    fronts: set[int] = set()
    slack = AT_ONCE_S * _SECOND_NS
    by_queue: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_queue.setdefault(row.queue, []).append(index)
    for members in by_queue.values():
        members.sort(key=lambda index: (rows[index].dequeued_at_ns, rows[index].enqueued_at_ns))
        in_order = _longest_in_order([rows[index].enqueued_at_ns for index in members])
        # The enqueue of the next one in order after each position, and when that one was taken.
        following: tuple[int, int] | None = None
        for position in range(len(members) - 1, -1, -1):
            row = rows[members[position]]
            if position in in_order:
                following = (row.enqueued_at_ns, row.dequeued_at_ns)
            elif (
                following is not None
                and row.enqueued_at_ns > following[0] + slack
                and following[1] > row.dequeued_at_ns + slack
            ):
                fronts.add(members[position])
    return fronts


def _longest_in_order(values: Sequence[int]) -> set[int]:
    """Positions of a longest non-decreasing subsequence."""
    tails: list[int] = []
    last: list[int] = []  # position of the element at the end of each length
    before: list[int] = []
    for position, value in enumerate(values):
        length = bisect_right(tails, value)
        before.append(last[length - 1] if length else -1)
        if length == len(tails):
            tails.append(value)
            last.append(position)
        else:
            tails[length] = value
            last[length] = position
    found: set[int] = set()
    position = last[-1] if last else -1
    while position >= 0:
        found.add(position)
        position = before[position]
    return found


def _link(traffic: Traffic, rows: Sequence[TraceRow]) -> None:
    by_job: dict[str, list[int]] = {}
    executions: dict[str, int] = {}
    for index, row in enumerate(rows):
        by_job.setdefault(row.job_id, []).append(index)
        executions[row.execution_id] = index
    for index, row in enumerate(rows):
        if row.route == "requeued":  # by hand: at that moment, whatever was before
            continue
        if row.route == "deferred":
            cause, from_end = _released_by(rows, index, by_job), True
        elif row.attempt > 1 or row.route == "repeated":
            cause, from_end = _run_before(rows, index, by_job), True
        else:
            cause, from_end = _parent(rows, index, executions), False
        if cause is None:
            continue
        since_ns = rows[cause].reaped_at_ns if from_end else rows[cause].dequeued_at_ns
        delay = max(0, row.enqueued_at_ns - since_ns) / _SECOND_NS
        traffic.links.setdefault(cause, []).append(Link(index, delay, from_end))
        traffic.linked.add(index)


def _run_before(rows: Sequence[TraceRow], index: int, by_job: dict[str, list[int]]) -> int | None:
    """The attempt before this one, or the repetition."""
    row = rows[index]
    wanted = row.attempt if row.route == "repeated" else row.attempt - 1
    return next(
        (
            each
            for each in _earlier(by_job[row.job_id], index)
            if rows[each].attempt == wanted and rows[each].dequeued_at_ns <= row.enqueued_at_ns
        ),
        None,
    )


def _released_by(rows: Sequence[TraceRow], index: int, by_job: dict[str, list[int]]) -> int | None:
    """The dependency that was done last, when the job came to its queue at once after that."""
    at_ns = rows[index].enqueued_at_ns
    last = [next(_earlier(by_job.get(job_id, ()), index), None) for job_id in rows[index].depends_on]
    found = max((each for each in last if each is not None), key=lambda each: rows[each].reaped_at_ns, default=None)
    if found is None:
        return None
    after_s = (at_ns - rows[found].reaped_at_ns) / _SECOND_NS
    return found if -_CHILD_SLACK_S <= after_s <= _RELEASED_S else None


def _earlier(indices: Sequence[int], index: int) -> Iterator[int]:
    """Those before an index, the nearest first."""
    return (indices[place] for place in range(bisect_left(indices, index) - 1, -1, -1))


def _parent(rows: Sequence[TraceRow], index: int, executions: dict[str, int]) -> int | None:
    """The execution that enqueued the job, and did so to have it run at once."""
    row = rows[index]
    parent = executions.get(row.parent_execution_id) if row.parent_execution_id else None
    if parent is None or row.scheduled or parent == index:
        return None
    done_ns = rows[parent].reaped_at_ns + _CHILD_SLACK_S * _SECOND_NS
    return parent if rows[parent].dequeued_at_ns <= row.enqueued_at_ns <= done_ns else None


def _pools(rows: Sequence[TraceRow], origin: int) -> list[Pool]:
    """Workers by what they listen to. Where that is not recorded, a worker listens to what it took."""
    lists: dict[str, tuple[str, ...]] = {}
    taken: dict[str, list[str]] = {}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    busy: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        busy.setdefault(row.worker, []).append((row.dequeued_at_ns, row.reaped_at_ns))
        if row.worker_queues:
            lists[row.worker] = tuple(row.worker_queues)
        elif row.queue not in taken.setdefault(row.worker, []):
            taken[row.worker].append(row.queue)
        first[row.worker] = min(first.get(row.worker, row.dequeued_at_ns), row.dequeued_at_ns)
        last[row.worker] = max(last.get(row.worker, row.reaped_at_ns), row.reaped_at_ns)
    pools: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    late = [row for row in rows if row.dequeued_at_ns - row.enqueued_at_ns > AT_ONCE_S * _SECOND_NS]
    for worker in first:
        queues = lists.get(worker) or tuple(taken[worker])
        waited = [row for row in late if row.queue in queues]
        start = max((row.dequeued_at_ns for row in waited if row.dequeued_at_ns < first[worker]), default=None)
        end = min((row.enqueued_at_ns - 1_000 for row in waited if row.enqueued_at_ns > last[worker]), default=None)
        begin = -inf if start is None else (start - origin) / _SECOND_NS
        for gone_ns, back_ns in _away(sorted(busy[worker]), waited):
            pools.setdefault(queues, []).append((begin, (gone_ns - origin) / _SECOND_NS))
            begin = (back_ns - origin) / _SECOND_NS
        pools.setdefault(queues, []).append(
            (begin, inf if end is None else (max(end, last[worker]) - origin) / _SECOND_NS)
        )
    return [Pool(queues, tuple(sorted(spans))) for queues, spans in sorted(pools.items())]


def _away(busy: Sequence[tuple[int, int]], waited: Sequence[TraceRow]) -> list[tuple[int, int]]:
    """Stretches between a worker's executions (by time) in which jobs waited that it would have taken. It left just
    before the first of them came."""
    away_ns = int(AWAY_S * _SECOND_NS)
    waits = merged([(row.enqueued_at_ns, row.dequeued_at_ns) for row in waited])
    found: list[tuple[int, int]] = []
    position = 0
    free_ns = busy[0][1]
    for begun_ns, done_ns in busy[1:]:
        while position < len(waits) and waits[position][1] <= free_ns:
            position += 1
        index = position
        while index < len(waits) and waits[index][0] < begun_ns:
            since, until = max(waits[index][0], free_ns), min(waits[index][1], begun_ns)
            if until - since >= away_ns:
                found.append((since - 1_000, until))
            index += 1
        free_ns = max(free_ns, done_ns)
    return found


def merged(stretches: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union of stretches, by time."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(stretches):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        elif end > begin:
            found.append((begin, end))
    return found


def steady(queues: Sequence[str], workers: int, strategy: Strategy = "default") -> Pool:
    """So many workers that are there all the time."""
    return Pool(tuple(queues), ((-inf, inf),) * workers, strategy)
