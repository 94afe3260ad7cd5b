"""A worker's part in keeping promises: which jobs it takes, and which of them it moves on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jobdoctor.promises import seconds_of_queue
from jobdoctor.rq.slo_state import VARIABLE, minded

if TYPE_CHECKING:
    from jobdoctor.config import Settings


class Promises:
    """What stands between RQ's dequeue and the worker. One for each worker that minds the promises."""

    def __init__(self, worker: Any, settings: Settings, *, gated: bool, listens: bool) -> None:
        from jobdoctor.rq.slo_gate import SloGate  # by these workers only
        from jobdoctor.rq.slo_listen import Listening

        self._gate = SloGate(worker, settings) if gated else None
        self._listening = Listening(worker) if listens else None

    def dequeue(
        self, original: Callable[..., Any], timeout: int | None, max_idle_time: int | None = None, **more: Any
    ) -> Any:
        """RQ's step, again and again while what it brings is moved to the slowest queue."""
        while True:
            if self._listening is None:
                taken = original(timeout, max_idle_time, **more)
            else:
                taken = self._listening.dequeue(original, timeout, max_idle_time, **more)
            if taken is None or self._gate is None or not self._gate.moved(*taken):
                return taken


def promises_of(worker: Any) -> Promises | None:
    """None for a worker that does not mind them: RQ's step stays as it is."""
    listens = bool(os.environ.get(VARIABLE))
    if not listens and not any(seconds_of_queue(queue.name) for queue in worker.queues):
        return None
    from jobdoctor import config  # other workers do without

    settings = config.load()
    gated = minded(settings)
    return Promises(worker, settings, gated=gated, listens=listens) if gated or listens else None
