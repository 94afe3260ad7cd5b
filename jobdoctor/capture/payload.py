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
import pickletools
import re
import struct
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

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

_KEPT_CHILDREN = 32  # of one container; the others count in bytes and items
_NAMED_KEYS = 24  # a dict with more keys than this is data, not a record
_NAME_BYTES = 200
_ARGUMENTS_BYTES = 1024  # what a rich object was built from is named only when it is larger
_KEY = re.compile(r"[A-Za-z_]\w{0,39}\Z", re.ASCII)
_NUMBERED = re.compile(r"\d{3}")


class _Value:
    """One value of the pickle: where its bytes are, what it is, and the first of what it holds."""

    __slots__ = ("children", "end", "items", "kind", "name", "rich", "start")

    def __init__(self, start: int, end: int, kind: str, name: str | None = None, rich: bool = False) -> None:
        self.start = start
        self.end = end
        self.kind = kind  # type name as reported
        self.name = name  # text of a short string, dotted name of a class or function
        self.rich = rich
        self.items = 0
        self.children: list[tuple[str | None, _Value]] | None = None  # key (None: an element), value

    def keep(self, key: str | None, child: _Value) -> None:
        if self.children is None:
            self.children = [(key, child)]
        elif len(self.children) < _KEPT_CHILDREN:
            self.children.append((key, child))

    @property
    def size(self) -> int:
        return self.end - self.start


class _MalformedError(ValueError):
    """Not a pickle that the machine can follow."""


_PRIMITIVES = {
    "NONE": "None", "NEWTRUE": "bool", "NEWFALSE": "bool", "INT": "int", "BININT": "int", "BININT1": "int",
    "BININT2": "int", "LONG": "int", "LONG1": "int", "LONG4": "int", "FLOAT": "float", "BINFLOAT": "float",
    "STRING": "str", "BINSTRING": "str", "SHORT_BINSTRING": "str", "UNICODE": "str", "SHORT_BINUNICODE": "str",
    "BINUNICODE": "str", "BINUNICODE8": "str", "BINBYTES": "bytes", "SHORT_BINBYTES": "bytes", "BINBYTES8": "bytes",
    "BYTEARRAY8": "bytearray", "EMPTY_LIST": "list", "EMPTY_DICT": "dict", "EMPTY_SET": "set", "EMPTY_TUPLE": "tuple",
    "NEXT_BUFFER": "buffer", "PERSID": "persistent reference", "EXT1": "registered extension",
    "EXT2": "registered extension", "EXT4": "registered extension",
}  # fmt: skip
_STRINGS = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})
_NOTHING = frozenset({"FRAME", "PROTO", "READONLY_BUFFER"})

_TWO_LINES = -100
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: (1, struct.Struct("<B")),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, struct.Struct("<i")),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, struct.Struct("<I")),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, struct.Struct("<Q")),
}


def _table() -> list[tuple[str, int, str | None, bool] | None]:
    """By operation code: name, form of its argument, type of the primitive it makes, and whether that is a string."""
    table: list[tuple[str, int, str | None, bool] | None] = [None] * 256
    for opcode in pickletools.opcodes:
        form = 0
        if opcode.arg is not None:
            form = _TWO_LINES if opcode.arg.name.endswith("_pair") else opcode.arg.n
        table[ord(opcode.code)] = (opcode.name, form, _PRIMITIVES.get(opcode.name), opcode.name in _STRINGS)
    return table


_OPCODES = _table()


