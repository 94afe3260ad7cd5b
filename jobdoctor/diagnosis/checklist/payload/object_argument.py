"""object-argument: an argument is a model instance or another rich object.

## What it looks for

Arguments (and what they hold) that are neither primitives nor containers of primitives: instances of the application's
or a library's classes, which is a warning; and values of the standard library such as datetime, Decimal or UUID, and
small value objects, which are mentioned as info.

## Why it costs time

A pickled object drags along whatever it refers to, and its class is imported to read it. It is a copy from the time of
the enqueue: the job works on stale data and may write it back. And a deploy that renames or changes the class makes
the jobs in the queue unreadable.

## What to do

Pass the primary key and load the row in the job. Pass the two or three fields that the job needs. Pass dates as ISO
strings and amounts as integers of the smallest unit, when other programs read the queue.

## When it is a false alarm

When the object is a small, frozen value that never changes its class, or a frame of numbers that exists nowhere else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import words_bytes
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.model import Evidence, Finding, JobHistory, PayloadNode

_ORM_STATE = ("._sa_instance_state", "._state")


class ObjectArgument(Rule):
    """JD102."""

    code = "JD102"
    name = "object-argument"
    step = "payload"
    kind = "payload"
    related_to = ("JD101",)

    object_bytes = Limit(
        100,
        "bytes",
        "size of an application's object from which it is a warning; a smaller one counts as a value",
        "own: an enumeration's member pickles to 30 to 60 bytes, an ORM's instance of five columns to 400 and more",
    )
    share_of_executions = Limit(
        0.1, "share", "executions that must have such an argument", "own: rarer ones are somebody's experiment"
    )

    def check(self, history: JobHistory) -> Iterator[Finding]:
        payloads = [execution.payload for execution in history.executions if execution.payload is not None]
        readable = [payload for payload in payloads if payload.nodes or not payload.not_measured]
        if not payloads:
            raise NotChecked("the job's arguments were not recorded: run it under `jobdoctor run`")
        if not readable:
            raise NotChecked(f"the job's arguments could not be looked at: {payloads[0].not_measured}")
        seen: dict[tuple[str, str], list[PayloadNode]] = {}
        for payload in readable:
            for node in _outermost(payload.nodes):
                seen.setdefault((node.path, node.type_name), []).append(node)
        often = {
            key: max(nodes, key=lambda node: node.bytes)
            for key, nodes in seen.items()
            if len(nodes) >= self.limits.share_of_executions * len(readable)
        }
        if not often:
            return
        orm = {
            node.path.removesuffix(suffix)
            for payload in readable
            for node in payload.nodes
            for suffix in _ORM_STATE
            if node.path.endswith(suffix)
        }
        grave = [node for node in often.values() if self._is_grave(node, node.path in orm)]
        yield self._describe(history, sorted(often.values(), key=lambda node: -node.bytes), grave, orm)

    def _is_grave(self, node: PayloadNode, orm: bool) -> bool:
        module, _, _ = node.type_name.rpartition(".")
        if not module or module.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
            return False
        return orm or "models" in module.split(".") or node.bytes >= self.limits.object_bytes

    def _describe(
        self, history: JobHistory, nodes: list[PayloadNode], grave: list[PayloadNode], orm: set[str]
    ) -> Finding:
        lead = max(grave or nodes, key=lambda node: node.bytes)
        looked_at = measure.typical(history)
        raw = max(1.0, measure.mean(e.payload.raw_bytes for e in looked_at if e.payload))
        cost = measure.mean(map(measure.unpickling_ms, looked_at))
        saving = cost * measure.share(sum(node.bytes for node in nodes), raw)
        function = history.job.rpartition(".")[2]
        name = lead.type_name.rpartition(".")[2]
        more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
        if grave:
            text = f"Pass the id of the {name} and load it in the job. Or pass the few fields that the job needs."
            snippet = f"queue.enqueue({function}, {name.lower()}.id)  # not {lead.path}: the {name} itself"
        else:
            text = f"Pass a primitive instead of the {name}. ISO strings and integers can be read by any program."
            snippet = f"queue.enqueue({function}, {_primitive(lead)})"
        trigger = next((e.trigger for e in history.executions if e.trigger and e.trigger.callsite), None)
        return self.finding(
            severity="warning" if grave else "info",
            confidence=0.95 if lead.path in orm else 0.85 if grave else 0.9,
            title=f"{lead.path} is {'an instance of ' if grave else ''}{lead.type_name} "
            f"({words_bytes(lead.bytes)} serialised){more}",
            cost_ms=cost,
            # An id must be loaded: that costs more than a small object takes to unpickle. What is saved is its age.
            saving=(0.0, max(0.0, saving - (measure.load_by_key_ms(looked_at) if grave else saving / 2)), saving),
            text=text,
            snippet=snippet,
            callsite=trigger.callsite if trigger else "",
            evidence=[
                Evidence(
                    "payload",
                    "Arguments that are objects: " + ", ".join(f"{node.path}: {node.type_name}" for node in nodes[:5]),
                    {
                        "nodes": [
                            {"path": node.path, "type_name": node.type_name, "bytes": node.bytes, "rich": True}
                            for node in nodes[:20]
                        ]
                    },
                )
            ],
        )


def _outermost(nodes: list[PayloadNode]) -> list[PayloadNode]:
    """Rich nodes that are not part of another rich one; builtins by reference (``len``) are nobody's object."""
    rich = [node for node in nodes if node.rich and "." in node.type_name]
    paths = [node.path for node in rich]
    return [
        node
        for node in rich
        if not any(node.path != path and node.path.startswith((f"{path}.", f"{path}[")) for path in paths)
    ]


def _primitive(node: PayloadNode) -> str:
    name = node.type_name.rpartition(".")[2]
    if name in ("datetime", "date", "time"):
        return f"{'when' if name == 'datetime' else name}.isoformat()"
    return {"Decimal": "int(amount * 100)", "UUID": "str(identifier)"}.get(name, "value")
