"""``jobdoctor run``, and ``rq worker`` with our class: as a user starts them."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import click
import pytest
import redis
from rq import Queue

from jobdoctor import wire
from jobdoctor.cli.run import command
from jobdoctor.rq import WorkerMixin, launch, mixed
from tests.integration import jobs
from tests.integration.recordings import executions

ENTRY = "from jobdoctor.cli import main; main()"
ROOT = pathlib.Path(__file__).parents[2]


def _run(url: str, folder: pathlib.Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ENTRY, "run", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=folder,
        env={**os.environ, "RQ_REDIS_URL": url, "PYTHONPATH": str(ROOT), **environment},
    )


def test_it_takes_every_option_of_rq_worker() -> None:
    ours = {parameter.name: parameter for parameter in command.params}
    for theirs in launch.worker_command().params:
        same = ours[theirs.name]
        assert same.opts == theirs.opts
        assert same.secondary_opts == theirs.secondary_opts
        assert (same.default, same.envvar, same.multiple, same.nargs) == (
            theirs.default, theirs.envvar, theirs.multiple, theirs.nargs,
        )  # fmt: skip
        assert same.type.name == theirs.type.name
    assert set(ours) - {parameter.name for parameter in launch.worker_command().params} == {
        "workers", "store", "profile", "collect", "slo", "within",
    }  # fmt: skip


def test_parameters_arrive_as_rq_parses_them() -> None:
    arguments = ["-b", "-n", "me", "-v", "--max-jobs", "3", "-ds", "random", "high", "low", "-P", "/x", "-S", "json"]
    theirs = launch.worker_command().make_context("worker", list(arguments)).params
    ours = command.make_context("run", list(arguments)).params
    assert {name: ours[name] for name in theirs} == theirs


def test_a_burst_ends_in_the_store(redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path) -> None:
    Queue(connection=redis_client).enqueue(jobs.add, 1, 2)
    Queue(connection=redis_client).enqueue(jobs.raise_value_error)
    ended = _run(valkey_url, tmp_path, "--burst", "--store", "sqlite:///of-mine.db")
    assert ended.returncode == 0, ended.stderr
    assert "Warning" not in ended.stderr
    from jobdoctor.store.store import Store

    with Store.open(f"sqlite:///{tmp_path / 'of-mine.db'}") as store:
        assert store.jobs() == ["tests.integration.jobs.add", "tests.integration.jobs.raise_value_error"]


def test_several_workers(redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path) -> None:
    for number in range(6):
        Queue(connection=redis_client).enqueue(jobs.add, number, 2)
    ended = _run(valkey_url, tmp_path, "--burst", "--no-collect", "--workers", "2", "--name", "w", "--pid", "pid")
    assert ended.returncode == 0, ended.stderr
    found = executions(redis_client)
    assert len(found) == 6
    assert {each.worker for each in found} <= {"w-1", "w-2"}
    assert sorted(path.name for path in tmp_path.glob("pid*")) == ["pid", "pid.1", "pid.2"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_ends_it_warmly(
    redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path, workers: int
) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from jobdoctor.cli import main; main()",
            "run",
            "--no-collect",
            "--workers",
            f"{workers}",
        ],
        cwd=tmp_path,
        env={**os.environ, "RQ_REDIS_URL": valkey_url, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 40
    # Only one that asks for jobs has its handlers of signals.
    while [redis_client.hget(name, "state") for name in redis_client.smembers("rq:workers")] != [b"idle"] * workers:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0
    assert redis_client.scard("rq:workers") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "redis://:hush@127.0.0.1:1/0"], "no Redis or Valkey server answers at redis://***@127.0.0.1:1/0"),
        (["--store", "nonsense"], "'nonsense' is no database URL"),
        (["-w", "no.such.Worker"], "--worker-class no.such.Worker: No module named 'no'"),
        (["-w", "pathlib.Path"], "--worker-class pathlib.Path: pathlib.Path is not a worker class"),
        (["--pid", "/no/such/folder/pid"], "cannot write the pid file"),
        (["--workers", "0"], "0 is not in the range"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path, arguments: list[str], said: str
) -> None:
    ended = _run(valkey_url, tmp_path, "--burst", *arguments)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hush" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["jobdoctor.Worker", "jobdoctor.rq.SpawnWorker", "jobdoctor.SimpleWorker"])
def test_rq_worker_with_our_class(
    redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path, name: str
) -> None:
    Queue(connection=redis_client).enqueue(jobs.add, 1, 2)
    subprocess.run(
        [sys.executable, "-m", "rq.cli", "worker", "--burst", "--quiet"],
        check=True,
        cwd=tmp_path,
        timeout=60,
        env={**os.environ, "RQ_REDIS_URL": valkey_url, "RQ_WORKER_CLASS": name, "PYTHONPATH": str(ROOT)},
    )
    (execution,) = executions(redis_client)
    assert execution.outcome == "finished"
    assert not list(tmp_path.iterdir())


def test_a_users_class_gets_the_mixin(redis_client: redis.Redis, valkey_url: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "own_workers.py").write_text(
        "import rq.worker\n"
        "class My_Worker(rq.worker.SpawnWorker):\n"
        "    def execute_job(self, job, queue):\n"
        "        self.connection.set('my-own', 1)\n"
        "        return super().execute_job(job, queue)\n"
    )
    Queue(connection=redis_client).enqueue(jobs.add, 1, 2)
    ended = _run(valkey_url, tmp_path, "--burst", "--no-collect", "-w", "own_workers.My_Worker")
    assert ended.returncode == 0, ended.stderr
    assert redis_client.get("my-own") == b"1"
    (execution,) = executions(redis_client)
    assert (execution.outcome, execution.worker_kind) == ("finished", "spawn")
    assert [phase for phase in execution.phases if phase.name == "body"]


def test_names_of_mixed_classes() -> None:
    assert mixed.recording_class_path("rq.Worker") == "jobdoctor.rq.workers.Worker"
    assert mixed.recording_class_path("rq.worker.SpawnWorker") == "jobdoctor.rq.workers.SpawnWorker"
    assert mixed.recording_class_path("jobdoctor.Worker") == "jobdoctor.Worker"
    path = mixed.recording_class_path("rq.worker.HerokuWorker")
    recording: Any = getattr(mixed, path.rpartition(".")[2])
    assert issubclass(recording, WorkerMixin)
    assert mixed.path_of(mixed.name_of("a_b.c__d._E")) == "a_b.c__d._E"
    import pickle

    assert pickle.loads(pickle.dumps(recording)) is recording
    with pytest.raises(AttributeError):
        _ = mixed.nothing


def test_the_stream_has_the_key_of_the_wire(redis_client: redis.Redis) -> None:
    assert wire.STREAM_KEY == "jobdoctor:executions"
    assert isinstance(command, click.Command)
