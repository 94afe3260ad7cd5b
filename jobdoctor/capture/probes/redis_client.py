"""redis-py (and valkey-py, its fork): commands and pipelines, blocking and asyncio.

A pipeline is one call with many items, whatever commands are in it; a command over many keys or members is too.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, ClassVar, Final

from jobdoctor import fingerprint
from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import Probe, foreign, recorded, recorded_async, renewed
from jobdoctor.capture.recorder import BATCHED, Call, Recorder, Shape, hot

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

#: Shapes remembered for each server; keys that are no ids after all make each one new.
_SHAPES: Final = 1024
#: Commands of a pipeline that are looked at: for its name, and for its bytes.
_LOOKED_AT: Final = 200
_MEASURED: Final = 1000


class _Known(recorder.Known):
    """A command on keys of one template."""

    __slots__ = ()

    def __init__(self, shape: Shape, first: int, step: int) -> None:
        self.shape = shape
        self.first = first
        self.step = step


class _Server(recorder.Server):
    """A server's database, as one pool reaches it. ``known``: by command and the key's skeleton."""

    __slots__ = ("target",)

    def __init__(self, reference: Callable[[], Any], target: str) -> None:
        self.reference = reference
        self.target = target
        self.known = {}
        self.pipelines = {}


_servers: dict[int, _Server] = {}
_ZEROS: Final = fingerprint.ZEROS


def _server(client: Any) -> _Server:
    pool = getattr(client, "connection_pool", None)
    server = _servers.get(id(pool))
    if server is None or server.reference() is not pool:
        if pool is None:
            return _Server(lambda: None, "")
        settings = pool.connection_kwargs
        path = settings.get("path")
        if path:
            target = f"unix://{path}"
        else:
            host, port = settings.get("host", "localhost"), settings.get("port", 6379)
            target = f"redis://{host}:{port}/{settings.get('db') or 0}"
        server = _Server(weakref.ref(pool), target)
        if len(_servers) > 200:
            _servers.clear()
        _servers[id(pool)] = server
    return server


def target_of(client: Any) -> str:
    """ "redis://host:port/db" of a client, by its pool."""
    return _server(client).target


def _known(rec: Recorder, server: _Server, words: Sequence[Any]) -> _Known | None:
    """What is known of a command that names one key; None of others."""
    if len(words) < 2:
        return None
    command = words[0]
    skeleton = fingerprint.skeleton(words[1])
    known = server.known.get((command, skeleton))
    if known is None:
        if skeleton is None or not fingerprint.names_one_key(command):
            return None
        shape = fingerprint.redis(command, words[1:2])
        known = _Known(_interned(rec, server, shape), *_MEMBERS.get(shape.operation, (0, 0)))
        if len(server.known) >= _SHAPES:
            server.known.clear()
        server.known[command, skeleton] = known
    elif known.shape.generation is not rec.generation:
        known.shape = renewed(rec, known.shape)
    return known


def _interned(rec: Recorder, server: _Server, known: fingerprint.RedisShape) -> Shape:
    return rec.shape("redis", known.operation, known.shape, target=server.target, library=LIBRARY, effect=known.effect)


def _begin(rec: Recorder, args: tuple[Any, ...]) -> tuple[Call, int] | None:
    """The call and how many keys or members it is about, 0 when that is one."""
    try:
        # What nearly every command takes: a server, a command and a key that were seen before, in this execution.
        known = None
        if len(args) > 2 and type(args[2]) is str:
            pool = args[0].connection_pool
            server = _servers.get(id(pool))
            if server is not None and server.reference() is pool:
                known = server.known.get((args[1], args[2].encode().translate(_ZEROS)))
        if known is None or known.shape.generation is not rec.generation:
            known = _known(rec, _server(args[0]), args[1:])
            if known is None:
                return _begin_other(rec, args)
        rest = args[2:]
        try:
            params = hash(rest) or 1
        except Exception as error:  # it cannot be hashed
            if foreign(error):
                raise
            params = fingerprint.parameters(rest)
        if known.step:
            items = (len(rest) - known.first) // known.step
            if items > 1:
                call = rec.begin(known.shape, params=params, flags=BATCHED)
                return (call, items) if call is not None else None
        call = rec.begin(known.shape, params=params)
        return (call, 0) if call is not None else None
    except Exception as error:
        if foreign(error):
            raise
        return None


def _begin_other(rec: Recorder, args: tuple[Any, ...]) -> tuple[Call, int] | None:
    known = fingerprint.redis(args[1], args[2:])
    items = known.keys if known.keys > 1 else 0
    shape = _interned(rec, _server(args[0]), known)
    call = rec.begin(shape, params=known.distinct, flags=BATCHED if items else 0)
    return (call, items) if call is not None else None


def _end(begun: tuple[Call, int], args: tuple[Any, ...], result: Any) -> None:
    call, items = begun
    try:
        kind = type(result)
        received = len(result) if kind is str or kind is bytes else _size(result) if kind is list else 0
        call.end(None, None, _size(args), received, 0, items)
    except Exception as error:
        call.end()
        if foreign(error):
            raise


def _size(arguments: Any) -> int:
    size = 0
    for argument in arguments:
        kind = type(argument)
        if kind is str or kind is bytes:
            size += len(argument)
    return size


def _command(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def execute_command(*args: Any, **kwargs: Any) -> Any:
        rec = recorder.current
        begun = _begin(rec, args) if rec is not None else None
        if begun is None:
            return original(*args, **kwargs)
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            begun[0].end(error)
            raise
        _end(begun, args, result)
        return result

    return execute_command


def _command_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def execute_command(*args: Any, **kwargs: Any) -> Any:
        rec = recorder.current
        begun = _begin(rec, args) if rec is not None else None
        if begun is None:
            return await original(*args, **kwargs)
        try:
            result = await original(*args, **kwargs)
        except BaseException as error:
            begun[0].end(error)
            raise
        _end(begun, args, result)
        return result

    return execute_command


def _words_of(entry: Any) -> Sequence[Any]:
    """The arguments of a pipeline's queued command: a pair of them and options, or an object that has them."""
    return entry[0] if type(entry) is tuple else tuple(entry.args)


