"""The fixture ``jobdoctor``: runs jobs, records them, and compares the runs of one test with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from jobdoctor.capture.record import Recorded
from jobdoctor.errors import ConfigError, JobdoctorError
from jobdoctor.gate import counting, idempotency, scaling
from jobdoctor.gate.budgets import Budget
from jobdoctor.gate.embedded_server import EmbeddedServer, ServerError
from jobdoctor.gate.failure import GateError, JobFailedError
from jobdoctor.gate.meter import Meter
from jobdoctor.gate.profile import Profile

if TYPE_CHECKING:
    from jobdoctor.gate.timing import Measured, Timing


class Surroundings(Struct):
    """What the tests of one process share."""

    redis_url: str | None  # given; None: the embedded server
    worker: str  # "fork", "simple" or "spawn"
    server: EmbeddedServer

    def connection(self) -> Any:
        """A client of the server that jobs are enqueued on. ServerError when there is none."""
        import redis

        client = redis.Redis.from_url(self.redis_url or self.server.url)
        try:
            client.ping()
        except (redis.RedisError, OSError) as error:
            raise ServerError(f"no Redis or Valkey server answers: {error}", "correct --jobdoctor-redis") from None
        return client


class Doctor:
    """One test's. ``profiles`` has every run that was recorded, in order, those that raised too."""

    def __init__(
        self,
        surroundings: Surroundings,
        budget: Budget,
        known: Callable[[str], Mapping[str, Timing] | None],
        *,
        writes: bool = False,
    ) -> None:
        self.profiles: list[Profile] = []
        self.timings: dict[str, Measured] = {}
        self._surroundings = surroundings
        self._budget = budget
        self._known = known  # a job's timings in the baseline
        self._writes = writes  # a new baseline is made

    # ------------------------------------------------------------------------------------------------------------ runs

    def run(self, function: Any, /, *args: Any, **kwargs: Any) -> Profile:
        """Runs ``function`` in this process as RQ would: its arguments go through the serializer and back, its result
        is serialised too. Gives its profile; what it raises is raised here (and its profile is ``profiles[-1]``).

        Where the marker asks for ``idempotent``, it runs twice.
        """
        __tracebackhide__ = True
        if self._budget.idempotent:
            return self._twice(function, args, kwargs, strict=self._budget.idempotent == "strict")
        return self._run(function, args, kwargs)

    def _run(
        self,
        function: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        compared: bool = False,
        profiled: bool = False,
    ) -> Profile:
        __tracebackhide__ = True
        from jobdoctor.rq import inline

        meter = Meter()
        connection = self._surroundings.connection() if self._surroundings.redis_url else None
        ran = inline.run(function, args, kwargs, connection=connection, around=lambda: meter, profile=profiled)
        if ran.execution is None:
            raise JobdoctorError(
                f"{ran.job} ran within another recording", "call jobdoctor.run() outside of jobdoctor.record()"
            )
        profile = Profile(ran.job)
        profile.executions = [ran.execution]
        profile.result, profile.error = ran.value, ran.error
        profile.data, profile.result_data, profile.serializer = ran.data, ran.result_data, ran.serializer
        profile.compared = compared
        _metered(profile, meter)
        self.profiles.append(profile)
        if ran.error is not None:
            raise ran.error
        return profile

    def enqueue(self, function: Any, /, *args: Any, **kwargs: Any) -> Profile:
        """Runs ``function`` through a real worker, in burst mode, on the embedded server or the given one.

        Raises JobFailedError when the job failed; its profile is on the error, and in ``profiles``. A forked work horse
        does not see what this process has in an open transaction or in an in-memory database.
        """
        __tracebackhide__ = True
        from jobdoctor.rq import burst

        kind = next(kind for kind in burst.KINDS if kind == self._surroundings.worker)
        worked = burst.work(self._surroundings.connection(), function, args, kwargs, kind)
        last = worked.executions[-1]
        profile = Profile(last.job)
        profile.executions = worked.executions
        profile.result = worked.value
        body = last.body_ns or last.run_ns
        profile.wall_ms = body / 1e6
        profile.cpu_ms = last.ledger_ns("cpu", "gc") / 1e6
        profile.busy_ms = max(0, body - last.ledger_ns("cpu_wait")) / 1e6
        if last.rusage is not None and last.rusage.baseline_rss_bytes:
            profile.rss_bytes = max(0, last.rusage.max_rss_bytes - last.rusage.baseline_rss_bytes)
        self.profiles.append(profile)
        if not worked.finished:
            raise JobFailedError(f"{last.job} ended as {last.outcome}\n{worked.failure}".rstrip(), profile)
        if worked.value == burst.NOT_STORED:
            why = f"{last.job} finished, and RQ could not store what it returned; return plain data, an id or nothing"
            raise JobFailedError(why, profile)
        return profile

    def record(self, name: str = "block") -> Recording:
        """``with jobdoctor.record() as profile:`` -- any code; the profile is complete after the block."""
        return Recording(name, self.profiles)

    # ------------------------------------------------------------------------------------------------------ comparisons

    def scales(
        self,
        function: Any,
        sizes: Sequence[int] = (2, 8),
        arrange: Callable[[int], Any] | None = None,
        channels: Sequence[str] = counting.EXACT_CHANNELS,
    ) -> list[Profile]:
        """Runs ``function`` at each of the sizes and raises GateError when its calls grow with them.

        ``arrange(size)`` prepares the input and gives the arguments: a tuple, a dict of keyword arguments, or a single
        one; without it the function is called with the size. ``channels`` are those that are looked at.
        """
        __tracebackhide__ = True
        if len(set(sizes)) < 2 or any(size < 0 for size in sizes):
            raise ConfigError(f"sizes={sizes!r} are not two different sizes", "give two or more, such as [2, 8]")
        for channel in channels:
            if channel not in counting.EXACT_CHANNELS:
                raise ConfigError(
                    f"the calls of {channel!r} cannot be compared", f"give of {', '.join(counting.EXACT_CHANNELS)}"
                )
        profiles = []
        for size in sorted(sizes):
            args, kwargs = arguments(arrange(size) if arrange is not None else size)
            profiles.append(self._run(function, args, kwargs, compared=True))
        failures = scaling.check(sorted(sizes), profiles, channels)
        if failures:
            raise GateError(failures, profiles[-1])
        return profiles

    def assert_idempotent(self, function: Any, /, *args: Any, **kwargs: Any) -> Profile:
        """Runs ``function`` twice with the same arguments and raises GateError when the second run writes again."""
        __tracebackhide__ = True
        return self._twice(function, args, kwargs, strict=self._budget.idempotent == "strict")

    def _twice(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, strict: bool) -> Profile:
        __tracebackhide__ = True
        first = self._run(function, args, kwargs)
        second = self._run(function, args, kwargs, compared=True)
        failures = idempotency.check(first, second, strict=strict)
        if failures:
            raise GateError(failures, second)
        return first

    def timed(self, function: Any, /, *args: Any, arrange: Callable[[], Any] | None = None, **kwargs: Any) -> Measured:
        """Runs ``function`` many times, in turns with a workload that tells how fast the machine is now, and compares
        with the baseline. Raises GateError for a slowdown that more runs confirmed.

        ``arrange()`` is called before each run and gives the arguments, as for ``scales``.
        """
        __tracebackhide__ = True
        from jobdoctor.gate import timing

        def run(profiled: bool) -> Profile:
            given = arguments(arrange()) if arrange is not None else (args, kwargs)
            return self._run(function, *given, compared=True, profiled=profiled)

        before = len(self.profiles)
        measured, failures = timing.examine(run, self._known, writes=self._writes, margin=self._budget.max_slowdown)
        self.timings[measured.job] = measured
        last = self.profiles[-1]
        last.compared = False
        self.profiles[before:] = [last]
        if failures:
            raise GateError(failures, last)
        return measured


