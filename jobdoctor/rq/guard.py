"""The one place where a failure of ours ends: logged, remembered for the recording, and without effect on RQ."""

from __future__ import annotations

import logging
from types import TracebackType

from jobdoctor.capture.foreign import foreign

logger = logging.getLogger("jobdoctor")

#: What was logged already: (hook, type of the error). Once for each kind, so that a worker's log stays readable.
_logged: set[tuple[str, str]] = set()


class Guard:
    """``with guard("fork_work_horse"): ...`` -- what fails inside is said in ``problems`` and swallowed."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._hooks: list[str] = []  # guards may stand within one another

    def __call__(self, hook: str) -> Guard:
        self._hooks.append(hook)
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        hook = self._hooks.pop()
        if error is None or foreign(error):
            return False
        self.say(hook, error)
        return True

    def say(self, hook: str, error: BaseException) -> None:
        """Remembers a failure, and logs the first of its kind."""
        problem = f"{hook} failed: {type(error).__name__}: {error}"[:300]
        if problem not in self.problems and len(self.problems) < 20:
            self.problems.append(problem)
        log(hook, type(error).__name__, problem, error)


def log(hook: str, kind: str, problem: str, error: BaseException | None = None) -> None:
    """Logs the first problem of its kind."""
    if (hook, kind) not in _logged and len(_logged) < 200:
        _logged.add((hook, kind))
        logger.warning("jobdoctor: %s; the job is not affected", problem, exc_info=error)
