"""What a witness notes of promises: what was promised, whether the job had been moved, how long it kept the worker."""

from __future__ import annotations

from typing import Any

from jobdoctor.capture.assemble import ExecutionFacts
from jobdoctor.capture.recording import Recording
from jobdoctor.config import Settings
from jobdoctor.model import Execution
from jobdoctor.promises import SLOWEST_QUEUE, place_among
from jobdoctor.rq import slo_state
from jobdoctor.rq.messages import Begun


class PromiseRecord:
    """For all executions of a worker. Callers guard its methods."""

    def __init__(self, connection: Any, settings: Settings) -> None:
        self._connection = connection
        self._slos_ms = dict(settings.slo_ms)
        self._exempt = frozenset(settings.slo_exempt)
        self._minded = slo_state.minded(settings)
        self._listened: list[str] = []  # queues that the worker came to listen to, see ``slo_listen``

    def moved_from(self, begun: Begun) -> tuple[str, int]:
        """The queue out of which the job was moved, and when (ns since the epoch); empty and 0 when it was not."""
        if begun.queue != SLOWEST_QUEUE:
            return "", 0
        mark = self._connection.hget(begun.job_key, slo_state.MARK)
        text = mark.decode("utf-8", "replace") if isinstance(mark, bytes) else mark or ""
        queue, _, rest = text.partition("|")
        return (queue, int(rest.partition("|")[0]) * 1_000_000) if queue else ("", 0)

    def tell(self, facts: ExecutionFacts, recorded: Recording | None, moved_from: tuple[str, int]) -> bool:
        """Completes the facts: the settings' promise wins over the one on the function. Is the job exempt?"""
        notes = recorded.facts("slo") if recorded is not None else []
        note: dict[str, Any] = notes[-1] if notes else {}
        facts.slo_ms = self._slos_ms.get(facts.job, note.get("ms"))
        facts.demoted_from, facts.demoted_at_ns = moved_from
        self._tell_queues(facts)
        return facts.job in self._exempt or bool(note.get("exempt"))

    def _tell_queues(self, facts: ExecutionFacts) -> None:
        if facts.queue not in facts.worker_queues and facts.queue not in self._listened:
            self._listened.append(facts.queue)
        if self._listened:
            facts.worker_queues = list(facts.worker_queues)
            for name in self._listened:
                facts.worker_queues.insert(place_among(facts.worker_queues, name), name)

    def count(self, execution: Execution, *, exempt: bool) -> None:
        """Counts its service time, for all workers. Jobs without a promise cost nothing."""
        if not self._minded or execution.slo_ms is None:
            return
        if exempt:
            slo_state.forget(self._connection, execution.job)
            return
        slo_state.record(
            self._connection,
            execution.job,
            now_ms=execution.reaped_at_ns // 1_000_000,
            took_ms=(execution.run_ns - execution.ledger_ns("cpu_wait")) / 1e6,
            slo_ms=execution.slo_ms,
        )
