"""What RQ, the parent and the horse know, put together to one execution."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from msgspec.structs import replace

from jobdoctor.capture import recorder, recording, reference
from jobdoctor.capture.assemble import ExecutionFacts, Observation, assemble
from jobdoctor.capture.cgroup import MemoryFacts
from jobdoctor.capture.recorder import PythonRecorder, Recorder
from jobdoctor.capture.sampler import Sampler, rusage_of
from jobdoctor.model import Execution, LockWait, Phase, ProbeStatus, ResultInfo, Rusage, Sample
from tests.capture.children import sampled_until_gone
from tests.capture.test_recorder import FakeClock, query

EPOCH = 1_767_225_600_000_000_000
OOM = MemoryFacts(oom_kills=1, watched="cgroup")
DB = "postgresql://db/app"


def make_facts(**fields: Any) -> ExecutionFacts:
    defaults: dict[str, Any] = {
        "id": "execution-1",
        "job_id": "job-1",
        "job": "app.tasks.sync_orders",
        "queue": "default",
        "worker": "worker-1",
        "worker_kind": "fork",
        "outcome": "finished",
        "created_at_ns": EPOCH - 900,
        "enqueued_at_ns": EPOCH - 500,
    }
    return ExecutionFacts(**{**defaults, **fields})


def make_observation(**fields: Any) -> Observation:
    """Dequeued at 10_000 of the performance counter, which is EPOCH; reaped 2_000 later."""
    defaults: dict[str, Any] = {
        "epoch_ns": EPOCH - 3_000,
        "perf_ns": 7_000,
        "dequeued_ns": 10_000,
        "forked_ns": 10_100,
        "exited_ns": 11_900,
        "reaped_ns": 12_000,
        "rusage": Rusage(user_ns=300, system_ns=100),
        "wait_status": 0,
    }
    return Observation(**{**defaults, **fields})


class Horse:
    """A recorder with a fake clock, as the horse has it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.cpu = FakeClock()
        self.cpu.now = 0
        self.rec = PythonRecorder(recorder.open_memory().buffer, self.clock, self.cpu)
        self.delay = 0
        self.rec._scheduled = lambda: (0, self.delay)  # type: ignore[method-assign]

    def mark(self, name: str, at: int, cpu: int = 0, delay: int = 0) -> None:
        self.clock.now = at
        self.cpu.now = cpu
        self.delay = delay
        self.rec.mark(name)

    def query(self, start: int, end: int | None, fingerprint: str = "SELECT * FROM orders WHERE id = ?") -> None:
        self.clock.now = start
        call = self.rec.begin(query(self.rec, fingerprint))
        assert call is not None
        if end is not None:
            self.clock.now = end
            call.end()

    def read(self) -> recording.Recording:
        # The client-side CPU of calls is measured on the real clock.
        read = recording.read(self.rec.buffer)
        return replace(read, channel_cpu_ns={})


def parts(execution: Execution) -> dict[str, int]:
    assert sum(part.ns for part in execution.ledger) == execution.wall_ns
    return {f"{part.name} {part.detail}".strip(): part.ns for part in execution.ledger}


