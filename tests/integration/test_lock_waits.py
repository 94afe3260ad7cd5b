"""Two real jobs in two real workers: one stands in the other's way, and the report says which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from rq import Queue

from jobdoctor.diagnosis.checklist.locks.database_lock_wait import DatabaseLockWait
from jobdoctor.store import Store
from tests import mariadb
from tests.diagnosis.asking import ask, only
from tests.integration import lock_jobs
from tests.integration.recordings import RECORDING, executions, work

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("backend", ["postgresql", "mysql", "sqlite"])
def test_the_blocking_job_is_named(
    request: pytest.FixtureRequest, redis_client: redis.Redis, valkey_url: str, tmp_path: Path, backend: str
) -> None:
    if backend == "postgresql":
        database = request.getfixturevalue("postgres_url")
    elif backend == "mysql":
        database = json.dumps(mariadb.arguments(request.getfixturevalue("mysql_url")))
    else:
        database = str(tmp_path / "shop.db")
    lock_jobs.prepare(database)
    Queue("holders", connection=redis_client).enqueue(lock_jobs.hold, valkey_url, database)
    Queue("wanters", connection=redis_client).enqueue(lock_jobs.want, valkey_url, database)
    command = [sys.executable, "-m", "rq.cli", "worker", "--burst", "-q", "--url", valkey_url]
    other = subprocess.Popen(
        [*command, "--worker-class", "jobdoctor.Worker", "holders"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    work(RECORDING["fork"], redis_client, "wanters")
    assert other.wait(60) == 0

    recorded = {each.job.rpartition(".")[2]: each for each in executions(redis_client)}
    assert [len(each.sessions) for each in recorded.values()] == [1, 1]
    (lock,) = recorded["want"].locks
    assert lock.waited_ns > 0.9 * lock_jobs.HELD_S * 1e9
    assert lock.blocking_backend == recorded["hold"].sessions[0].backend
    with Store.open(f"sqlite:///{tmp_path}/jobdoctor.db") as store:
        store.add(list(recorded.values()))
        history = store.history(recorded["want"].job)
    (lock,) = history.executions[0].locks
    assert lock.blocking_job == "tests.integration.lock_jobs.hold"
    assert lock.blocking_execution_id == recorded["hold"].id
    # However long the job took on this machine for everything else.
    finding = only(ask(DatabaseLockWait, history.executions, {"min_share": 0.0}))
    assert "held by tests.integration.lock_jobs.hold" in finding.title
    assert finding.callsite.startswith("tests/integration/lock_jobs.py:")
