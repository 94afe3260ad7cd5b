"""What a job is called, and which serializer wrote it, without unpickling its arguments."""

from __future__ import annotations

from typing import Any

from rq.job import Job
from rq.serializers import DefaultSerializer, JSONSerializer

from jobdoctor.capture import payload

UNDESERIALIZABLE = "(undeserializable)"


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
        return known if instance is None or "." in known else f"{dotted(type(instance))}.{known}"
    data = job.__dict__.get("_data")
    found = payload.function_name(data, serializer_name(job.serializer)) if isinstance(data, bytes) else None
    if found is None and job.description:
        # RQ's description is the call as text: "app.tasks.sync(...)". Only the name of it may be kept.
        name, opened, _ = job.description.partition("(")
        if opened and all(part.isidentifier() for part in name.split(".")):
            found = name
    return found or UNDESERIALIZABLE
