"""The server of a worker's connection as plain data, from which another program connects to it."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any

import redis
from msgspec import Struct, field
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

#: The server answers within this, or is away for now: a witness that waits takes no samples.
CONNECT_S = 2.0
ANSWER_S = 5.0

_CONNECTIONS = {
    "Connection": redis.Connection,
    "SSLConnection": redis.SSLConnection,
    "UnixDomainSocketConnection": redis.UnixDomainSocketConnection,
}
_POOLS = (redis.ConnectionPool, redis.BlockingConnectionPool)
#: What another connection needs to know of this one.
_KEPT = frozenset(
    {"host", "port", "path", "db", "username", "password", "protocol", "legacy_responses", "client_name", "socket_type"}
    | {"socket_keepalive", "socket_read_size", "encoding", "encoding_errors", "decode_responses", "ssl"}
)
#: What has to do with waiting and trying again, for which the witness has its own measure, or is made anew by the
#: client for each pool.
_LEFT = frozenset(
    {"socket_timeout", "socket_connect_timeout", "socket_keepalive_options", "health_check_interval", "connection_pool"}
    | {"retry", "retry_on_error", "retry_on_timeout", "driver_info", "lib_name", "lib_version", "event_dispatcher"}
    | {"himport_registry", "parser_class"}
)
_LEFT_PREFIXES = ("maint_notifications_", "orig_")


def patience() -> dict[str, Any]:
    """Arguments of a connection that gives up soon, where a worker's may wait for ever."""
    return {
        "socket_timeout": ANSWER_S,
        "socket_connect_timeout": CONNECT_S,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
    }


class Client(redis.Redis):
    """redis-py's client for one thread, which keeps a connection at hand for single commands, and leaves out what
    redis-py does around each of them: a pool, further tries, metrics. A third of the CPU of a command."""

    _kept: Any = None

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Sends a command. Raises what redis-py raises."""
        connection = self._kept
        parse: Any = self.parse_response
        try:
            if connection is None:
                connection = self._kept = _taken(self.connection_pool)
            elif _stale(connection):
                connection.disconnect()
            connection.send_command(*args)
            return parse(connection, args[0], **options)
        except ResponseError:
            raise  # an answer like others
        except BaseException:
            if connection is not None:
                connection.disconnect()
            self._let_go()
            raise

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """As redis-py's, over the same connection."""
        self._let_go()
        return super().pipeline(*args, **options)

    def _let_go(self) -> None:
        connection, self._kept = self._kept, None
        if connection is not None:
            self.connection_pool.release(connection)


def _taken(pool: Any) -> Any:
    try:
        return pool.get_connection()
    except TypeError:  # redis-py before 5.3 is told the command
        return pool.get_connection("_")


def _stale(connection: Any) -> bool:
    """Whether the server has closed a connection meanwhile, or said something on it that nobody waits for."""
    try:
        return bool(connection.can_read())
    except (RedisError, OSError):
        return True


class Server(Struct):
    """A server, or the master that sentinels name."""

    connection: str  # the name of redis-py's class; not of a sentinel's
    arguments: dict[str, Any]
    service: str = ""
    sentinels: list[dict[str, Any]] = field(default_factory=list)

    def connect(self) -> Any:
        """A client of its own. Connects when it is used."""
        if not self.sentinels:
            kind = _CONNECTIONS[self.connection]
            return Client(connection_pool=redis.ConnectionPool(connection_class=kind, **self.arguments, **patience()))
        sentinel: Any = Sentinel([])  # type: ignore[no-untyped-call]
        sentinel.sentinels = [redis.Redis(**each, **patience()) for each in self.sentinels]
        return sentinel.master_for(self.service, **self.arguments, **patience())


def server_of(connection: Any) -> Server | None:
    """The server of a client, None when the client is not redis-py's own, or has what cannot be told to another
    program."""
    pool = getattr(connection, "connection_pool", None)
    if type(connection) is not redis.Redis or pool is None:
        return None
    if type(pool) is SentinelConnectionPool:
        return _of_sentinels(pool)
    name = pool.connection_class.__name__
    arguments = _plain(pool.connection_kwargs)
    if type(pool) not in _POOLS or _CONNECTIONS.get(name) is not pool.connection_class or arguments is None:
        return None
    return Server(name, arguments)


def _of_sentinels(pool: Any) -> Server | None:
    manager = pool.sentinel_manager
    arguments = _plain(pool.connection_kwargs)
    if type(manager) is not Sentinel or arguments is None or manager.min_other_sentinels:
        return None
    kind = pool.connection_class.__name__
    if kind not in ("SentinelManagedConnection", "SentinelManagedSSLConnection") or not pool.is_master:
        return None
    if kind == "SentinelManagedSSLConnection":
        arguments["ssl"] = True
    found: list[dict[str, Any]] = []
    for each in manager.sentinels:
        known = server_of(each)
        if known is None or known.sentinels or known.connection == "UnixDomainSocketConnection":
            return None
        if known.connection == "SSLConnection":
            known.arguments["ssl"] = True
        found.append(known.arguments)
    return Server("", arguments, service=pool.service_name, sentinels=found) if found else None


def _plain(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """What is to be told of a connection's arguments; None when something of it cannot be."""
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if value is None or name in _LEFT or name.startswith(_LEFT_PREFIXES):
            continue
        if isinstance(value, (IntEnum, IntFlag)):
            value = int(value)
        if not (name in _KEPT or name.startswith("ssl_")) or type(value) not in (bool, int, float, str, bytes):
            return None
        found[name] = value
    return found
