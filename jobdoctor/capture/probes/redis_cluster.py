"""Clients of a Redis Cluster (redis-py and valkey-py), blocking and asyncio: commands and pipelines.

The target is the cluster, by the first of its nodes in the order of their names: which node a key lies on changes.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar, Final

from jobdoctor import fingerprint
from jobdoctor.capture.probes.base import Probe, recorded, recorded_async
from jobdoctor.capture.recorder import BATCHED, Call, Recorder

LIBRARY = "redis"
#: Commands of a pipeline that its fingerprint names, in the order of their first use.
_NAMED: Final = 6


def _target(client: Any) -> str:
    nodes = getattr(client, "nodes_manager", None) or getattr(getattr(client, "_client", client), "nodes_manager", None)
    if nodes is None:
        nodes = getattr(getattr(client, "cluster_client", None), "nodes_manager", None)
    if nodes is None:
        return "redis-cluster://"
    return f"redis-cluster://{min(nodes.nodes_cache or nodes.startup_nodes, default='')}"


def _size(arguments: Any) -> int:
    return sum(len(argument) for argument in arguments if type(argument) in (bytes, str))


def _begin_command(rec: Recorder, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    known = fingerprint.redis(args[1], args[2:])
    shape = rec.shape(
        "redis", known.operation, known.shape, target=_target(args[0]), library=LIBRARY, effect=known.effect
    )
    return rec.begin(shape, params=known.distinct, flags=BATCHED if known.keys > 1 else 0)


def _end_command(_rec: Recorder, call: Call, args: tuple[Any, ...], result: Any) -> None:
    keys = fingerprint.redis(args[1], args[2:]).keys if call.flags & BATCHED else 0
    received = len(result) if type(result) in (bytes, str) else _size(result) if type(result) is list else 0
    call.end(sent=_size(args[1:]), received=received, items=keys)


def _commands(pipeline: Any) -> list[Any]:
    """The queued commands, wherever this version keeps them."""
    strategy = getattr(pipeline, "_execution_strategy", None)
    for owner, name in (
        (strategy, "_command_queue"),
        (pipeline, "_command_stack"),
        (pipeline, "command_stack"),
    ):
        queue = getattr(owner, name, None)
        if queue:
            return list(queue)
    return []


def _begin_pipeline(rec: Recorder, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    queued = _commands(args[0])
    if not queued:
        return None
    shapes: dict[str, None] = {}
    effects: set[str] = set()
    for command in queued[:200]:
        known = fingerprint.redis(command.args[0], tuple(command.args[1:]))
        shapes[known.shape] = None
        effects.add(known.effect)
    names = list(shapes)
    text = "PIPELINE " + "; ".join(names[:_NAMED]) + ("; ..." if len(names) > _NAMED else "")
    effect = next((effect for effect in ("write", "unknown", "read") if effect in effects), "none")
    shape = rec.shape("redis", "PIPELINE", text, target=_target(args[0]), library=LIBRARY, effect=effect)
    call = rec.begin(shape, flags=BATCHED)
    if call is not None:
        # The queue is emptied by the time that the call ends.
        call.cell.add(items=len(queued), sent=sum(_size(command.args) for command in queued[:1000]))
    return call


class RedisClusterProbe(Probe):
    """Commands and pipelines of cluster clients."""

    channel: ClassVar[str] = "redis"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = (
        "redis.cluster",
        "redis.asyncio.cluster",
        "valkey.cluster",
        "valkey.asyncio.cluster",
    )

    def patch(self, module: ModuleType) -> None:
        """Replace what sends a command and what sends a pipeline."""
        m: Any = module
        name = module.__name__
        client = m.RedisCluster if name.startswith("redis") else m.ValkeyCluster
        wrap = recorded_async if "asyncio" in name else recorded
        self.replace(client, "execute_command", lambda original: wrap(original, _begin_command, _end_command))
        self.replace(m.ClusterPipeline, "execute", lambda original: wrap(original, _begin_pipeline))
