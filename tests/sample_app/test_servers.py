"""Servers that exist are used with care: only what is ours is emptied or dropped."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
import redis

from sample_app import servers


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A server that somebody else uses: its first database has a key."""
    with servers.started_valkey() as url:
        client = redis.Redis.from_url(url)
        client.set("theirs", 1)
        yield url
        client.close()


def test_an_empty_database_is_claimed_and_given_back(elsewhere: str) -> None:
    with servers.claimed_redis(elsewhere) as url:
        assert url == f"{elsewhere}/1"
        mine = redis.Redis.from_url(url)
        mine.set("mine", 1)
        servers.clear_claimed(mine)
        assert mine.keys() == [servers.CLAIM_KEY]
        mine.set("mine", 1)
        with servers.claimed_redis(elsewhere) as second:
            assert second == f"{elsewhere}/2"
    assert redis.Redis.from_url(url).dbsize() == 0
    assert redis.Redis.from_url(elsewhere).get("theirs") == b"1"


def test_a_named_database_must_be_empty(elsewhere: str) -> None:
    with (
        pytest.raises(servers.ServerError, match=r"database 0 .* is not empty"),
        servers.claimed_redis(f"{elsewhere}/0"),
    ):
        pass


def test_no_server_at_the_url() -> None:
    with (
        pytest.raises(servers.ServerError, match="no Redis or Valkey server answers"),
        servers.claimed_redis("redis://127.0.0.1:1"),
    ):
        pass
    with (
        pytest.raises(servers.ServerError, match="PostgreSQL cannot be used"),
        servers.own_database("postgresql://nobody@127.0.0.1:1/x", "jobdoctor_x"),
    ):
        pass


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://u:secret@127.0.0.1:1", "is no Redis URL"),
        ("redis://u:secret@127.0.0.1:1/seven", "is no Redis URL"),
        ("redis://u:secret@127.0.0.1:1", "no Redis or Valkey server answers"),
    ],
)
def test_a_redis_url_that_cannot_be_used_is_said_without_its_password(url: str, said: str) -> None:
    with pytest.raises(servers.ServerError, match=said) as raised, servers.claimed_redis(url):
        pass
    assert "secret" not in str(raised.value)


def test_a_database_that_the_server_does_not_have(elsewhere: str) -> None:
    with (
        pytest.raises(servers.ServerError, match=r"cannot be used: .*; check the URL"),
        servers.claimed_redis(f"{elsewhere}/999"),
    ):
        pass


def test_a_postgresql_url_that_means_nothing() -> None:
    with (
        pytest.raises(servers.ServerError, match="PostgreSQL cannot be used"),
        servers.own_database("postgresql://u:secret@127.0.0.1:1/x?nonsense=1", "jobdoctor_x"),
    ):
        pass


def test_a_database_that_is_not_ours_stays(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE precious")
        with (
            pytest.raises(servers.ServerError, match="exists and is not ours"),
            servers.own_database(postgres_url, "precious"),
        ):
            pass
        names = [row[0] for row in connection.execute("SELECT datname FROM pg_database")]
        assert "precious" in names
        connection.execute("DROP DATABASE precious")


def test_our_database_is_made_anew_and_dropped(postgres_url: str) -> None:
    with servers.own_database(postgres_url, "jobdoctor_again") as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE t (x int)")
        with servers.own_database(postgres_url, "jobdoctor_again") as again, psycopg.connect(again) as connection:
            assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)
    with psycopg.connect(postgres_url) as connection:
        names = [row[0] for row in connection.execute("SELECT datname FROM pg_database")]
    assert "jobdoctor_again" not in names
