"""redis-py (and valkey-py, its fork): commands and pipelines, blocking and asyncio.

A pipeline is one call with many items, whatever commands are in it; a command over many keys or members is too.
"""

from __future__ import annotations

import weakref
from types import ModuleType
from typing import Any, ClassVar, Final

from jobdoctor import fingerprint
from jobdoctor.capture.probes.base import Probe, recorded, recorded_async
from jobdoctor.capture.recorder import BATCHED, Call, Recorder

LIBRARY = "redis"

#: Commands over many members of one key: where the members begin, and how many arguments one takes.
_MEMBERS: Final = {
    **dict.fromkeys(
        ("HMGET", "HDEL", "SADD", "SREM", "SMISMEMBER", "LPUSH", "RPUSH", "ZREM", "ZMSCORE", "PFADD"), (1, 1)
    ),
    **dict.fromkeys(("HSET", "HMSET", "ZADD"), (1, 2)),
}
#: Commands of a pipeline that its fingerprint names, in the order of their first use.
_NAMED = 6

_targets: dict[int, tuple[weakref.ref[Any], str]] = {}


def target_of(client: Any) -> str:
    """ "redis://host:port/db" of a client, by its pool."""
    pool = getattr(client, "connection_pool", None)
    if pool is None:
        return ""
    entry = _targets.get(id(pool))
    if entry is not None and entry[0]() is pool:
        return entry[1]
    settings = pool.connection_kwargs
    path = settings.get("path")
    if path:
        target = f"unix://{path}"
    else:
        target = f"redis://{settings.get('host', 'localhost')}:{settings.get('port', 6379)}/{settings.get('db') or 0}"
    if len(_targets) > 200:
        _targets.clear()
    _targets[id(pool)] = (weakref.ref(pool), target)
    return target


def _size(arguments: Any) -> int:
    return sum(len(argument) for argument in arguments if type(argument) in (bytes, str))


def _begin_command(rec: Recorder, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    client = args[0]
    known = fingerprint.redis(args[1], args[2:])
    shape = rec.shape(
        "redis", known.operation, known.shape, target=target_of(client), library=LIBRARY, effect=known.effect
    )
    items = _items(known, args)
    return rec.begin(shape, params=known.distinct, flags=BATCHED if items > 1 else 0)


def _items(known: fingerprint.RedisShape, args: tuple[Any, ...]) -> int:
    if known.keys > 1:
        return known.keys
    members = _MEMBERS.get(known.operation)
    return (len(args) - 2 - members[0]) // members[1] if members is not None else 0


def _end_command(_rec: Recorder, call: Call, args: tuple[Any, ...], result: Any) -> None:
    items = 0
    if call.flags & BATCHED:
        items = _items(fingerprint.redis(args[1], args[2:]), args)
    call.end(
        sent=_size(args[1:]),
        received=len(result) if type(result) in (bytes, str) else _size(result) if type(result) is list else 0,
        items=items,
    )


def _command_of(entry: Any) -> tuple[Any, ...]:
    """The arguments of a pipeline's queued command: a pair of them and options, or an object that has them."""
    return tuple(entry.args if hasattr(entry, "args") else entry[0])


def _begin_pipeline(rec: Recorder, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    client = args[0]
    stack = client.command_stack
    if not stack:
        return None
    shapes: dict[str, None] = {}
    effects: set[str] = set()
    for entry in stack[:200]:
        words = _command_of(entry)
        known = fingerprint.redis(words[0], words[1:])
        shapes[known.shape] = None
        effects.add(known.effect)
    names = list(shapes)
    text = "PIPELINE " + "; ".join(names[:_NAMED]) + ("; ..." if len(names) > _NAMED else "")
    effect = next((effect for effect in ("write", "unknown", "read") if effect in effects), "none")
    shape = rec.shape("redis", "PIPELINE", text, target=target_of(client), library=LIBRARY, effect=effect)
    call = rec.begin(shape, flags=BATCHED)
    if call is not None:
        # The stack is emptied by the time that the call ends.
        call.cell.add(items=len(stack), sent=sum(_size(_command_of(entry)) for entry in stack[:1000]))
    return call


class RedisProbe(Probe):
    """Commands and pipelines of redis-py and valkey-py clients."""

    channel: ClassVar[str] = "redis"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = (
        "redis.client",
        "redis.asyncio.client",
        "valkey.client",
        "valkey.asyncio.client",
    )

    def patch(self, module: ModuleType) -> None:
        """Replace what sends a command and what sends a pipeline."""
        m: Any = module
        name = module.__name__
        client = m.Redis if name.startswith("redis") else m.Valkey
        wrap = recorded_async if "asyncio" in name else recorded
        for owner, method in ((client, "execute_command"), (m.Pipeline, "immediate_execute_command")):
            self.replace(owner, method, lambda original: wrap(original, _begin_command, _end_command))
        self.replace(m.Pipeline, "execute", lambda original: wrap(original, _begin_pipeline))
