"""What belongs to a worker is counted, wherever it went."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import processes

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc, which is not here")

#: Burns CPU in a child that it reaps, in a living one, and in one that has left its session and its parent.
_WORKER = """
import os, sys, time
def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until: pass
def start(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid
os.waitpid(start(lambda: burn(0.1)), 0)
ready, told = os.pipe()
def helper():
    burn(0.1)
    os.write(told, b'.')
    sys.stdin.read()
def distant():
    os.setsid()
    helper()
start(helper)
start(distant)
os.waitpid(start(lambda: start(helper)), 0)
for _ in range(3): os.read(ready, 1)
burn(0.1)
print('ready', flush=True)
sys.stdin.read()
"""


def test_cpu_of_a_worker_with_all_that_is_its_own() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        # Five times 100 ms: the worker, a reaped child, a helper, one in another session, one without its parent.
        cpu_ms = processes.cpu_ms(worker.pid)
        resident, proportional = processes.resident_mb(worker.pid), processes.proportional_mb(worker.pid)
        worker.communicate()
    assert 450 <= cpu_ms < 1_500
    assert 1 < resident < 200
    assert 1 < proportional < 400


def test_a_process_that_is_gone_has_nothing() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert processes.cpu_ms(pid) == 0
    assert processes.proportional_mb(pid) == 0
