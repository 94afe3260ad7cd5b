"""What a job is called, and which serializer wrote it, without unpickling its arguments."""

from __future__ import annotations

import functools
import re
from types import ModuleType, NoneType
from typing import Any

from rq.job import Job
from rq.serializers import DefaultSerializer, JSONSerializer

from jobdoctor.rq.messages import UNDESERIALIZABLE as UNDESERIALIZABLE

#: How a pickle of RQ's (name, None, args, kwargs) begins: protocol, frame, mark, the name as short text.
_PICKLED = re.compile(rb"\x80[\x04\x05](?:\x95.{8})?\(\x8c(.)", re.DOTALL)


def serializer_name(serializer: Any) -> str:
    """ "pickle", "json", or the dotted name of somebody's own."""
    if serializer is DefaultSerializer or isinstance(serializer, DefaultSerializer):
        return "pickle"
    if serializer is JSONSerializer or isinstance(serializer, JSONSerializer):
        return "json"
    named = serializer if isinstance(serializer, type) else type(serializer)
    if named.__name__ == "module":
        return "pickle" if serializer.__name__ == "pickle" else str(serializer.__name__)
    return f"{named.__module__}.{named.__qualname__}"


def dotted(kind: type) -> str:
    """The dotted name of a class; built-in ones bare."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def job_name(job: Job) -> str:
    """The dotted name of the job's function. Reads the serialised data when RQ has not deserialised it yet."""
    known = job.__dict__.get("_func_name")
    if isinstance(known, str) and known:
        instance = job.__dict__.get("_instance")
        if isinstance(instance, functools.partial):
            return _called_by(instance) or f"functools.partial.{known}"
        return known if instance is None or "." in known else f"{dotted(type(instance))}.{known}"
    data = job.__dict__.get("_data")
    if not isinstance(data, bytes):
        return name_of_data(b"", "", job.description or "")
    return name_of_data(data, serializer_name(job.serializer), job.description or "")


def _called_by(partial: functools.partial[Any]) -> str:
    """What a partial goes by, as its data tells before it is unpickled; empty for a bound method."""
    called = partial.func
    while isinstance(called, functools.partial):
        called = called.func
    if not isinstance(getattr(called, "__self__", None), NoneType | ModuleType):
        return ""
    named = called if hasattr(called, "__qualname__") else type(called)
    return f"{named.__module__}.{named.__qualname__}"


def name_of_data(data: bytes, serializer: str, description: str) -> str:
    """The dotted name of the function that serialised data, or else a job's description, tells of."""
    found = _plain_name(data) if serializer == "pickle" else None
    if found is None and data:
        from jobdoctor.capture import payload  # only here: most names are plain, and workers need no more of it

        found = payload.function_name(data, serializer)
    if found is None and description:
        # RQ's description is the call as text: "app.tasks.sync(...)". Only the name of it may be kept.
        name, opened, _ = description.partition("(")
        if opened and all(part.isidentifier() for part in name.split(".")):
            found = name
    return found or UNDESERIALIZABLE


def _plain_name(data: bytes) -> str | None:
    """The name of a function (no method) that pickle wrote, read off the first bytes."""
    begun = _PICKLED.match(data)
    if begun is None:
        return None
    end = begun.end() + begun[1][0]
    return data[begun.end() : end].decode("utf-8", "replace") if data[end : end + 2] == b"\x94N" else None
