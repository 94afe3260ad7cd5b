"""What commands that read the store share: draining the stream first, the jobs in a window, their diagnoses."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from jobdoctor.cli.output import note
from jobdoctor.cli.progress import progress
from jobdoctor.errors import StoreError, UnknownJobError
from jobdoctor.model import Diagnosis

if TYPE_CHECKING:
    from jobdoctor.config import Settings
    from jobdoctor.store import Store


def drained(store: Store, settings: Settings, quiet: bool) -> None:
    """Move what is still on the stream to the store."""
    from jobdoctor.store import drain

    with progress("Collecting recordings", quiet) as advance:
        result = drain(store, settings.redis_url, progress=lambda moved, left: advance(moved, moved + left))
    if result.skipped:
        note(f"Note: {result.skipped}", quiet=quiet)
    if result.lost:
        note(f"Note: {result.lost:,} recordings were lost before they were collected", quiet=quiet)


def recorded_jobs(store: Store, since: int | None) -> list[str]:
    """The jobs in the window; UnknownJobError, with the way out, when there is none."""
    jobs = store.jobs(since)
    if not jobs and since and not store.is_empty():
        raise UnknownJobError(f"no recordings in {store.where} in this window", "widen --since")
    if not jobs:
        raise UnknownJobError(f"no recordings in {store.where}", "run `jobdoctor run` first")
    return jobs


def diagnosis_of(store: Store, settings: Settings, job: str, job_id: str | None, since: int | None) -> Diagnosis:
    """The diagnosis of one job, or of one job id, with the project's own SLOs and limits."""
    from jobdoctor.diagnosis.engine import diagnose

    history = store.history(job, since, job_id=job_id)
    if job in settings.slo_ms:
        history = replace(history, slo_ms=settings.slo_ms[job])
    return diagnose(history, overrides=settings.limits)


def keep_promises(store: Store, diagnosis: Diagnosis) -> None:
    """What the findings of a whole job promise to somebody who has read them, for the report after the next deploy."""
    from jobdoctor.diagnosis.predictions import predictions

    with suppress(StoreError):  # who may only read the store has the report all the same
        store.remember(predictions(diagnosis.history, diagnosis.findings, time.time_ns()))


def each_diagnosis(
    store: Store, settings: Settings, jobs: Sequence[str], since: int | None, quiet: bool
) -> Iterator[Diagnosis]:
    """The diagnoses of these jobs, with a progress bar."""
    with progress("Diagnosing", quiet) as advance:
        for number, job in enumerate(jobs):
            advance(number, len(jobs))
            try:
                yield diagnosis_of(store, settings, job, None, since)
            except UnknownJobError as error:
                # Its last execution was pruned, or ended before the window, since the jobs were listed.
                note(f"Note: {error.what}", quiet=quiet)
