"""The probes, seen from the worker: installed once in its process, so that a fork inherits them."""

from __future__ import annotations

from jobdoctor.capture.probes import registry
from jobdoctor.model import ProbeStatus


def install_probes() -> None:
    """Wraps the libraries that are imported, and those that will be."""
    registry.install_all()


def probe_statuses() -> list[ProbeStatus]:
    """What each probe sees in this process, the enqueues of ``stamps`` among them."""
    return [*registry.statuses(), ProbeStatus("enqueue", "rq", "active")]
