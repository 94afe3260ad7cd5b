"""`jobdoctor run --slo`, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

import jobdoctor
from jobdoctor.cli.run import command
from jobdoctor.errors import ConfigError
from tests.integration import promise_jobs as jobs
from tests.integration.recordings import executions

ROOT = Path(__file__).parents[2]


def _run(url: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from jobdoctor.cli import main; main()", "run", "--no-collect", "--burst", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=folder,
        env={**os.environ, "RQ_REDIS_URL": url, "PYTHONPATH": str(ROOT)},
    )


def test_two_workers_listen_to_promises(redis_client: redis.Redis, valkey_url: str, tmp_path: Path) -> None:
    queue = jobdoctor.SLOQueue(redis_client)
    last = queue.enqueue(jobs.no_promise)
    first = queue.enqueue(jobs.quick)
    queue.enqueue(jobs.too_slow)
    ended = _run(valkey_url, tmp_path, "--slo", "--workers", "2", "--name", "w")
    assert ended.returncode == 0, ended.stderr
    assert "worker 1 listens to within_10_milliseconds, within_10_seconds, within_30_seconds only\n" in ended.stderr
    found = {execution.job_id: execution for execution in executions(redis_client)}
    assert len(found) == 3
    assert (found[last.id].queue, found[last.id].worker) == ("within_24_hours", "w-2")
    assert found[first.id].slo_ms == 10_000.0
    assert redis_client.hgetall("jobdoctor:slo:tests.integration.promise_jobs.too_slow")[b"slo_ms"] == b"10"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--within", "30s"], "--within without --slo; give both, or name the queues"),
        (["--slo", "--within", "soon"], "an SLO within 'soon' is no duration; write for example"),
        (["--slo", "--within", "1s"], "no queue promises less than 1s; the fastest is within_10_seconds"),
    ],
)
def test_bad_input_is_said_before_anything_begins(
    redis_client: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which RQ adds
    with pytest.raises(ConfigError) as caught:
        command.main(["--burst", "--no-collect", "--url", valkey_url, *arguments], standalone_mode=False)
    assert said in str(caught.value)
    assert "JOBDOCTOR_PROMISES" not in os.environ
    assert redis_client.scard("rq:workers") == 0
