"""Shapes keep what a call is and nothing of what was in it."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobdoctor import fingerprint


def same(*statements: str) -> bool:
    return len({fingerprint.sql(statement).fingerprint for statement in statements}) == 1


# ----------------------------------------------------------------------------------------------------------------- SQL


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT * FROM orders WHERE id = 42", "SELECT * FROM orders WHERE id = ?"),
        ('UPDATE "o" SET "name" = %s, "total" = "x"', 'UPDATE "o" SET "name" = ?, "total" = ?'),
        ("SELECT * FROM orders WHERE id = -42", "SELECT * FROM orders WHERE id = ?"),
        ("SELECT * FROM t1 WHERE a1 = 'it''s' -- why\n AND b = 1e-5", "SELECT * FROM t1 WHERE a1 = ? AND b = ?"),
        ("/* sqlcommenter='x' */ SELECT  1\n\tFROM t;", "SELECT ? FROM t"),
        ("SELECT E'it\\'s', $$a'b$$, $q$ $$ $q$, x'ff', 0xFF, .5", "SELECT ?, ?, ?, ?, ?, ?"),
        ("SELECT * FROM t WHERE p = 'C:\\' AND q = 'secret'", "SELECT * FROM t WHERE p = ? AND q = ?"),
        ("SELECT * FROM t WHERE p = 'it\\'s' AND q = 'secret'", "SELECT * FROM t WHERE p = ? AND q = ?"),
        ("SELECT a FROM t WHERE id IN (1, 2, 3)", "SELECT a FROM t WHERE id IN (?+)"),
        ("SELECT a FROM t WHERE (a, b) IN ((1, 2), (3, 4))", "SELECT a FROM t WHERE (a, b) IN (?+)"),
        ("SELECT a FROM t WHERE id IN (%(a_1)s::INTEGER, %(a_2)s::INTEGER)", "SELECT a FROM t WHERE id IN (?+)"),
        ("INSERT INTO t (a, b) VALUES (1, now()), (2, now())", "INSERT INTO t (a, b) VALUES (?+)"),
        ("SELECT a FROM t LIMIT 10 OFFSET 20", "SELECT a FROM t LIMIT ? OFFSET ?"),
        ("SELECT a FROM t LIMIT 20, 10", "SELECT a FROM t LIMIT ?"),
        ("SELECT a::text FROM t WHERE a = :name AND b = $1", "SELECT a::text FROM t WHERE a = ? AND b = ?"),
        ("SELECT a FROM t WHERE a = ?2 AND b = @name", "SELECT a FROM t WHERE a = ? AND b = ?"),
        ('SELECT "a"."id" FROM "a" WHERE "a"."n" = 3', 'SELECT "a"."id" FROM "a" WHERE "a"."n" = ?'),
        ('SELECT * FROM t WHERE name = "bob"', "SELECT * FROM t WHERE name = ?"),
        ("UPDATE t SET a = NULL WHERE b IS NULL", "UPDATE t SET a = ? WHERE b IS NULL"),
        ("SELECT 'never ends", "SELECT ?"),
        ("SELECT a FROM t WHERE id IN (SELECT id FROM u)", "SELECT a FROM t WHERE id IN (SELECT id FROM u)"),
    ],
)  # fmt: skip
def test_sql_fingerprint(statement: str, expected: str) -> None:
    assert fingerprint.sql(statement).fingerprint == expected


def test_a_long_literal_costs_no_more_than_its_length() -> None:
    text = "x''" * 200_000
    began = time.thread_time()
    assert fingerprint.sql(f"INSERT INTO t (a) VALUES ('{text}')").fingerprint == "INSERT INTO t (a) VALUES (?+)"
    assert fingerprint.sql(f"SELECT '{text}").fingerprint == "SELECT ?"
    assert fingerprint.sql("SELECT E'" + "\\'" * 200_000).fingerprint == "SELECT ?"
    assert time.thread_time() - began < 5


@pytest.mark.parametrize(
    "statement",
    [
        'INSERT INTO "t" ("a", "b") VALUES ("zqx", "zqx"), ("zqx", "zqx")',
        'SELECT "a" FROM "t" WHERE "a" IN ("zqx", "zqx") AND "b" LIKE "zqx" AND "c"="zqx zqx"',
        "SELECT a FROM t WHERE b = E'zqx\\",
    ],
)
def test_what_only_some_databases_take_for_a_string_does_not_survive(statement: str) -> None:
    shape = fingerprint.sql(statement)
    assert "zqx" not in shape.fingerprint
    assert shape.tables == (("t",))


def test_lists_and_rows_of_any_length_have_one_shape_and_say_how_many() -> None:
    assert same(
        "SELECT a FROM t WHERE id IN (1)", "SELECT a FROM t WHERE id IN (1, 2)", "SELECT a FROM t WHERE id IN (?)"
    )
    assert fingerprint.sql("SELECT a FROM t WHERE id IN (1, 2, 3)").items == 3
    assert fingerprint.sql("SELECT a FROM t WHERE id IN (%s, %s)").items == 2
    assert fingerprint.sql("SELECT a FROM t WHERE id IN (1)").items == 0
    assert same("INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (1, 'a'), (2, lower('B'))")
    assert fingerprint.sql("INSERT INTO t VALUES (1, 'a'), (2, lower('B'))").items == 2
    assert fingerprint.sql("INSERT INTO t VALUES (1, 'a')").items == 0
    assert fingerprint.sql("SELECT a FROM t WHERE id = ANY(%s)").takes_array


@pytest.mark.parametrize(
    ("statement", "operation", "effect", "tables"),
    [
        ("select * from a join b on a.id = b.id", "SELECT", "read", ("a", "b")),
        ("SELECT * FROM a WHERE id = 1 FOR UPDATE", "SELECT", "read", ("a",)),
        ("SELECT * INTO b FROM a", "SELECT", "write", ("b", "a")),
        ("SELECT pg_advisory_xact_lock(%s)", "SELECT", "lock", ()),
        ("SELECT pg_try_advisory_lock(1, 2)", "SELECT", "lock", ()),
        ("SELECT note FROM a WHERE note = 'pg_advisory_lock('", "SELECT", "read", ("a",)),
        ("LOCK TABLE a IN EXCLUSIVE MODE", "LOCK", "lock", ("a",)),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", "INSERT", "write", ("t", "x")),
        ("WITH x AS (DELETE FROM q RETURNING *) SELECT * FROM x", "DELETE", "write", ("q", "x")),
        ("WITH RECURSIVE x(a) AS (SELECT 1) SELECT * FROM x", "SELECT", "read", ("x",)),
        ('UPDATE "public"."orders" SET a = 1', "UPDATE", "write", ("public.orders",)),
        ("INSERT OR REPLACE INTO a VALUES (1)", "INSERT", "write", ("a",)),
        ("(SELECT 1) UNION (SELECT 2)", "SELECT", "read", ()),
        ("COMMIT", "COMMIT", "transaction", ()),
        ("begin immediate", "BEGIN", "transaction", ()),
        ("SAVEPOINT sa_1", "SAVEPOINT", "transaction", ()),
        ("COPY a TO STDOUT", "COPY", "read", ("a",)),
        ("COPY a FROM STDIN", "COPY", "write", ("a",)),
        ("SET search_path TO x", "SET", "none", ()),
        ("CALL anything()", "CALL", "unknown", ()),
        ("", "", "unknown", ()),
    ],
)
def test_sql_operation_and_effect(statement: str, operation: str, effect: str, tables: tuple[str, ...]) -> None:
    shape = fingerprint.sql(statement)
    assert (shape.operation, shape.effect, shape.tables) == (operation, effect, tables)


def test_sql_literals_are_told_apart_by_a_hash() -> None:
    one, two, again = (fingerprint.sql(f"SELECT a FROM t WHERE id = {n}") for n in (1, 2, 1))
    assert one.fingerprint == two.fingerprint
    assert one.literals == again.literals != two.literals
    assert one.literals != 0
    assert fingerprint.sql("SELECT a FROM t WHERE id = %s").literals == 0


def test_sql_takes_bytes_and_bounds_its_length() -> None:
    assert fingerprint.sql(b"SELECT 1").fingerprint == "SELECT ?"
    assert len(fingerprint.sql("SELECT " + ", ".join(f"column_{n}" for n in range(10_000))).fingerprint) == 2000


def quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


secrets = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20).map(
    lambda text: f"zqx{text}xqz"
)
literals = st.one_of(
    secrets.map(quoted),
    secrets.filter(lambda text: "$" not in text).map(lambda text: f"$${text}$$"),
    secrets.map(lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"),
    st.integers(-(10**12), 10**12).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(0, 2**64).map(hex),
    st.binary(max_size=8).map(lambda data: f"X'{data.hex()}'"),
)
frames = st.sampled_from(
    [
        "SELECT name FROM orders WHERE a = {} AND b={} OR c > {}",
        "SELECT name FROM orders WHERE a IN ({}, {},{})",
        "INSERT INTO orders (a, b, c) VALUES ({}, {}, {})",
        "INSERT INTO orders VALUES ({}, lower({})), (now(), {})",
        "UPDATE orders SET a={}, b = {} WHERE c <> {} /* {} */",
        "SELECT coalesce({}, {}) FROM orders -- {}\nLIMIT 5",
        "SELECT name FROM orders WHERE a BETWEEN {} AND {} AND b LIKE {}",
    ]
)


@given(frames, st.lists(literals, min_size=4, max_size=4))
def test_no_sql_literal_survives(frame: str, values: list[str]) -> None:
    shape = fingerprint.sql(frame.format(*(value.replace("*/", "") for value in values)).replace("\r", " "))
    assert "zqx" not in shape.fingerprint
    assert not re.search(r"\d", shape.fingerprint)


@given(frames, st.lists(literals, min_size=4, max_size=4), st.lists(literals, min_size=4, max_size=4))
def test_one_frame_has_one_fingerprint_whatever_the_literals(frame: str, one: list[str], two: list[str]) -> None:
    def comments_are_safe(values: list[str]) -> list[str]:
        return [re.sub(r"\*/|[\r\n]", "", value) for value in values]

    assert same(frame.format(*comments_are_safe(one)), frame.format(*comments_are_safe(two)))


@given(st.text(max_size=200))
def test_sql_never_raises_and_is_stable(text: str) -> None:
    once = fingerprint.sql(text).fingerprint
    assert isinstance(once, str)
    assert "  " not in once


# ---------------------------------------------------------------------------------------------------------- parameters


def test_parameters_hash_by_value() -> None:
    assert fingerprint.parameters(()) == fingerprint.parameters(None) == fingerprint.parameters({}) == 0
    assert fingerprint.parameters((1, "a")) == fingerprint.parameters((1, "a")) != fingerprint.parameters((2, "a"))
    assert fingerprint.parameters({"a": 1}) == fingerprint.parameters({"a": 1}) != fingerprint.parameters({"a": 2})
    assert fingerprint.parameters([[1, 2], {"x": [3]}]) == fingerprint.parameters([[1, 2], {"x": [3]}]) != 0
    assert fingerprint.parameters((bytearray(b"a"),)) != fingerprint.parameters((bytearray(b"b"),))


def test_parameters_survive_anything() -> None:
    class Hostile:
        def __hash__(self) -> int:
            raise RuntimeError("no")

    assert fingerprint.parameters((Hostile(),)) == fingerprint.parameters((Hostile(),)) != 0


# ----------------------------------------------------------------------------------------------------------------- URL


@pytest.mark.parametrize(
    ("address", "template", "target"),
    [
        ("http://u:p@Host:80/orders/42?x=1&a=2#f", "GET http://host/orders/{}?a&x", "http://host"),
        ("https://h:8443/api/v2/orders", "GET https://h:8443/api/v2/orders", "https://h:8443"),
        ("https://h/users/alice%40x.com/oauth2", "GET https://h/users/{}/oauth2", "https://h"),
        ("https://h/report-2024-01-05.pdf", "GET https://h/report-{}.pdf", "https://h"),
        ("https://h/2024/01/05/", "GET https://h/{}/{}/{}/", "https://h"),
        ("https://h/6f9619ff-8b86-d011-b42d-00c04fc964ff", "GET https://h/{}", "https://h"),
        ("https://h/blob/deadbeefcafe1234/x", "GET https://h/blob/{}/x", "https://h"),
        ("https://h/sku/SKU12", "GET https://h/sku/SKU{}", "https://h"),
        ("https://h", "GET https://h", "https://h"),
        ("http://[::1]:9/x", "GET http://[::1]:9/x", "http://[::1]:9"),
        ("/orders/7", "GET /orders/{}", ""),
        ("https://h/a?777&b[12]=3", "GET https://h/a?b[{}]&{}", "https://h"),
    ],
)
def test_url_template(address: str, template: str, target: str) -> None:
    shape = fingerprint.url("get", address)
    assert (shape.template, shape.target) == (template, target)


def test_url_tells_addresses_apart_by_a_hash() -> None:
    one, two = fingerprint.url("GET", "http://h/orders/1"), fingerprint.url("GET", "http://h/orders/2")
    assert one.template == two.template
    assert one.distinct != two.distinct
    assert one.distinct == fingerprint.url("GET", "http://h/orders/1").distinct


identifiers = st.one_of(
    st.integers(0, 10**15).map(str),
    st.uuids().map(str),
    st.uuids().map(lambda value: value.hex),
    st.dates().map(str),
    st.emails().filter(lambda address: "/" not in address and "?" not in address and "#" not in address),
    st.integers(10, 10**9).map(lambda number: f"order-{number}"),
)


@given(
    st.lists(identifiers, min_size=1, max_size=3),
    st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=9),
)
def test_no_id_and_no_query_value_survives_in_a_url(ids: list[str], value: str) -> None:
    shape = fingerprint.url("GET", f"http://host/orders/{'/lines/'.join(ids)}?token=zqx{value}#zqx")
    assert "zqx" not in shape.template
    assert "@" not in shape.template
    assert not re.search(r"\d", shape.template)


@given(st.text(max_size=100))
def test_url_never_raises(text: str) -> None:
    assert fingerprint.url("GET", text).template.startswith("GET ")


#: What a template keeps, or might.
WORDS = ("order", "v1", "v12", "v1beta2", "oauth2", "s3", "s4", "sha256", "sha2", "b2b", "deadbeef12", "é12", "v3.1")


# --------------------------------------------------------------------------------------------------------------- Redis


@pytest.mark.parametrize(
    ("command", "args", "shape", "effect", "keys"),
    [
        ("HGET", ["order:42", "secret"], "HGET order:{}", "read", 1),
        ("SET", [b"cart:7:lines", b"secret"], "SET cart:{}:lines", "write", 1),
        ("MGET", ["a:1", "a:2", "b:3"], "MGET a:{} b:{}", "read", 3),
        ("MSET", ["a:1", "secret", "a:2", "secret"], "MSET a:{}", "write", 2),
        ("DEL", ["a:1"], "DEL a:{}", "write", 1),
        ("EVALSHA", ["secret", 1, "k:9", "secret"], "EVALSHA k:{}", "unknown", 1),
        ("XREAD", ["COUNT", 1, "STREAMS", "s:1", "0"], "XREAD s:{}", "read", 1),
        ("OBJECT ENCODING", ["x:1"], "OBJECT ENCODING x:{}", "read", 1),
        ("BLPOP", ["queue", 5], "BLPOP queue", "write", 1),
        ("PING", [], "PING", "none", 0),
        ("KEYS", ["secret*"], "KEYS", "read", 0),
        ("GET", ["session:6f9619ff8b86d011b42d00c04fc964ff"], "GET session:{}", "read", 1),
        ("GET", ["user@example.com"], "GET {}", "read", 1),
    ],
)
def test_redis_shape(command: str, args: list[object], shape: str, effect: str, keys: int) -> None:
    known = fingerprint.redis(command, args)
    assert (known.shape, known.effect, known.keys) == (shape, effect, keys)


@given(identifiers, st.text(max_size=10))
def test_no_id_and_no_value_survives_in_a_redis_shape(key: str, value: str) -> None:
    shape = fingerprint.redis("HSET", [f"order:{key}", f"zqx{value}", f"zqx{value}"]).shape
    assert "zqx" not in shape
    assert not re.search(r"\d", shape)
    assert shape.startswith("HSET order:")


# ----------------------------------------------------------------------------------------------------------- skeletons


@given(st.lists(st.one_of(identifiers, st.sampled_from(WORDS)), min_size=1, max_size=4).map(":".join), st.randoms())
def test_texts_of_one_skeleton_have_one_template(key: str, random: random.Random) -> None:
    other = re.sub(r"[0-9]", lambda _: random.choice("0123456789"), key)
    if fingerprint.skeleton(key) == fingerprint.skeleton(other):
        templates = []
        for text in (key, other):
            fingerprint._keys._entries.clear()
            templates.append(fingerprint.redis_key(text))
        assert templates[0] == templates[1]


@pytest.mark.parametrize(
    ("one", "other"), [("api:v1:7", "api:v2:7"), ("s3:7", "s4:7"), ("oauth2:token", "oauth1:token")]
)
def test_what_a_template_keeps_is_in_the_skeleton(one: str, other: str) -> None:
    assert fingerprint.skeleton(one) != fingerprint.skeleton(other)
    assert fingerprint.redis_key(one) != fingerprint.redis_key(other)
    assert fingerprint.skeleton(one) == fingerprint.skeleton(one.replace("7", "8"))


def test_a_loop_over_ids_has_one_template_and_distinct_urls() -> None:
    shapes = [fingerprint.url("GET", f"http://h:8{number}/v1/orders/{number}?page={number}") for number in (11, 22)]
    assert [shape.template for shape in shapes] == [
        "GET http://h:811/v1/orders/{}?page",
        "GET http://h:822/v1/orders/{}?page",
    ]
    assert shapes[0].distinct != shapes[1].distinct
    assert fingerprint.url("GET", "http://h/v2/orders/1").template == "GET http://h/v2/orders/{}"


# ------------------------------------------------------------------------------------------------------------ messages


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("404 Client Error: NOT FOUND for url: http://x/1?q=2", "? Client Error: NOT FOUND for url: <url>"),
        ("Key (email)=(a@b.c) already exists.", "Key (email)=(?) already exists."),
        ("Key (name)=(alice (x)) already exists.", "Key (name)=(?) already exists."),
        ("'sku-12'", "'?'"),
        ('can\'t open "x" at /srv/data/1.csv', 'can\'t open "?" at <path>'),
        (
            "(sqlite3.OperationalError) database is locked\n[SQL: SELECT 'a']",
            "(sqlite3.OperationalError) database is locked",
        ),
        ("timed out after 10.5 s, id=0xdead", "timed out after ? s, id=?"),
        ("invalid literal for int() with base 10: 'alice'", "invalid literal for int() with base ?: '?'"),
        ("bad: 'never ends", "bad: '?'"),
    ],
)
def test_message(text: str, shape: str) -> None:
    assert fingerprint.message(text) == shape


@given(st.one_of(identifiers, st.floats(allow_nan=False, allow_infinity=False).map(str)))
def test_no_number_survives_in_a_message(value: str) -> None:
    assert not re.search(r"\d", fingerprint.message(f"order {value} failed with {value!r} ({value})"))
