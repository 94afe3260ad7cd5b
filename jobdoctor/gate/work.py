"""How much Python a run executes: its lines, counted. The same code on the same data gives the same number, however
busy the machine is; it is what a processor's count of instructions is to other languages, where virtual machines of CI
have none.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

#: What records a run is no work of the run.
_OURS = str(Path(__file__).parent.parent)


@contextmanager
def untraced() -> Iterator[None]:
    """Coverage, debuggers and profilers wait: they make each line of Python slower, and calls into C not at all."""
    tracer, profiler, of_threads = sys.gettrace(), sys.getprofile(), threading.gettrace()
    _trace(None, None)
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.setprofile(profiler)
        _trace(tracer, of_threads)


def lines_of(run: Callable[[], object]) -> int:
    """Lines of Python that ``run`` executes in this thread and in those that it starts, without those of jobdoctor.
    What traces meanwhile waits. ``run`` takes about twice as long."""
    lines = 0

    def within(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
        return within

    def entered(frame: FrameType, _event: str, _argument: Any) -> Any:
        return None if frame.f_code.co_filename.startswith(_OURS) else within

    with untraced():
        _trace(entered, entered)
        try:
            run()
        finally:
            _trace(None, None)
    return lines


def _trace(this_thread: Any, new_threads: Any) -> None:
    threading.settrace(new_threads)
    sys.settrace(this_thread)
