"""The payload as a tree: each argument with what lies below it, largest first."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from jobdoctor.model import Execution, Payload, PayloadNode

SHOWN_NODES = 40
#: Deeper parts are drawn at this depth: the path says the rest.
DEEPEST = 8


class PayloadRow(Struct, frozen=True):
    """``name`` is the path without its parent's."""

    depth: int
    name: str
    node: PayloadNode
    share: float  # of the raw bytes


class PayloadTree(Struct, frozen=True):
    payload: Payload
    rows: list[PayloadRow]
    left_out: int


def payload_tree(executions: Sequence[Execution]) -> PayloadTree | None:
    """The largest payload whose arguments were measured, or else the largest; None when none was measured."""
    payloads = [execution.payload for execution in executions if execution.payload]
    if not payloads:
        return None
    payload = max(payloads, key=lambda one: (bool(one.nodes), one.raw_bytes))
    rows = _rows(payload)
    return PayloadTree(payload, rows[:SHOWN_NODES], max(0, len(rows) - SHOWN_NODES))


def _rows(payload: Payload) -> list[PayloadRow]:
    by_path = {node.path: node for node in payload.nodes}
    children: dict[str | None, list[str]] = {}
    for path in by_path:
        children.setdefault(_parent(path, by_path), []).append(path)
    rows: list[PayloadRow] = []
    pending = [(path, "", 0) for path in _smallest_first(children.get(None, []), by_path)]
    while pending:
        path, above, depth = pending.pop()
        node = by_path[path]
        share = min(1.0, node.bytes / payload.raw_bytes) if payload.raw_bytes > 0 else 0.0
        rows.append(PayloadRow(min(depth, DEEPEST), path.removeprefix(above), node, share))
        pending += [(child, path, depth + 1) for child in _smallest_first(children.get(path, []), by_path)]
    return rows


def _smallest_first(paths: Sequence[str], by_path: dict[str, PayloadNode]) -> list[str]:
    return sorted(paths, key=lambda path: (by_path[path].bytes, path))


def _parent(path: str, known: dict[str, PayloadNode]) -> str | None:
    """The longest known path that this one goes on from; None for an argument."""
    for end in range(len(path) - 1, 0, -1):
        if path[end] in ".[" and path[:end] in known:
            return path[:end]
    return None
