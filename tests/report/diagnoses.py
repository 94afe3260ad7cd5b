"""Diagnoses to render: one with everything in it, one with nothing, and one written by an attacker."""

from __future__ import annotations

from msgspec.structs import replace

from jobdoctor.model import (
    Check,
    Death,
    Diagnosis,
    Evidence,
    ExceptionInfo,
    Execution,
    Finding,
    JobHistory,
    LedgerPart,
    LockWait,
    Mark,
    Payload,
    PayloadNode,
    Phase,
    ProbeStatus,
    Profile,
    ProfileFrame,
    Quantiles,
    Recommendation,
    RetryPolicy,
    Rusage,
    Sample,
    Saving,
    Span,
    StackFrame,
    Verdict,
)
from tests.builders import ACTIVE_PROBES, EPOCH_NS, MS, SECOND, make_execution, make_group, make_history

SNIPPET = """# before: one query for each order
for order in session.scalars(select(Order)):
    total += order.customer.discount

# after: one query for all of them
orders = session.scalars(
    select(Order).options(selectinload(Order.customer))
)
"""

N_PLUS_ONE = Finding(
    code="JD401",
    name="n-plus-one-query",
    step="batching",
    severity="critical",
    confidence=0.97,
    where="inside",
    title="412 queries of one shape from one line",
    callsite="app/tasks.py:41",
    calls=412,
    cost_ms=3_210.0,
    saving_ms=Saving(2_400.0, 3_100.0, 3_190.0),
    recommendation=Recommendation(
        "batch",
        "Load the customers of all orders with one query. Order.customer is loaded lazily, once for each order; "
        "selectinload fetches them in one round trip.",
        SNIPPET,
    ),
    evidence=[
        Evidence(
            "calls",
            "412 calls of one shape with 412 different parameters, 3.2 s together",
            {
                "groups": [
                    {
                        "channel": "sql",
                        "operation": "SELECT",
                        "fingerprint": "SELECT customers.id, customers.name FROM customers WHERE customers.id = ?",
                        "target": "postgresql://db:5432/shop",
                        "callsite": "app/tasks.py:41",
                        "stack": ["app/tasks.py:41 sync_orders"],
                        "count": 412.0,
                        "distinct": 412.0,
                        "total_ms": 3_210.0,
                        "mean_ms": 7.79,
                        "rows": 412.0,
                        "errors": 0.0,
                    }
                ]
            },
        ),
        Evidence("execution", "execution-1 shows it best", {"execution_id": "execution-1"}),
        Evidence("fact", "The calls grow with the orders", {"slope": 0.98, "orders_share": 0.91, "wasted_ms": 12.5}),
    ],
)
REPEATED = replace(
    N_PLUS_ONE,
    code="JD404",
    name="repeated-query",
    severity="info",
    part_of="JD401",
    title="The same query with the same parameters 30 times",
    saving_ms=Saving(10.0, 20.0, 30.0),
    recommendation=Recommendation("cache", "Keep the answer."),
    evidence=[],
)
BEHIND = Finding(
    code="JD701",
    name="stuck-behind-heavy-jobs",
    step="queue",
    severity="warning",
    confidence=0.8,
    where="around",
    title="Waits 640 ms behind app.reports.build_catalogue",
    cost_ms=640.0,
    saving_ms=Saving(300.0, 520.0, 640.0),
    recommendation=Recommendation("queue", "Give it a queue of its own.", "rq worker orders"),
    evidence=[Evidence("queue", "Held by two jobs", {"jobs": [{"job": "app.reports.build_catalogue", "share": 0.8}]})],
)
SLOW_API = replace(
    BEHIND,
    code="JD201",
    name="slow-dependency",
    step="external",
    where="inside",
    title="https://api.payments.example takes 480 ms of each execution",
    callsite="app/payments.py:17",
    cost_ms=480.0,
    saving_ms=Saving(100.0, 240.0, 400.0),
    recommendation=Recommendation("isolate", "Move the call into a job of its own, so that orders do not wait for it."),
    evidence=[],
)