def test_a_whole_execution() -> None:
    horse = Horse()
    horse.mark("setup", 10_200, 10)
    horse.mark("deserialize", 10_250, 20)
    horse.mark("import", 10_300, 30)
    horse.mark("body", 10_400, 100, delay=5)
    horse.query(10_500, 10_800)
    horse.mark("result", 11_400, 250, delay=65)
    horse.mark("persist", 11_500, 260, delay=90)
    horse.mark("end", 11_700, 300)
    horse.rec.note("result", type_name="dict", bytes=12, digest="abc")
    horse.rec.note("import", module="app.tasks", total_ns=90, self_ns=40, depth=0)
    horse.rec.note("session", backend=f"{DB}#4711", start_ns=10_450, end_ns=11_300)
    horse.rec.note("missing", text="Rows of one cursor: it was never closed")
    execution = assemble(
        make_facts(result=ResultInfo("", ttl_s=500)),
        make_observation(
            samples=[Sample(10_150, 5, 1_000, 0), Sample(11_000, 200, 3_000, 40)],
            probes=[ProbeStatus("sql", "psycopg", "active")],
            overhead_ns=7,
        ),
        horse.read(),
    )
    assert (execution.created_at_ns, execution.enqueued_at_ns) == (EPOCH - 900, EPOCH - 500)
    assert (execution.dequeued_at_ns, execution.reaped_at_ns) == (EPOCH, EPOCH + 2_000)
    assert parts(execution) == {
        "queue_wait": 500,
        "dispatch": 100 + 50,
        "fork": 100,
        "deserialize": 50,
        "import": 95,
        "cpu": 150,
        "cpu_wait": 65,  # 5 of it while importing
        f"sql {DB}": 300,
        "result": 100,
        "persist": 200,
        "reap": 300,
        "unexplained": 1_000 - 510,
    }
    assert execution.phases == [
        Phase("dispatch", 0, 100),
        Phase("fork", 100, 200),
        Phase("setup", 200, 250),
        Phase("deserialize", 250, 300),
        Phase("import", 300, 400),
        Phase("body", 400, 1_400),
        Phase("result", 1_400, 1_500),
        Phase("persist", 1_500, 1_700),
        Phase("reap", 1_900, 2_000),
    ]
    assert execution.body_ns == 1_000
    (group,) = execution.groups
    assert (group.first_start_ns, group.last_end_ns) == (500, 800)
    (span,) = execution.spans
    assert (span.group, span.start_ns, span.duration_ns) == (0, 500, 300)
    assert execution.result == ResultInfo("dict", 12, "abc", 500)
    assert execution.imports[0].module == "app.tasks"
    assert (execution.sessions[0].start_ns, execution.sessions[0].end_ns) == (450, 1_300)
    assert [sample.at_ns for sample in execution.samples] == [150, 1_000]
    assert execution.not_captured == ["Rows of one cursor: it was never closed"]
    assert execution.death is None
    assert execution.overhead_ns == 7 + PythonRecorder.calibrate()


def test_waits_beyond_the_log_of_calls_are_not_said_to_be_outside_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "SPANS", 1)
    waits = [Sample(at, 0, 1_000, 0, "socket") for at in (10_450, 10_550, 10_650, 10_750, 10_850)]
    horse = Horse()
    horse.mark("body", 10_400)
    horse.query(10_500, 10_600)
    horse.query(10_700, 10_800)
    horse.mark("persist", 10_900)
    execution = assemble(make_facts(), make_observation(samples=waits), horse.read())
    assert execution.spans_dropped == 1
    # Three samples lie where a call may have been: those at 550, 650 and 750.
    assert parts(execution)["other_wait socket"] == 100 + 100
    assert parts(execution)["unexplained"] == 100


def test_cpu_of_other_threads_is_told_from_that_of_the_jobs_own() -> None:
    horse = Horse()
    horse.mark("body", 10_400, 0)
    horse.query(10_500, 11_300)
    horse.mark("persist", 11_400, 700)
    alone = [Sample(10_400, 1, 1_000, 0, "running", thread_cpu_ns=1)]
    one = assemble(
        make_facts(),
        make_observation(samples=[*alone, Sample(11_400, 701, 1_000, 0, "running", thread_cpu_ns=701)]),
        horse.read(),
    )
    assert parts(one)["cpu"] == 700
    assert parts(one)[f"sql {DB}"] == 300
    several = assemble(
        make_facts(),
        make_observation(samples=[*alone, Sample(11_400, 701, 1_000, 0, "running", thread_cpu_ns=201)]),
        horse.read(),
    )
    assert parts(several)["cpu"] == 200
    assert parts(several)[f"sql {DB}"] == 800
    unknown = assemble(make_facts(), make_observation(), horse.read())
    assert parts(unknown)["cpu"] == 200