class _Machine:
    """The stack machine. :meth:`run` does some operations and says whether the end was reached."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.opcodes = 0
        self.stack: list[_Value] = []
        self.memo: dict[int, _Value] = {}
        self.done = False

    def run(self, opcodes: int) -> bool:
        """Walks at most ``opcodes`` operations; raises _MalformedError."""
        try:
            return self._run(opcodes)
        except (IndexError, KeyError, struct.error, ValueError) as error:
            if isinstance(error, _MalformedError):
                raise
            raise _MalformedError(f"{type(error).__name__} at byte {self.position}") from None

    def _run(self, opcodes: int) -> bool:
        data, stack, memo, position = self.data, self.stack, self.memo, self.position
        length, push = len(data), self.stack.append
        for _ in range(opcodes):
            if position >= length:
                raise _MalformedError("it ends without STOP")
            start = position
            opcode = _OPCODES[data[position]]
            if opcode is None:
                raise _MalformedError(f"unknown operation {data[position]} at byte {position}")
            name, form, kind, named = opcode
            at = position = position + 1  # where the argument's bytes are
            if form > 0:
                position += form
            elif form:
                at, position = self._argument(form, at)
            if position > length:
                raise _MalformedError("it is cut short")
            self.position = position
            self.opcodes += 1
            if kind is not None:
                value = _Value(start, position, kind)
                if named and position - at <= _NAME_BYTES:
                    value.name = data[at:position].decode("utf-8", "replace").rstrip("\n")
                push(value)
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name == "BINGET" or name == "LONG_BINGET" or name == "GET":
                known = memo[self._index(name, at, position)]
                again = _Value(start, position, known.kind, known.name, known.rich)
                again.items = known.items
                push(again)
            elif name == "MARK":
                push(_Value(start, position, "mark"))
            elif name == "BINPUT" or name == "LONG_BINPUT" or name == "PUT":
                memo[self._index(name, at, position)] = stack[-1]
            elif name == "STOP":
                self.done = True
                return True
            elif name not in _NOTHING:
                self._compose(name, start, position, at)
        return False

    def _argument(self, form: int, at: int) -> tuple[int, int]:
        """Where a variable argument begins and ends."""
        data = self.data
        if form in _LENGTHS:
            width, number = _LENGTHS[form]
            size: int = number.unpack_from(data, at)[0]
            if size < 0:
                raise _MalformedError("a negative length")
            return at + width, at + width + size
        end = data.index(b"\n", at) + 1
        if form == _TWO_LINES:
            end = data.index(b"\n", end) + 1
        return at, end

    def _index(self, name: str, at: int, end: int) -> int:
        raw = self.data[at:end]
        return int(raw) if name in {"GET", "PUT"} else int.from_bytes(raw, "little")

    def _two_lines(self, at: int, end: int) -> list[str]:
        return self.data[at : end - 1].decode("utf-8", "replace").split("\n")

    def _above_mark(self) -> tuple[_Value, list[_Value]]:
        stack = self.stack
        for index in range(len(stack) - 1, -1, -1):
            if stack[index].kind == "mark":
                mark, items = stack[index], stack[index + 1 :]
                del stack[index:]
                return mark, items
        raise _MalformedError("no mark")

    def _compose(self, name: str, start: int, end: int, at: int) -> None:
        """The operations that make a value out of others, and those that move the stack."""
        stack = self.stack
        if name in {"APPENDS", "ADDITEMS"}:
            _, items = self._above_mark()
            _extend(stack[-1], items, end)
        elif name == "APPEND":
            item = stack.pop()
            _extend(stack[-1], [item], end)
        elif name == "SETITEMS":
            _, items = self._above_mark()
            _update(stack[-1], items, end)
        elif name == "SETITEM":
            items = [stack.pop(), stack.pop()][::-1]
            _update(stack[-1], items, end)
        elif name in {"TUPLE1", "TUPLE2", "TUPLE3"}:
            count = int(name[-1])
            items = stack[-count:]
            if len(items) < count:
                raise _MalformedError("the stack is empty")
            del stack[-count:]
            value = _Value(items[0].start, end, "tuple")
            _extend(value, items, end)
            stack.append(value)
        elif name in {"TUPLE", "LIST", "FROZENSET", "DICT"}:
            mark, items = self._above_mark()
            value = _Value(mark.start, end, name.lower())
            (_update if name == "DICT" else _extend)(value, items, end)
            stack.append(value)
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_reference(module.start, end, f"{module.name or '?'}.{attribute.name or '?'}"))
        elif name == "GLOBAL":
            module_name, attribute_name = self._two_lines(at, end)
            stack.append(_reference(start, end, f"{module_name}.{attribute_name}"))
        elif name in {"REDUCE", "NEWOBJ"}:
            arguments, function = stack.pop(), stack.pop()
            stack.append(_built(function, arguments, end))
        elif name == "NEWOBJ_EX":
            keywords, arguments, function = stack.pop(), stack.pop(), stack.pop()
            value = _built(function, arguments, end)
            value.keep(None, keywords)
            stack.append(value)
        elif name == "BUILD":
            state = stack.pop()
            _state(stack[-1], state, end)
        elif name in {"OBJ", "INST"}:
            mark, items = self._above_mark()
            if name == "INST":
                module_name, attribute_name = self._two_lines(at, end)
                function = _reference(mark.start, end, f"{module_name}.{attribute_name}")
            else:
                function = items.pop(0)
            arguments = _Value(mark.start, end, "tuple")
            _extend(arguments, items, end)
            stack.append(_built(function, arguments, end))
        elif name == "BINPERSID":
            stack[-1] = _Value(stack[-1].start, end, "persistent reference", rich=True)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._above_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            raise _MalformedError(f"the operation {name}")


def _extend(container: _Value, items: list[_Value], end: int) -> None:
    for item in items[:_KEPT_CHILDREN]:
        container.keep(None, item)
    container.items += len(items)
    container.end = end


def _update(container: _Value, items: list[_Value], end: int) -> None:
    for key, value in zip(items[: 2 * _KEPT_CHILDREN : 2], items[1 : 2 * _KEPT_CHILDREN : 2], strict=False):
        container.keep(key.name if key.kind == "str" and key.name is not None else "*", value)
    container.items += len(items) // 2
    container.end = end


def _reference(start: int, end: int, name: str) -> _Value:
    return _Value(start, end, name.removeprefix("builtins."), name, rich=True)


def _built(function: _Value, arguments: _Value, end: int) -> _Value:
    """The object that a class or a function makes of arguments: known by the name of its class."""
    kind = _class_name(function.name or function.kind, arguments)
    plain = kind in {"set", "frozenset", "bytes", "bytearray", "complex"}
    value = _Value(function.start, end, kind, rich=not plain)
    if arguments.children and not plain and function.name not in _CONSTRUCTORS:
        value.children = list(arguments.children[:_KEPT_CHILDREN])
    return value


#: Functions through which pickles of many classes go: the class is their first argument.
_CONSTRUCTORS = frozenset(
    {
        "copyreg._reconstructor",
        "copy_reg._reconstructor",
        "copyreg.__newobj__",
        "copyreg.__newobj_ex__",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "functools.partial",
        "builtins.getattr",
    }
)


def _class_name(function: str, arguments: _Value) -> str:
    first = arguments.children[0][1] if arguments.children else None
    if function in _CONSTRUCTORS and first is not None and first.name and function != "functools.partial":
        return first.name.removeprefix("builtins.")
    if function == "django.db.models.base.model_unpickle" and first is not None:
        # Its argument is (application label, model name), or a class in old versions.
        parts = [child.name for _, child in first.children or () if child.name]
        return ".".join(parts) or first.name or "django.db.models.Model"
    return {"_codecs.encode": "bytes"}.get(function, function.removeprefix("builtins."))


def _state(built: _Value, state: _Value, end: int) -> None:
    """The attributes that BUILD gives to an object: a dict, or (dict, slots)."""
    parts = [state]
    if state.kind == "tuple" and state.children:
        parts = [child for _, child in state.children if child.kind == "dict"] or [state]
    for part in parts:
        for key, child in part.children or ():
            built.keep(key, child)
        built.items += part.items
    built.end = end


# --------------------------------------------------------------------------------------------------------------- report


def _steps(value: _Value) -> Iterator[tuple[str, list[_Value]]]:
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


def _walk(path: str, values: list[_Value], factor: float, depth: int, nodes: dict[str, PayloadNode]) -> None:
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
    below: dict[str, list[_Value]] = {}
    for value in values:
        for step, children in _steps(value):
            below.setdefault(step, []).extend(children)
    for step, children in below.items():
        scale = 1.0
        if step in {"[]", ".*"} and not rich:
            scale = max(1.0, min(items / len(children), size / max(1, sum(child.size for child in children))))
        _walk(path + step, children, factor * scale, depth + 1, nodes)


def _nodes(arguments: list[tuple[str, _Value]]) -> list[PayloadNode]:
    nodes: dict[str, PayloadNode] = {}
    for path, value in arguments[:MAX_NODES]:
        _walk(path, [value], 1.0, 0, nodes)
    top = {path for path, _ in arguments}
    kept = sorted(nodes.values(), key=lambda node: (node.path not in top, not node.rich, -node.bytes))[:MAX_NODES]
    return sorted(kept, key=lambda node: (-node.bytes, node.path))


def _arguments(call: _Value) -> list[tuple[str, _Value]]:
    """The arguments in RQ's (function name, instance, args, kwargs)."""
    parts = [child for _, child in call.children or ()]
    if call.kind not in {"tuple", "list"} or len(parts) != 4:
        raise _MalformedError("it is not a call as RQ writes it")
    _, instance, args, kwargs = parts
    found = [("self", instance)] if instance.kind != "None" else []
    found += [(f"args[{index}]", child) for index, (_, child) in enumerate(args.children or ())]
    found += [(f"kwargs[{key!r}]", child) for key, child in kwargs.children or ()]
    return found


