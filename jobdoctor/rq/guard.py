"""The one place where a failure of ours ends: logged, remembered for the recording, and without effect on RQ."""

from __future__ import annotations

import logging
from types import FrameType, TracebackType

import rq.exceptions
import rq.worker
from rq.timeouts import BaseTimeoutException

logger = logging.getLogger("jobdoctor")

#: Raised by RQ's signal handlers (or timers), wherever the process happens to be: also in our own code. StopRequested
#: has moved between RQ's versions.
_OF_RQ: tuple[type[BaseException], ...] = (
    BaseTimeoutException,
    rq.exceptions.ShutDownImminentException,
    *(
        getattr(module, "StopRequested")  # noqa: B009 -- not in every version
        for module in (rq.exceptions, rq.worker)
        if hasattr(module, "StopRequested")
    ),
)
#: What was logged already: (hook, type of the error). Once for each kind, so that a worker's log stays readable.
_logged: set[tuple[str, type]] = set()


def not_ours(error: BaseException) -> bool:
    """Whether the exception was raised into our code from outside (a signal handler, a timer, an exit)."""
    if not isinstance(error, Exception) or isinstance(error, _OF_RQ):
        return True
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        arguments = [frame.f_locals.get(name) for name in frame.f_code.co_varnames[: frame.f_code.co_argcount]]
        # The shape of a signal handler: (number, interrupted frame).
        if any(isinstance(value, FrameType) for value in arguments) and any(type(value) is int for value in arguments):
            return True
        traceback = traceback.tb_next
    return False


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
        if error is None or not_ours(error):
            return False
        self.say(hook, error)
        return True

    def say(self, hook: str, error: BaseException) -> None:
        """Remembers a failure, and logs the first of its kind."""
        problem = f"{hook} failed: {type(error).__name__}: {error}"[:300]
        if problem not in self.problems and len(self.problems) < 20:
            self.problems.append(problem)
        if (hook, type(error)) not in _logged and len(_logged) < 200:
            _logged.add((hook, type(error)))
            logger.warning("jobdoctor: %s; the job is not affected", problem, exc_info=error)
