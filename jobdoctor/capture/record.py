"""``with jobdoctor.record("name") as profile:`` -- any code, recorded in its own process."""

from __future__ import annotations

import os
import socket
import time
import uuid
from types import TracebackType

from jobdoctor import fingerprint
from jobdoctor.capture import callsites, recorder, recording
from jobdoctor.capture.assemble import ExecutionFacts, Observation, assemble
from jobdoctor.capture.file_io import FileMeter
from jobdoctor.capture.probes import registry
from jobdoctor.capture.sampler import Sampler
from jobdoctor.capture.stack_profile import StackProfile
from jobdoctor.model import Execution


class Recorded:
    """A block of code that is recorded while it runs, and then has its ``execution``.

    ``execution`` is None before the end of the block, and stays None when the block ran inside another recording (a
    worker's, or an outer block's): the outer one has its calls, and ``not_recorded`` says so.
    """

    def __init__(self, name: str, profile: bool) -> None:
        self.name = name
        self.execution: Execution | None = None
        self.not_recorded = ""
        self._profile = StackProfile() if profile else None
        self._recorder: recorder.Recorder | None = None
        self._began = 0

    def __enter__(self) -> Recorded:
        if recorder.current is not None:
            self.not_recorded = "another recording is active in this process: it has the calls of this block"
            recorder.current.suppressed()
            return self
        if not self.name:
            self.name = callsites.here(2).callsite or "block"
        registry.install_all()
        self._memory = recorder.open_memory()
        rec = self._recorder = recorder.Recorder(self._memory.buffer)
        self._meter = FileMeter(rec)
        self._sampler = Sampler(os.getpid())
        if self._profile is not None:
            self._profile.start()
        recorder.start(rec)
        self._cpu = time.process_time_ns()
        self._began = time.perf_counter_ns()
        self._meter.mark("body")
        return self

    def phase(self, name: str) -> None:
        """A phase of the execution begins (see ``model.Phase``); the block itself is its ``body``."""
        if self._recorder is not None:
            self._meter.mark(name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        rec = self._recorder
        if rec is None:
            return
        self._recorder = None
        self._meter.mark("end")
        ended = time.perf_counter_ns()
        cpu = time.process_time_ns() - self._cpu
        recorder.stop()
        profile = self._profile.stop() if self._profile is not None else None
        self._sampler.sample()
        self._sampler.close()
        if error is not None:
            rec.note("exception", **_exception(error))
        missing = [self._profile.missing] if self._profile is not None and self._profile.missing else []
        observation = Observation(
            epoch_ns=time.time_ns(),
            perf_ns=time.perf_counter_ns(),
            dequeued_ns=self._began,
            reaped_ns=ended,
            samples=self._sampler.samples,
            sampler_missing=self._sampler.missing,
            own_cpu_ns=cpu,
            profile=profile,
            probes=registry.statuses(),
            not_captured=[*missing, *self._sampler.gaps],
        )
        identifier = f"{self.name}:{uuid.uuid4().hex}"
        facts = ExecutionFacts(
            id=identifier,
            job_id=identifier,
            job=self.name,
            queue="",
            worker="",
            worker_kind="inline",
            outcome="finished" if error is None else "failed",
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        self.execution = assemble(facts, observation, recording.read(self._memory.buffer))
        rec.release()
        self._memory.close()


def _exception(error: BaseException) -> dict[str, str]:
    try:
        message = fingerprint.message(str(error))
    except Exception as failure:  # somebody's __str__
        message = f"(its text failed: {type(failure).__name__})"
    return {
        "type_name": recorder.type_name(error),
        "message_shape": message,
        "callsite": callsites.raised_at(error.__traceback__),
    }


def record(name: str = "", *, profile: bool = False) -> Recorded:
    """Record a block of code in this process: ``with record("import of orders") as profile: ...``; afterwards
    ``profile.execution`` is a :class:`jobdoctor.model.Execution` with ``worker_kind`` "inline" and no queue.

    ``name`` stands where a job's name does, by default the line of the ``with``. ``profile`` runs pyinstrument too.
    Probes are installed on first use and stay: they do nothing outside of a recording. One recording at a time: a block
    inside another one (or inside a recorded job) changes nothing and has no execution of its own. Calls of every thread
    of the process are recorded while the block runs.
    """
    return Recorded(name, profile)
