"""The probes, seen from the worker: installed once in its process, so that a fork inherits them."""

from __future__ import annotations

from jobdoctor.capture.probes import registry
from jobdoctor.model import ProbeStatus

#: How far the registry had counted when the probes were last asked, and what they said then. Asking touches many
#: objects, and each page of them that a horse touches is copied.
_changes = -1
_said: list[ProbeStatus] = []
_told: list[ProbeStatus] = []


def install_probes() -> None:
    """Wraps the libraries that are imported, and those that will be."""
    registry.install_all()


def probe_statuses() -> list[ProbeStatus]:
    """What each probe sees in this process, the enqueues of ``stamps`` among them; the same list until it changes."""
    global _changes, _said
    changes = registry.changes()
    if changes != _changes:
        said = [*registry.statuses(), ProbeStatus("enqueue", "rq", "active")]
        if said != _said:
            _said = said
        _changes = changes
    return _said


def tell_witness() -> None:
    """To be called before a witness is forked: it inherits what the probes say now."""
    global _told
    _told = probe_statuses()


def unknown_to_witness() -> list[ProbeStatus]:
    """What the probes have come to say since."""
    found = probe_statuses()
    return [] if found is _told else [status for status in found if status not in _told]
