"""Who enqueues the job, and what it enqueues."""

from __future__ import annotations

from jobdoctor.report.triggers import triggers
from tests.builders import make_execution, make_group, make_history, make_row


def test_what_it_enqueues_is_counted_for_each_execution_and_circles_are_told() -> None:
    groups = [
        make_group("enqueue", fingerprint="app.mail.send", callsite="app/a.py:3", count=3, items=3),
        make_group("enqueue", fingerprint="app.mail.send", callsite="app/a.py:9", count=1, items=40, batched=1),
        make_group("enqueue", fingerprint="app.b", callsite="app/a.py:5", count=1),
        make_group("redis", fingerprint="GET x"),
    ]
    executions = [make_execution(groups=groups), make_execution(groups=[])]
    trace = [make_row(executions[0], parent_job="app.b"), make_row(executions[1], parent_job="")]
    found = triggers(make_history(executions, trace=trace))
    assert [(row.job, row.callsite, row.count, row.back) for row in found.enqueued] == [
        ("app.mail.send", "app/a.py:9", 20.0, False),
        ("app.mail.send", "app/a.py:3", 1.5, False),
        ("app.b", "app/a.py:5", 0.5, True),
    ]


def test_a_job_that_enqueues_itself_is_a_circle() -> None:
    execution = make_execution(groups=[make_group("enqueue", fingerprint="app.tasks.sync_orders")])
    assert triggers(make_history([execution])).enqueued[0].back


def test_retries_are_no_duplicates() -> None:
    execution = make_execution()
    trace = [make_row(execution), make_row(execution, attempt=2), make_row(make_execution())]
    found = triggers(make_history([execution], trace=trace))
    assert (found.executions, found.hashed, found.distinct_args) == (3, 2, 2)
