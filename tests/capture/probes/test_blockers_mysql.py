"""The questions to MySQL 8, on tables with its columns: no MySQL 8 comes in a package of Debian."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from jobdoctor.capture import blockers_mysql


@pytest.fixture
def schema() -> Iterator[sqlite3.Connection]:
    """https://dev.mysql.com/doc/refman/8.0/en/performance-schema-data-lock-waits-table.html and its neighbours. Session
    71 waits for 72, which waits for 73, and for a table of 74, which 72 reads; their threads are 100 more."""
    connection = sqlite3.connect(":memory:")
    connection.executescript("""
        ATTACH ':memory:' AS performance_schema;
        CREATE TABLE performance_schema.threads (THREAD_ID, PROCESSLIST_ID);
        INSERT INTO threads VALUES (171, 71), (172, 72), (173, 73), (174, 74);
        CREATE TABLE performance_schema.data_lock_waits
            (REQUESTING_ENGINE_LOCK_ID, REQUESTING_THREAD_ID, BLOCKING_ENGINE_LOCK_ID, BLOCKING_THREAD_ID);
        INSERT INTO data_lock_waits VALUES ('a', 171, 'b', 172), ('c', 172, 'd', 173), ('a', 171, 'd', 173);
        CREATE TABLE performance_schema.data_locks (ENGINE_LOCK_ID, LOCK_TYPE);
        INSERT INTO data_locks VALUES ('a', 'RECORD'), ('c', 'TABLE');
        CREATE TABLE performance_schema.metadata_locks
            (OBJECT_TYPE, OBJECT_SCHEMA, OBJECT_NAME, LOCK_TYPE, LOCK_STATUS, OWNER_THREAD_ID);
        INSERT INTO metadata_locks VALUES
            ('TABLE', 'shop', 'stock', 'SHARED_WRITE', 'PENDING', 171),
            ('TABLE', 'shop', 'stock', 'SHARED_READ', 'GRANTED', 172),
            ('TABLE', 'shop', 'stock', 'SHARED_NO_READ_WRITE', 'GRANTED', 174),
            ('TABLE', 'shop', 'orders', 'EXCLUSIVE', 'GRANTED', 173),
            ('USER LEVEL LOCK', NULL, 'nightly', 'EXCLUSIVE', 'PENDING', 173),
            ('USER LEVEL LOCK', NULL, 'nightly', 'EXCLUSIVE', 'GRANTED', 171);
        CREATE TABLE performance_schema.events_statements_current (THREAD_ID, EVENT_ID, SQL_TEXT);
        INSERT INTO events_statements_current VALUES (172, 5, 'SELECT 1'), (172, 6, 'SELECT 2'), (173, 7, NULL);
    """)
    yield connection
    connection.close()


def ask(schema: sqlite3.Connection, question: str, *sessions: int) -> list[tuple[object, ...]]:
    return schema.execute(question.replace("<=>", "IS").replace("%s", "?"), sessions).fetchall()


def test_who_waits_itself_comes_last(schema: sqlite3.Connection) -> None:
    question = blockers_mysql._ROWS.format("%s, %s")
    assert ask(schema, question, 71, 99) == [(73, "RECORD")]
    assert ask(schema, question, 72, 99) == [(73, "TABLE")]
    assert ask(schema, question, 73, 99) == []


def test_the_strongest_lock_is_who_holds_the_table(schema: sqlite3.Connection) -> None:
    assert ask(schema, blockers_mysql._METADATA, 71) == [(74,)]
    assert ask(schema, blockers_mysql._METADATA, 73) == [(71,)]
    assert ask(schema, blockers_mysql._METADATA, 72) == []


def test_the_last_statement_of_a_session(schema: sqlite3.Connection) -> None:
    assert ask(schema, blockers_mysql._LAST_STATEMENT, 72) == [("SELECT 2",)]
    assert ask(schema, blockers_mysql._LAST_STATEMENT, 73) == []


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("SELECT GET_LOCK('nightly', 10)", "nightly"),
        ('do get_lock ( "it\'s", 1)', "it's"),
        (r"SELECT GET_LOCK('a \'quoted\' ''one''', 1)", "a 'quoted' 'one'"),
    ],
)
def test_the_name_of_an_advisory_lock(statement: str, name: str) -> None:
    literal = blockers_mysql._LOCK_NAME.search(statement)
    assert literal is not None
    assert blockers_mysql._unquoted(literal.group(1)) == name


@pytest.mark.parametrize(
    ("state", "waits"),
    [
        ("Waiting for table metadata lock", True),
        ("Waiting for table level lock", True),
        ("Waiting for table flush", True),
        ("Waiting for semi-sync ACK from slave", False),
        ("Sending data", False),
    ],
)
def test_states_that_are_waits_for_tables(state: str, waits: bool) -> None:
    assert bool(blockers_mysql._TABLE_WAIT.match(state)) == waits


@pytest.mark.parametrize(("state_then", "told"), [("Waiting for table metadata lock", True), ("updating", False)])
def test_a_wait_that_ends_between_two_questions_is_no_missing_privilege(state_then: str, told: bool) -> None:
    states = ["Waiting for table metadata lock", state_then]

    class Scripted(blockers_mysql.Blockers):
        def __init__(self) -> None:
            self._call, self._mariadb, self._holder = 1, False, None
            self._denied = set()

        def _rows(self, question: str, parameters: Any = None) -> list[Any]:
            if "information_schema.PROCESSLIST" not in question:
                return []
            return [(71, "Query", states.pop(0), "INSERT INTO stock VALUES (1)")]

    answer = Scripted().look(1, [71])
    assert bool(answer["missing"]) is told
    assert answer["blocked"]["kind"] == "table"
    assert states == []
