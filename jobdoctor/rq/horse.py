"""What is recorded in the process that runs the job: its phases, its result, its exception, its outcome.

``Horse`` lives in the work horse (or in a SimpleWorker itself). It reaches into RQ by shadowing attributes on the
*instance* of the job (RQ always passes its own job class, and a class attribute would be lost) and, while the job runs,
the function by which RQ imports. The originals are called with what RQ passed. Tracebacks are freed of our frames, so
that what RQ stores for a failed job reads as without us.
"""

from __future__ import annotations

import errno
import importlib
import os
import time
from collections.abc import Callable
from hashlib import blake2b
from types import TracebackType
from typing import Any

from rq.job import Job, JobStatus
from rq.timeouts import JobTimeoutException

from jobdoctor.capture import crash_log, last_stack, recorder, stack_profile
from jobdoctor.capture.file_io import FileMeter
from jobdoctor.model import Outcome
from jobdoctor.promises import promise_of
from jobdoctor.rq import exceptions, ptracer, stamps
from jobdoctor.rq.facts import attempt
from jobdoctor.rq.guard import Guard
from jobdoctor.rq.names import dotted
from jobdoctor.rq.probing import unknown_to_witness

#: The module of RQ that resolves a job's function; what it imports from elsewhere in RQ is replaced for a while.
_job_module: Any = importlib.import_module("rq.job")
#: Results larger than this are not hashed: a few milliseconds for each of them.
_DIGEST_BYTES = 4 * 1024 * 1024
_OWN_DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_SHADOWED = ("_deserialize_data", "perform", "_execute", "send_webhooks")


