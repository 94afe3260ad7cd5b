"""Death certificates of real work horses. RQ's own account of each death stays as without us."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import redis
from rq import Queue
from rq.command import send_stop_job_command
from rq.job import Job

from jobdoctor.model import Death, Execution
from tests.integration import death_jobs
from tests.integration.recordings import executions

MIB = 1 << 20
#: One process runs the batches of deaths that many tests look at.
pytestmark = pytest.mark.xdist_group("deaths")

#: Where a memory limit can be set for a worker; see :func:`limited_group`.
_V2, _V1 = pathlib.Path("/sys/fs/cgroup"), pathlib.Path("/sys/fs/cgroup/memory")


def start(url: str, worker_class: str = "jobdoctor.Worker", *, speed: float = 1, group: str = "") -> Any:
    """A worker in a process of its own. ``speed``: how much faster the monitor's clock runs, which waits for a minute
    after a timeout. ``group``: the control group that it joins."""
    source = f"""
import os, redis, rq, rq.worker, jobdoctor
import rq.worker.worker_classes as monitor
if {group!r}:
    open({group!r} + "/cgroup.procs", "w").write(str(os.getpid()))
real, began = monitor.now, monitor.now()
monitor.now = lambda: began + (real() - began) * {speed}
worker = {worker_class}(["default"], connection=redis.Redis.from_url({url!r}), job_monitoring_interval=1)
worker.work(burst=True, logging_level="CRITICAL")
"""
    return subprocess.Popen([sys.executable, "-c", source])


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def recorded(client: redis.Redis, worker: Any, code: int = 0) -> tuple[Execution, Death]:
    try:
        assert worker.wait(60) == code
    finally:
        worker.kill()
    (execution,) = executions(client)
    assert execution.death is not None
    assert not [text for text in execution.not_captured if "stack" in text]
    return execution, execution.death


def die(client: redis.Redis, url: str, function: Any, *args: Any, kind: str = "Worker", **options: Any) -> Any:
    speed, group = options.pop("speed", 1), options.pop("group", "")
    Queue(connection=client).enqueue(function, *args, **options)
    return recorded(client, start(url, f"jobdoctor.{kind}", speed=speed, group=group))


def line_of(function: Any, text: str) -> str:
    lines = pathlib.Path(death_jobs.__file__).read_text(encoding="utf-8").splitlines()
    first = function.__code__.co_firstlineno - 1
    number = next(number for number, line in enumerate(lines[first:], first + 1) if text in line)
    return f"tests/integration/death_jobs.py:{number}"


#: Deaths that need nobody beside them: (function, arguments, options), run by one worker. Its monitor's clock runs
#: fast, because RQ waits for a minute after a timeout.
BATCH: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "fault": (death_jobs.fault, (), {}),
    "abort": (death_jobs.abort, (), {}),
    "bus-error": (death_jobs.bus_error, (), {}),
    "exit": (death_jobs.leave, (3,), {}),
    "abort-again": (death_jobs.abort, (), {}),
    "exit-0": (death_jobs.leave, (0,), {}),
    "killed": (death_jobs.kill_self_after, (1.0,), {}),
    "memory-limit": (death_jobs.fill_limited_memory, (64 * MIB,), {}),
    "file-limit": (death_jobs.outgrow_file_limit, (os.devnull + "-not",), {}),
    "cpu-limit": (death_jobs.use_up_cpu, (), {}),
    "timeout": (death_jobs.computing, (60,), {"job_timeout": 1}),
    "timeout-in-a-call": (death_jobs.sleep_for, (60,), {"job_timeout": 1}),
    "swallowed-timeout": (death_jobs.swallow_the_timeout, (), {"job_timeout": 1}),
    "native-code": (death_jobs.stay_in_native_code, (), {"job_timeout": 1}),
}
#: So much that a minute's wait is four seconds, and a horse on a busy machine has those to end by itself.
SPEED = 15
LONG = {"job_timeout": 3_600}


def run_batch(url: str, worker_class: str, directory: pathlib.Path) -> dict[str, Any]:
    """What RQ tells of each afterwards."""
    client = redis.Redis.from_url(url)
    client.flushdb()
    queue = Queue(connection=client)
    for name, (function, args, options) in BATCH.items():
        given = tuple(str(directory / "file") if arg == os.devnull + "-not" else arg for arg in args)
        queue.enqueue(function, args=given, job_id=name, **{**LONG, **options})
    assert start(url, worker_class, speed=SPEED).wait(120) == 0
    told = {}
    for name in BATCH:
        job = Job.fetch(name, client)
        texts = [re.sub(r"\d+\.\d+|0x[0-9a-f]+", "", result.exc_string or "") for result in job.results()]
        if name == "timeout":
            texts = [text.splitlines()[-1] for text in texts]  # which of two lines it struck is chance
        told[name] = (job.get_status(), [result.type for result in job.results()], texts)
    client.close()
    return told


class Batch(NamedTuple):
    plain: dict[str, Any]
    ours: dict[str, Any]
    found: dict[str, Execution]

    def death(self, name: str) -> Death:
        execution = self.found[name]
        assert not [text for text in execution.not_captured if "stack" in text]
        assert execution.death is not None
        return execution.death


@pytest.fixture(scope="module")
def batch(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    if os.environ.get("JOBDOCTOR_TEST_REDIS_URL"):
        pytest.skip("needs a server of its own, to flush")
    with ThreadPoolExecutor() as pool:  # most of the time, both wait
        plain = pool.submit(run_batch, f"{valkey_url}/1", "rq.Worker", tmp_path_factory.mktemp("plain"))
        ours = pool.submit(run_batch, f"{valkey_url}/2", "jobdoctor.Worker", tmp_path_factory.mktemp("ours"))
    with redis.Redis.from_url(f"{valkey_url}/2") as client:
        found = {each.job_id: each for each in executions(client)}
    return Batch(plain.result(), ours.result(), found)


@pytest.mark.parametrize("name", BATCH)
def test_rq_tells_the_same_as_without_us(batch: Batch, name: str) -> None:
    assert batch.ours[name] == batch.plain[name]


def test_every_death_has_its_certificate(batch: Batch) -> None:
    assert {name: batch.death(name).cause for name in BATCH} == {
        "fault": "segfault",
        "abort": "segfault",
        "bus-error": "segfault",
        "exit": "exit",
        "abort-again": "segfault",
        "exit-0": "exit",
        "killed": "signal",
        "memory-limit": "memory-limit",
        "file-limit": "file-limit",
        "cpu-limit": "cpu-limit",
        "timeout": "timeout",
        "timeout-in-a-call": "timeout",
        "swallowed-timeout": "timeout",
        "native-code": "timeout",
    }
    lived = {"memory-limit": "failed", "file-limit": "failed", "timeout": "timeout", "timeout-in-a-call": "timeout"}
    assert {name: each.outcome for name, each in batch.found.items()} == {
        name: lived.get(name, "killed") for name in BATCH
    }


def test_a_segmentation_fault(batch: Batch) -> None:
    death = batch.death("fault")
    assert (death.signal, death.stack_source) == (signal.SIGSEGV, "fault")
    callsite = line_of(death_jobs.fault, "string_at")
    assert [(frame.callsite, frame.application) for frame in death.stack[1:]] == [(callsite, True)]
    assert (death.stack[0].function, death.stack[0].application) == ("string_at", False)
    assert death.suspect == (
        f"segmentation fault (SIGSEGV) in native code below {death.stack[0].callsite} in string_at, called from "
        f"{callsite} in fault"
    )


def test_a_segmentation_fault_of_a_spawned_horse(redis_client: redis.Redis, valkey_url: str) -> None:
    _, death = die(redis_client, valkey_url, death_jobs.fault, kind="SpawnWorker")
    assert (death.cause, death.signal, death.stack_source) == ("segfault", signal.SIGSEGV, "fault")
    assert death.stack[-1].callsite == line_of(death_jobs.fault, "string_at")


def test_a_fault_that_ends_a_simple_worker(redis_client: redis.Redis, valkey_url: str) -> None:
    Queue(connection=redis_client).enqueue(death_jobs.fault)
    worker = start(valkey_url, "jobdoctor.SimpleWorker")
    assert worker.wait(60) == -signal.SIGSEGV
    wait_for(lambda: executions(redis_client))
    _, death = recorded(redis_client, worker, -signal.SIGSEGV)
    assert (death.cause, death.stack_source) == ("lost-worker", "fault")
    assert death.stack[-1].callsite == line_of(death_jobs.fault, "string_at")
    assert death.suspect.startswith("a fault in native code ended the worker itself, while it was in ")


def test_one_fault_is_not_taken_for_the_next(batch: Batch) -> None:
    """The files of the memories are used in turn."""
    for name, number in (("abort", signal.SIGABRT), ("bus-error", signal.SIGBUS), ("abort-again", signal.SIGABRT)):
        death = batch.death(name)
        assert (death.signal, death.stack_source) == (number, "fault")
        assert [frame.function for frame in death.stack] == [BATCH[name][0].__name__]


def test_a_sigkill_of_unknown_origin(batch: Batch) -> None:
    death = batch.death("killed")
    assert (death.signal, death.stack_source) == (signal.SIGKILL, "observed")
    assert [frame.function for frame in death.stack] == ["computing", "kill_self_after"]
    assert death.suspect.startswith("SIGKILL from an unknown sender, while it was in computing at ")
    assert death.peak_rss_bytes >= death.last_rss_bytes > 0


def test_os_exit(batch: Batch) -> None:
    for name, code in (("exit", 3), ("exit-0", 0)):
        death = batch.death(name)
        assert (death.signal, death.exit_code, death.stack_source) == (0, code, "exit")
        assert death.stack[0].callsite == line_of(death_jobs.leave, "os._exit")
        assert death.suspect.endswith(f"while it was in leave at {death.stack[0].callsite}")


def test_limits_of_the_process(batch: Batch) -> None:
    memory, file, cpu = (batch.death(name) for name in ("memory-limit", "file-limit", "cpu-limit"))
    assert (memory.limit, memory.signal) == ("RLIMIT_AS", 0)
    assert memory.limit_value > 64 * MIB
    assert [frame.function for frame in memory.stack] == ["fill_memory", "fill_limited_memory"]
    assert (file.limit, file.limit_value) == ("RLIMIT_FSIZE", 4096)
    assert file.stack[0].callsite == line_of(death_jobs.outgrow_file_limit, "file.write")
    assert (cpu.signal, cpu.limit, cpu.limit_value) == (signal.SIGXCPU, "RLIMIT_CPU", 1)
    assert cpu.stack[0].function == "computing"


def test_the_timeouts_exception(batch: Batch) -> None:
    death = batch.death("timeout")
    assert (death.signal, death.exit_code) == (0, None)
    assert death.suspect.startswith("cut by its timeout of 1 s, in ")
    assert death.stack[-1].function == "computing"
    called = batch.death("timeout-in-a-call")
    callsite = line_of(death_jobs.sleep_for, "time.sleep")
    assert called.in_flight.startswith(f"time.sleep at {callsite}, for ")
    assert called.suspect.startswith(f"cut by its timeout of 1 s, in time.sleep at {callsite} for ")


def test_a_timeout_that_the_job_swallows(batch: Batch) -> None:
    death = batch.death("swallowed-timeout")
    assert death.signal == signal.SIGKILL
    assert death.suspect.startswith("killed by its worker ")
    assert death.suspect.endswith("; the timeout's exception was raised, and swallowed by the job")


def test_a_timeout_in_native_code(batch: Batch) -> None:
    death = batch.death("native-code")
    assert (death.signal, death.stack_source) == (signal.SIGKILL, "observed")
    assert death.stack[0].callsite == line_of(death_jobs.stay_in_native_code, "# and again")
    assert death.suspect.endswith(", which does not come back to Python for the timeout's exception")


def test_the_stack_of_a_spawned_horse(redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path) -> None:
    started = tmp_path / "started"
    Queue(connection=redis_client).enqueue(death_jobs.wait_in_python, str(started))
    worker = start(valkey_url, "jobdoctor.SpawnWorker")
    wait_for(lambda: started.exists() and started.read_text())
    time.sleep(1.5)
    os.kill(int(started.read_text()), signal.SIGKILL)
    _, death = recorded(redis_client, worker)
    assert (death.cause, death.signal, death.stack_source) == ("signal", signal.SIGKILL, "observed")
    assert [frame.function for frame in death.stack] == ["computing", "wait_in_python"]
    assert death.stack[1].callsite == line_of(death_jobs.wait_in_python, "computing(60)")


def test_a_stop_command(redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path) -> None:
    started = tmp_path / "started"
    job = Queue(connection=redis_client).enqueue(death_jobs.wait_in_python, str(started))
    worker = start(valkey_url)
    wait_for(started.exists)
    time.sleep(1)
    send_stop_job_command(redis_client, job.id)
    execution, death = recorded(redis_client, worker)
    assert (execution.outcome, death.cause, death.signal) == ("stopped", "stopped", signal.SIGKILL)
    assert death.suspect.startswith("stopped by a stop command, while it was in computing at ")


def test_a_worker_that_is_told_twice_to_stop(
    redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path
) -> None:
    started = tmp_path / "started"
    Queue(connection=redis_client).enqueue(death_jobs.wait_in_python, str(started))
    worker = start(valkey_url)
    wait_for(started.exists)
    worker.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    worker.send_signal(signal.SIGTERM)
    _, death = recorded(redis_client, worker)
    assert (death.cause, death.signal) == ("shutdown", signal.SIGKILL)
    assert death.suspect.startswith("killed by its worker, which was told twice to stop")


def test_a_worker_that_is_killed_with_its_horse(
    redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path
) -> None:
    started = tmp_path / "started"
    Queue(connection=redis_client).enqueue(death_jobs.wait_in_python, str(started))
    worker = start(valkey_url)
    wait_for(lambda: started.exists() and started.read_text())
    time.sleep(1)
    worker.kill()
    os.kill(int(started.read_text()), signal.SIGKILL)
    wait_for(lambda: executions(redis_client))
    execution, death = recorded(redis_client, worker, -signal.SIGKILL)
    assert (execution.outcome, death.cause) == ("killed", "lost-worker")
    assert death.suspect.startswith("its worker was killed or lost, and the job with it, while it was in computing at ")


@pytest.fixture
def limited_group() -> Iterator[str]:
    """A control group of 160 MiB that a process may join: of version 2, else of version 1."""
    name = f"jobdoctor-test-{os.getpid()}"
    for root, limit in ((_V2, "memory.max"), (_V1, "memory.limit_in_bytes")):
        group = root / name
        controllers = root / "cgroup.subtree_control"
        try:
            if root == _V2 and "memory" not in controllers.read_text().split():
                continue
            group.mkdir()
            try:
                (group / limit).write_text(str(160 * MIB))
                if (group / "memory.swap.max").exists():
                    (group / "memory.swap.max").write_text("0")
            except OSError:
                group.rmdir()
                continue
        except OSError:
            continue
        yield str(group)
        wait_for(lambda found=group: not (found / "cgroup.procs").read_text())  # type: ignore[misc]
        group.rmdir()
        return
    pytest.skip("no control group with a memory limit can be made here: not root, or a read-only hierarchy")


def test_the_out_of_memory_killer(redis_client: redis.Redis, valkey_url: str, limited_group: str) -> None:
    execution, death = die(redis_client, valkey_url, death_jobs.fill_memory, group=limited_group)
    assert execution.outcome == "killed"
    assert (death.cause, death.certain, death.signal, death.oom_kills) == ("oom", True, signal.SIGKILL, 1)
    assert (death.limit, death.limit_value) == ("cgroup", 160 * MIB)
    assert death.peak_rss_bytes > 130 * MIB
    assert death.stack[0].function == "fill_memory"
    assert death.suspect.startswith("the kernel's out-of-memory killer: the cgroup's limit of 160 MiB was reached (")
