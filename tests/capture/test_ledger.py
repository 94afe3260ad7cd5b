"""The ledger: disjoint parts that add up to the wall time exactly, whatever is known."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jobdoctor.capture.ledger import LedgerInputs, build
from jobdoctor.model import LEDGER_PARTS, LedgerPart, Phase, Sample

DB = "postgresql://db/app"
API = "https://api.test"


def ledger(queue_wait_ns: int = 0, run_ns: int = 1_000, **more: Any) -> dict[tuple[str, str], int]:
    inputs = LedgerInputs(queue_wait_ns=queue_wait_ns, run_ns=run_ns, **more)
    parts = build(inputs)
    assert sum(part.ns for part in parts) == queue_wait_ns + run_ns
    assert all(part.ns > 0 for part in parts)
    assert all(part.name in LEDGER_PARTS for part in parts)
    assert len({(part.name, part.detail) for part in parts}) == len(parts)
    return {(part.name, part.detail): part.ns for part in parts}


def test_every_phase_of_a_forked_execution() -> None:
    parts = ledger(
        queue_wait_ns=5_000,
        run_ns=1_000,
        forked_ns=50,
        exited_ns=980,
        phases=[
            Phase("setup", 100, 130),
            Phase("deserialize", 130, 200),
            Phase("import", 200, 300),
            Phase("body", 300, 800),
            Phase("callback", 800, 850),
            Phase("result", 850, 900),
            Phase("persist", 900, 950),
        ],
        channel_ns={"sql": 200, "http": 100},
        channel_cpu_ns={"sql": 40},
        targets={"sql": {DB: 10}, "http": {API: 3, "https://other.test": 1}},
        body_cpu_ns=140,
        body_runqueue_ns=30,
        gc_ns=20,
    )
    assert parts == {
        ("queue_wait", ""): 5_000,
        ("dispatch", ""): 50 + 30,
        ("fork", ""): 50,
        ("deserialize", ""): 70,
        ("import", ""): 100,
        ("cpu", "sql"): 40,
        ("cpu", ""): 85,
        ("gc", ""): 15,
        ("cpu_wait", ""): 30,
        ("sql", DB): 160,
        ("http", API): 75,
        ("http", "https://other.test"): 25,
        ("callback", ""): 50,
        ("result", ""): 50,
        ("persist", ""): 50,
        ("reap", ""): 50,
        ("unexplained", ""): 500 - 300 - 100 - 30,
    }


def test_parts_come_in_the_contracts_order_larger_ones_of_a_name_first() -> None:
    parts = build(
        LedgerInputs(
            queue_wait_ns=1,
            run_ns=100,
            channel_ns={"redis": 10, "sql": 60},
            targets={"sql": {"small": 1, "large": 5}},
        )
    )
    assert [(part.name, part.detail) for part in parts] == [
        ("queue_wait", ""),
        ("sql", "large"),
        ("sql", "small"),
        ("redis", ""),
        ("unexplained", ""),
    ]


def test_time_in_a_phase_belongs_to_the_phase_not_to_cpu() -> None:
    parts = ledger(phases=[Phase("import", 0, 900), Phase("body", 900, 1_000)], body_cpu_ns=60)
    assert parts == {("import", ""): 900, ("cpu", ""): 60, ("unexplained", ""): 40}


def test_imports_inside_the_function_are_imports_as_far_as_they_computed() -> None:
    body = [Phase("body", 0, 1_000)]
    assert ledger(phases=body, body_cpu_ns=800, import_ns=300) == {
        ("import", ""): 300,
        ("cpu", ""): 500,
        ("unexplained", ""): 200,
    }
    # Of 300 ns of imports on a host that is half busy, 240 / (240 + 60) of them computed.
    assert ledger(phases=body, body_cpu_ns=800, body_runqueue_ns=200, import_ns=300) == {
        ("import", ""): 240,
        ("cpu", ""): 560,
        ("cpu_wait", ""): 200,
    }


def test_cpu_of_threads_that_overlaps_with_waiting_is_not_counted_twice() -> None:
    parts = ledger(phases=[Phase("body", 0, 1_000)], channel_ns={"http": 900}, body_cpu_ns=800, gc_ns=500)
    assert parts == {("http", ""): 900, ("gc", ""): 100}


def test_a_collection_waits_for_the_processor_like_all_that_computes() -> None:
    """Of 1,000 ns 250 were CPU: of a pause of 400, too."""
    parts = ledger(phases=[Phase("body", 0, 1_000)], body_cpu_ns=250, body_runqueue_ns=750, gc_ns=400)
    assert parts == {("gc", ""): 100, ("cpu", ""): 150, ("cpu_wait", ""): 750}


def test_a_loop_that_computes_while_calls_are_in_flight_does_not_wait_for_them() -> None:
    body = [Phase("body", 0, 1_000)]
    parts = ledger(phases=body, channel_ns={"http": 900}, body_cpu_ns=600, threads_cpu_ns=0)
    assert parts == {("cpu", ""): 600, ("http", ""): 400}
    # Of other threads' CPU it is not known what the job's own thread did meanwhile: it waited for the calls.
    parts = ledger(phases=body, channel_ns={"http": 900}, body_cpu_ns=600, threads_cpu_ns=450)
    assert parts == {("cpu", ""): 100 + 50, ("http", ""): 850}
    # Sleeps give way last.
    parts = ledger(phases=body, channel_ns={"http": 300, "sleep": 600}, body_cpu_ns=500, threads_cpu_ns=0)
    assert parts == {("cpu", ""): 500, ("sleep", ""): 500}
    # What was measured within calls is theirs.
    parts = ledger(
        phases=body, channel_ns={"http": 900}, channel_cpu_ns={"http": 200}, body_cpu_ns=600, threads_cpu_ns=0
    )
    assert parts == {("cpu", "http"): 200, ("cpu", ""): 400, ("http", ""): 400}


def test_client_side_cpu_is_never_more_than_the_process_used() -> None:
    parts = ledger(
        phases=[Phase("body", 0, 1_000)],
        channel_ns={"sql": 500, "redis": 300},
        channel_cpu_ns={"sql": 400, "redis": 200},
        body_cpu_ns=300,
    )
    assert parts == {
        ("cpu", "sql"): 200,
        ("cpu", "redis"): 100,
        ("sql", ""): 300,
        ("redis", ""): 200,
        ("unexplained", ""): 200,
    }


def test_run_queue_delay_beyond_the_time_outside_of_calls_was_spent_waking_up() -> None:
    parts = ledger(
        phases=[Phase("body", 0, 1_000)], channel_ns={"sql": 600, "http": 300}, body_cpu_ns=0, body_runqueue_ns=400
    )
    assert parts == {("cpu_wait", ""): 400, ("sql", ""): 400, ("http", ""): 200}
    # The length of a sleep was chosen by the job.
    parts = ledger(
        phases=[Phase("body", 0, 1_000)], channel_ns={"sql": 200, "sleep": 800}, body_cpu_ns=0, body_runqueue_ns=300
    )
    assert parts == {("cpu_wait", ""): 300, ("sleep", ""): 700}


def test_run_queue_delay_does_not_hide_waits_that_samples_saw() -> None:
    body = [Phase("body", 0, 1_000)]
    waits = [Sample(at, 0, 0, 0, "child") for at in (750, 850, 950)]  # for 100, 100 and 100, and 125 before
    parts = ledger(
        phases=body,
        channel_ns={"sql": 500},
        body_cpu_ns=100,
        body_runqueue_ns=300,
        samples=[Sample(650, 0, 0, 0, "running"), *waits],
    )
    assert parts == {
        ("cpu", ""): 100,
        ("cpu_wait", ""): 300,
        ("sql", ""): 300,
        ("other_wait", "child"): 300,
    }
    # The kernel's sum stands above what few samples stand for.
    parts = ledger(phases=body, body_cpu_ns=100, body_runqueue_ns=500, samples=waits)
    assert parts == {("cpu", ""): 100, ("cpu_wait", ""): 500, ("other_wait", "child"): 400}


def test_between_samples_the_kernels_account_says_how_long_the_thread_was_blocked() -> None:
    body = [Phase("body", 0, 1_000)]
    samples = [
        Sample(100, 0, 0, 0, "running", thread_cpu_ns=10),
        Sample(300, 0, 0, 40, "child", thread_cpu_ns=130),  # 200 passed: 120 of CPU, 40 of delay, 40 blocked
        Sample(700, 0, 0, 40, "running", thread_cpu_ns=130),  # 400 passed, all of them blocked
        Sample(900, 0, 0, 40, "running", thread_cpu_ns=130),  # 200 passed: no sample says in what it was blocked
        Sample(960, 0, 0, 40, "disk", thread_cpu_ns=130),  # 60 passed, and 40 until the end
    ]
    # 40 + 400 of the child; 60 + 40 of the disk; the 200 in between as those.
    assert ledger(phases=body, samples=samples) == {
        ("other_wait", "child"): 440 + 200 * 440 // 540,
        ("other_wait", "disk"): 100 + 200 - 200 * 440 // 540,
        ("unexplained", ""): 1_000 - 740,
    }
    # A call of 150 in those 200: 50 at least, and at most, were blocked outside of it.
    assert ledger(phases=body, samples=samples, busy=[(740, 890)]) == {
        ("other_wait", "child"): 440 + 50 * 440 // 540,
        ("other_wait", "disk"): 100 + 50 - 50 * 440 // 540,
        ("unexplained", ""): 1_000 - 590,
    }


def test_cpu_that_the_kernel_has_not_counted_yet_is_not_taken_for_a_wait() -> None:
    # It counts a stretch of CPU when it ends: the samples at 400 and 600 lie within one.
    samples = [
        Sample(200, 0, 0, 0, "sleep", thread_cpu_ns=10),
        Sample(400, 0, 0, 0, "running", thread_cpu_ns=110),
        Sample(600, 0, 0, 0, "running", thread_cpu_ns=110),
        Sample(800, 0, 0, 0, "sleep", thread_cpu_ns=610),
    ]
    body = [Phase("body", 0, 1_000)]
    # Until 200 it slept; of the 600 then 600 were CPU.
    assert ledger(phases=body, samples=samples, body_cpu_ns=600) == {("cpu", ""): 600, ("other_wait", "sleep"): 400}
    # At the end it was in line for a processor, and nobody had counted that yet: it was not blocked.
    samples += [Sample(at, 0, 0, 0, "running", thread_cpu_ns=610) for at in (810, 990)]
    parts = ledger(phases=body, samples=samples, body_cpu_ns=600, body_runqueue_ns=105, channel_ns={"sql": 50})
    assert parts == {
        ("cpu", ""): 600,
        ("cpu_wait", ""): 105,
        ("sql", ""): 50,
        ("other_wait", "sleep"): 205,
        ("unexplained", ""): 40,
    }


def test_delay_is_not_moved_into_calls_because_the_job_waited_for_its_threads() -> None:
    parts = ledger(
        phases=[Phase("body", 0, 1_000)],
        channel_ns={"sql": 200},
        body_cpu_ns=700,
        threads_cpu_ns=600,
        body_runqueue_ns=100,
        samples=[
            Sample(249, 0, 0, 0, "running"),
            *(Sample(at, 0, 0, 0, "futex") for at in range(250, 801, 50)),
            Sample(801, 0, 0, 0, "running"),
        ],
        busy=[(0, 200)],
    )
    assert parts == {("cpu", ""): 700, ("cpu_wait", ""): 100, ("sql", ""): 200}


def test_sql_blocked_by_another_session_is_lock_time() -> None:
    parts = ledger(
        phases=[Phase("body", 0, 1_000)],
        channel_ns={"sql": 700},
        targets={"sql": {DB: 1, "sqlite:///x.db": 1}},
        blocked_ns={DB: 300, "sqlite:///x.db": 900},
    )
    assert parts == {
        ("sql", DB): 50,
        ("lock", DB): 300,
        ("lock", "sqlite:///x.db"): 350,
        ("unexplained", ""): 300,
    }


def test_enqueueing_is_redis_and_mail_is_another_wait() -> None:
    parts = ledger(
        phases=[Phase("body", 0, 1_000)],
        channel_ns={"enqueue": 300, "mail": 200},
        targets={"enqueue": {"redis://localhost:6379/0": 1}},
    )
    assert parts == {
        ("redis", "redis://localhost:6379/0"): 300,
        ("other_wait", "mail"): 200,
        ("unexplained", ""): 500,
    }


def test_attributed_time_beyond_the_body_is_scaled_down() -> None:
    parts = ledger(phases=[Phase("body", 0, 500)], channel_ns={"sql": 800, "http": 200})
    assert parts == {("sql", ""): 400, ("http", ""): 100, ("reap", ""): 500}


def test_a_horse_that_was_killed_before_its_first_mark_is_seen_from_outside() -> None:
    parts = ledger(
        forked_ns=100,
        exited_ns=900,
        body_cpu_ns=300,
        samples=[Sample(at, 0, 0, 0, "futex") for at in range(150, 900, 50)],
    )
    assert parts == {("dispatch", ""): 100, ("cpu", ""): 300, ("other_wait", "futex"): 500, ("reap", ""): 100}


def test_a_simple_worker_without_anything_but_phases() -> None:
    assert ledger(phases=[Phase("setup", 10, 20), Phase("body", 20, 1_000)]) == {
        ("dispatch", ""): 20,
        ("unexplained", ""): 980,
    }


def test_nothing_known_at_all() -> None:
    assert ledger(queue_wait_ns=7) == {("queue_wait", ""): 7, ("unexplained", ""): 1_000}
    assert build(LedgerInputs(queue_wait_ns=0, run_ns=0)) == []


def test_waits_outside_of_probes_come_from_samples() -> None:
    parts = ledger(
        phases=[Phase("body", 0, 1_000)],
        channel_ns={"sql": 300},
        body_cpu_ns=100,
        samples=[
            Sample(100, 0, 0, 0, "running"),
            Sample(300, 0, 0, 0, "socket"),  # while a probe saw a call
            Sample(500, 0, 0, 0, "socket"),
            Sample(700, 0, 0, 0, "child"),
            Sample(900, 0, 0, 0, ""),
        ],
        busy=[(200, 500 - 1)],
    )
    # The sample at 500 stands for the 1 ns since the call, and for 100 after; that at 700 for 200.
    assert parts == {
        ("cpu", ""): 100,
        ("sql", ""): 300,
        ("other_wait", "socket"): 101,
        ("other_wait", "child"): 200,
        ("unexplained", ""): 299,
    }


def test_a_job_whose_threads_wait_for_a_processor_waits_for_it_too() -> None:
    waits = [Sample(at, at, 0, 0, "futex", threads_runqueue_ns=at // 2) for at in range(100, 1_000, 100)]
    parts = ledger(phases=[Phase("body", 0, 1_000)], body_cpu_ns=400, samples=waits)
    assert parts == {("cpu", ""): 400, ("cpu_wait", ""): 400, ("other_wait", "futex"): 200}


def test_many_threads_wait_no_longer_than_the_job() -> None:
    waits = [Sample(at, 0, 0, 0, "futex", threads_runqueue_ns=8 * at) for at in range(100, 1_000, 100)]
    parts = ledger(phases=[Phase("body", 0, 1_000)], body_cpu_ns=700, samples=waits)
    assert parts == {("cpu", ""): 700, ("cpu_wait", ""): 300}


def test_imports_that_wait_for_a_processor_are_not_the_imports_fault() -> None:
    phases = [Phase("import", 0, 300), Phase("body", 300, 1_000)]
    parts = ledger(phases=phases, body_cpu_ns=700, import_runqueue_ns=120)
    assert parts == {("import", ""): 180, ("cpu_wait", ""): 120, ("cpu", ""): 700}
    parts = ledger(phases=phases, body_cpu_ns=700, import_runqueue_ns=900)
    assert parts == {("cpu_wait", ""): 300, ("cpu", ""): 700}


def test_threads_that_wait_for_a_processor_beside_a_busy_job_hold_up_nobody() -> None:
    beside = [Sample(at, 0, 0, 0, "disk", threads_runqueue_ns=at) for at in range(100, 1_000, 100)]
    parts = ledger(phases=[Phase("body", 0, 1_000)], body_cpu_ns=100, samples=beside)
    assert parts == {("cpu", ""): 100, ("other_wait", "disk"): 900}


def test_phases_that_overlap_or_leave_the_run_are_cut() -> None:
    parts = ledger(
        forked_ns=2_000,
        exited_ns=5_000,
        phases=[Phase("deserialize", -50, 300), Phase("body", 200, 9_000)],
    )
    assert parts == {("dispatch", ""): 1_000}
    parts = ledger(phases=[Phase("deserialize", -50, 300), Phase("body", 200, 9_000)])
    assert parts == {("deserialize", ""): 300, ("unexplained", ""): 700}


ns = st.integers(min_value=0, max_value=10_000)
names = st.sampled_from(["setup", "deserialize", "import", "body", "callback", "result", "persist"])
channels = st.sampled_from(["sql", "redis", "http", "file", "lock", "pool", "sleep", "subprocess", "mail", "enqueue"])
waits = st.sampled_from(["futex", "socket", "sleep", "disk", "child", "running", ""])


@settings(max_examples=400, deadline=None)
@given(
    st.builds(
        LedgerInputs,
        queue_wait_ns=ns,
        run_ns=ns,
        forked_ns=st.none() | ns,
        exited_ns=st.none() | ns,
        phases=st.lists(st.builds(Phase, names, ns, ns), max_size=8),
        channel_ns=st.dictionaries(channels, ns),
        channel_cpu_ns=st.dictionaries(channels, ns),
        targets=st.dictionaries(channels, st.dictionaries(st.sampled_from(["", "a", "b"]), ns, max_size=3)),
        blocked_ns=st.dictionaries(st.sampled_from(["", "a", "b"]), ns),
        body_cpu_ns=st.none() | ns,
        threads_cpu_ns=st.none() | ns,
        body_runqueue_ns=ns,
        gc_ns=ns,
        import_ns=ns,
        samples=st.lists(st.builds(Sample, ns, ns, ns, ns, waits, thread_cpu_ns=ns), max_size=20),
        busy=st.lists(st.tuples(ns, ns), max_size=10),
    )
)
def test_parts_are_positive_disjoint_and_sum_to_the_wall_time(inputs: LedgerInputs) -> None:
    parts: list[LedgerPart] = build(inputs)
    assert sum(part.ns for part in parts) == inputs.queue_wait_ns + inputs.run_ns
    assert all(part.ns > 0 for part in parts)
    assert len({(part.name, part.detail) for part in parts}) == len(parts)
    # The same again: nothing depends on the order of dictionaries or on what was built before.
    assert build(inputs) == parts
