"""Children of the test that are sampled while they run, as the witness does it beside a worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from resource import struct_rusage

from jobdoctor.capture.sampler import Sampler


def sampled_until_gone(
    pid: int, watched: Sampler, on_sample: Callable[[], None] = lambda: None
) -> tuple[int, int, struct_rusage]:
    """What ``os.wait4`` says of the child, which is sampled until then."""
    while True:
        watched.sample()
        on_sample()
        until = time.perf_counter() + watched.interval_s()
        while time.perf_counter() < until:
            done = os.wait4(pid, os.WNOHANG)
            if done[0]:
                return done
            time.sleep(0.001)