class Recording:
    """A block of code that is recorded while it runs: see ``Doctor.record``."""

    def __init__(self, name: str, profiles: list[Profile]) -> None:
        self._recorded = Recorded(name, profile=False)
        self._profiles = profiles
        self._profile = Profile(name)
        self._meter = Meter()

    def __enter__(self) -> Profile:
        from jobdoctor.rq import stamps

        stamps.install()
        self._recorded.__enter__()
        self._meter.__enter__()
        return self._profile

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._meter.__exit__()
        self._recorded.__exit__(kind, error, traceback)
        execution = self._recorded.execution
        if execution is None:
            if error is None:
                raise JobdoctorError("the block ran within another recording", "leave out the inner one")
            return
        self._profile.executions = [execution]
        self._profile.error = error
        _metered(self._profile, self._meter)
        self._profiles.append(self._profile)


def arguments(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What ``arrange`` gave, as positional and keyword arguments."""
    if isinstance(given, tuple):
        return given, {}
    if isinstance(given, dict):
        return (), given
    return (given,), {}


def _metered(profile: Profile, meter: Meter) -> None:
    profile.wall_ms = meter.wall_ns / 1e6
    profile.cpu_ms = meter.cpu_ns / 1e6
    # The kernel's account of waits can be ahead of the clock: what was computed was not waited.
    profile.busy_ms = max(min(profile.cpu_ms, profile.wall_ms), (meter.wall_ns - (meter.runqueue_ns or 0)) / 1e6)
    profile.rss_bytes = meter.peak_rss_bytes
