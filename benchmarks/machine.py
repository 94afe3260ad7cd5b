"""Where a table comes from: the date, the machine, its load, the versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime

from rq.version import VERSION as RQ_VERSION


def heading(command: str, loads: Sequence[float]) -> str:
    """One line; ``loads`` are load averages over 1 minute, in the order in which they were read."""
    machine = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores"
    measured = " / ".join(f"{load:.1f}" for load in loads)
    versions = f"Python {platform.python_version()}, RQ {RQ_VERSION}"
    return f"`{command}`, {datetime.now(UTC):%Y-%m-%d}: {machine}, {versions}; load (1 minute) {measured}."
