"""Lets the shop enqueue what the catalogue plans: lane by lane, round by round, against workers that run elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import redis
from rq.job import Job, JobStatus

from sample_app.catalogue import CASES, LANES, QUICK_ROUNDS, ROUNDS, Case, Load
from sample_app.shop import Shop

#: How long the jobs of one round may take before the demo gives up, in seconds.
PATIENCE_S = 120.0
POLL_S = 0.01
#: Between the end of a job, as RQ sees it, and the worker's asking for the next one.
BREATH_S = 0.03

_DONE = frozenset({JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED})


class TrafficError(RuntimeError):
    """Jobs did not end in time, or the shop could not enqueue."""


def loads_of(lane: str) -> list[Load]:
    """The loads of a lane in the catalogue's order."""
    return [load for case in CASES for load in (case.sick, case.healthy) if load.lane == lane]


def rounds_of(load: Load, quick: bool) -> int:
    """A quick demo has fewer rounds, except of loads whose own number of rounds is what they are about."""
    return QUICK_ROUNDS if quick and load.rounds == ROUNDS else load.rounds


def run_phase(
    connection: redis.Redis,
    phase: int,
    *,
    quick: bool = False,
    on_round: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Runs all lanes of a phase at the same time and returns when their jobs are done.

    ``on_round`` is called after each round, from the lanes' threads; ``check`` now and then from this thread: what it
    raises ends the phase.
    """
    _run_together(connection, [loads_of(lane.name) for lane in LANES if lane.phase == phase], quick, on_round, check)


def run_alone(
    connection: redis.Redis,
    case: Case,
    *,
    quick: bool = False,
    on_round: Callable[[], None] = lambda: None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Runs one pair and nothing beside it, the sick job and its twin in turns: what differs is then the cure."""
    _run_together(connection, [[case.sick, case.healthy]], quick, on_round, check)


def _run_together(
    connection: redis.Redis,
    lanes: Sequence[Sequence[Load]],
    quick: bool,
    on_round: Callable[[], None],
    check: Callable[[], None],
) -> None:
    stop = threading.Event()
    errors: list[Exception] = []

    def run(loads: Sequence[Load]) -> None:
        try:
            _run_lane(Shop(connection), loads, quick, on_round, stop)
        except Exception as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=run, args=[loads], name="lane", daemon=True) for loads in lanes]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            check()
            for thread in threads:
                thread.join(0.1)
    finally:
        stop.set()
    if errors:
        raise errors[0]


def _run_lane(
    shop: Shop, loads: Sequence[Load], quick: bool, on_round: Callable[[], None], stop: threading.Event
) -> None:
    for load in loads:
        if load.prepare is not None:
            load.prepare(shop)
    under_way: list[Job] = []
    for number in range(max((rounds_of(load, quick) for load in loads), default=0)):
        for load in loads:
            if number >= rounds_of(load, quick) or stop.is_set():
                continue
            jobs = load.enqueue(shop, number)
            if load.pause_ms is None:
                wait_for(jobs, stop)
                time.sleep(BREATH_S)
            else:
                under_way += jobs
                time.sleep(load.pause_ms / 1000)
            on_round()
    wait_for(under_way, stop)


def wait_for(jobs: Sequence[Job], stop: threading.Event | None = None) -> None:
    """Returns when all the jobs have ended, with all their retries."""
    deadline = time.monotonic() + PATIENCE_S
    for job in jobs:
        while job.get_status(refresh=True) not in _DONE:
            if stop is not None and stop.is_set():
                return
            if time.monotonic() > deadline:
                raise TrafficError(f"{job.func_name} did not end within {PATIENCE_S:.0f} s; is a worker running?")
            time.sleep(POLL_S)