def _without_own_frames(error: BaseException) -> None:
    """Takes our frames, the probes' too, off the tracebacks of an exception and of what led to it. A bare ``raise`` in
    the same ``except`` then leaves them off."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        kept: TracebackType | None = None
        first: TracebackType | None = None
        step = found.__traceback__
        while step is not None:
            following = step.tb_next
            if not step.tb_frame.f_code.co_filename.startswith(_OWN_DIRECTORY):
                if kept is None:
                    first = step
                elif kept.tb_next is not step:
                    kept.tb_next = step
                kept = step
            step = following
        if kept is not None:
            kept.tb_next = None
            found.__traceback__ = first
        found = found.__cause__ or found.__context__


class Horse:
    """One execution, as the process sees it that runs the job."""

    def __init__(
        self, rec: recorder.Recorder, execution_id: str = "", guard: Guard | None = None, profile_path: str = ""
    ) -> None:
        self.recorder = rec
        self._meter = FileMeter(rec)
        self.profile_path = profile_path  # where the profile goes; empty: none is made
        self.execution_id = execution_id
        self.guard = guard if guard is not None else Guard()
        self.phase = "setup"
        self.timed_out = False
        self.result_noted = False
        self.max_retries: int | None = None
        self._known_problems = len(self.guard.problems)
        self._resolving = False
        self._import_attribute: Callable[..., Any] | None = None
        self._profile: stack_profile.StackProfile | None = None

    # -- life

    def adopt(self, execution_id: str, guard: Guard, profile_path: str) -> Horse:
        """In the worker, right before the fork: a horse that was made for any execution is for this one."""
        self.recorder.renew()
        self.execution_id = execution_id
        self.guard = guard
        self.profile_path = profile_path
        self._known_problems = len(guard.problems)
        return self

    def begin(self) -> bool:
        """Recording begins; false when this process records another execution already."""
        if not recorder.start(self.recorder):
            return False
        self.mark("setup")
        return True

    def report(self) -> None:
        """Notes what the witness cannot know: our own failures here, and the probes that came to life in this process
        (the parent has not imported what the job imports)."""
        for problem in self.guard.problems[self._known_problems :]:
            self.recorder.note("missing", text=problem)
        for status in unknown_to_witness():
            self.recorder.note(
                "probe",
                channel=status.channel,
                library=status.library,
                status=status.status,
                reason=status.reason,
            )

    def end(self) -> None:
        """Recording ends, in a process that lives on."""
        self.recorder.mark("end")
        recorder.stop()
        self.recorder.release()

    def mark(self, phase: str) -> None:
        """A phase begins."""
        self.phase = phase
        self._meter.mark(phase)

    # -- the job's instance

    def shadow(self, job: Job) -> None:
        """Lets the phases be seen, until :meth:`restore`."""
        if job.retries_left is not None:
            self.max_retries = attempt(job)[1]
        shadows = {
            "_deserialize_data": self._deserializing(job._deserialize_data),
            "perform": self._performing(job.perform),
            "_execute": self._executing(job, job._execute),
        }
        if getattr(job, "webhooks", None):
            shadows["send_webhooks"] = self._calling_back(job.send_webhooks)
        job.__dict__.update(shadows)
        self._import_attribute = _job_module.import_attribute
        _job_module.import_attribute = self._importing(_job_module.import_attribute)
        if self.profile_path:
            began = time.perf_counter_ns()
            import pyinstrument  # noqa: F401 -- here, before the job's timeout begins to count

            self.recorder.note("overhead", ns=time.perf_counter_ns() - began)

    def restore(self, job: Job) -> None:
        """Takes the shadows off."""
        for name in _SHADOWED:
            job.__dict__.pop(name, None)
        if self._import_attribute is not None:
            _job_module.import_attribute = self._import_attribute
            self._import_attribute = None

    def _deserializing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def deserialize(*args: Any, **kwargs: Any) -> Any:
            before = self.phase
            self.mark("deserialize")
            try:
                return original(*args, **kwargs)
            except BaseException as error:
                _without_own_frames(error)
                raise
            finally:
                self.mark(before)

        return deserialize

    def _performing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def perform(*args: Any, **kwargs: Any) -> Any:
            stamps.enter_execution(self.execution_id)
            if self.profile_path:
                self._profile = stack_profile.StackProfile()
                self._profile.start()
            try:
                return original(*args, **kwargs)
            except BaseException as error:
                _without_own_frames(error)
                raise
            finally:
                stamps.leave_execution()
                self.mark("persist")

        return perform

    def _executing(self, job: Job, original: Callable[..., Any]) -> Callable[..., Any]:
        # RQ imports the job's module in the step that calls the job. A method's class was imported with its instance,
        # and who resolves functions in another way does it within the body.
        imports = type(job).func is Job.func

        def execute(*args: Any, **kwargs: Any) -> Any:
            self._resolving = imports and job._instance is None
            self.mark("import" if self._resolving else "body")
            try:
                return original(*args, **kwargs)
            except BaseException as error:
                _without_own_frames(error)
                raise

        return execute

    def _importing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def import_attribute(*args: Any, **kwargs: Any) -> Any:
            try:
                found = original(*args, **kwargs)
            except BaseException as error:
                _without_own_frames(error)
                raise
            if self._resolving:
                self._resolving = False
                self.recorder.home = found
                promise = promise_of(found)
                if promise is not None:
                    self.recorder.note("slo", ms=promise.within_ms, exempt=promise.exempt)
                self.mark("body")
            return found

        return import_attribute

    def _calling_back(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def send_webhooks(*args: Any, **kwargs: Any) -> Any:
            self.mark("callback")
            try:
                return original(*args, **kwargs)
            finally:
                self.mark("persist")

        return send_webhooks

    # -- what RQ's worker reports

    def ended(self, job: Job) -> None:
        """``handle_execution_ended`` is done: RQ calls the callback next, when there is one.

        The job's timeout no longer counts here, so that a profile may take its time to be read out.
        """
        if self._profile is not None:
            self._keep_profile(self._profile)
            self._profile = None
        failed = job._status == JobStatus.FAILED
        if job._failure_callback_name if failed else job._success_callback_name:
            self.mark("callback")

    def _keep_profile(self, profile: stack_profile.StackProfile) -> None:
        began = time.perf_counter_ns()
        found = profile.stop()
        if found is not None:
            if not stack_profile.dump(found, self.profile_path):
                self.recorder.note("missing", text="The profile: the temporary directory cannot be written to")
        elif profile.missing:
            self.recorder.note("missing", text=profile.missing)
        self.recorder.note("overhead", ns=time.perf_counter_ns() - began)

    def raised(self, error: BaseException | None, traceback: Any) -> None:
        """``handle_exception``: the job failed for this reason."""
        self.mark("persist")
        if error is not None:
            self.timed_out = isinstance(error, JobTimeoutException)
            self.recorder.note("exception", **exceptions.describe(error, traceback))
            if self.timed_out or isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.EFBIG:
                # The job was cut short from outside, or by a limit of its process: see capture/death.py.
                self.recorder.note(
                    "raised_at", stack=last_stack.frames_of_traceback(traceback), limits=last_stack.limits_of("self")
                )

    def decided(self, outcome: Outcome, **facts: Any) -> None:
        """How the execution ends; the last word counts."""
        self.recorder.note("outcome", outcome=outcome, **facts)

    def measured(self, job: Job) -> Any:
        """The serializer to use while RQ persists the result: it writes the same bytes, and looks at them."""
        return _MeasuringSerializer(job.serializer, job._result, self)

    def result(self, value: Any, data: bytes | None) -> None:
        """The return value, as RQ has serialised it (None: RQ keeps none)."""
        self.result_noted = True
        digest = ""
        if data is not None and len(data) <= _DIGEST_BYTES:
            digest = blake2b(data, digest_size=8).hexdigest()
        self.recorder.note(
            "result", type_name=dotted(type(value)), bytes=None if data is None else len(data), digest=digest
        )


class _MeasuringSerializer:
    """The job's serializer, which also reports how the return value came out."""

    def __init__(self, original: Any, value: Any, horse: Horse) -> None:
        self._original = original
        self._value = value
        self._horse = horse

    def dumps(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if value is not self._value or self._horse.result_noted:
            return self._original.dumps(value, *args, **kwargs)
        self._horse.mark("result")
        try:
            data = self._original.dumps(value, *args, **kwargs)
            with self._horse.guard("result"):
                self._horse.result(value, data if isinstance(data, bytes) else None)
            return data
        finally:
            self._horse.mark("persist")

    def loads(self, *args: Any, **kwargs: Any) -> Any:
        return self._original.loads(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


# ------------------------------------------------------------------------------------------------------ spawned horses

#: Tells a spawned horse where the recorder's memory is, where a profile goes, and what it records: three fields.
SPAWN_VARIABLE = "JOBDOCTOR_HORSE"


def spawn_value(path: str, profile_path: str, witness: int, execution_id: str) -> str:
    """The value of SPAWN_VARIABLE."""
    return "|".join((path, profile_path, str(witness), execution_id))


def from_environment(guard: Guard) -> Horse | None:
    """The horse of a spawned process, from what its parent left in the environment."""
    value = os.environ.pop(SPAWN_VARIABLE, "")
    if not value:
        return None
    path, profile_path, witness, execution_id = value.split("|", 3)
    memory = recorder.open_memory(path)
    if memory.path is None:
        return None
    with guard("witness"):
        ptracer.prepare()
        ptracer.allow(int(witness))
    with guard("crash log"):
        crash_log.arm_path(crash_log.crash_path(path))
    return Horse(recorder.Recorder(memory.buffer), execution_id, guard, profile_path)
