"""A progress bar for long work: on standard error, so that pipes stay clean, and on a terminal only."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: A bar that is gone before it is read is noise.
PROGRESS_AFTER_S = 1.0


class Bar:
    """A progress bar that begins once the work has taken a second, whether the work tells how far it is or not."""

    def __init__(self, title: str, quiet: bool) -> None:
        self._title = title
        self._lock = threading.Lock()
        self._closed = False
        self._told: tuple[int, int] | None = None
        self._progress: Any = None
        self._task: Any = None
        self._timer: threading.Timer | None = None
        if not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._timer = threading.Timer(PROGRESS_AFTER_S, self._begin)
            self._timer.daemon = True
            self._timer.start()

    def __call__(self, done: int, total: int) -> None:
        with self._lock:
            self._told = (done, total)
            self._show()

    def close(self) -> None:
        """Clear it, and let no later one begin."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._progress is not None:
                self._progress.stop()

    def _begin(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        with self._lock:
            if self._closed:
                return
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[so_far]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=False,  # what is printed meanwhile may be on its way into a pipe
            )
            self._task = self._progress.add_task(self._title, total=None, so_far="")
            self._show()
            self._progress.start()

    def _show(self) -> None:
        if self._progress is not None and self._told is not None:
            done, total = self._told
            self._progress.update(self._task, completed=done, total=total, so_far=f"{done:,} of {total:,}")


@contextmanager
def progress(title: str, quiet: bool) -> Iterator[Bar]:
    """A bar that is cleared at the end; call it with what is done and what there is, where that is known."""
    bar = Bar(title, quiet)
    try:
        yield bar
    finally:
        bar.close()
