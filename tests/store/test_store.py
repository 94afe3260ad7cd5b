"""What goes in comes out: counted once, condensed rightly, bounded, on SQLite and on PostgreSQL."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from jobdoctor.config import Retention
from jobdoctor.errors import StoreError, UnknownJobError
from jobdoctor.model import (
    DatabaseSession,
    ExceptionInfo,
    LockWait,
    Payload,
    ProbeStatus,
    Profile,
    ResultInfo,
    TraceRow,
    Trigger,
)
from jobdoctor.store import Loss, Store, rollups, tables, trace
from jobdoctor.store.database import UnstorableError
from tests.builders import MS, SECOND, make_execution, make_group, make_row
from tests.store.conftest import recent, rows_in

JOB = "app.tasks.sync_orders"


def test_adding_again_changes_nothing(store: Store) -> None:
    executions = [recent() for _ in range(30)]
    assert store.add(executions[:20]) == (20, 0)
    assert store.add(executions) == (10, 20)
    assert store.add(executions) == (0, 30)
    assert store.add([executions[0], executions[0]]) == (0, 2)
    history = store.history(JOB)
    assert history.executions_total == 30
    assert history.run_ms.count == 30
    assert len(history.executions) == 30
    assert len(history.trace) == 30


def test_one_execution_twice_in_a_batch_counts_once(store: Store) -> None:
    execution = recent()
    assert store.add([execution, execution]) == (1, 1)
    assert store.history(JOB).executions_total == 1


def test_a_history_holds_what_was_recorded(store: Store) -> None:
    executions = [recent(run_ms=10 * number, slo_ms=500.0) for number in range(1, 6)]
    failed = recent(outcome="failed", exception=ExceptionInfo("ValueError", digest="abc"))
    store.add([*executions, failed])
    history = store.history(JOB)
    everything = [*executions, failed]
    assert history.executions_total == 6
    assert history.outcomes == {"finished": 5, "failed": 1}
    assert history.executions == sorted(everything, key=lambda one: -one.reaped_at_ns)
    assert history.from_ns == min(one.enqueued_at_ns for one in everything)
    assert history.to_ns == max(one.reaped_at_ns for one in everything)
    assert history.slo_ms == 500.0
    assert sum(bucket.count for bucket in history.buckets) == 6
    assert sum(bucket.failed for bucket in history.buckets) == 1
    assert history.lost == 0


def test_a_trace_row_keeps_every_field(store: Store) -> None:
    execution = recent(
        outcome="retried",
        attempt=3,
        scheduled=True,
        worker_queues=["high", "low, really"],
        queue_depth=7,
        route="deferred",
        depends_on=["parent", "another"],
        payload=Payload(raw_bytes=1, args_hash="a1"),
        result=ResultInfo("dict", digest="r1"),
        exception=ExceptionInfo("KeyError", digest="e1"),
        trigger=Trigger("request", "app/views.py:3", parent_job="app.parent", parent_execution_id="p1"),
        groups=[make_group(effect="write", count=3), make_group(effect="read")],
    )
    store.add([execution])
    (row,) = store.history(JOB).trace
    assert row == make_row(execution, writes=3, scheduled=True)
    defaults = TraceRow("", "", "", "", "", "finished", 0, 0, 0, 0)
    assert [name for name in row.__struct_fields__ if getattr(row, name) == getattr(defaults, name)] == []


def test_writes_are_unknown_when_they_could_not_be_seen() -> None:
    group = make_group(effect="write", count=2)
    assert trace.row_of(make_execution(groups=[group])).writes == 2
    assert trace.row_of(make_execution(groups=[])).writes == 0
    assert trace.row_of(make_execution(groups=[group, make_group(effect="unknown")])).writes is None
    failed = [ProbeStatus("redis", "redis", "failed", "no such attribute")]
    assert trace.row_of(make_execution(groups=[group], probes=failed)).writes is None


@pytest.mark.parametrize("size", [3, 400])
def test_quantiles_of_rollups_are_within_one_percent(store: Store, size: int) -> None:
    rng = random.Random(size)
    executions = [recent(wait_ms=rng.lognormvariate(2, 1), run_ms=rng.lognormvariate(4, 1)) for _ in range(size)]
    for start in range(0, size, 37):
        store.add(executions[start : start + 37])
    history = store.history(JOB)
    for found, exact in (
        (history.wait_ms, sorted(one.wait_ns / MS for one in executions)),
        (history.run_ms, sorted(one.run_ns / MS for one in executions)),
    ):
        assert found.count == size
        assert found.p50 == pytest.approx(exact[int(0.5 * (size - 1))], rel=0.0101)
        assert found.p95 == pytest.approx(exact[int(0.95 * (size - 1))], rel=0.0101)
        assert found.p99 == pytest.approx(exact[int(0.99 * (size - 1))], rel=0.0101)
        assert found.max == pytest.approx(exact[-1])
        assert found.mean == pytest.approx(sum(exact) / size)


def test_neighbours_shared_a_queue_or_a_worker(store: Store) -> None:
    own = recent(queue="default", worker="w1")
    same_queue = recent(job="app.other", queue="default", worker="w2")
    same_worker = recent(job="app.another", queue="low", worker="w1")
    stranger = recent(job="app.stranger", queue="mail", worker="w9")
    store.add([own, same_queue, same_worker, stranger])
    history = store.history(JOB)
    wanted = sorted([own, same_queue, same_worker], key=lambda one: one.enqueued_at_ns)
    assert [row.execution_id for row in history.neighbours] == [one.id for one in wanted]
    assert [row.execution_id for row in history.trace] == [own.id]


def test_the_window_cuts_everything(store: Store) -> None:
    now_ns = time.time_ns()
    old = [recent(seconds_ago=7_200 + number, now_ns=now_ns) for number in range(5)]
    new = [recent(seconds_ago=600 + number, now_ns=now_ns) for number in range(3)]
    other = recent(seconds_ago=7_300, now_ns=now_ns, job="app.other")
    store.add([*old, *new, other])
    history = store.history(JOB, since=now_ns - 3_600 * SECOND)
    assert history.executions_total == history.run_ms.count == len(history.trace) == len(history.executions) == 3
    assert len(history.neighbours) == 3
    assert history.from_ns >= now_ns - 3_660 * SECOND
    before = store.history(JOB, until=now_ns - 3_600 * SECOND)
    assert before.executions_total == len(before.trace) == len(before.executions) == 5
    with pytest.raises(UnknownJobError, match=r"nothing of 'app\.other' in this window"):
        store.history("app.other", since=now_ns - 3_600 * SECOND)
    assert store.jobs(since=now_ns - 3_600 * SECOND) == [JOB]
    assert store.jobs() == ["app.other", JOB]


def test_one_job_id_alone(store: Store) -> None:
    attempts = [recent(job_id="J1", attempt=number, outcome="retried", run_ms=10.0) for number in (1, 2)]
    store.add([*attempts, recent(job_id="J2", run_ms=900.0)])
    history = store.history(JOB, job_id="J1")
    assert history.executions_total == 2
    assert history.outcomes == {"retried": 2}
    assert history.run_ms.max == pytest.approx(10.0)
    assert {one.job_id for one in history.executions} == {row.job_id for row in history.trace} == {"J1"}
    store.prune(Retention(trace_rows=1))
    assert store.history(JOB, job_id="J1").executions_total == 2  # from what is kept in full


def test_finding_what_is_meant(store: Store) -> None:
    execution = recent(job_id="0a1b")
    store.add([execution, recent(job="app.mail.send"), recent(job="shop.mail.send")])
    assert store.find(JOB) == (JOB, None)
    assert store.find("sync_orders") == (JOB, None)
    assert store.find("0a1b") == (JOB, "0a1b")
    assert store.find(execution.id) == (JOB, "0a1b")
    with pytest.raises(UnknownJobError, match=r"send is the end of 2 jobs.*app\.mail\.send, shop\.mail\.send"):
        store.find("send")
    with pytest.raises(UnknownJobError, match=r"no recordings of 'sync_ordres'.*jobs seen: app\.mail\.send"):
        store.find("sync_ordres")
    with pytest.raises(UnknownJobError, match=r"did you mean app\.tasks\.sync_orders\?"):
        store.history("app.tasks.sync_order")
    assert store.execution(execution.id) == execution
    with pytest.raises(UnknownJobError, match="is not kept in full"):
        store.execution("nothing")


def test_exemplars_are_the_newest_slowest_failed_killed_and_profiled(store: Store) -> None:
    kept = Retention(newest=5, slowest=2, failed=2, killed=1, profiled=1)
    store.retention = kept
    profile = Profile(1.0, 1, 1)
    executions = [recent(seconds_ago=2_000 - number, run_ms=10.0) for number in range(100)]
    executions[3] = replace(executions[3], reaped_at_ns=executions[3].reaped_at_ns + 5 * SECOND)
    executions[7] = replace(executions[7], reaped_at_ns=executions[7].reaped_at_ns + 9 * SECOND)
    for index in (10, 20, 30):
        executions[index] = replace(executions[index], outcome="failed")
    for index in (11, 21):
        executions[index] = replace(executions[index], outcome="killed")
    for index in (12, 22):
        executions[index] = replace(executions[index], profile=profile)
    wanted = {executions[index].id for index in (95, 96, 97, 98, 99, 3, 7, 20, 30, 21, 22)}
    shuffled = list(executions)
    random.Random(5).shuffle(shuffled)
    for start in range(0, 100, 9):
        store.add(shuffled[start : start + 9])
    history = store.history(JOB)
    assert {one.id for one in history.executions} == wanted
    assert rows_in(store, tables.exemplars) == len(wanted)
    assert history.executions_total == len(history.trace) == 100


def test_pruning_bounds_rows_and_keeps_the_long_history(store: Store) -> None:
    day = 86_400
    now_ns = time.time_ns()
    executions = [recent(seconds_ago=days * day, now_ns=now_ns, run_ms=5.0) for days in (100, 20, 9, 8, 3, 2, 1)]
    executions += [recent(seconds_ago=9 * day - 60 * n, now_ns=now_ns, run_ms=5.0) for n in range(1, 20)]
    executions = [replace(one, sessions=[DatabaseSession("postgresql://db/app#1", 0, 5)]) for one in executions]
    store.add(executions)
    store.add_mark("deploy", "old", now_ns - 100 * day * SECOND)
    store.retention = Retention(newest=3, slowest=1)
    before = store.history(JOB, since=now_ns - 95 * day * SECOND)
    store.prune(now_ns=now_ns)
    history = store.history(JOB)
    assert len(history.trace) == 3
    assert rows_in(store, tables.sessions) == 3
    assert history.executions_total == 25  # all but that of a hundred days ago
    assert history.run_ms == before.run_ms
    assert rows_in(store, tables.rollups) <= 3 + 2 + 1 + 2  # the nineteen minutes became one or two hours
    assert len(history.executions) == 3
    assert rows_in(store, tables.marks) == 0
    store.prune(now_ns=now_ns)
    assert store.history(JOB).executions_total == 25
    store.prune(Retention(trace_rows=2), now_ns=now_ns)
    assert len(store.history(JOB).trace) == 2
    assert store.add(executions) == (0, len(executions))  # ids outlive rows
    assert store.history(JOB).executions_total == 25


def test_a_job_not_seen_for_long_is_forgotten(store: Store) -> None:
    store.add([recent(seconds_ago=91 * 86_400, job="app.old"), recent()])
    store.prune()
    assert store.jobs() == [JOB]
    assert rows_in(store, tables.exemplars) == 1


def test_the_blocking_job_is_found_by_its_session(store: Store) -> None:
    backend = "postgresql://db:5432/app#4711"
    now_ns = time.time_ns()
    holder = recent(seconds_ago=100, now_ns=now_ns, job="app.report", run_ms=20_000)
    holder = replace(holder, sessions=[DatabaseSession(backend, 0, 20_000 * MS)])
    ended = [DatabaseSession(backend, 0, 50 * MS), DatabaseSession("postgresql://db:5432/app#13", 0, 50 * MS)]
    earlier = recent(seconds_ago=500, now_ns=now_ns, job="app.earlier", sessions=ended)
    waiting = recent(
        seconds_ago=95,
        now_ns=now_ns,
        run_ms=9_000,
        sessions=[DatabaseSession("postgresql://db:5432/app#9", 0, 9_000 * MS)],
        locks=[
            LockWait("row", "postgresql://db:5432/app", 5_000 * MS, start_ns=100 * MS, blocking_backend=backend),
            LockWait("row", "postgresql://db:5432/app", 5, blocking_backend="postgresql://db:5432/app#12"),
            LockWait("row", "postgresql://db:5432/app", 5, blocking_backend="postgresql://db:5432/app#13"),
        ],
    )
    store.add([waiting])
    assert store.history(JOB).executions[0].locks[0].blocking_job == ""
    store.add([holder, earlier])
    first, second, third = store.history(JOB).executions[0].locks
    assert (first.blocking_job, first.blocking_execution_id) == ("app.report", holder.id)
    assert second.blocking_job == third.blocking_job == ""  # never seen; ended before
    assert store.execution(waiting.id).locks[0].blocking_job == "app.report"
    # And from the other side.
    assert [(one.job, one.waited_ns) for one in store.history("app.report").blocked] == [(JOB, 5_000 * MS)]
    assert store.history("app.earlier").blocked == []
    assert store.history(JOB).blocked == []
    store.prune(Retention(trace_rows=1), now_ns=now_ns)
    assert store.history("app.report").blocked == []


def test_a_store_of_an_earlier_version_knows_of_no_blocked_jobs(store: Store) -> None:
    store.add([recent()])
    with store._database.writing() as connection:
        tables.lock_waits.drop(connection)
    assert store.history(JOB).blocked == []


def test_marks_of_the_window_and_the_one_before(store: Store) -> None:
    now_ns = time.time_ns()
    store.add([recent(seconds_ago=seconds, now_ns=now_ns) for seconds in (1_000, 10)])
    store.add_mark("deploy", "older", now_ns - 9_000 * SECOND)
    store.add_mark("deploy", "before", now_ns - 2_000 * SECOND)
    store.add_mark("incident", "within", now_ns - 500 * SECOND)
    store.add_mark("incident", "within", now_ns - 500 * SECOND)
    assert [(mark.kind, mark.label) for mark in store.history(JOB).marks] == [
        ("deploy", "before"),
        ("incident", "within"),
    ]


def test_losses_are_counted_once_for_each_id(store: Store) -> None:
    store.add([recent()], lost=2, losses=[Loss("a", "worker", 3), Loss("b", "unreadable", 1)])
    store.add([], losses=[Loss("a", "worker", 3)])
    assert store.history(JOB).lost == 6
    assert store.set_lost("stream:x", 10) == 10
    assert store.set_lost("stream:x", 10) == 0
    assert store.set_lost("stream:x", 4) == 0
    assert store.set_lost("stream:x", 12) == 2
    assert store.history(JOB).lost == 18


def test_names_that_databases_dislike(store: Store) -> None:
    odd = recent(job="app.\0tasks.run", queue="q\0", worker="w" * 5_000, job_id="\ud800")
    store.add([odd])
    assert store.add([odd]) == (0, 1)
    (job,) = store.jobs()
    assert store.history(job).executions_total == 1


def test_what_cannot_be_stored_spoils_nothing(store: Store) -> None:
    store.add([recent()])
    with pytest.raises(UnstorableError):
        store.add([recent(), recent(attempt=2**70)])
    assert store.history(JOB).executions_total == 1


def test_two_writers_at_once_lose_and_double_nothing(store_url: str) -> None:
    executions = [recent(seconds_ago=60 + number % 5) for number in range(240)]
    errors: list[BaseException] = []

    def write(offset: int) -> None:
        try:
            with Store.open(store_url) as own:
                for start in range(offset, len(executions) + offset, 20):
                    own.add([executions[index % 240] for index in range(start, start + 20)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(offset,)) for offset in (0, 50, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Store.open(store_url) as store:
        history = store.history(JOB)
    assert history.executions_total == history.run_ms.count == history.wait_ms.count == len(history.trace) == 240


def test_twenty_thousand_executions_stay_bounded(sqlite_store: Store, tmp_path: Path) -> None:
    now_ns = time.time_ns()
    template = recent(seconds_ago=0, now_ns=now_ns)
    sizes = []
    for batch in range(20):
        executions = []
        for number in range(batch * 1_000, batch * 1_000 + 1_000):
            shift = (20_000 - number) * SECOND // 10
            executions.append(
                replace(
                    template,
                    id=f"x{number}",
                    job_id=f"j{number}",
                    job=f"app.job{number % 4}",
                    enqueued_at_ns=template.enqueued_at_ns - shift,
                    dequeued_at_ns=template.dequeued_at_ns - shift,
                    reaped_at_ns=template.reaped_at_ns - shift,
                )
            )
        sqlite_store.add(executions)
        sizes.append(rows_in(sqlite_store, tables.exemplars))
    assert max(sizes) <= 4 * (50 + 10 + 10 + 5 + 3)
    assert rows_in(sqlite_store, tables.rollups) <= 4 * 35
    sqlite_store.prune(Retention(trace_rows=5_000))
    assert rows_in(sqlite_store, tables.trace) == 5_000
    assert sqlite_store.history("app.job1").executions_total == 5_000


def test_minutes_become_hours_after_a_day(store: Store) -> None:
    now_ns = time.time_ns() // rollups.HOUR_NS * rollups.HOUR_NS
    hour = 3_600.0
    for seconds_ago in (30 * hour, 30 * hour - 60, 30 * hour - 120, 20 * hour, 20 * hour - 60):
        store.add([recent(seconds_ago=seconds_ago, now_ns=now_ns, run_ms=5.0, wait_ms=0.0)])
    store.prune(now_ns=now_ns)
    assert rows_in(store, tables.rollups) == 1 + 2
    assert store.history(JOB).executions_total == 5


def test_a_long_history_has_few_buckets(sqlite_store: Store) -> None:
    now_ns = time.time_ns()
    sqlite_store.add(
        [recent(seconds_ago=600 * number, now_ns=now_ns, queue=("a", "b")[number % 2]) for number in range(900)]
    )
    history = sqlite_store.history(JOB)
    assert 50 <= len(history.buckets) <= 2 * 400
    assert sum(bucket.count for bucket in history.buckets) == 900
    assert [bucket.at_ns for bucket in history.buckets] == sorted(bucket.at_ns for bucket in history.buckets)
    assert {bucket.queue for bucket in history.buckets} == {"a", "b"}


# -------------------------------------------------------------------------------------------------------------- errors


def said(error: StoreError) -> str:
    text = str(error)
    assert "\n" not in text
    assert error.next_step
    return text


def test_reading_makes_no_file(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/none.db")
    assert store.is_empty()
    for read in (store.jobs, lambda: store.find("x"), lambda: store.history("x"), lambda: store.execution("x")):
        with pytest.raises(StoreError) as caught:
            read()
        assert f"no store at {tmp_path}/none.db; run `jobdoctor run` first" in said(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_our_tables_is_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    store = Store.open(f"sqlite:///{tmp_path}/empty.db")
    assert store.is_empty()
    with pytest.raises(StoreError, match="no recordings in"):
        store.jobs()
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_an_empty_store_names_no_jobs(store: Store) -> None:
    store.add_mark("deploy", "r1")
    assert store.jobs() == []
    assert store.is_empty()
    with pytest.raises(UnknownJobError, match="which is empty; run `jobdoctor run` first"):
        store.history("app.x")


def test_a_store_of_before_routes_is_read_and_then_completed(store: Store, store_url: str) -> None:
    """Reading changes nothing in it; the first writer adds what its table lacks."""
    store.add([recent(), recent(attempt=2), recent(scheduled=True)])
    with store._database.engine.begin() as connection:
        for column in tables.later:
            connection.exec_driver_sql(f"ALTER TABLE jobdoctor_trace DROP COLUMN {column.name}")
    with Store.open(store_url) as earlier:
        for rows in (earlier.traffic()[0], earlier.history(JOB).trace, earlier.history(JOB).neighbours):
            assert sorted(row.route for row in rows) == ["retried", "straight", "unknown"]
            assert {tuple(row.depends_on) for row in rows} == {()}
        earlier.add([recent(route="deferred", depends_on=["parent"])])
        assert ("deferred", ["parent"]) in [(row.route, row.depends_on) for row in earlier.traffic()[0]]
    with Store.open(store_url) as again:
        assert len(again.traffic()[0]) == 4


def test_a_newer_schema_is_left_alone(store: Store, store_url: str) -> None:
    store.add([recent()])
    with store._database.engine.begin() as connection:
        connection.execute(tables.schema.update().values(version=7))
    again = Store.open(store_url)
    for use in (again.jobs, again.is_empty, again.prune, lambda: again.add([recent()])):
        with pytest.raises(StoreError) as caught:
            use()
        assert "was written by a newer jobdoctor (schema 7, this one knows 1); upgrade jobdoctor" in said(caught.value)
    again.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("jobdoctor.db", "'jobdoctor.db' is no database URL; write it like sqlite:///jobdoctor.db"),
        ("", "is no database URL"),
        ("mysql://a/b", "cannot keep its store in mysql"),
        ("what+ever://a/b", "cannot keep its store in what"),
        ("sqlite://store.db", "write sqlite:///store.db"),
        ("postgresql://host", "postgresql://host names no database"),
        ("not a url://:secret@x", "is no database URL"),
    ],
)
def test_wrong_urls(url: str, words: str) -> None:
    with pytest.raises(StoreError) as caught:
        Store.open(url)
    assert words in said(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_that_does_not_answer() -> None:
    store = Store.open("postgresql://someone:secret@127.0.0.1:1/db")
    with pytest.raises(StoreError) as caught:
        store.jobs()
    assert "cannot use postgresql://someone:***@127.0.0.1:1/db" in said(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_driver_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from jobdoctor.store import Store\n"
        "try: Store.open('postgresql://host/db')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.startswith("StoreError")
    assert "pip install 'jobdoctor[postgres]'" in out


def test_files_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is certainly not a database\n" * 100)
    for path, words in (
        (tmp_path / "text.db", "is not an SQLite database"),
        (tmp_path, "is a directory"),
        (tmp_path / "no" / "where.db", "is not a directory; create it"),
    ):
        with pytest.raises(StoreError) as caught:
            Store.open(f"sqlite:///{path}").add([recent()])
        assert words in said(caught.value)


def test_a_damaged_execution_is_said(sqlite_store: Store) -> None:
    sqlite_store.add([recent()])
    with sqlite_store._database.engine.begin() as connection:
        connection.execute(tables.exemplars.update().values(packed=b"garbage"))
    with pytest.raises(StoreError, match="is damaged"):
        sqlite_store.history(JOB)


def test_a_store_in_memory() -> None:
    with Store.open("sqlite://") as store:
        store.add([recent()])
        assert store.history(JOB).executions_total == 1


def test_rollups_count_every_outcome() -> None:
    rows = [make_row(make_execution(outcome=outcome)) for outcome in tables.OUTCOMES]
    whole = rollups.of_one(rows)
    assert whole.executions == 6
    assert whole.failed == 4