# ----------------------------------------------------------------------------------------------------------------- JSON


def _json_value(value: Any, budget: list[int]) -> _Value:
    """The same tree for parsed JSON; sizes as ``json.dumps`` would write them, nearly."""
    budget[0] -= 1
    if budget[0] < 0:
        raise _MalformedError(f"more than {MAX_OPCODES} values")
    if isinstance(value, dict):
        result = _Value(0, 2, "dict")
        for key, item in value.items():
            child = _json_value(item, budget)
            result.keep(key, child)
            result.end += len(key) + 6 + child.size
        result.items = len(value)
        return result
    if isinstance(value, list):
        result = _Value(0, 2, "list")
        for item in value:
            child = _json_value(item, budget)
            result.keep(None, child)
            result.end += child.size + 2
        result.items = len(value)
        return result
    if isinstance(value, str):
        return _Value(0, len(value.encode("utf-8", "replace")) + 2, "str", value if len(value) <= _NAME_BYTES else None)
    return _Value(0, len(json.dumps(value)), "None" if value is None else type(value).__name__)


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
        self._machine: _Machine | None = None
        self._call: _Value | None = None
        self._reason: str | None = None
        self._done = False
        self._hash = ""
        self.wire_bytes: int | None = None

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
            self._machine = _Machine(self._data)
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
            wire_bytes=self.wire_bytes,
            serializer=self._serializer,
            args_hash=self._hash,
            nodes=nodes,
            not_measured=reason,
        )


