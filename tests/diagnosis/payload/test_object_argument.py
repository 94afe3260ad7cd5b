"""JD102: an application's or ORM's instance is a warning, a date is info, primitives are nothing."""

from __future__ import annotations

import pytest

from jobdoctor.diagnosis.checklist.payload.large_payload import LargePayload
from jobdoctor.diagnosis.checklist.payload.object_argument import ObjectArgument
from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.diagnosis.rule import NotChecked
from jobdoctor.model import Payload, PayloadNode, Trigger
from tests.builders import make_execution, make_history
from tests.diagnosis.asking import alike, ask, only


def payload(*nodes: PayloadNode) -> Payload:
    return Payload(raw_bytes=1_000, nodes=list(nodes))


ORDER = PayloadNode("args[0]", "shop.entities.Order", 620, items=6, rich=True)


def test_fires_on_an_applications_object() -> None:
    finding = only(ask(ObjectArgument, alike(payload=payload(ORDER))))
    assert finding.severity == "warning"


@pytest.mark.parametrize(
    "node",
    [
        PayloadNode("args[0]", "app.models.Order", 40, rich=True),
        PayloadNode("args[0]", "pandas.core.frame.DataFrame", 4_000, rich=True),
        PayloadNode("kwargs['order']", "app.orders.Order", 100, rich=True),
    ],
    ids=["small model", "library", "at the limit"],
)
def test_these_are_warnings(node: PayloadNode) -> None:
    assert only(ask(ObjectArgument, alike(payload=payload(node)))).severity == "warning"


def test_an_orms_state_makes_a_small_object_a_model() -> None:
    nodes = (
        PayloadNode("args[0]", "shop.Tag", 90, items=2, rich=True),
        PayloadNode("args[0]._sa_instance_state", "sqlalchemy.orm.state.InstanceState", 60, rich=True),
    )
    finding = only(ask(ObjectArgument, alike(payload=payload(*nodes))))
    assert (finding.severity, finding.confidence) == ("warning", 0.95)
    assert "more" not in finding.title


@pytest.mark.parametrize(
    "node",
    [
        PayloadNode("args[0]", "datetime.datetime", 40, rich=True),
        PayloadNode("args[0]", "decimal.Decimal", 31, rich=True),
        PayloadNode("args[0]", "uuid.UUID", 400, rich=True),
        PayloadNode("args[0]", "shop.Status", 45, rich=True),
        PayloadNode("args[0]", "shop.Money", 99, rich=True),
    ],
    ids=["datetime", "decimal", "uuid", "enumeration", "just below the limit"],
)
def test_values_are_info_only(node: PayloadNode) -> None:
    assert only(ask(ObjectArgument, alike(payload=payload(node)))).severity == "info"


@pytest.mark.parametrize(
    "nodes",
    [
        (PayloadNode("args[0]", "int", 4), PayloadNode("args[1]", "dict", 90_000, items=3)),
        (PayloadNode("args[0]", "len", 18, rich=True),),
        (),
    ],
    ids=["primitives", "builtin", "no arguments"],
)
def test_silent_on_look_alikes(nodes: tuple[PayloadNode, ...]) -> None:
    assert ask(ObjectArgument, alike(payload=payload(*nodes))) == []


def test_silent_below_the_share_of_executions() -> None:
    executions = [*alike(payload=payload(), number=19), make_execution(payload=payload(ORDER))]
    assert ask(ObjectArgument, executions) == []


def test_says_why_arguments_could_not_be_looked_at() -> None:
    opaque = Payload(raw_bytes=10, not_measured="data of the serializer app.Msgpack is opaque: only its size is known")
    with pytest.raises(NotChecked, match="opaque"):
        ask(ObjectArgument, alike(payload=opaque))


def test_the_whole_finding() -> None:
    date = PayloadNode("args[1]", "datetime.date", 21, rich=True)
    inner = PayloadNode("args[0].paid_at", "datetime.datetime", 40, rich=True)
    executions = alike(payload=payload(ORDER, date, inner), run_ms=100, ledger={"deserialize": 10, "cpu": 90})
    finding = only(ask(ObjectArgument, executions))
    assert (finding.code, finding.step, finding.recommendation.kind) == ("JD102", "payload", "payload")
    assert finding.title == "args[0] is an instance of shop.entities.Order (620 B serialised) and 1 more"
    assert finding.recommendation.snippet.startswith("queue.enqueue(sync_orders, order.id)")
    assert finding.saving_ms.high == pytest.approx(6.41)
    assert [node["path"] for node in finding.evidence[0].data["nodes"]] == ["args[0]", "args[1]"]


def test_objects_in_a_large_argument_are_part_of_its_story() -> None:
    """A list of ten thousand lines: what makes it large is the list, and passing an id cures both."""
    lines = Payload(
        raw_bytes=900_000,
        nodes=[
            PayloadNode("args[0]", "builtins.list", 890_000, items=10_000),
            PayloadNode("args[0][]", "shop.catalog.PriceLine", 880_000, items=10_000, rich=True),
        ],
    )
    executions = [
        make_execution(run_ms=100, payload=lines, trigger=Trigger("code", "app/views.py:12")) for _ in range(6)
    ]
    findings = diagnose(make_history(executions), rules=[LargePayload(), ObjectArgument()]).findings
    assert [(finding.code, finding.part_of) for finding in findings] == [("JD101", None), ("JD102", "JD101")]
