"""Each test begins and ends without jobdoctor's wrappers in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobdoctor.capture import exits
from jobdoctor.capture.probes import registry
from jobdoctor.rq import stamps


@pytest.fixture(autouse=True)
def _nothing_is_wrapped() -> Iterator[None]:
    yield
    stamps.uninstall()
    exits.uninstall()
    registry.uninstall_all()
