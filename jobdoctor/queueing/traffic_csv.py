"""Traffic from CSV: ``arrival_s,job,service_s`` and, where there are several queues, ``queue``; or with ; and tabs."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from itertools import chain
from math import isfinite

from jobdoctor.errors import ConfigError
from jobdoctor.queueing.traffic import Traffic

NEEDED = ("arrival_s", "job", "service_s")
QUEUE = "default"
_EXAMPLE = "write a heading arrival_s,job,service_s (queue may follow), then one line for each job"


def read(lines: Iterable[str], name: str) -> Traffic:
    """The traffic of a file; ``name`` is for messages. Other columns are passed over.

    ConfigError for missing columns, for what is no number or is negative, for arrivals that are not in order, and for
    a file without jobs.
    """
    remaining = iter(lines)
    rows = csv.reader(remaining)
    try:
        first = next(remaining, "")
        rows = csv.reader(chain([first], remaining), delimiter=max(",;\t", key=first.count))
        heading = [cell.strip().lower().lstrip("\ufeff") for cell in next(rows, [])]
        missing = [column for column in NEEDED if column not in heading]
        if missing:
            there = ", ".join(cell for cell in heading if cell)[:200] or "none"
            raise ConfigError(f"{name} has no column {' and no column '.join(missing)}; columns: {there}", _EXAMPLE)
        return _traffic(rows, heading, name)
    except csv.Error as error:
        raise ConfigError(f"{name} line {rows.line_num}: {error}", _EXAMPLE) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name} is not text in UTF-8", _EXAMPLE) from None


def _traffic(rows: Iterable[list[str]], heading: list[str], name: str) -> Traffic:
    at, job, service = (heading.index(column) for column in NEEDED)
    queue = heading.index("queue") if "queue" in heading else -1
    traffic = Traffic([], [])
    jobs: dict[str, int] = {}
    queues: dict[str, int] = {}
    last = float("-inf")
    for number, cells in enumerate(rows, 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < len(heading):
            raise ConfigError(f"{name} line {number} has {len(cells)} of {len(heading)} columns", _EXAMPLE)
        arrival = _number(cells[at], "arrival_s", name, number)
        if arrival < last:
            raise ConfigError(
                f"{name} line {number}: arrival_s {arrival:g} after {last:g}", "sort the lines by arrival_s"
            )
        last = arrival
        kind = cells[job].strip()
        if not kind:
            raise ConfigError(f"{name} line {number} names no job", _EXAMPLE)
        where = (cells[queue].strip() if queue >= 0 else "") or QUEUE
        traffic.arrival.append(arrival)
        traffic.job.append(jobs.setdefault(kind, len(jobs)))
        traffic.queue.append(queues.setdefault(where, len(queues)))
        traffic.service.append(_number(cells[service], "service_s", name, number))
        traffic.overhead.append(0.0)
    if not len(traffic):
        raise ConfigError(f"{name} has no jobs", _EXAMPLE)
    traffic.jobs, traffic.queues = list(jobs), list(queues)
    return traffic


def _number(text: str, column: str, name: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(
            f"{name} line {line}: {column} {text[:40]!r} is no number", "give seconds, such as 0.5"
        ) from None
    if value < 0 or not isfinite(value):
        raise ConfigError(f"{name} line {line}: {column} is {text.strip()[:40]}", "give seconds, from 0 on")
    return value
