"""Who blocks whom, and who enqueues whom."""

from __future__ import annotations

from msgspec.structs import replace

from jobdoctor.model import BlockedWait, LockWait, Trigger
from jobdoctor.report import graphs
from jobdoctor.report.graphs import Graph
from tests.builders import MS, make_execution, make_group, make_history

JOB = "app.tasks.sync_orders"


def names(graph: Graph | None) -> list[list[str]]:
    """Titles by column, from the left."""
    assert graph is not None
    places = sorted({box.x for box in graph.boxes})
    return [[box.title for box in graph.boxes if box.x == x] for x in places]


def wait(ms: int, job: str = "app.stock.recount", statement: str = "UPDATE a", blocking: str = "UPDATE b") -> LockWait:
    return LockWait(
        "row", "postgresql://db/app", ms * MS, statement=statement, blocking_statement=blocking, blocking_job=job
    )


def test_holders_and_waiters() -> None:
    executions = [make_execution(locks=[wait(20), wait(5, "app.other.job")]) for _ in range(3)]
    graph = graphs.lock_graph(make_history(executions))
    assert names(graph) == [["stock.recount", "other.job"], ["tasks.sync_orders waits (row)"]]
    assert graph is not None
    assert [edge.label for edge in graph.edges] == ["60 ms, 3 waits", "15 ms, 3 waits"]
    assert graph.edges[0].stroke > graph.edges[1].stroke
    assert graph.boxes[0].job == "app.stock.recount"
    assert graph.summary == "75 ms of waiting, the most of it behind app.stock.recount."


def test_a_job_that_blocks_itself_is_a_circle() -> None:
    graph = graphs.lock_graph(make_history([make_execution(locks=[wait(20, JOB)])]))
    assert graph is not None
    assert [edge.back for edge in graph.edges] == [True]
    assert graph.boxes[0].own
    assert graph.boxes[0].job == ""  # it is this page
    assert "It blocks itself" in graph.summary


def test_whom_it_blocks_stands_on_the_other_side() -> None:
    blocked = [
        BlockedWait("app.mail.send", "row", "UPDATE orders", "SELECT orders FOR UPDATE", 40 * MS),
        BlockedWait("app.mail.send", "row", "UPDATE orders", "SELECT orders FOR UPDATE", 20 * MS),
        BlockedWait(JOB, "row", "UPDATE a", "UPDATE b", 500 * MS),
    ]
    alone = graphs.lock_graph(replace(make_history([make_execution()]), blocked=blocked))
    assert names(alone) == [["tasks.sync_orders holds (row)"], ["mail.send"]]
    both = graphs.lock_graph(replace(make_history([make_execution(locks=[wait(20)])]), blocked=blocked))
    assert both is not None
    assert names(both) == [
        ["stock.recount"],
        ["tasks.sync_orders waits (row)", "tasks.sync_orders holds (row)"],
        ["mail.send"],
    ]
    assert [edge.label for edge in both.edges] == ["20 ms, 1 wait", "60 ms, 2 waits"]
    assert [text for _, text in sorted(both.columns)] == ["holds the lock", "this job", "waits for it"]
    first, second = both.boxes[1], both.boxes[2]
    assert both.edges[0].path.endswith(f"{first.x - 9:.0f} {first.y + 22:.0f}")
    assert both.edges[1].path.startswith(f"M{second.x + 260:.0f} {second.y + 22:.0f}C")
    assert both.boxes[-1].job == "app.mail.send"
    assert "Others wait 60 ms for its locks, the most of it app.mail.send." in both.summary


def test_no_graph_without_a_known_holder() -> None:
    assert graphs.lock_graph(make_history([make_execution(locks=[wait(20, "", "UPDATE a", "")])])) is None
    assert graphs.lock_graph(make_history([make_execution()])) is None


def test_an_unknown_job_with_a_known_statement_is_drawn() -> None:
    graph = graphs.lock_graph(make_history([make_execution(locks=[wait(20, "")])]))
    assert names(graph)[0] == ["not recorded"]


def test_many_holders_are_cut() -> None:
    waits = [wait(number + 1, f"app.job_{number}", f"UPDATE t{number % 30}") for number in range(60)]
    graph = graphs.lock_graph(make_history([make_execution(locks=waits)]))
    assert [len(column) for column in names(graph)] == [graphs.MOST_BOXES] * 2
    assert graph is not None
    assert len({(box.x, box.y) for box in graph.boxes}) == len(graph.boxes)
    assert max(box.y + box.height for box in graph.boxes) <= graph.height


def enqueued(job: str, count: int = 1) -> object:
    return make_group("enqueue", fingerprint=job, count=count, callsite="app/tasks.py:60")


def test_enqueuers_and_enqueued() -> None:
    by_job = Trigger(kind="job", callsite="app/b.py:2", parent_job="app.b.parent")
    executions = [
        *(make_execution(at_ms=at, groups=[enqueued("app.c.child", 4)]) for at in range(3)),
        make_execution(at_ms=9, trigger=by_job),
    ]
    graph = graphs.trigger_graph(make_history(executions))
    assert names(graph) == [["app/views.py:88", "b.parent"], ["tasks.sync_orders"], ["c.child"]]
    assert graph is not None
    assert [edge.label for edge in graph.edges] == ["3 times", "once", "3 × each"]
    assert not any(edge.back for edge in graph.edges)
    assert graph.summary == "Enqueued by app/views.py:88, b.parent; it enqueues c.child."


def test_a_circle_of_two_is_shown() -> None:
    by_job = Trigger(kind="job", callsite="app/b.py:2", parent_job="app.b.other")
    graph = graphs.trigger_graph(make_history([make_execution(trigger=by_job, groups=[enqueued("app.b.other")])]))
    assert graph is not None
    assert [edge.back for edge in graph.edges] == [True, True]
    assert "A circle: app.b.other" in graph.summary


def test_a_job_that_enqueues_itself() -> None:
    by_itself = Trigger(kind="job", callsite="app/tasks.py:60", parent_job=JOB)
    graph = graphs.trigger_graph(make_history([make_execution(trigger=by_itself, groups=[enqueued(JOB)])]))
    assert graph is not None
    assert "It enqueues itself." in graph.summary
    assert all(edge.back for edge in graph.edges)


def test_children_that_only_the_trace_knows() -> None:
    child = make_execution(job="app.c.child", trigger=Trigger(kind="job", parent_job=JOB))
    graph = graphs.trigger_graph(make_history([make_execution()], others=[child]))
    assert names(graph)[2] == ["c.child"]


def test_nothing_known_is_no_graph() -> None:
    assert graphs.trigger_graph(make_history([make_execution(trigger=None)])) is None


def test_long_names_are_cut_and_told_whole() -> None:
    job = "app.tasks." + "x" * 90
    graph = graphs.trigger_graph(make_history([make_execution(groups=[enqueued(job)])]))
    assert graph is not None
    box = graph.boxes[-1]
    assert len(box.title) <= graphs.LETTERS
    assert job in box.whole