def test_a_horse_that_was_killed_inside_a_call() -> None:
    horse = Horse()
    horse.mark("body", 10_400, 100)
    horse.query(10_500, 10_600)
    horse.query(10_700, None, "SELECT pg_sleep(?)")
    execution = assemble(
        make_facts(outcome="killed"),
        make_observation(
            wait_status=signal.SIGKILL,
            rusage=Rusage(user_ns=150),
            samples=[Sample(11_000, 120, 77, 0, "socket")],
        ),
        horse.read(),
    )
    # The call that never ended has the time until the end; the CPU after the last mark comes from the kernel.
    assert parts(execution) == {
        "queue_wait": 500,
        "dispatch": 100,
        "fork": 300,
        "cpu": 50,
        f"sql {DB}": 100 + 1_200,
        "reap": 100,
        "unexplained": 150,
    }
    assert execution.in_flight is not None
    assert execution.in_flight.start_ns == 700
    assert execution.in_flight.duration_ns == 1_200
    assert execution.groups[execution.in_flight.group].fingerprint == "SELECT pg_sleep(?)"
    assert execution.groups[execution.in_flight.group].count == 0
    assert execution.death is not None
    assert (execution.death.signal, execution.death.cause, execution.death.last_rss_bytes) == (9, "signal", 77)
    assert execution.death.in_flight.startswith(f"SELECT pg_sleep(?) on {DB} at tests/capture/test_assemble.py:")
    assert execution.death.in_flight.endswith(", for 0.0 ms")
    assert execution.phases[-2] == Phase("body", 400, 1_900)


@pytest.mark.parametrize(
    ("fields", "outcome", "cause"),
    [
        ({"wait_status": signal.SIGKILL}, "killed", "signal"),
        ({"wait_status": signal.SIGKILL, "memory": OOM}, "killed", "oom"),
        ({"wait_status": signal.SIGKILL, "memory": OOM, "killed_by_us": "timeout"}, "timeout", "timeout"),
        ({"wait_status": signal.SIGKILL}, "stopped", "stopped"),
        ({"wait_status": signal.SIGSEGV}, "killed", "segfault"),
        ({"wait_status": 3 << 8}, "killed", "exit"),
    ],
)
def test_causes_of_death(fields: dict[str, Any], outcome: Any, cause: str) -> None:
    execution = assemble(make_facts(outcome=outcome), make_observation(**fields), Horse().read())
    assert execution.death is not None
    assert execution.death.cause == cause
    assert execution.death.exit_code == (3 if cause == "exit" else None)


def test_an_exception_note_gets_a_digest_that_is_the_same_for_the_same_error() -> None:
    def failed(shape: str) -> Execution:
        horse = Horse()
        horse.rec.note(
            "exception", type_name="ValueError", message_shape=shape, callsite="app/x.py:3", status=404, unknown=1
        )
        return assemble(make_facts(outcome="failed"), make_observation(), horse.read())

    first, again, other = failed("no order ?"), failed("no order ?"), failed("no stock")
    assert first.exception is not None
    assert again.exception is not None
    assert other.exception is not None
    assert (first.exception.type_name, first.exception.status) == ("ValueError", 404)
    assert len(first.exception.digest) == 16
    assert first.exception.digest == again.exception.digest != other.exception.digest


def test_lock_waits_seen_from_outside_are_taken_off_the_query() -> None:
    horse = Horse()
    horse.mark("body", 10_400)
    horse.query(10_500, 10_600)
    horse.query(10_600, 11_400, "UPDATE orders SET state = ? WHERE id = ?")
    horse.mark("end", 11_500)
    execution = assemble(
        make_facts(),
        make_observation(
            locks=[
                LockWait(
                    kind="row",
                    target=DB,
                    waited_ns=700,
                    start_ns=10_650,
                    statement="UPDATE orders SET state = ? WHERE id = ?",
                    blocking_backend=f"{DB}#12",
                )
            ]
        ),
        horse.read(),
    )
    (wait,) = execution.locks
    assert (wait.start_ns, execution.groups[wait.group].fingerprint) == (650, wait.statement)
    found = parts(execution)
    assert (found[f"lock {DB}"], found[f"sql {DB}"]) == (700, 200)


def test_calls_in_other_phases_do_not_count_for_the_body() -> None:
    horse = Horse()
    horse.mark("import", 10_300)
    horse.query(10_400, 10_600)
    horse.mark("body", 10_700)
    horse.mark("callback", 11_000)
    horse.query(11_000, 11_100)
    horse.mark("end", 11_200)
    execution = assemble(make_facts(), make_observation(), horse.read())
    assert not any(name.startswith("sql") for name in parts(execution))
    assert parts(execution)["import"] == 400
    assert execution.groups[0].count == 2


