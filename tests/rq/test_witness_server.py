"""What a witness that becomes a program of its own is told of the worker's server."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import redis
from msgspec import msgpack
from redis.credentials import UsernamePasswordCredentialProvider
from redis.sentinel import Sentinel

from jobdoctor.rq.witness_server import ANSWER_S, CONNECT_S, Server, server_of

SENTINEL: Any = Sentinel
KEPT = ("host", "port", "path", "db", "username", "password", "decode_responses", "client_name")


def told(connection: Any) -> Any:
    """The client that the program makes of what it was told."""
    server = server_of(connection)
    assert server is not None
    return msgpack.decode(msgpack.encode(server), type=Server).connect()


@pytest.mark.parametrize(
    "connection",
    [
        redis.Redis(),
        redis.Redis.from_url("redis://user:secret@queue.internal:7000/3", socket_timeout=None, client_name="worker"),
        redis.Redis.from_url("rediss://:secret@queue.internal/1?ssl_cert_reqs=none"),
        redis.Redis(host="queue.internal", ssl=True, ssl_ca_certs="/etc/ca.pem", ssl_cert_reqs=ssl.CERT_OPTIONAL),
        redis.Redis(unix_socket_path="/run/redis.sock", db=2, decode_responses=True),
        redis.Redis(connection_pool=redis.BlockingConnectionPool(host="queue.internal", password="secret")),
    ],
)
def test_a_connection(connection: redis.Redis) -> None:
    pool, known = told(connection).connection_pool, connection.connection_pool
    assert pool.connection_class is known.connection_class
    given, kept = pool.connection_kwargs, known.connection_kwargs
    for name in {*KEPT, *(name for name in kept if name.startswith("ssl_"))}:
        assert given.get(name) == kept.get(name), name
    assert (given["socket_timeout"], given["socket_connect_timeout"]) == (ANSWER_S, CONNECT_S)
    pool.make_connection()  # nothing that it does not know


def test_sentinels() -> None:
    sentinels = SENTINEL(
        [("first", 26379), ("second", 26380)], sentinel_kwargs={"password": "s"}, password="p", db=4, ssl=True
    )
    pool = told(sentinels.master_for("main")).connection_pool
    assert (pool.service_name, pool.is_master) == ("main", True)
    assert pool.connection_class.__name__ == "SentinelManagedSSLConnection"
    assert (pool.connection_kwargs["password"], pool.connection_kwargs["db"]) == ("p", 4)
    found = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"], each["password"]) for each in found] == [
        ("first", 26379, "s"), ("second", 26380, "s"),
    ]  # fmt: skip


class OwnClient(redis.Redis):
    """Somebody's own."""


class OwnConnection(redis.Connection):
    """Somebody's own."""


@pytest.mark.parametrize(
    "connection",
    [
        OwnClient(),
        redis.Redis(connection_pool=redis.ConnectionPool(connection_class=OwnConnection)),
        redis.Redis(credential_provider=UsernamePasswordCredentialProvider("user", "secret")),
        redis.Redis(redis_connect_func=lambda connection: None),
        SENTINEL([("first", 26379)]).slave_for("main"),
        SENTINEL([("first", 26379)], min_other_sentinels=1).master_for("main"),
        object(),
    ],
)
def test_what_cannot_be_told(connection: Any) -> None:
    """The witness then stays a fork of the worker."""
    assert server_of(connection) is None


def clients(redis_client: redis.Redis, name: str) -> list[dict[str, Any]]:
    """The server's view of the connections with this name."""
    return [each for each in redis_client.client_list() if each["name"] == name]  # type: ignore[no-untyped-call]


def test_a_client_keeps_one_connection(redis_client: redis.Redis, valkey_url: str) -> None:
    key = "test:one-connection"
    client = told(redis.Redis.from_url(valkey_url, client_name=key))
    assert client.xadd(key, {b"e": b"1"}, maxlen=10, approximate=True)
    with client.pipeline(transaction=False) as pipeline:
        assert pipeline.llen("nothing").xlen(key).execute() == [0, 1]
    with pytest.raises(redis.ResponseError, match="wrong kind"):
        client.llen(key)
    (entry,) = client.xrevrange(key)  # parsed as redis-py does
    assert entry[1] == {b"e": b"1"}
    assert client.hgetall("nothing") == {}
    assert len(clients(redis_client, key)) == 1


def test_a_connection_that_the_server_has_closed_is_made_anew(redis_client: redis.Redis, valkey_url: str) -> None:
    key = "test:closed-connection"
    client = told(redis.Redis.from_url(valkey_url, client_name=key))
    assert client.llen(key) == 0
    (known,) = clients(redis_client, key)
    redis_client.client_kill_filter(_id=known["id"])  # type: ignore[no-untyped-call]
    assert client.llen(key) == 0
    assert [each["id"] != known["id"] for each in clients(redis_client, key)] == [True]


def test_an_answer_that_did_not_come_is_not_taken_for_the_next_one(
    redis_client: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = told(redis.Redis.from_url(valkey_url))
    assert client.llen("test:late-answer") == 0

    def too_late(*_: Any, **__: Any) -> Any:
        raise redis.TimeoutError

    with monkeypatch.context() as slow:
        slow.setattr(client._kept, "read_response", too_late)
        with pytest.raises(redis.TimeoutError):
            client.echo("late")
    assert client._kept is None  # the answer may still come
    assert client.llen("test:late-answer") == 0
