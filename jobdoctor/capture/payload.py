"""How large a job's data is, argument by argument, without ever building an object of it.

A pickle is a program for a small stack machine. It is read here as text: the operations are walked, and only the
*extent* in bytes and the *type* of each value are kept on the stack. Nothing is imported, called or constructed: a
hostile pickle does nothing. Values are never kept, except short strings that may turn out to be names (the function, a
class, a key).

Paths look like ``args[0]``, ``kwargs['order'].lines``, ``args[0][]`` (all elements of a list, taken together) and
``args[0].*`` (the values of a dict whose keys are data rather than names).

The walk can be done a slice at a time (:class:`Measurement`): the worker does it while it waits for the horse.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

from jobdoctor.capture.pickle_walk import NAME_BYTES, Machine, MalformedError, Value, extend, update
from jobdoctor.model import Payload, PayloadNode

#: Operations walked at most: a list of 10,000 rows of eight fields takes about 200,000.
MAX_OPCODES = 200_000
#: CPU spent on one payload at most, over all slices. A job with data worth more than that is itself far slower.
BUDGET_S = 0.05
#: Nodes reported at most: all arguments, then what is rich, then what is largest.
MAX_NODES = 40
#: JSON larger than this is sized by argument only when it can be parsed within the budget: about 50 MB a second.
MAX_JSON_BYTES = 2_000_000
#: Levels below an argument that are named.
MAX_DEPTH = 4

_NAMED_KEYS = 24  # a dict with more keys than this is data, not a record
_ARGUMENTS_BYTES = 1024  # what a rich object was built from is named only when it is larger
_KEY = re.compile(r"[A-Za-z_]\w{0,39}\Z", re.ASCII)
_NUMBERED = re.compile(r"\d{3}")


def _steps(value: Value) -> Iterator[tuple[str, list[Value]]]:
    """What a value holds, by step of the path."""
    plain = [child for key, child in value.children or () if key is None]
    keyed = [(key, child) for key, child in value.children or () if key is not None]
    if plain and not (value.rich and sum(child.size for child in plain) < _ARGUMENTS_BYTES):
        yield "[]", plain
    if value.rich or (
        value.items <= _NAMED_KEYS and all(_KEY.match(key) and not _NUMBERED.search(key) for key, _ in keyed)
    ):
        for key, child in keyed:
            yield (f".{key}" if _KEY.match(key) else ".*"), [child]
    elif keyed:
        yield ".*", [child for _, child in keyed]


def _walk(path: str, values: list[Value], factor: float, depth: int, nodes: dict[str, PayloadNode]) -> None:
    """Adds a node for ``path`` (many values: what all elements of a list have there, together) and those below.

    ``factor`` scales from the kept elements to all of them.
    """
    kinds: dict[str, int] = {}
    for value in values:
        kinds[value.kind] = kinds.get(value.kind, 0) + 1
    main = max(kinds, key=lambda kind: kinds[kind])
    size = sum(value.size for value in values)
    items = sum(value.items for value in values)
    rich = any(value.rich for value in values)
    nodes[path] = PayloadNode(path, main, int(size * factor), int(items * factor), rich)
    if depth >= MAX_DEPTH:
        return
    below: dict[str, list[Value]] = {}
    for value in values:
        for step, children in _steps(value):
            below.setdefault(step, []).extend(children)
    for step, children in below.items():
        scale = 1.0
        if step in {"[]", ".*"} and not rich:
            scale = max(1.0, min(items / len(children), size / max(1, sum(child.size for child in children))))
        _walk(path + step, children, factor * scale, depth + 1, nodes)


def _nodes(arguments: list[tuple[str, Value]]) -> list[PayloadNode]:
    nodes: dict[str, PayloadNode] = {}
    for path, value in arguments[:MAX_NODES]:
        _walk(path, [value], 1.0, 0, nodes)
    top = {path for path, _ in arguments}
    kept = sorted(nodes.values(), key=lambda node: (node.path not in top, not node.rich, -node.bytes))[:MAX_NODES]
    return sorted(kept, key=lambda node: (-node.bytes, node.path))


def _arguments(call: Value) -> list[tuple[str, Value]]:
    """The arguments in RQ's (function name, instance, args, kwargs)."""
    parts = [child for _, child in call.children or ()]
    if call.kind not in {"tuple", "list"} or len(parts) != 4:
        raise MalformedError("it is not a call as RQ writes it")
    _, instance, args, kwargs = parts
    found = [("self", instance)] if instance.kind != "None" else []
    found += [(f"args[{index}]", child) for index, (_, child) in enumerate(args.children or ())]
    found += [(f"kwargs[{key!r}]", child) for key, child in kwargs.children or ()]
    return found


