"""Stamps on jobs: who enqueued them. A few short strings in ``job.meta["jobdoctor"]``, read back by the worker.

``stamp_enqueues()`` in a web process stamps every job it creates. In workers the same wrappers are installed, but stamp
only what a job enqueues, so that it carries its parent's name; there they also count enqueues as calls of the channel
``enqueue``. What a stamp cannot find out it leaves out; it never raises and takes some ten microseconds.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rq.job import Job, get_current_job
from rq.queue import Queue

from jobdoctor.capture import callsites, recorder
from jobdoctor.capture.foreign import foreign
from jobdoctor.model import Trigger
from jobdoctor.rq.names import job_name, serializer_name

logger = logging.getLogger("jobdoctor")

META_KEY = "jobdoctor"
#: Frames looked at for a request: a web framework's own stack is 20 to 60 frames deep.
_FRAMES = 80
_CRON_FILE = os.path.join(os.path.dirname(sys.modules[Job.__module__].__file__ or ""), "cron.py")
_PARAMETER = re.compile(r"<[^>]*>|\{[^}]*\}|\(\?P<[^>]*>(?:[^()]|\([^()]*\))*\)")

#: (module attribute holder, name, original) of what is wrapped now.
_wrapped: list[tuple[type, str, Any]] = []
#: Outside of jobs too: set by ``stamp_enqueues``.
_everywhere = False
_logged = False
#: The execution whose job runs in this process: set by the horse.
_execution = ""
_host = ""
#: Serializers (by identity, kept alive) that are known to be able to write a stamp.
_able: dict[int, tuple[Any, bool]] = {}


def stamp_enqueues() -> None:
    """From now on, every job created in this process carries who enqueued it. Calling it again changes nothing."""
    global _everywhere
    _everywhere = True
    install()


def install() -> None:
    """Wraps what creates and enqueues jobs. Without ``stamp_enqueues`` only jobs that a job enqueues are stamped."""
    if _wrapped:
        return
    _wrap_create()
    _wrap(Queue, "create_job", _created_by_queue)
    _wrap(Queue, "enqueue_job", _counted("enqueue"))
    _wrap(Queue, "enqueue_many", _counted("enqueue_many"))
    _wrap(Queue, "schedule_job", _counted("schedule"))


def uninstall() -> None:
    """Puts every attribute back as it was."""
    global _everywhere
    _everywhere = False
    while _wrapped:
        owner, name, original = _wrapped.pop()
        setattr(owner, name, original)


def enter_execution(execution_id: str) -> None:
    """The horse is about to run this execution's job."""
    global _execution
    _execution = execution_id


def leave_execution() -> None:
    """The job is over."""
    global _execution
    _execution = ""


