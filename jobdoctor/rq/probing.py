"""The probes, seen from the worker: installed once in its process, so that a fork inherits them."""

from __future__ import annotations

from jobdoctor.capture.probes import registry
from jobdoctor.model import ProbeStatus

#: What each probe had patched when it was last asked, and what was said then: asked for every job, it rarely changes.
_seen: list[tuple[int, str]] = []
_said: list[ProbeStatus] = []


def install_probes() -> None:
    """Wraps the libraries that are imported, and those that will be."""
    registry.install_all()


def probe_statuses() -> list[ProbeStatus]:
    """What each probe sees in this process, the enqueues of ``stamps`` among them."""
    global _seen, _said
    seen = [(len(probe.patched), probe.failure) for probe in registry.PROBES]
    if seen != _seen or not _said:
        _said = [*registry.statuses(), ProbeStatus("enqueue", "rq", "active")]
        _seen = seen
    return _said