# ----------------------------------------------------------------------------------------------------------------- JSON


def _json_value(value: Any, budget: list[int]) -> Value:
    """The same tree for parsed JSON; sizes as ``json.dumps`` would write them, nearly."""
    budget[0] -= 1
    if budget[0] < 0:
        raise MalformedError(f"more than {MAX_OPCODES} values")
    if isinstance(value, dict):
        result = Value(0, 2, "dict")
        for key, item in value.items():
            child = _json_value(item, budget)
            result.keep(key, child)
            result.end += len(key) + 6 + child.size
        result.items = len(value)
        return result
    if isinstance(value, list):
        result = Value(0, 2, "list")
        for item in value:
            child = _json_value(item, budget)
            result.keep(None, child)
            result.end += child.size + 2
        result.items = len(value)
        return result
    if isinstance(value, str):
        return Value(0, len(value.encode("utf-8", "replace")) + 2, "str", value if len(value) <= NAME_BYTES else None)
    return Value(0, len(json.dumps(value)), "None" if value is None else type(value).__name__)


# ---------------------------------------------------------------------------------------------------------- measurement


class Measurement:
    """A payload being measured, a slice at a time. Never raises; what cannot be said is said to be missing.

    ``clock`` gives seconds (of CPU, so that a busy host does not cut it short); ``serializer`` is "pickle", "json", or
    the dotted name of another one, whose data is opaque.
    """

    def __init__(
        self,
        data: bytes,
        *,
        serializer: str = "pickle",
        clock: Callable[[], float] = time.thread_time,
        budget_s: float = BUDGET_S,
        max_opcodes: int = MAX_OPCODES,
    ) -> None:
        self._data = data
        self._serializer = serializer
        self._clock = clock
        self._left_s = budget_s
        self._max_opcodes = max_opcodes
        self._machine: Machine | None = None
        self._call: Value | None = None
        self._reason: str | None = None
        self._done = False
        self._hash = ""

    @property
    def done(self) -> bool:
        return self._done

    def step(self, seconds: float) -> bool:
        """Works for about ``seconds``; true when there is nothing left to do."""
        if self._done:
            return True
        began = self._clock()
        try:
            self._done = self._step(began + min(seconds, self._left_s))
        except Exception as error:  # a payload is somebody else's: whatever it holds, the worker goes on
            self._reason = f"the {self._serializer} data cannot be walked: {error}"
            self._done = True
        self._left_s -= self._clock() - began
        if not self._done and self._left_s <= 0:
            self._give_up(f"{BUDGET_S * 1000:.0f} ms")
        return self._done

    def _step(self, until: float) -> bool:
        if not self._hash:
            self._hash = blake2b(self._data, digest_size=8).hexdigest()
        if self._serializer == "json":
            return self._parse()
        if self._serializer != "pickle":
            self._reason = f"data of the serializer {self._serializer} is opaque: only its size is known"
            return True
        if self._machine is None:
            self._machine = Machine(self._data)
        machine = self._machine
        while not machine.run(500):
            if machine.opcodes >= self._max_opcodes:
                self._give_up(f"{self._max_opcodes} operations")
                return True
            if self._clock() >= until:
                return False
        self._call = machine.stack[-1] if machine.stack else None
        return True

    def _parse(self) -> bool:
        if len(self._data) > MAX_JSON_BYTES:
            self._reason = f"JSON of more than {MAX_JSON_BYTES} bytes is not walked"
            return True
        self._call = _json_value(json.loads(self._data), [self._max_opcodes])
        return True

    def _give_up(self, budget: str) -> None:
        """Ends a walk that takes too long: what is open on the stack gets the rest of the bytes."""
        self._done = True
        machine = self._machine
        if machine is None:
            return
        share = machine.position / max(1, len(self._data))
        self._reason = f"partial: the first {share:.0%} of the data was walked within {budget}"
        try:
            self._call = _closed(machine, len(self._data))
        except Exception:
            self._call = None

    def result(self) -> Payload:
        """What is known so far."""
        nodes: list[PayloadNode] = []
        reason = self._reason
        if not self._done:
            self._give_up("the time the job took")
            reason = self._reason or "the job ended before its data was walked"
        if self._call is not None:
            try:
                nodes = _nodes(_arguments(self._call))
            except Exception as error:
                reason = reason or f"the {self._serializer} data cannot be walked: {error}"
        return Payload(
            raw_bytes=len(self._data),
            serializer=self._serializer,
            args_hash=self._hash,
            nodes=nodes,
            not_measured=reason,
        )


