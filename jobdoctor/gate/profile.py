"""What a test sees of a run: its calls, bytes, memory and time, and what the checklist finds."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from jobdoctor.errors import JobdoctorError
from jobdoctor.gate import counting, history
from jobdoctor.model import Diagnosis, Execution, Finding, SpanGroup


class Profile:
    """One run of a job (or of a block of code), after it ended.

    ``result`` is what the function returned; ``error`` what it raised. Reading a figure while the block still runs
    raises JobdoctorError.
    """

    def __init__(self, job: str = "") -> None:
        self.job = job
        self.executions: list[Execution] = []  # attempts, oldest first: one, unless the job was enqueued and retried
        self.result: Any = None
        self.error: BaseException | None = None
        #: As the serializer wrote them; None for a block, and for what an enqueued job returned.
        self.data: bytes | None = None
        self.result_data: bytes | None = None
        self.serializer = ""
        #: Peak of the resident memory above where the run began; None when the kernel does not say.
        self.rss_bytes: int | None = None
        self.wall_ms = 0.0
        self.cpu_ms = 0.0
        #: ``wall_ms`` without the time in which the run was ready and had no processor.
        self.busy_ms = 0.0
        #: Not a run of its own to budget: one of several that were made to compare them.
        self.compared = False

    @property
    def execution(self) -> Execution:
        """All that was recorded of the last attempt."""
        if not self.executions:
            raise JobdoctorError(
                f"nothing is recorded of {self.job or 'the block'} yet", "ask after the block has ended"
            )
        return self.executions[-1]

    @property
    def groups(self) -> list[SpanGroup]:
        """Its calls, one entry for each shape and line."""
        return self.execution.groups

    @property
    def queries(self) -> int:
        """SQL statements, without BEGIN, COMMIT and the like, and without what sets a new connection up."""
        return sum(group.count for group in counting.counted(self.groups) if counting.is_query(group))

    @property
    def calls(self) -> dict[str, int]:
        """How many calls each channel made: {"http": 2, "sql": 5}. Those that made none are not in it."""
        return counting.by_channel(self.groups)

    @property
    def payload_bytes(self) -> int | None:
        """Serialised bytes of the function's name and arguments; None for a block."""
        payload = self.execution.payload
        return None if payload is None else payload.raw_bytes

    @property
    def result_bytes(self) -> int | None:
        """Serialised bytes of the return value; None when there is none."""
        result = self.execution.result
        return None if result is None else result.bytes

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """The checklist, walked over this run alone."""
        return history.diagnosis_of(self.executions or [self.execution])

    @property
    def findings(self) -> list[Finding]:
        """What the checklist finds in this run, best first."""
        return self.diagnosis.findings

    def __repr__(self) -> str:
        if not self.executions:
            return f"<Profile of {self.job or 'a block'}: nothing recorded yet>"
        calls = ", ".join(f"{count} {channel}" for channel, count in self.calls.items()) or "no calls"
        return f"<Profile of {self.job}: {calls}, {self.wall_ms:.1f} ms>"
