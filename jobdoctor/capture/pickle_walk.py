"""A pickle, walked as text: the extent in bytes and the type of each value, and nothing of what it stands for.

Nothing is imported, called or constructed: a hostile pickle does nothing.
"""

from __future__ import annotations

import pickletools
import struct

_KEPT_CHILDREN = 32  # of one container; the others count in bytes and items
NAME_BYTES = 200  # longer strings are no names


class Value:
    """One value of the pickle: where its bytes are, what it is, and the first of what it holds."""

    __slots__ = ("children", "end", "items", "kind", "name", "rich", "start")

    def __init__(self, start: int, end: int, kind: str, name: str | None = None, rich: bool = False) -> None:
        self.start = start
        self.end = end
        self.kind = kind  # type name as reported
        self.name = name  # text of a short string, dotted name of a class or function
        self.rich = rich
        self.items = 0
        self.children: list[tuple[str | None, Value]] | None = None  # key (None: an element), value

    def keep(self, key: str | None, child: Value) -> None:
        if self.children is None:
            self.children = [(key, child)]
        elif len(self.children) < _KEPT_CHILDREN:
            self.children.append((key, child))

    @property
    def size(self) -> int:
        return self.end - self.start


class MalformedError(ValueError):
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


class Machine:
    """The stack machine. :meth:`run` does some operations and says whether the end was reached."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.opcodes = 0
        self.stack: list[Value] = []
        self.memo: dict[int, Value] = {}
        self.done = False

    def run(self, opcodes: int) -> bool:
        """Walks at most ``opcodes`` operations; raises MalformedError."""
        try:
            return self._run(opcodes)
        except (IndexError, KeyError, struct.error, ValueError) as error:
            if isinstance(error, MalformedError):
                raise
            raise MalformedError(f"{type(error).__name__} at byte {self.position}") from None

    def _run(self, opcodes: int) -> bool:
        data, stack, memo, position = self.data, self.stack, self.memo, self.position
        length, push = len(data), self.stack.append
        for _ in range(opcodes):
            if position >= length:
                raise MalformedError("it ends without STOP")
            start = position
            opcode = _OPCODES[data[position]]
            if opcode is None:
                raise MalformedError(f"unknown operation {data[position]} at byte {position}")
            name, form, kind, named = opcode
            at = position = position + 1  # where the argument's bytes are
            if form > 0:
                position += form
            elif form:
                at, position = self._argument(form, at)
            if position > length:
                raise MalformedError("it is cut short")
            self.position = position
            self.opcodes += 1
            if kind is not None:
                value = Value(start, position, kind)
                if named and position - at <= NAME_BYTES:
                    value.name = data[at:position].decode("utf-8", "replace").rstrip("\n")
                push(value)
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name == "BINGET" or name == "LONG_BINGET" or name == "GET":
                known = memo[self._index(name, at, position)]
                again = Value(start, position, known.kind, known.name, known.rich)
                again.items = known.items
                push(again)
            elif name == "MARK":
                push(Value(start, position, "mark"))
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
                raise MalformedError("a negative length")
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

    def _above_mark(self) -> tuple[Value, list[Value]]:
        stack = self.stack
        for index in range(len(stack) - 1, -1, -1):
            if stack[index].kind == "mark":
                mark, items = stack[index], stack[index + 1 :]
                del stack[index:]
                return mark, items
        raise MalformedError("no mark")

    def _compose(self, name: str, start: int, end: int, at: int) -> None:
        """The operations that make a value out of others, and those that move the stack."""
        stack = self.stack
        if name in {"APPENDS", "ADDITEMS"}:
            _, items = self._above_mark()
            extend(stack[-1], items, end)
        elif name == "APPEND":
            item = stack.pop()
            extend(stack[-1], [item], end)
        elif name == "SETITEMS":
            _, items = self._above_mark()
            update(stack[-1], items, end)
        elif name == "SETITEM":
            items = [stack.pop(), stack.pop()][::-1]
            update(stack[-1], items, end)
        elif name in {"TUPLE1", "TUPLE2", "TUPLE3"}:
            count = int(name[-1])
            items = stack[-count:]
            if len(items) < count:
                raise MalformedError("the stack is empty")
            del stack[-count:]
            value = Value(items[0].start, end, "tuple")
            extend(value, items, end)
            stack.append(value)
        elif name in {"TUPLE", "LIST", "FROZENSET", "DICT"}:
            mark, items = self._above_mark()
            value = Value(mark.start, end, name.lower())
            (update if name == "DICT" else extend)(value, items, end)
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
            arguments = Value(mark.start, end, "tuple")
            extend(arguments, items, end)
            stack.append(_built(function, arguments, end))
        elif name == "BINPERSID":
            stack[-1] = Value(stack[-1].start, end, "persistent reference", rich=True)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._above_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            raise MalformedError(f"the operation {name}")


def extend(container: Value, items: list[Value], end: int) -> None:
    for item in items[:_KEPT_CHILDREN]:
        container.keep(None, item)
    container.items += len(items)
    container.end = end


def update(container: Value, items: list[Value], end: int) -> None:
    for key, value in zip(items[: 2 * _KEPT_CHILDREN : 2], items[1 : 2 * _KEPT_CHILDREN : 2], strict=False):
        container.keep(key.name if key.kind == "str" and key.name is not None else "*", value)
    container.items += len(items) // 2
    container.end = end


def _reference(start: int, end: int, name: str) -> Value:
    return Value(start, end, name.removeprefix("builtins."), name, rich=True)


def _built(function: Value, arguments: Value, end: int) -> Value:
    """The object that a class or a function makes of arguments: known by the name of its class."""
    kind = _class_name(function.name or function.kind, arguments)
    plain = kind in {"set", "frozenset", "bytes", "bytearray", "complex"}
    value = Value(function.start, end, kind, rich=not plain)
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


def _class_name(function: str, arguments: Value) -> str:
    first = arguments.children[0][1] if arguments.children else None
    if function in _CONSTRUCTORS and first is not None and first.name and function != "functools.partial":
        return first.name.removeprefix("builtins.")
    if function == "django.db.models.base.model_unpickle" and first is not None:
        # Its argument is (application label, model name), or a class in old versions.
        parts = [child.name for _, child in first.children or () if child.name]
        return ".".join(parts) or first.name or "django.db.models.Model"
    return {"_codecs.encode": "bytes"}.get(function, function.removeprefix("builtins."))


def _state(built: Value, state: Value, end: int) -> None:
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