def _closed(machine: Machine, length: int) -> Value | None:
    """RQ's tuple from an unfinished stack, as if everything open ended where the data ends.

    The tuple is open from the first byte on: mark, function name, instance, then the arguments, behind a mark of their
    own when there are more than three.
    """
    stack = machine.stack
    if len(stack) < 4 or stack[0].kind != "mark" or stack[1].kind != "str":
        return None
    marked = stack[3].kind == "mark"
    values = _collapsed(stack[4:] if marked else stack[3:], length)
    call = Value(0, length, "tuple")
    arguments, kwargs = Value(stack[3].start, length, "tuple"), Value(length, length, "dict")
    if not marked and len(values) > 1 and values[0].kind == "tuple" and values[1].kind == "dict":
        arguments, kwargs = values[0], values[1]
    else:
        extend(arguments, values, length)
    extend(call, [stack[1], stack[2], arguments, kwargs], length)
    return call


def _collapsed(values: list[Value], length: int) -> list[Value]:
    """What is above each mark is given to the container below it; the last value of all reaches to the end."""
    values = list(values)
    while True:
        if values:
            values[-1].end = length
        index = next((index for index in range(len(values) - 1, -1, -1) if values[index].kind == "mark"), -1)
        if index < 0:
            return values
        items, below = values[index + 1 :], values[index - 1] if index else None
        if below is not None and below.kind in {"list", "set"}:
            extend(below, items, length)
            del values[index:]
        elif below is not None and (below.kind == "dict" or below.rich):
            update(below, items, length)
            del values[index:]
        else:
            whole = Value(values[index].start, length, "tuple")
            extend(whole, items, length)
            values[index:] = [whole]


_PARTIAL = "functools.partial"
#: What a pickle of a bound method begins with; its name comes later.
_BOUND = frozenset({"builtins.getattr", "__builtin__.getattr"})


def function_name(data: bytes, serializer: str = "pickle") -> str | None:
    """The dotted name of the function, without unpickling; None when it cannot be read.

    For a method RQ pickles the instance and the bare name: the name is then that of the class and the method. A
    ``functools.partial`` goes by the function that it calls.
    """
    try:
        if serializer == "json":
            if len(data) > MAX_JSON_BYTES:
                return None
            name = json.loads(data)[0]
            return name if isinstance(name, str) and name else None
        if serializer != "pickle":
            return None
        machine = Machine(data)
        for _ in range(2_000):  # the name comes first; an instance may take some more
            ended = machine.run(1)
            values = [value for value in machine.stack if value.kind != "mark"]
            if values and values[0].name and "." in values[0].name and values[0].kind == "str":
                return values[0].name
            if len(values) >= 2 and (values[1].kind == "None" or values[1].rich):
                if values[1].name == _PARTIAL and not ended:
                    called = next((each.name for each in values[2:] if each.rich and each.name != _PARTIAL), None)
                    if called is None:
                        continue
                    if "." in called and called not in _BOUND:
                        return called
                return values[0].name if values[1].kind == "None" else f"{values[1].kind}.{values[0].name}"
            if ended:
                break
        return values[0].name if values and values[0].kind == "str" else None
    except Exception:
        return None
