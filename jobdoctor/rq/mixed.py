"""Other people's worker classes with the mixin: an attribute of this module for each, made when it is asked for.

SpawnWorker pickles its class by name and unpickles it in another process, so the name has to be enough to make the
class again: it is the dotted path of the original, with the dots written as ``_d`` and underscores as ``_u``.
"""

from __future__ import annotations

import importlib
from typing import Any

import rq.worker

from jobdoctor.rq.worker_mixin import WorkerMixin


def name_of(path: str) -> str:
    """The attribute of this module for the class at a dotted path."""
    return path.replace("_", "_u").replace(".", "_d")


def path_of(name: str) -> str:
    """The dotted path behind an attribute's name."""
    return name.replace("_d", ".").replace("_u", "_")


def recording_class_path(path: str) -> str:
    """The dotted path of the recording version of the worker class at ``path``: the class itself when it records.

    ImportError and AttributeError as importing the class raises them; TypeError when it is no worker class.
    """
    original = _import(path)
    if not isinstance(original, type) or not issubclass(original, _base()):
        raise TypeError(f"{path} is not a worker class of RQ")
    if issubclass(original, WorkerMixin):
        return path
    if original.__module__.startswith("rq.") and hasattr(_own_classes(), original.__name__):
        return f"jobdoctor.rq.workers.{original.__name__}"
    return f"{__name__}.{name_of(path)}"


def _base() -> type:
    return getattr(rq.worker, "BaseWorker", rq.worker.Worker)


def _own_classes() -> Any:
    return importlib.import_module("jobdoctor.rq.workers")


def _import(path: str) -> Any:
    module, _, attribute = path.rpartition(".")
    if not module:
        raise ImportError(f"{path} is not a dotted path")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module or "." not in module:
            raise
        return getattr(_import(module), attribute)  # a class within a class


def __getattr__(name: str) -> Any:
    if name.startswith("__") or "_d" not in name:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    original = _import(path_of(name))
    mixed = type(name, (WorkerMixin, original), {"__module__": __name__, "__doc__": original.__doc__})
    globals()[name] = mixed
    return mixed
