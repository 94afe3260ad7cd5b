"""A discrete-event replay of traffic under RQ's own order rules. It moves nothing: it only computes.

The rules, as RQ 2 and 3 have them (``Queue.lpop``, ``Queue.lmove``, ``Worker.reorder_queues``):

- A worker that is free looks at its queues in its order and takes the job at the front of the first that has one. With
  ``round_robin`` the queue it took from goes to the end of its order; with ``random`` the order is shuffled.
- A job that arrives while workers wait goes to the one that has waited longest, as Redis serves its blocked clients.
- A job put in *at front* goes before all that are there. A retry comes back, after its delay, at the end.
- A worker runs one job at a time and nothing interrupts it. It is free again after the job's service time, from being
  taken to reap; what RQ does around the job (fork, bookkeeping) is in the recorded times.
- A worker that leaves finishes the job it has.

One heap of workers by the moment they are free, one of jobs that other jobs bring, a deque for each queue:
O(n (log workers + queues of a worker)).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import NamedTuple

from jobdoctor.queueing.traffic import Pool, Traffic


class Replayed(NamedTuple):
    """What came of it, one entry for each job of the traffic. Times are seconds since its origin."""

    arrival: list[float]  # of linked jobs: when they came in this replay
    taken: list[float]  # inf: nobody ever took it
    done: list[float]
    busy_s: float  # worker time spent

    def waits(self) -> list[float]:
        """Queue wait of each, in s."""
        return [taken - came for taken, came in zip(self.taken, self.arrival, strict=True)]


def replay(traffic: Traffic, pools: Sequence[Pool], *, seed: int = 1) -> Replayed:
    """Runs the traffic through these workers. Deterministic: ``seed`` is for workers with a random order."""
    arrival = list(traffic.arrival)
    service, overhead, queue_of = traffic.service, traffic.overhead, traffic.queue
    between = traffic.between or overhead
    links, fronts, linked = traffic.links, traffic.fronts, traffic.linked
    count = len(arrival)
    taken = [inf] * count
    done = [inf] * count
    busy_s = 0.0

    waiting: list[deque[int]] = [deque() for _ in traffic.queues]
    order: list[list[int]] = []  # of each worker: its queues
    pool_of: list[int] = []
    until: list[float] = []
    turns: list[str] = []
    free: list[tuple[float, int]] = []  # when, worker: those that are busy or not there yet
    listeners: list[list[int]] = [[] for _ in traffic.queues]  # pools
    idle: list[deque[tuple[float, int]]] = []  # of each pool: since when, worker
    rng = Random(seed)  # noqa: S311 -- no secret
    index_of = {name: index for index, name in enumerate(traffic.queues)}
    for pool_index, pool in enumerate(pools):
        heard = [index_of[name] for name in pool.queues if name in index_of]
        idle.append(deque())
        for queue in heard:
            listeners[queue].append(pool_index)
        for start, end in pool.spans:
            heappush(free, (start, len(order)))
            order.append(list(heard))
            pool_of.append(pool_index)
            until.append(end)
            turns.append(pool.strategy if len(heard) > 1 else "default")

    coming: list[tuple[float, int]] = []  # linked jobs on their way: when, which
    position = 0
    now = -inf
    while True:
        while position < count and position in linked:
            position += 1
        at = arrival[position] if position < count else inf
        if coming and coming[0][0] < at:
            at = coming[0][0]
        if free and free[0][0] <= at:
            now, worker = free[0]
            if now == inf:
                break
            heappop(free)
            if now > until[worker]:
                continue
            for queue in order[worker]:
                if waiting[queue]:
                    index = waiting[queue].popleft()
                    begin = now + between[index]
                    break
            else:
                idle[pool_of[worker]].append((now, worker))
                continue
        elif at == inf:
            break
        else:
            now = at
            if coming and coming[0][0] == at:
                index = heappop(coming)[1]
                arrival[index] = at
            else:
                index = position
                position += 1
            queue = queue_of[index]
            worker = -1
            heard_by = listeners[queue]
            while True:
                chosen = -1
                for pool_index in heard_by:
                    if idle[pool_index] and (chosen < 0 or idle[pool_index][0] < idle[chosen][0]):
                        chosen = pool_index
                if chosen < 0:
                    break
                worker = idle[chosen].popleft()[1]
                if until[worker] >= now:
                    break
                worker = -1
            if worker < 0:
                if index in fronts:
                    waiting[queue].appendleft(index)
                else:
                    waiting[queue].append(index)
                continue
            begin = now + overhead[index]
        end = begin + service[index]
        taken[index] = begin
        done[index] = end
        busy_s += end - now
        heappush(free, (end, worker))
        if turns[worker] != "default":
            if turns[worker] == "round_robin":
                own = order[worker]
                place = own.index(queue)
                order[worker] = own[place + 1 :] + own[: place + 1]
            else:
                rng.shuffle(order[worker])
        if index in links:
            for link in links[index]:
                heappush(coming, ((end if link.from_end else begin) + link.delay_s, link.to))
    return Replayed(arrival, taken, done, busy_s)
