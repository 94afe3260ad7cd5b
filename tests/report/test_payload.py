"""The payload as a tree."""

from __future__ import annotations

from jobdoctor.model import Payload, PayloadNode
from jobdoctor.report.payload import SHOWN_NODES, payload_tree
from tests.builders import make_execution


def tree_of(*nodes: PayloadNode, raw_bytes: int = 1_000) -> list[tuple[int, str, float]]:
    tree = payload_tree([make_execution(payload=Payload(raw_bytes, nodes=list(nodes)))])
    assert tree is not None
    return [(row.depth, row.name, row.share) for row in tree.rows]


def test_what_lies_below_an_argument_stands_below_it_largest_first() -> None:
    assert tree_of(
        PayloadNode("args[1]", "list", 800),
        PayloadNode("kwargs['order']", "app.Order", 900, rich=True),
        PayloadNode("args[1][].price", "decimal.Decimal", 100),
        PayloadNode("args[1][]", "app.Line", 700),
        PayloadNode("args[1][].sku", "str", 200),
        PayloadNode("args[10]", "str", 20),
    ) == [
        (0, "kwargs['order']", 0.9),
        (0, "args[1]", 0.8),
        (1, "[]", 0.7),
        (2, ".sku", 0.2),
        (2, ".price", 0.1),
        (0, "args[10]", 0.02),
    ]


def test_an_odd_path_and_a_payload_of_nothing_are_no_error() -> None:
    assert tree_of(PayloadNode("", "str", 5), PayloadNode(".", "str", 5), raw_bytes=0) == [(0, ".", 0.0), (0, "", 0.0)]


def test_a_huge_tree_is_cut_and_says_so() -> None:
    nodes = [PayloadNode(f"args[0].f{number}", "str", number) for number in range(SHOWN_NODES + 3)]
    tree = payload_tree([make_execution(payload=Payload(10_000, nodes=nodes))])
    assert tree is not None
    assert (len(tree.rows), tree.left_out) == (SHOWN_NODES, 3)
    assert tree.rows[0].node.bytes == SHOWN_NODES + 2


def test_nothing_measured_is_nothing_shown() -> None:
    assert payload_tree([make_execution(payload=None)]) is None
