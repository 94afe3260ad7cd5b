"""A progress bar for long work: on standard error, so that pipes stay clean."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: A bar that is gone before it is read is noise.
PROGRESS_AFTER_S = 1.0


class Bar:
    """A progress bar on standard error that begins once the work has taken a second."""

    def __init__(self, title: str, quiet: bool) -> None:
        self._title = title
        self._quiet = quiet
        self._began = time.monotonic()
        self._progress: Any = None
        self._task: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self._progress is None:
            if self._quiet or time.monotonic() - self._began < PROGRESS_AFTER_S:
                return
            from rich.console import Console
            from rich.progress import Progress

            console = Console(stderr=True)
            self._progress = Progress(console=console, transient=True, disable=not console.is_terminal)
            self._task = self._progress.add_task(self._title, total=total)
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


@contextmanager
def progress(title: str, quiet: bool) -> Iterator[Bar]:
    """A bar that is cleared at the end; call it with what is done and what there is."""
    bar = Bar(title, quiet)
    try:
        yield bar
    finally:
        bar.close()
