"""Children of the test: sampled while they run, as the witness does it beside a worker, or to measure in peace."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from resource import struct_rusage
from typing import TypeVar

from jobdoctor.capture.sampler import Sampler

_T = TypeVar("_T")


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


def in_a_fork(measure: Callable[[], _T]) -> _T:
    """What ``measure`` returns (which JSON has) in a child without this process' other threads: nothing but what it
    does moves the counts of references, blocks and descriptors there."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, json.dumps(measure()).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        answer = said.read()
    assert os.waitpid(pid, 0)[1] == 0
    return json.loads(answer)  # type: ignore[no-any-return]
