"""Formulas for c workers and one queue: M/M/c (Erlang C) and the Allen-Cunneen approximation of G/G/c.

A cross-check on what the trace shows, and the way from an objective to a number of workers. Sources: A. K. Erlang
(1917) for the probability of waiting; A. O. Allen, "Probability, Statistics, and Queueing Theory" (2nd ed., 1990),
section 5.3, for the approximation.
"""

from __future__ import annotations

from math import inf


def erlang_c(workers: int, load: float) -> float:
    """Probability that an arrival has to wait in M/M/c; 1 when ``load`` (Erlangs) is at least ``workers``."""
    if load <= 0:
        return 0.0
    if load >= workers:
        return 1.0
    blocking = 1.0  # Erlang B, by its stable recursion
    for count in range(1, workers + 1):
        blocking = load * blocking / (count + load * blocking)
    return blocking / (1.0 - load / workers * (1.0 - blocking))


def mean_wait_s(
    rate_per_s: float, mean_service_s: float, workers: int, *, gap_cv: float = 1.0, service_cv: float = 1.0
) -> float:
    """Mean queue wait in seconds. With both coefficients of variation 1 it is exact (M/M/c); infinite when the load
    is not below the number of workers."""
    load = rate_per_s * mean_service_s
    if load <= 0:
        return 0.0
    if load >= workers:
        return inf
    markov = erlang_c(workers, load) * mean_service_s / (workers - load)
    return markov * (gap_cv**2 + service_cv**2) / 2.0


def workers_needed(
    rate_per_s: float,
    mean_service_s: float,
    objective_s: float,
    *,
    gap_cv: float = 1.0,
    service_cv: float = 1.0,
    max_utilisation: float = 0.8,
) -> int:
    """The fewest workers that keep the mean wait within ``objective_s`` and utilisation within ``max_utilisation``."""
    load = rate_per_s * mean_service_s
    workers = max(1, int(load / max_utilisation))
    while (
        load > workers * max_utilisation + 1e-9
        or mean_wait_s(rate_per_s, mean_service_s, workers, gap_cv=gap_cv, service_cv=service_cv) > objective_s
    ):
        workers += 1
        if workers > 10 * load + 100:  # an objective of 0 is never reached: more workers would not help
            break
    return workers
