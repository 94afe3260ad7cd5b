"""Payloads by argument path, in every pickle protocol, without unpickling anything."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import functools
import json
import os
import pathlib
import pickle
import uuid
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from jobdoctor.capture import payload
from jobdoctor.capture.payload import Measurement, function_name
from jobdoctor.model import Payload, PayloadNode


def measure(data: bytes, **settings: Any) -> Payload:
    """The whole measurement at once. The budget has tests of its own, and a busy host must not meet it in others."""
    measurement = Measurement(data, budget_s=60.0, **settings)
    measurement.step(60.0)
    return measurement.result()


class Order:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def total(self) -> int:
        return 0


class Slots:
    __slots__ = ("blob",)

    def __init__(self) -> None:
        self.blob = b"x" * 2000


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Color(enum.Enum):
    RED = 1


def _data(*args: Any, protocol: int = pickle.HIGHEST_PROTOCOL, instance: Any = None, **kwargs: Any) -> bytes:
    return pickle.dumps(("app.tasks.sync", instance, args, kwargs), protocol=protocol)


def _nodes(measured: Payload) -> dict[str, PayloadNode]:
    return {node.path: node for node in measured.nodes}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arguments_by_path(protocol: int) -> None:
    rows = [{"id": number, "at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)} for number in range(100)]
    data = _data("x" * 1000, 7, {"rows": rows, "page": 1}, order=Order(id=1, blob="y" * 500), protocol=protocol)
    measured = measure(data)
    assert measured.not_measured is None
    assert measured.raw_bytes == len(data)
    nodes = _nodes(measured)
    assert nodes["args[0]"].type_name == "str"
    assert 1000 <= nodes["args[0]"].bytes <= 1012
    assert nodes["args[1]"].type_name == "int"
    assert nodes["args[2].rows"].items == 100
    assert nodes["args[2].rows[]"].type_name == "dict"
    assert nodes["args[2].rows[].at"].type_name == "datetime.datetime"
    assert nodes["args[2].rows[].at"].rich
    assert not nodes["args[2].rows"].rich
    order = nodes["kwargs['order']"]
    assert order.rich
    assert order.type_name == f"{__name__}.Order"
    assert nodes["kwargs['order'].blob"].bytes >= 500
    top = [node for path, node in nodes.items() if "." not in path and "[]" not in path]
    assert 0.95 * len(data) - 60 <= sum(node.bytes for node in top) <= len(data)
    assert [node.bytes for node in measured.nodes] == sorted((node.bytes for node in measured.nodes), reverse=True)


def test_rich_types_have_their_names() -> None:
    value = uuid.uuid4()
    nodes = _nodes(
        measure(
            _data(
                decimal.Decimal("1.5"),
                value,
                Color.RED,
                pathlib.PurePosixPath("/tmp/x"),
                Slots(),
                collections.OrderedDict(a=1),
                {1, 2},
                frozenset([1]),
                os.path.join,
                None,
                True,
                1.5,
                b"bytes",
                (1, 2, 3, 4),
            )
        )
    )
    kinds = {path: (node.type_name, node.rich) for path, node in nodes.items() if path.count("[") == 1}
    assert kinds["args[0]"] == ("decimal.Decimal", True)
    assert kinds["args[1]"] == ("uuid.UUID", True)
    assert kinds["args[2]"] == (f"{__name__}.Color", True)
    # Python 3.13 moved it to pathlib._local.
    assert kinds["args[3]"] == (f"{pathlib.PurePosixPath.__module__}.PurePosixPath", True)
    assert kinds["args[4]"] == (f"{__name__}.Slots", True)
    assert kinds["args[5]"] == ("collections.OrderedDict", True)
    assert kinds["args[6]"] == ("set", False)
    assert kinds["args[7]"] == ("frozenset", False)
    assert kinds["args[8]"] == ("posixpath.join", True)
    assert kinds["args[9]"] == ("None", False)
    assert kinds["args[10]"] == ("bool", False)
    assert kinds["args[11]"] == ("float", False)
    assert kinds["args[12]"] == ("bytes", False)
    assert kinds["args[13]"] == ("tuple", False)
    assert nodes["args[4].blob"].bytes >= 2000


def test_model_instances_of_sqlalchemy_have_their_names() -> None:
    nodes = _nodes(measure(_data(Customer(id=1, name="x" * 300))))
    assert nodes["args[0]"].type_name == f"{__name__}.Customer"
    assert nodes["args[0]"].rich
    assert nodes["args[0].name"].bytes >= 300


def test_a_model_instance_of_django_has_its_name() -> None:
    # model_unpickle((label, name)) with the state that follows, written by hand: Django is no dependency.
    data = (
        b"\x80\x04(\x8c\x01fN"
        b"\x8c\x15django.db.models.base\x8c\x0emodel_unpickle\x93\x8c\x04shop\x8c\x05Order\x86\x85R"
        b"}\x8c\x02idK\x01sb\x85}t."
    )
    assert _nodes(measure(data))["args[0]"].type_name == "shop.Order"


def test_a_long_list_is_summarised() -> None:
    measured = measure(_data([{"id": number, "name": f"name {number}"} for number in range(2_000)]))
    nodes = _nodes(measured)
    assert nodes["args[0]"].items == 2_000
    assert len(nodes) <= 6
    assert abs(nodes["args[0][]"].bytes - nodes["args[0]"].bytes) < 0.15 * nodes["args[0]"].bytes


def test_keys_that_are_data_are_not_kept() -> None:
    people = {f"user{number}@example.com": f"{number}" * 50 for number in range(10)}
    measured = measure(_data(people, {"order_10045": 1}))
    assert "example" not in repr(measured)
    assert "10045" not in repr(measured)
    assert _nodes(measured)["args[0].*"].bytes >= 500


def test_no_value_is_kept() -> None:
    measured = measure(_data("top secret", {"key": "secret too"}, token="hush"))
    assert "secret" not in repr(measured)
    assert "hush" not in repr(measured)


class _Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.path,))


def test_a_hostile_pickle_does_nothing(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "executed"
    data = _data(_Bomb(str(target)))
    measured = measure(data)
    assert function_name(data) == "app.tasks.sync"
    assert _nodes(measured)["args[0]"].type_name == "posix.mkdir"
    assert not target.exists()
    pickle.loads(data)
    assert target.exists()  # it would have


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80", b"no pickle", b"\x80\x05\x95", b"(((((", b"\x80\x04K", b"\x80\x04(t.", b"]" * 100, b"\x80\x04]\x86.",
     b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff", b"T\xff\xff\xff\xff.", b"h\x05.", b"i\n", pickle.dumps(17)],
)  # fmt: skip
def test_garbage_is_said_to_be_garbage(data: bytes) -> None:
    measured = measure(data)
    assert measured.not_measured
    assert measured.raw_bytes == len(data)
    assert measured.nodes == []
    assert measured.args_hash


def test_every_cut_of_a_pickle_is_survived() -> None:
    data = _data([1, {"a": (1, 2, 3, 4)}], Order(a=1), x={1: 2})
    for end in range(len(data)):
        assert measure(data[:end]).not_measured


def test_the_budget_gives_a_partial_answer() -> None:
    data = _data([{"id": number} for number in range(5_000)], "tail")
    measurement = Measurement(data, max_opcodes=3_000)
    assert measurement.step(10)
    measured = measurement.result()
    assert measured.not_measured is not None
    assert measured.not_measured.startswith("partial: the first ")
    nodes = _nodes(measured)
    assert nodes["args[0]"].type_name == "list"
    assert nodes["args[0]"].bytes > 0.9 * len(data)


def test_time_is_bounded_and_can_be_taken_in_slices() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.001
        return now[0]

    data = _data([{"id": number} for number in range(20_000)])
    measurement = Measurement(data, clock=clock, budget_s=0.02)
    steps = 0
    while not measurement.step(0.004):
        steps += 1
        assert steps < 100
    assert steps >= 2
    assert now[0] < 0.1
    assert measurement.result().not_measured


def test_shared_objects_count_once() -> None:
    shared = "s" * 5000
    nodes = _nodes(measure(_data([shared], [shared])))
    assert nodes["args[0]"].bytes > 5000
    assert nodes["args[1]"].bytes < 100


def test_recursive_structures() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    pair: tuple[Any, ...] = ([],)
    pair[0].append(pair)
    assert measure(_data(loop, pair)).not_measured is None


def test_the_hash_is_of_function_and_arguments() -> None:
    assert measure(_data(1)).args_hash == measure(_data(1)).args_hash
    assert measure(_data(1)).args_hash != measure(_data(2)).args_hash
    assert len(measure(_data(1)).args_hash) == 16


def test_json() -> None:
    data = json.dumps(["app.tasks.sync", None, ["x" * 300, [{"id": 1}, {"id": 2}]], {"key": 1.5}]).encode()
    measured = measure(data, serializer="json")
    nodes = _nodes(measured)
    assert measured.serializer == "json"
    assert nodes["args[0]"].bytes == 302
    assert nodes["args[1]"].items == 2
    assert nodes["kwargs['key']"].type_name == "float"
    assert function_name(data, "json") == "app.tasks.sync"
    assert measure(b"{", serializer="json").not_measured


def test_another_serializer_is_opaque() -> None:
    measured = measure(b"\x01\x02", serializer="app.msgpack")
    assert "app.msgpack" in (measured.not_measured or "")
    assert function_name(b"\x01\x02", "app.msgpack") is None


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (("app.tasks.sync", None, (1,), {}), "app.tasks.sync"),
        (("min", None, (1,), {}), "min"),
        (("total", Order(a=1), (), {}), f"{__name__}.Order.total"),
        (("total", Slots(), (), {}), f"{__name__}.Slots.total"),
        (("__call__", functools.partial(measure, b""), (), {}), f"{__name__}.measure"),
        (("__call__", functools.partial(functools.partial(measure, Order(a=1)), 2), (), {}), f"{__name__}.measure"),
        (("__call__", functools.partial(Order(a=1).total, 2), (), {}), "functools.partial.__call__"),
    ],
)
def test_function_names(call: Any, name: str) -> None:
    assert function_name(pickle.dumps(call, pickle.HIGHEST_PROTOCOL)) == name


def test_function_name_of_garbage() -> None:
    assert function_name(b"garbage") is None
    assert function_name(b"") is None


def test_limits_hold_nodes() -> None:
    measured = measure(_data(*range(200)))
    assert len(measured.nodes) <= payload.MAX_NODES