def execution(number: int, **fields: object) -> Execution:
    """A rich execution of about 4.2 s with 640 ms of queue wait."""
    start = EPOCH_NS + number * 10 * SECOND
    run = 4_200 + number * 40
    groups = [
        make_group(
            "sql",
            count=1,
            ms=12,
            fingerprint="SELECT orders.id, orders.customer_id FROM orders WHERE orders.synced_at IS NULL",
            callsite="app/tasks.py:39",
            target="postgresql://db:5432/shop",
        ),
        make_group(
            "sql",
            count=412,
            ms=3_210,
            fingerprint="SELECT customers.id, customers.name FROM customers WHERE customers.id = ?",
            relationship="Order.customer",
            target="postgresql://db:5432/shop",
        ),
        make_group(
            "http",
            count=3,
            ms=480,
            fingerprint="POST https://api.payments.example/charges/{}",
            target="https://api.payments.example",
            callsite="app/payments.py:17",
            errors=1,
        ),
        make_group("redis", count=12, ms=6, callsite="app/cache.py:9"),
    ]
    spans = [Span(0, 60 * MS, 12 * MS)]
    spans += [Span(1, (80 + index * 8) * MS, 7_700_000, params=index) for index in range(412)]
    spans += [Span(2, (3_400 + index * 170) * MS, 150 * MS) for index in range(3)]
    spans += [Span(3, (3_300 + index * 5) * MS, MS // 2) for index in range(12)]
    ledger = {
        "dispatch": 2.0, "fork": 6.0, "deserialize": 1.2, "import": 35.0, "cpu": 310.0, "cpu_wait": 9.0,
        "sql": 3_040.0, "redis": 6.0, "http": 460.0, "result": 0.4, "persist": 4.0, "reap": 3.0,
    }  # fmt: skip
    base = make_execution(
        wait_ms=640,
        run_ms=run,
        at_ms=number * 10_000,
        id=f"execution-{number}",
        job_id=f"0b9f3a52-77c1-4f0e-9d7e-{number:012d}",
        groups=groups,
        spans=spans,
        ledger=ledger,
        phases=[
            Phase("fork", 2 * MS, 8 * MS),
            Phase("import", 9 * MS, 44 * MS),
            Phase("body", 44 * MS, (run - 12) * MS),
            Phase("result", (run - 12) * MS, (run - 8) * MS),
            Phase("persist", (run - 8) * MS, run * MS),
        ],
        samples=[
            Sample(
                start + (640 + index * 40) * MS,
                int(index * 3.1 * MS) + (index > 60) * 90 * MS,
                60_000_000 + index * 400_000,
                index * MS // 10,
                "socket" if index % 8 else "running",
            )
            for index in range(105)
        ],
        rusage=Rusage(user_ns=300 * MS, max_rss_bytes=104_000_000, baseline_rss_bytes=61_000_000),
        payload=Payload(
            raw_bytes=48_200,
            wire_bytes=12_900,
            args_hash=f"{number:016x}",
            nodes=[
                PayloadNode("args[0]", "list", 47_000, items=412),
                PayloadNode("kwargs['since']", "datetime.datetime", 90, rich=True),
            ],
        ),
        locks=[
            LockWait(
                "row",
                "postgresql://db:5432/shop",
                25 * MS,
                statement="UPDATE stock SET quantity = ? WHERE id = ?",
                blocking_statement="UPDATE stock SET reserved = ?",
                blocking_job="app.stock.recount",
            )
        ],
        overhead_ns=9 * MS,
        rq_version="3.0.0",
        python_version="3.11.7",
        queue_depth=14,
        retry=RetryPolicy(max_retries=3, retries_left=3, intervals_s=[10, 60]),
    )
    return replace(base, **fields) if fields else base


def profile() -> Profile:
    frames = [
        ProfileFrame(-1, "perform_job", "rq/job.py:1300", 4_100 * MS, False),
        ProfileFrame(0, "_execute", "rq/job.py:1320", 4_090 * MS, False),
        ProfileFrame(1, "sync_orders", "app/tasks.py:38", 4_080 * MS, True),
        ProfileFrame(2, "Order.customer", "sqlalchemy/orm/attributes.py:566", 3_300 * MS, False),
        ProfileFrame(3, "do_execute", "sqlalchemy/engine/default.py:941", 3_250 * MS, False),
        ProfileFrame(2, "charge", "app/payments.py:17", 470 * MS, True),
        ProfileFrame(2, "tiny", "app/tasks.py:50", 2 * MS, True),
    ]
    return Profile(interval_ms=1.0, samples=4_080, duration_ns=4_100 * MS, frames=frames)


CHECKLIST = [
    Check("payload", "JD101", "large-payload", "clear"),
    Check("payload", "JD102", "object-argument", "clear"),
    Check("payload", "JD105", "import-cost", "not_checked", "1 execution recorded, 3 needed: run the job more often"),
    Check("external", "JD201", "slow-dependency", "found"),
    Check("external", "JD202", "no-timeout", "clear"),
    Check("external", "JD204", "call-in-transaction", "clear"),
    Check("internals", "JD301", "cpu-bound", "clear"),
    Check("internals", "JD305", "sleeping", "crashed", "KeyError in JD305 sleeping: 'nanosleep'"),
    Check("batching", "JD401", "n-plus-one-query", "found"),
    Check("batching", "JD402", "n-plus-one-http", "not_checked", "http calls through httpx were not recorded"),
    Check("batching", "JD404", "repeated-query", "found"),
    Check("locks", "JD501", "database-lock-wait", "clear"),
    Check("retries", "JD602", "retry-storm", "clear"),
    Check("queue", "JD701", "stuck-behind-heavy-jobs", "found"),
    Check("trigger", "JD801", "duplicate-enqueues", "clear"),
]


def rich() -> Diagnosis:
    """A sick job: everything a report can show is in it."""
    executions = [execution(number) for number in range(1, 9)]
    executions[0] = replace(executions[0], profile=profile())
    executions[1] = replace(
        executions[1],
        outcome="failed",
        attempt=2,
        exception=ExceptionInfo("requests.exceptions.HTTPError", "? Server Error for url ?", "app/payments.py:19", 503),
        not_captured=["File reads were not recorded: open() was replaced by another tool"],
    )
    executions[2] = replace(
        executions[2],
        outcome="killed",
        death=Death(
            signal=9,
            cause="oom",
            certain=True,
            last_rss_bytes=104_000_000,
            peak_rss_bytes=130_000_000,
            limit="cgroup",
            limit_value=134_217_728,
            oom_kills=1,
            in_flight="SELECT customers at app/orders.py:41, for 0.1 s",
            suspect="the kernel's out-of-memory killer: the cgroup's limit of 128 MiB was reached (the job's process "
            "held 124 MiB), while it was in SELECT customers at app/orders.py:41 for 0.1 s",
            stack=[
                StackFrame("sqlalchemy/engine/cursor.py:1120", "CursorResult.fetchall", False),
                StackFrame("app/orders.py:41", "load_customers", True),
                StackFrame("app/tasks.py:12", "sync_orders", True),
            ],
            stack_source="observed",
            stack_age_ns=400 * MS,
            stack_held_ns=2_100 * MS,
            threads=[[StackFrame("app/progress.py:9", "tick", True)]],
        ),
        truncated=True,
        spans_dropped=120,
        in_flight=Span(1, 3_900 * MS, 0),
        probes=[*ACTIVE_PROBES, ProbeStatus("http", "httpx", "failed", "httpx 0.99 is not known")],
    )
    heavy = [
        make_execution(
            job="app.reports.build_catalogue", at_ms=number * 10_000 - 400, wait_ms=0, run_ms=1_000, worker="worker-1"
        )
        for number in range(1, 9)
    ]
    history = make_history(executions, others=heavy, executions_total=40, lost=2, slo_ms=2_000.0)
    history = replace(history, marks=[Mark("deploy", "3f2a91c", EPOCH_NS + 15 * SECOND)])
    return Diagnosis(
        history=history,
        verdict=Verdict(
            "both",
            "412 queries of one shape from one line: load the customers of all orders with one query; "
            "gives back about 3.1 s of 4.9 s an execution",
            0.97,
        ),
        checklist=CHECKLIST,
        findings=[N_PLUS_ONE, BEHIND, SLOW_API, REPEATED],
        ledger=[
            LedgerPart(
                part.name,
                {"sql": "postgresql://db:5432/shop", "http": "https://api.payments.example"}.get(
                    part.name, part.detail
                ),
                part.ns,
            )
            for part in executions[0].ledger
        ],
    )


def empty() -> Diagnosis:
    """Nothing was recorded in detail."""
    history = JobHistory("app.tasks.idle", EPOCH_NS, EPOCH_NS + SECOND, 0, {}, Quantiles(), Quantiles(), [])
    return Diagnosis(history, Verdict("unknown", "No execution is recorded in detail", 0.0), [], [], [])


def healthy() -> Diagnosis:
    executions = [make_execution(at_ms=number * 1_000) for number in range(10)]
    history = make_history(executions)
    return Diagnosis(
        history,
        Verdict("none", "Nothing wrong found: 100 ms a run, 5.0 ms in the queue, over 10 executions", 0.9),
        [replace(check, status="clear", reason=None) for check in CHECKLIST],
        [],
        executions[0].ledger,
    )


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'`{{7*7}}\x1b[31m\u202e"


def hostile() -> Diagnosis:
    """Every recorded text is an attack."""
    bad = HOSTILE
    base = execution(
        1,
        job=bad, job_id=bad, queue=bad, worker=bad, id=bad, outcome="failed", rq_version=bad,
        exception=ExceptionInfo(bad, bad, bad),
        death=Death(in_flight=bad, cause=bad, suspect=bad, limit=bad, stack=[StackFrame(bad, bad, True)]),
        payload=Payload(10, 10, bad, "", [PayloadNode(bad, bad, 5)], bad),
        groups=[make_group("sql", fingerprint=bad, target=bad, callsite=bad, relationship=bad, operation=bad)],
        spans=[Span(0, 0, MS)],
        locks=[LockWait(bad, bad, MS, statement=bad, blocking_statement=bad, blocking_job=bad)],
        probes=[ProbeStatus(bad, bad, "failed", bad)],
        not_captured=[bad],
        phases=[Phase(bad, 0, MS)],
        profile=Profile(1.0, 3, MS, [ProfileFrame(-1, bad, bad, MS, True)]),
    )  # fmt: skip
    history = replace(make_history([base]), marks=[Mark("deploy", bad, EPOCH_NS)])
    finding = Finding(
        bad, bad, "batching", "critical", 0.5, "inside", bad, 1.0, Saving(1, 2, 3),
        Recommendation("batch", bad, bad), bad, 3,
        [Evidence("fact", bad, {bad: bad, "groups": [{"fingerprint": bad, bad: bad}], "list": [bad]})],
    )  # fmt: skip
    return Diagnosis(
        history,
        Verdict("inside", bad, 0.5),
        [Check("batching", bad, bad, "crashed", bad), Check("batching", bad, bad, "not_checked", bad)],
        [finding],
        [LedgerPart(bad, bad, MS), LedgerPart("sql", bad, MS)],
    )