def _begin_pipeline(rec: Recorder, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Call | None:
    client = args[0]
    stack = client.command_stack
    if not stack:
        return None
    server = _server(client)
    shapes: dict[str, None] = {}
    effects: set[str] = set()
    kinds: dict[_Known, None] = {}
    usual = True  # each of its commands is known
    sent = 0
    for number, entry in enumerate(stack[:_MEASURED]):
        words = _words_of(entry)
        sent += _size(words)
        if number < _LOOKED_AT:
            known = _known(rec, server, words)
            if known is not None:
                identity = known.shape.identity
                shapes[identity[2]] = None
                effects.add(identity[5])
                kinds[known] = None
            else:
                other = fingerprint.redis(words[0], words[1:])
                shapes[other.shape] = None
                effects.add(other.effect)
                usual = False
    names = list(shapes)
    text = "PIPELINE " + "; ".join(names[:_NAMED]) + ("; ..." if len(names) > _NAMED else "")
    effect = next((effect for effect in ("write", "unknown", "read") if effect in effects), "none")
    shape = rec.shape("redis", "PIPELINE", text, target=server.target, library=LIBRARY, effect=effect)
    if usual:
        if len(server.pipelines) >= _SHAPES:
            server.pipelines.clear()
        server.pipelines[tuple(kinds)] = shape
    call = rec.begin(shape, flags=BATCHED)
    if call is not None:
        # The stack is emptied by the time that the call ends.
        call.cell.add(items=len(stack), sent=sent)
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
        asynchronous = "asyncio" in name
        for owner, method in ((client, "execute_command"), (m.Pipeline, "immediate_execute_command")):
            make = _command_async if asynchronous else hot(_command, "command", sessions=_servers)
            self.replace(owner, method, make)
        if asynchronous:
            self.replace(m.Pipeline, "execute", lambda original: recorded_async(original, _begin_pipeline))
        else:
            execute = hot(lambda original: recorded(original, _begin_pipeline), "pipeline", sessions=_servers)
            self.replace(m.Pipeline, "execute", execute)
