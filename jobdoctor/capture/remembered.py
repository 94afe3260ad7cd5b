"""What probes remember from one call to the next, so that the next one of its kind takes few steps.

The accelerator has types of the same names and attributes, which it reads without asking Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobdoctor.capture.calls import Shape


class Known:
    """A statement's text, or a command on keys of one template, with its shape."""

    __slots__ = ("first", "plain", "shape", "steady", "step")

    shape: Shape
    #: Of a statement: its parameters are the only values in it, and it is about one set of them.
    plain: bool
    #: Of a statement: a transaction that is open stays open, no COMMIT hides in it.
    steady: bool
    #: Of a command: where the members begin that it is about, and how many arguments one takes (0: about its key).
    first: int
    step: int


class Session:
    """One connection of a driver."""

    __slots__ = ("database", "dialect", "generation", "orm", "reference")

    #: A weak one: its identity may have become another one's.
    reference: Callable[[], Any]
    #: The database as the driver reaches it, when its probe has asked.
    database: Any
    #: The ORM's dialect that speaks through it, and the database as that one reaches it.
    dialect: Any
    orm: Any
    #: The execution for which all that is done once has been done.
    generation: object


class Server:
    """A database or a Redis server, as one library reaches it."""

    __slots__ = ("counts", "known", "pipelines", "reference")

    #: A weak one to the pool of connections to it.
    reference: Callable[[], Any]
    #: What is known of what it is sent.
    known: dict[Any, Any]
    #: Shapes of pipelines, by what is known of their commands, in the order of their first use.
    pipelines: dict[tuple[Known, ...], Shape]
    #: Its cursors know how many rows a statement gave when it returns.
    counts: bool