def test_a_simple_worker_has_no_fork() -> None:
    horse = Horse()
    horse.mark("setup", 10_100, 1_000)
    horse.mark("body", 10_300, 1_100)
    horse.mark("persist", 11_300, 1_800)
    horse.mark("end", 11_500, 1_900)
    execution = assemble(
        make_facts(worker_kind="simple"),
        make_observation(forked_ns=0, exited_ns=0, rusage=None, wait_status=None, own_cpu_ns=900),
        horse.read(),
    )
    assert parts(execution) == {
        "queue_wait": 500,
        "dispatch": 300,
        "cpu": 700,
        "unexplained": 300,
        "persist": 200,
        "reap": 500,
    }


def test_without_a_recording_of_the_horse() -> None:
    execution = assemble(make_facts(), make_observation(), None)
    assert parts(execution) == {
        "queue_wait": 500,
        "dispatch": 100,
        "cpu": 400,
        "reap": 100,
        "unexplained": 1_400,
    }
    assert execution.groups == []
    assert any("recording" in sentence for sentence in execution.not_captured)


def test_clocks_of_two_machines_that_disagree_claim_no_wait() -> None:
    execution = assemble(
        make_facts(enqueued_at_ns=EPOCH + 50_000, created_at_ns=EPOCH + 90_000), make_observation(), None
    )
    assert execution.wait_ns == 0
    assert execution.created_at_ns == execution.enqueued_at_ns == execution.dequeued_at_ns
    parts(execution)


def test_sampler_and_notes_that_were_lost_are_said() -> None:
    horse = Horse()
    for number in range(2_000):
        horse.rec.note("lock", kind="thread", target=str(number), waited_ns=1)
    execution = assemble(make_facts(), make_observation(sampler_missing="there is no /proc"), horse.read())
    assert any("no /proc" in sentence for sentence in execution.not_captured)
    assert any("notes of the horse" in sentence for sentence in execution.not_captured)
    assert execution.truncated


def test_a_real_horse_killed_in_a_call_is_accounted_for() -> None:
    """Everything real: a forked child spins, then hangs in a call until it is killed."""
    memory = recorder.open_memory()
    rec = Recorder(memory.buffer)
    epoch_ns, perf_ns = time.time_ns(), time.perf_counter_ns()
    dequeued_ns = forked_ns = time.perf_counter_ns()
    pid = os.fork()
    if pid == 0:
        recorder.start(rec)
        rec.mark("setup")
        rec.mark("body")
        until = time.process_time() + 0.15
        while time.process_time() < until:
            pass
        rec.begin(query(rec))
        time.sleep(60)
        os._exit(1)
    with Sampler(pid) as sampler:

        def tick() -> None:
            found = recording.in_flight(memory.buffer)
            if found is not None and time.perf_counter_ns() - found.start_ns > 150_000_000:
                os.kill(pid, signal.SIGKILL)

        _, status, usage = sampled_until_gone(pid, sampler, tick)
    exited_ns = time.perf_counter_ns()
    execution = assemble(
        make_facts(outcome="killed", enqueued_at_ns=0),
        Observation(
            epoch_ns=epoch_ns,
            perf_ns=perf_ns,
            dequeued_ns=dequeued_ns,
            forked_ns=forked_ns,
            exited_ns=exited_ns,
            reaped_ns=time.perf_counter_ns(),
            horse_pid=pid,
            samples=sampler.samples,
            rusage=rusage_of(usage, sampler.baseline_rss_bytes),
            wait_status=status,
        ),
        recording.read(memory.buffer),
    )
    ledger = parts(execution)
    assert ledger["cpu"] > 0.13e9
    assert ledger[f"sql {DB}"] > 0.14e9
    assert ledger.get("unexplained", 0) < 0.1 * execution.wall_ns
    assert execution.death is not None
    assert execution.death.in_flight.startswith("SELECT ?")