def _closed(machine: _Machine, length: int) -> _Value | None:
    """RQ's tuple from an unfinished stack, as if everything open ended where the data ends.

    The tuple is open from the first byte on: mark, function name, instance, then the arguments, behind a mark of their
    own when there are more than three.
    """
    stack = machine.stack
    if len(stack) < 4 or stack[0].kind != "mark" or stack[1].kind != "str":
        return None
    marked = stack[3].kind == "mark"
    values = _collapsed(stack[4:] if marked else stack[3:], length)
    call = _Value(0, length, "tuple")
    arguments, kwargs = _Value(stack[3].start, length, "tuple"), _Value(length, length, "dict")
    if not marked and len(values) > 1 and values[0].kind == "tuple" and values[1].kind == "dict":
        arguments, kwargs = values[0], values[1]
    else:
        _extend(arguments, values, length)
    _extend(call, [stack[1], stack[2], arguments, kwargs], length)
    return call


def _collapsed(values: list[_Value], length: int) -> list[_Value]:
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
            _extend(below, items, length)
            del values[index:]
        elif below is not None and (below.kind == "dict" or below.rich):
            _update(below, items, length)
            del values[index:]
        else:
            whole = _Value(values[index].start, length, "tuple")
            _extend(whole, items, length)
            values[index:] = [whole]


def measure(data: bytes, *, serializer: str = "pickle", wire_bytes: int | None = None) -> Payload:
    """The whole measurement at once, within its budget."""
    measurement = Measurement(data, serializer=serializer)
    measurement.wire_bytes = wire_bytes
    measurement.step(BUDGET_S)
    return measurement.result()


def function_name(data: bytes, serializer: str = "pickle") -> str | None:
    """The dotted name of the function, without unpickling; None when it cannot be read.

    For a method RQ pickles the instance and the bare name: the name is then that of the class and the method.
    """
    try:
        if serializer == "json":
            if len(data) > MAX_JSON_BYTES:
                return None
            name = json.loads(data)[0]
            return name if isinstance(name, str) and name else None
        if serializer != "pickle":
            return None
        machine = _Machine(data)
        for _ in range(2_000):  # the name comes first; an instance may take some more
            ended = machine.run(1)
            values = [value for value in machine.stack if value.kind != "mark"]
            if values and values[0].name and "." in values[0].name and values[0].kind == "str":
                return values[0].name
            if len(values) >= 2 and (values[1].kind == "None" or values[1].rich):
                return values[0].name if values[1].kind == "None" else f"{values[1].kind}.{values[0].name}"
            if ended:
                break
        return values[0].name if values and values[0].kind == "str" else None
    except Exception:
        return None
