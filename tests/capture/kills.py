"""Kills recording processes at random moments and reads what they left; run by test_recorder_limits.

``python -m tests.capture.kills c|python NUMBER`` prints the number of kills, of those that had counted a call, and of
those that died within one. It fails when a recording does not read back, counts more or less than the truth, or names
another call than the one that was running.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import signal
import sys
import threading
import time

from jobdoctor.capture import layout, recorder, recording
from jobdoctor.capture.recorder import PythonRecorder, Recorder

_SHAPES = 7


def _killed(rec: Recorder, truth: memoryview) -> None:
    """In a forked child: calls without end, of two threads. The truth is written before and after each."""
    recorder.start(rec)
    rec.mark("body")

    def work(thread: int) -> None:
        for number in itertools.count(1):
            shape = rec.shape("sql", "SELECT", f"thread {thread} shape {number % _SHAPES}")
            truth[3 * thread + 2] = number % _SHAPES
            truth[3 * thread] = number
            call = rec.begin(shape, params=number)
            assert call is not None
            call.end(rows=1, error=ValueError() if number % 5 == 0 else None)
            truth[3 * thread + 1] = number
            if number > 5 and thread == 0 and number % 50 == 0:
                time.sleep(0)

    threading.Thread(target=work, args=(1,), daemon=True).start()
    work(0)


def kill(kind: type[Recorder], kills: int) -> tuple[int, int]:
    """Kills so many; how many of them had counted a call, and how many died within one."""
    truth = memoryview(mmap.mmap(-1, 4096)).cast("q")
    rec = kind(recorder.open_memory().buffer)
    running = counted = 0
    for attempt in range(kills):
        truth[:] = memoryview(bytes(4096)).cast("q")
        pid = os.fork()
        if pid == 0:
            try:
                _killed(rec, truth)
            finally:
                os._exit(1)
        give_up = time.monotonic() + 0.1
        while attempt % 5 and not truth[0] and time.monotonic() < give_up:  # every fifth dies at its start
            time.sleep(0.0002)
        time.sleep(random.random() * 0.004)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        read = recording.read(rec.buffer)
        begun, ended = truth[0] + truth[3], truth[1] + truth[4]
        # Each call that returned is counted, and none that did not begin.
        assert ended <= read.calls <= begun
        assert all(
            group.errors - group.count <= 1 and group.rows in (group.count, group.count + 1)
            for group in read.groups
            if group.count
        )
        flying = recording._flights(rec.words)
        assert begun - read.calls <= 2
        for cell, _start, thread, number in flying:
            # It is the call that its thread was in: begun, and not returned.
            assert number == truth[3 * thread]
            assert truth[3 * thread + 1] == number - 1
            shape = recording._View(rec.buffer).shape(rec.words[layout.CELLS_AT // 8 + cell * layout.CELL_WORDS])
            assert shape[2] == f"thread {thread} shape {number % _SHAPES}"
        running += bool(flying)
        counted += read.calls > 0
        rec.reset()
    return counted, running


if __name__ == "__main__":
    wanted, number = sys.argv[1], int(sys.argv[2])
    print(number, *kill(PythonRecorder if wanted == "python" else Recorder, number))