def _wrap(owner: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    original = owner.__dict__.get(name)
    if original is None:
        return
    setattr(owner, name, functools.wraps(original)(make(original)))
    _wrapped.append((owner, name, original))


def _wrap_create() -> None:
    original = Job.__dict__["create"]
    function = original.__func__

    @functools.wraps(function)
    def create(cls: type[Job], *args: Any, **kwargs: Any) -> Job:
        job: Job = function(cls, *args, **kwargs)
        try:
            _stamp(job)
        except Exception as error:
            if foreign(error):
                raise
            _say(error)
        return job

    Job.create = classmethod(create)  # type: ignore[method-assign,assignment]
    _wrapped.append((Job, "create", original))


def _say(error: Exception) -> None:
    global _logged
    if not _logged:
        _logged = True
        logger.warning("jobdoctor: a job could not be stamped: %r; the job is not affected", error)


# ------------------------------------------------------------------------------------------------------------- stamping


def _stamp(job: Job) -> None:
    parent = get_current_job()
    if parent is None and not _everywhere:
        return
    if META_KEY in job.meta or not can_write(job.serializer):
        return
    # A copy: the caller's dict may serve for other jobs.
    job.meta = {**job.meta, META_KEY: _facts(parent)}


def can_write(serializer: Any) -> bool:
    """Whether the serializer takes a stamp: RQ's own do; somebody's own is tried once."""
    known = _able.get(id(serializer))
    if known is None:
        able = serializer_name(serializer) in {"pickle", "json"}
        if not able:
            try:
                serializer.dumps({META_KEY: {"k": "code", "p": 1}})
                able = True
            except Exception as error:
                if foreign(error):
                    raise
        if len(_able) < 100:
            _able[id(serializer)] = (serializer, able)
        return able
    return known[1]


def _facts(parent: Job | None) -> dict[str, Any]:
    global _host
    if not _host:
        _host = socket.gethostname()
    frame: FrameType | None = sys._getframe(3)
    callsite, function, by_cron = _enqueuer(frame)
    facts: dict[str, Any] = {"k": "code", "c": callsite, "f": function, "p": os.getpid(), "h": _host}
    if parent is not None:
        facts["k"] = "job"
        facts["i"] = parent.id
        facts["j"] = job_name(parent)
        if _execution:
            facts["e"] = _execution
    else:
        if by_cron:
            facts["k"] = "cron"
        request = _request(frame)
        if request:
            facts["k"] = "request"
            facts["r"] = request
    traceparent = _traceparent()
    if traceparent:
        facts["t"] = traceparent
    return facts


def _enqueuer(frame: FrameType | None) -> tuple[str, str, bool]:
    """The first application frame (line and function), and whether RQ's cron stands below it."""
    start = frame
    by_cron = False
    while frame is not None:
        code = frame.f_code
        if callsites.is_application(code.co_filename):
            return f"{callsites.relative(code.co_filename)}:{frame.f_lineno}", callsites.function_name(code), by_cron
        if code.co_filename == _CRON_FILE:
            by_cron = True
        frame = frame.f_back
    site = callsites.site_of(start)  # no application at all: a library's line
    return site.callsite, site.function, by_cron


def _request(frame: FrameType | None) -> str:
    """ "POST /orders/{}" when a request is being served by Flask, Django, Starlette or FastAPI; never its values."""
    flask = sys.modules.get("flask")
    if flask is not None and flask.has_request_context():
        rule = flask.request.url_rule
        return _template(flask.request.method, rule.rule if rule is not None else "")
    if not any(name in sys.modules for name in ("django.core.handlers.base", "starlette.routing")):
        return ""
    for _ in range(_FRAMES):
        if frame is None:
            break
        module = frame.f_globals.get("__name__", "")
        if module == "django.core.handlers.base" and "request" in frame.f_code.co_varnames:
            request = frame.f_locals.get("request")
            match = getattr(request, "resolver_match", None)
            if match is not None:
                return _template(str(getattr(request, "method", "")), "/" + str(match.route).lstrip("^/").rstrip("$"))
        elif module in {"starlette.routing", "fastapi.routing"} and "scope" in frame.f_code.co_varnames:
            scope: Any = frame.f_locals.get("scope")
            route: Any = scope.get("route") if isinstance(scope, dict) else None
            if route is not None and hasattr(route, "path"):
                return _template(str(scope.get("method", "")), str(route.path))
        frame = frame.f_back
    return ""


def _template(method: str, route: str) -> str:
    return f"{method} {_PARAMETER.sub('{}', route)}".strip()[:200]


def _traceparent() -> str:
    """The W3C trace context of the current OpenTelemetry span, when OpenTelemetry is in use already."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return ""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _created_by_queue(original: Callable[..., Any]) -> Callable[..., Any]:
    """Adds how often the job may be retried: RQ counts down what is left and forgets what it began with."""

    def create_job(self: Any, *args: Any, **kwargs: Any) -> Any:
        job = original(self, *args, **kwargs)
        try:
            stamp = job.meta.get(META_KEY)
            if isinstance(stamp, dict) and job.retries_left and "m" not in stamp:
                stamp["m"] = int(job.retries_left)
        except Exception as error:
            if foreign(error):
                raise
            _say(error)
        return job

    return create_job


# ------------------------------------------------------------------------------------------------------------- counting


def _counted(operation: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """While an execution is recorded: one call of the channel ``enqueue`` for each, from the job's own line."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def enqueue(self: Any, *args: Any, **kwargs: Any) -> Any:
            current = recorder.current
            if current is None:
                return original(self, *args, **kwargs)
            call = None
            try:
                call = _begin(current, operation, self, args)
            except Exception as error:
                if foreign(error):
                    raise
                _say(error)
            if call is None:
                return original(self, *args, **kwargs)
            try:
                result = original(self, *args, **kwargs)
            except BaseException as error:
                call.end(error=error)
                raise
            if operation == "enqueue_many":
                call.end(items=len(result) if isinstance(result, list) else 0, flags=recorder.BATCHED)
            else:
                call.end(items=1)
            return result

        return enqueue

    return make


def _begin(current: recorder.Recorder, operation: str, queue: Queue, args: tuple[Any, ...]) -> recorder.Call | None:
    name = "(many)"
    if operation != "enqueue_many" and args and isinstance(args[0], Job):
        name = job_name(args[0])
    target = f"rq:{queue.name}"
    return current.begin(current.shape("enqueue", operation, name, target=target, library="rq", effect="write"))


# -------------------------------------------------------------------------------------------------------------- reading


def read(job: Job, *, scheduled: bool) -> Trigger:
    """Who enqueued the job: its stamp, or what can be learnt without one."""
    meta = job.meta if isinstance(job.meta, dict) else {}
    stamp = meta.get(META_KEY)
    if isinstance(stamp, dict):
        kind = _text(stamp, "k") or "unknown"
        pid = stamp.get("p")
        return Trigger(
            kind=kind if kind in {"code", "job", "request", "scheduler", "cron"} else "unknown",
            callsite=_text(stamp, "c"),
            function=_text(stamp, "f"),
            parent_job=_text(stamp, "j"),
            parent_job_id=_text(stamp, "i"),
            parent_execution_id=_text(stamp, "e"),
            request=_text(stamp, "r"),
            traceparent=_text(stamp, "t"),
            pid=pid if isinstance(pid, int) else 0,
            host=_text(stamp, "h"),
        )
    # rq-scheduler leaves these; a Repeat is RQ's own; what waited in a registry was put in the queue by the scheduler.
    if "cron_string" in meta:
        return Trigger(kind="cron")
    if scheduled or "scheduled_for" in meta or getattr(job, "repeat_intervals", None):
        return Trigger(kind="scheduler")
    return Trigger()


def _text(stamp: dict[Any, Any], name: str) -> str:
    value = stamp.get(name)
    return value[:300] if isinstance(value, str) else ""


def max_retries(job: Job) -> int | None:
    """How many retries the job began with, when its stamp says so."""
    stamp = job.meta.get(META_KEY) if isinstance(job.meta, dict) else None
    value = stamp.get("m") if isinstance(stamp, dict) else None
    return value if isinstance(value, int) and value >= 0 else None


def remember_max_retries(job: Job, value: int) -> None:
    """Keeps it in the job's meta in memory, which RQ saves with the retry; nothing is written here."""
    if getattr(job, "_unreadable_meta", None) is not None or "unserialized" in job.meta:
        return
    stamp = job.meta.get(META_KEY)
    if not can_write(job.serializer) or not (stamp is None or isinstance(stamp, dict)):
        return
    job.meta = {**job.meta, META_KEY: {**(stamp or {}), "m": value}}


@contextmanager
def only_users_meta(job: Job) -> Iterator[None]:
    """While RQ's parent process fails a killed job: it would save the meta as it was when the job was taken, over what
    the job has saved since. It does not when there is none, so a meta that is ours alone is put aside."""
    ours = job.meta if isinstance(job.meta, dict) and set(job.meta) == {META_KEY} else None
    if ours is not None:
        job.meta = {}
    try:
        yield
    finally:
        if ours is not None and not job.meta:
            job.meta = ours
