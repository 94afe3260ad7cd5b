"""What the witness notes of promises: settings before the function, and the job's own time only."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from jobdoctor.capture.assemble import ExecutionFacts
from jobdoctor.config import Settings
from jobdoctor.rq.slo_record import PromiseRecord
from jobdoctor.rq.slo_state import MARK, read_states
from tests.builders import make_execution

JOB = "app.tasks.send_mail"


@dataclass
class Notes:
    slo: list[dict[str, Any]] = field(default_factory=list)

    def facts(self, kind: str) -> list[dict[str, Any]]:
        return self.slo if kind == "slo" else []


def facts() -> ExecutionFacts:
    return ExecutionFacts("e", "j", JOB, "default", "w", "fork", "finished")


def tell(settings: Settings, *notes: dict[str, Any]) -> tuple[float | None, bool]:
    told = facts()
    exempt = PromiseRecord(None, settings).tell(told, Notes(list(notes)), ("", 0))  # type: ignore[arg-type]
    return told.slo_ms, exempt


@pytest.mark.parametrize(
    ("settings", "notes", "said"),
    [
        (Settings(), [], (None, False)),
        (Settings(), [{"ms": 30_000.0, "exempt": False}], (30_000.0, False)),
        (Settings(slo_ms={JOB: 5.0}), [{"ms": 30_000.0, "exempt": False}], (5.0, False)),
        (Settings(slo_ms={JOB: 5.0}), [], (5.0, False)),
        (Settings(), [{"ms": 30_000.0, "exempt": True}], (30_000.0, True)),
        (Settings(slo_exempt=[JOB]), [], (None, True)),
    ],
)
def test_the_promise(settings: Settings, notes: list[dict[str, Any]], said: tuple[float | None, bool]) -> None:
    assert tell(settings, *notes) == said


def test_without_a_recording_the_settings_still_count() -> None:
    told = facts()
    PromiseRecord(None, Settings(slo_ms={JOB: 5.0})).tell(told, None, ("within_10_seconds", 7))
    assert (told.slo_ms, told.demoted_from, told.demoted_at_ns) == (5.0, "within_10_seconds", 7)


def test_queues_that_the_worker_came_to_listen_to() -> None:
    record, listens = PromiseRecord(None, Settings()), ["within_10_seconds", "mail", "within_24_hours"]
    for queue in ("within_1_minute", "within_24_hours"):
        told = facts()
        told.queue, told.worker_queues = queue, listens
        record.tell(told, None, ("", 0))
        assert told.worker_queues == ["within_10_seconds", "within_1_minute", "mail", "within_24_hours"]
    assert len(listens) == 3


@pytest.mark.parametrize(
    ("queue", "mark", "moved"),
    [
        ("within_24_hours", "within_10_seconds|1750|w.1.2", ("within_10_seconds", 1_750_000_000)),
        ("within_24_hours", "|within_10_seconds|1750|w.1.2", ("", 0)),  # it was to be moved, and was not
        ("within_24_hours", None, ("", 0)),
        ("within_10_seconds", "within_10_seconds|1750|w.1.2", ("", 0)),
    ],
)
def test_the_mark(redis_client: redis.Redis, queue: str, mark: str | None, moved: tuple[str, int]) -> None:
    if mark is not None:
        redis_client.hset("rq:job:j", MARK, mark)
    begun: Any = type("Begun", (), {"queue": queue, "job_key": "rq:job:j"})
    assert PromiseRecord(redis_client, Settings()).moved_from(begun) == moved


def test_the_time_without_a_processor_is_not_the_jobs(redis_client: redis.Redis) -> None:
    record = PromiseRecord(redis_client, Settings(anti_clogging=True))
    waited = make_execution(run_ms=900.0, ledger={"cpu_wait": 700.0, "cpu": 200.0}, job=JOB, slo_ms=500.0)
    for _ in range(5):
        record.count(waited, exempt=False)
    (state,) = read_states(redis_client, now_ms=waited.reaped_at_ns // 1_000_000)
    assert (state.samples, state.late) == (5, 0)


def test_what_is_not_counted(redis_client: redis.Redis) -> None:
    slow = make_execution(run_ms=900.0, job=JOB, slo_ms=500.0)
    PromiseRecord(redis_client, Settings()).count(slow, exempt=False)  # a worker that minds no promises
    minding = PromiseRecord(redis_client, Settings(anti_clogging=True))
    minding.count(make_execution(run_ms=900.0, job=JOB), exempt=False)  # nothing was promised
    assert redis_client.keys("*") == []
    minding.count(slow, exempt=False)
    assert len(redis_client.keys("jobdoctor:slo*")) == 2
    minding.count(slow, exempt=True)
    assert redis_client.keys("*") == []


def test_the_witness_needs_no_rq_for_it() -> None:
    code = "import sys, jobdoctor.rq.slo_record; print([name for name in sys.modules if name.split('.')[0] == 'rq'])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "[]"
