"""Workers in places where something is missing, full or forbidden: the job runs as ever, and the recording says what it
lacks."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import redis

from jobdoctor.capture import sampler
from jobdoctor.capture.probes import registry
from jobdoctor.capture.probes.base import Probe
from jobdoctor.capture.sampler import NO_WAITS
from jobdoctor.rq import probing
from tests.integration import jobs
from tests.integration.recordings import record

KINDS = ["fork", "simple", "spawn"]

#: A worker in a process of its own, which says what it recorded.
_WORKER = """
import json, sys
import redis, rq
from tests.integration import jobs
from tests.integration.recordings import executions, record
url, kinds = sys.argv[1], sys.argv[2:]
client = redis.Redis.from_url(url)
for kind in kinds:
    client.flushdb()
    execution = record(client, jobs.use_redis_slowly, url, 3, kind=kind)
    calls = {group.operation: group.count for group in execution.groups if group.channel == "redis"}
    done = rq.Queue(connection=client).finished_job_registry.get_job_count(cleanup=False)
    print(json.dumps({
        "kind": kind, "outcome": execution.outcome, "calls": calls, "done": done, "missing": execution.not_captured,
        "samples": len(execution.samples), "profile": execution.profile is not None,
        "whole": sum(part.ns for part in execution.ledger) == execution.wall_ns,
    }))
"""


@functools.cache
def _can_mount() -> bool:
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return False
    tried = subprocess.run(
        ["unshare", "-m", "sh", "-c", "mount --make-rprivate / && mount -t tmpfs none /mnt"],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


def work_where(mounts: str, url: str, *kinds: str, **environ: str) -> dict[str, dict[str, Any]]:
    """Runs one job in each kind of worker, with these mounts of its own; what was recorded, by kind."""
    if not _can_mount():
        pytest.skip("mounts of one's own take root and CAP_SYS_ADMIN")
    script = f'mount --make-rprivate / && {mounts} && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", _WORKER, url, *kinds],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.getcwd(), **environ},
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["kind"] for each in found] == list(kinds)
    for each in found:
        assert (each["outcome"], each["done"], each["whole"]) == ("finished", 1, True), each
    return {each["kind"]: each for each in found}


def test_without_proc(redis_client: redis.Redis, valkey_url: str) -> None:
    for kind, found in work_where("mount -t tmpfs none /proc", valkey_url, *KINDS).items():
        assert found["calls"] == {"SET": 3}, kind
        assert found["samples"] == 0
        said = "\n".join(found["missing"])
        assert "CPU and memory over time: there is no /proc" in said, kind
        assert "Reads and writes of the job: /proc/self/io cannot be read" in said, kind


_FULL = (
    "mount -t tmpfs -o size=64k none /dev/shm && head -c 65536 /dev/zero > /dev/shm/file;"
    "mount -t tmpfs -o size=64k none /mnt && (head -c 131072 /dev/zero > /mnt/file; true)"
)


def test_a_full_temporary_directory(redis_client: redis.Redis, valkey_url: str) -> None:
    found = work_where(_FULL, valkey_url, *KINDS, TMPDIR="/mnt", JOBDOCTOR_PROFILE="always")
    assert found["fork"]["calls"] == found["simple"]["calls"] == {"SET": 3}
    # Its horse cannot be given a memory: the worker alone is left to tell.
    assert found["spawn"]["calls"] == {}
    assert any("No space left" in said for said in found["spawn"]["missing"])
    assert found["spawn"]["samples"] > 0


def test_a_read_only_temporary_directory(redis_client: redis.Redis, valkey_url: str) -> None:
    read_only = "mount -t tmpfs -o ro none /dev/shm && mount -t tmpfs -o ro none /mnt"
    found = work_where(read_only, valkey_url, *KINDS, TMPDIR="/mnt", JOBDOCTOR_PROFILE="always")
    for kind in KINDS:  # there is another directory for temporary files
        assert found[kind]["calls"] == {"SET": 3}, kind
        assert found[kind]["missing"] == [], kind


def _refusing(original: Callable[..., Any], *endings: str) -> Callable[..., Any]:
    def refuse(path: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(path, str) and path.startswith("/proc/") and path.endswith(endings):
            raise PermissionError(1, "Operation not permitted", path)
        return original(path, *args, **kwargs)

    return refuse


def test_the_kernel_does_not_show_what_a_process_waits_in(
    redis_client: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", _refusing(os.open, "/syscall"))
    monkeypatch.setattr(sampler, "open", _refusing(open, "/wchan"), raising=False)
    execution = record(redis_client, jobs.use_redis_slowly, valkey_url, 3)
    assert execution.outcome == "finished"
    assert execution.samples
    assert {sample.wait for sample in execution.samples} <= {"", "running"}
    assert any(said.startswith(NO_WAITS) for said in execution.not_captured), execution.not_captured


class _Stubborn(Probe):
    channel = "mail"
    library = "stubborn"
    modules = ("json",)

    def patch(self, module: Any) -> None:
        raise RuntimeError("not today")


@pytest.mark.parametrize("kind", ["fork", "simple"])
def test_a_probe_that_cannot_be_installed(
    redis_client: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stubborn = _Stubborn()
    monkeypatch.setattr(registry, "PROBES", (*registry.PROBES, stubborn))
    # What the probes said in this process before there was this one.
    monkeypatch.setattr(probing, "_changes", -1)
    monkeypatch.setattr(probing, "_said", [])
    execution = record(redis_client, jobs.use_redis_slowly, valkey_url, 3, kind=kind)
    assert execution.outcome == "finished"
    assert [group.count for group in execution.groups if group.channel == "redis"] == [3]
    failed = [(probe.library, probe.reason) for probe in execution.probes if probe.status == "failed"]
    assert failed == [("stubborn", "json: RuntimeError: not today")]


@pytest.mark.parametrize("kind", ["fork", "simple"])
def test_probes_that_raise_at_each_call(
    redis_client: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    from jobdoctor import fingerprint

    for name in ("redis", "redis_key", "parameters", "sql", "url"):
        monkeypatch.setattr(fingerprint, name, broken)
    execution = record(redis_client, jobs.use_redis_slowly, valkey_url, 3, kind=kind)
    assert execution.outcome == "finished"
    assert [group.operation for group in execution.groups if group.channel == "redis"] in ([], ["CONNECT"])
    assert [group.count for group in execution.groups if group.channel == "sleep"] == [1]
