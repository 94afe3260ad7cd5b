"""``jobdoctor queues``: from a live server and recordings, from either alone, and from neither."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from msgspec.structs import replace
from rich.cells import cell_len
from rq import Queue

from jobdoctor.cli.main import cli
from jobdoctor.model import QueueSample, QueuesSample
from jobdoctor.rq import live, queue_state
from jobdoctor.store import Store
from tests.builders import make_execution

AWAY = "redis://127.0.0.1:1"
MAIL = "app.tasks.send_mail"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("JOBDOCTOR_STORE", "RQ_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def recorded(folder: Path) -> Path:
    """20 mails of 2 s each in the last hour, by one worker."""
    start_ns = int((datetime.now(UTC) - timedelta(hours=1)).timestamp() * 1e9)
    executions = []
    for number in range(20):
        made = make_execution(job=MAIL, wait_ms=0, run_ms=2_000, queue="mail", worker_queues=["high", "mail"])
        shift = start_ns + number * 3_000_000_000 - made.enqueued_at_ns
        executions.append(
            replace(
                made,
                **{
                    name: getattr(made, name) + shift
                    for name in ("created_at_ns", "enqueued_at_ns", "dequeued_at_ns", "reaped_at_ns")
                },
            )
        )
    with Store.open("sqlite:///jobdoctor.db") as store:
        store.add(executions)
    return folder


def invoke(url: str, *args: str) -> Result:
    return CliRunner().invoke(cli, ["queues", *args, "--url", url])


def asked(url: str, *args: str) -> Any:
    result = invoke(url, *args, "--format", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def add_worker(client: redis.Redis, name: str, queues: str, *, silent_s: float = 1, **fields: Any) -> None:
    heartbeat = (datetime.now(UTC) - timedelta(seconds=silent_s)).isoformat().replace("+00:00", "Z")
    client.sadd("rq:workers", f"rq:worker:{name}")
    client.hset(f"rq:worker:{name}", mapping={"queues": queues, "state": "idle", "last_heartbeat": heartbeat, **fields})


def test_what_a_job_enqueued_now_will_wait(recorded: Path, valkey_url: str, redis_client: redis.Redis) -> None:
    queue = Queue("mail", connection=redis_client)
    for _ in range(5):
        queue.enqueue(MAIL, "somebody@example.org")
    Queue("orphan", connection=redis_client).enqueue(MAIL)
    add_worker(redis_client, "w1", "high,mail")
    data = asked(valkey_url)
    queues = {each["queue"]: each for each in data["queues"]}
    assert list(queues) == ["high", "mail", "orphan"]
    assert queues["mail"]["depth"] == 5
    assert queues["mail"]["expected_wait_ms"]["p50"] == pytest.approx(10_000)
    assert queues["mail"]["expected_wait_ms"]["basis"] == "from 20 executions in 24 h, 1 worker"
    assert queues["mail"]["ahead"] == [{"job": MAIL, "jobs": 5, "work_ms": 10_000.0}]
    assert queues["mail"]["jobs"][0]["worker_time_share"] == 1.0
    assert queues["high"]["expected_wait_ms"]["p50"] == 0
    assert queues["orphan"]["expected_wait_ms"]["never"] is True
    text = invoke(valkey_url, "mail", "orphan").stdout
    assert "10.0 s, p95 10.0 s" in text
    assert "from 20 executions in 24 h, 1 worker" in text
    assert "Nobody listens to orphan" in text
    assert "somebody" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert queues["mail"]["recorded"]["came"] == {
        "straight": {"executions": 20, "wait_ms": {"p50": 0.0, "p95": 0.0}, "held_ms": None}
    }
    assert "recorded: 20 jobs, waits p50 0 ms, p95 0 ms" in text
    assert "high" not in [line.split()[0] for line in text.splitlines() if line.strip()]


def test_workers_that_stand_still(recorded: Path, valkey_url: str, redis_client: redis.Redis) -> None:
    job = Queue("mail", connection=redis_client).enqueue(MAIL)
    redis_client.delete("rq:queue:mail")
    started = (datetime.now(UTC) - timedelta(minutes=3)).isoformat().replace("+00:00", "Z")
    redis_client.hset(f"rq:job:{job.id}", "started_at", started)
    add_worker(redis_client, "quick", "mail")
    add_worker(redis_client, "silent", "mail", silent_s=900)
    add_worker(redis_client, "stuck", "mail", state="busy")
    redis_client.sadd("rq:worker:stuck:executions", f"{job.id}:abc")
    stalled = {each["worker"]: each["what"] for each in asked(valkey_url)["stalled"]}
    assert stalled.keys() == {"silent", "stuck"}
    assert stalled["silent"] == "no sign of life for 15.0 min"
    assert stalled["stuck"] == f"on {MAIL} for 3.0 min, which never took more than 2.0 s"
    add_worker(redis_client, "gone", "mail", death="2026-01-01T00:00:00Z")
    redis_client.sadd("rq:workers", "rq:worker:forgotten")
    assert asked(valkey_url)["workers"] == 3


def test_signs_of_life_by_what_the_worker_said(recorded: Path, valkey_url: str, redis_client: redis.Redis) -> None:
    """RQ lets a worker's entry expire 60 s and more after its next sign of life is due, whatever --worker-ttl is."""
    for _ in range(3):
        Queue("mail", connection=redis_client).enqueue(MAIL)
    for name, silent_s, left_s in (("patient", 3_000, 600), ("dead", 440, 40), ("fine", 400, 80)):
        add_worker(redis_client, name, "mail", silent_s=silent_s)
        redis_client.expire(f"rq:worker:{name}", left_s)
    redis_client.sadd("rq:workers", "rq:worker:lost")
    data = asked(valkey_url)
    assert [(each["worker"], each["what"]) for each in data["stalled"]] == [("dead", "no sign of life for 7.3 min")]
    assert data["gone"] == ["lost"]
    (mail,) = (each for each in data["queues"] if each["queue"] == "mail")
    assert (mail["workers"], mail["silent_workers"]) == (2, 1)
    assert mail["expected_wait_ms"]["basis"] == "from 20 executions in 24 h, 2 workers"
    text = " ".join(invoke(valkey_url, "mail").stdout.split())
    assert "2 of 3" in text
    assert "1 worker gone without a farewell (killed, or stopped for long): lost." in text
    redis_client.delete("rq:worker:patient", "rq:worker:fine")
    (mail,) = (each for each in asked(valkey_url)["queues"] if each["queue"] == "mail")
    assert mail["expected_wait_ms"]["never"] is True  # the one that is left is dead
    assert "Nobody listens to mail: start a worker, such as `jobdoctor run mail`." in invoke(valkey_url).stdout


def test_suspended_workers(recorded: Path, valkey_url: str, redis_client: redis.Redis) -> None:
    for _ in range(3):
        Queue("mail", connection=redis_client).enqueue(MAIL)
    add_worker(redis_client, "w1", "mail")
    redis_client.set("rq:suspended", 1)
    data = asked(valkey_url)
    assert data["suspended"] is True
    assert data["queues"][0]["expected_wait_ms"]["reason"] == "counted from `rq resume` on: workers are suspended"
    text = " ".join(invoke(valkey_url).stdout.split())
    assert "mail 3 " in text
    assert " suspended " in text
    assert "once workers go on: 6.0 s, p95 6.0 s; from 20 executions" in text
    assert "All workers are suspended: they take no jobs until `rq resume`." in text


def test_jobs_that_a_rate_limit_holds(folder: Path, valkey_url: str, redis_client: redis.Redis) -> None:
    """As RQ 3 keeps them: in a set of the limit's, and in no queue."""
    redis_client.sadd("rq:rl-keys", "partner", "idle")
    redis_client.zadd("rq:rl:partner:rate_limited", {"a": 1, "b": 2})
    add_worker(redis_client, "w1", "mail")
    redis_client.sadd("rq:workers", "rq:worker:lost")
    data = asked(valkey_url)
    assert (data["rate_limited"], data["gone"]) == ({"partner": 2}, ["lost"])
    assert "In no queue yet, held by a rate limit: 2 jobs (partner 2)." in invoke(valkey_url).stdout


def test_jobs_that_did_not_come_straight(recorded: Path, valkey_url: str, redis_client: redis.Redis) -> None:
    add_worker(redis_client, "w1", "mail")
    now_ns = time.time_ns()
    later = make_execution(job=MAIL, queue="mail", wait_ms=500, run_ms=2_000, route="scheduled", scheduled=True)
    shift = now_ns - 60_000_000_000 - later.enqueued_at_ns
    later = replace(
        later,
        **{
            name: getattr(later, name) + shift
            for name in ("created_at_ns", "enqueued_at_ns", "dequeued_at_ns", "reaped_at_ns")
        },
    )
    with Store.open("sqlite:///jobdoctor.db") as store:
        store.add([replace(later, created_at_ns=later.enqueued_at_ns - 30_000_000_000)])
    (mail,) = (each for each in asked(valkey_url)["queues"] if each["queue"] == "mail")
    assert mail["recorded"]["came"]["scheduled"] == {
        "executions": 1, "wait_ms": {"p50": 500.0, "p95": 500.0}, "held_ms": {"p50": 30_000.0}
    }  # fmt: skip
    assert mail["jobs"][0]["came"].keys() == {"straight", "scheduled"}
    text = invoke(valkey_url).stdout
    assert "  recorded: 21 jobs, and how long they waited in the queue:\n    20 straight: p50 0 ms, p95 0 ms\n" in text
    assert "    1 scheduled: p50 500 ms, p95 500 ms; due after 30.0 s\n" in text


@pytest.mark.parametrize("color", [True, False])
def test_depth_over_the_last_hour(
    recorded: Path, valkey_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, *, color: bool
) -> None:
    add_worker(redis_client, "w1", "mail,idle")
    now_ns, second = time.time_ns(), 1_000_000_000
    with Store.open("sqlite:///jobdoctor.db") as store:
        store.add_samples(
            [
                QueuesSample(
                    now_ns - ago * second,
                    [QueueSample("mail", depth, now_ns - (ago + 90) * second, workers=1), QueueSample("idle", 0, None)],
                    [],
                )
                for ago, depth in ((7_000, 5_000), (3_500, 1), (1_685, 400), (30, 0))
            ]
        )
    if color:
        monkeypatch.setenv("FORCE_COLOR", "1")
    else:
        monkeypatch.setenv("NO_COLOR", "1")
    text = invoke(valkey_url, "mail", "idle").stdout
    (line,) = [line for line in text.splitlines() if line.startswith("  depth over ")]
    bars = line.split(": ")[1].split()[0]
    assert len(bars) == 20
    assert (bars[0], bars[10], bars[19]) == ("▂", "█", "▁")
    assert set(bars[1:9] + bars[11:19]) == {"·"}  # nobody looked
    assert ", oldest 1.5 min" in line
    assert "most 400 at " in line
    assert len(line) <= 80
    mail = next(each for each in asked(valkey_url)["queues"] if each["queue"] == "mail")
    assert [point["depth"] for point in mail["depth_over_time"]] == [1, 400, 0]
    assert mail["depth_over_time"][1]["oldest_ms"] == pytest.approx(90_000, abs=1)
    text = invoke(valkey_url, "mail", "--since", "3h").stdout
    assert "  depth over 1.9 h: █" in text  # from the first sample on
    assert "most 5,000 at " in text


def test_many_queues_with_long_names(recorded: Path, valkey_url: str, redis_client: redis.Redis) -> None:
    names = [f"tenant-{number:02}-of-the-department-of-very-long-names/{number}" for number in range(20)]
    names += ["почта-🚀", "日本語のキュー", "bad\x1b[31mred", "a" * 120]
    for name in names:
        Queue(name, connection=redis_client).enqueue(MAIL)
    text = invoke(valkey_url).stdout
    assert all(cell_len(line) <= 80 for line in text.splitlines())
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if line.startswith("tenant-07-")]
    assert rows[0].split() == ["tenant-07-of-the-department-", "1", *rows[0].split()[2:4], "for", "ever", "-", "0"]
    assert "and 16 more: start a worker" in " ".join(text.split())


def test_a_server_without_queues(folder: Path, valkey_url: str, redis_client: redis.Redis) -> None:
    result = invoke(valkey_url)
    assert result.exit_code == 0
    assert "There are no queues yet" in result.stdout


def test_without_recordings_the_server_alone(folder: Path, valkey_url: str, redis_client: redis.Redis) -> None:
    Queue("mail", connection=redis_client).enqueue(MAIL)
    add_worker(redis_client, "w1", "mail")
    text = invoke(valkey_url).stdout
    assert "not known: nothing was recorded" in text
    assert asked(valkey_url)["queues"][0]["depth"] == 1
    assert not (folder / "jobdoctor.db").exists()  # looking leaves nothing behind


def test_without_a_server_the_recordings_alone(recorded: Path) -> None:
    result = invoke(AWAY)
    assert result.exit_code == 0
    assert "from the recordings alone" in result.stdout
    assert "not known" in result.stdout
    assert f"Note: no server answers at {AWAY}" in result.stderr
    (mail,) = asked(AWAY)["queues"]
    assert mail["depth"] is None
    assert mail["recorded"]["executions"] == 20


def test_without_a_server_the_newest_sample(recorded: Path) -> None:
    now = time.time_ns()
    with Store.open("sqlite:///jobdoctor.db") as store:
        for age, depth in ((60, 3), (20, 7)):
            at = now - age * 1_000_000_000
            store.add_samples([QueuesSample(at, [QueueSample("mail", depth, at - 5_000_000_000, workers=2)], [])])
    data = asked(AWAY)
    (mail,) = data["queues"]
    assert (mail["depth"], mail["oldest_ms"], mail["workers"]) == (7, 5_000, 2)
    assert data["sampled_at"]
    assert "depths as of" in " ".join(invoke(AWAY).stdout.split())


def test_queues_of_promises_by_their_promise(folder: Path, valkey_url: str, redis_client: redis.Redis) -> None:
    add_worker(redis_client, "w", "within_24_hours,default,within_30_seconds,within_5_minutes")
    names = [queue["queue"] for queue in asked(valkey_url)["queues"]]
    assert names == ["within_30_seconds", "within_5_minutes", "within_24_hours", "default"]
    assert "\nwithin_30_seconds " in invoke(valkey_url).stdout  # in one piece


def test_without_either(folder: Path) -> None:
    result = invoke(AWAY)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_queue_that_is_not_there(recorded: Path, valkey_url: str, redis_client: redis.Redis) -> None:
    result = invoke(valkey_url, "mial")
    assert result.exit_code == 2
    assert "there is no queue 'mial'; did you mean mail? queues: mail" in result.stderr


def test_a_very_long_queue_is_not_read_through(valkey_url: str, redis_client: redis.Redis) -> None:
    job = Queue("mail", connection=redis_client).enqueue(MAIL)
    for _ in range(20):
        redis_client.rpush("rq:queue:mail", *[job.id] * 10_000)
    redis_client.config_resetstat()
    found = live.look(redis_client)
    assert found.state.queues[0].depth == 200_001
    line = found.in_line["mail"]
    assert set(line.next) == set(line.behind) == {MAIL}
    assert len(line.next) + len(line.behind) <= live.NEXT + live.SPREAD
    statistics = redis_client.info("commandstats")
    assert sum(each["calls"] for each in statistics.values()) < 500
    writing = {"set", "hset", "rpush", "lpop", "del", "expire", "zadd", "xadd"}
    assert not writing & {name.removeprefix("cmdstat_") for name in statistics}


def test_names_that_cannot_be_read(redis_client: redis.Redis) -> None:
    queue = Queue("mail", connection=redis_client)
    large = queue.enqueue(MAIL, "x" * 200_000)
    assert large.data
    broken = queue.enqueue(MAIL)
    redis_client.hset(f"rq:job:{broken.id}", mapping={"data": b"garbage", "description": "Sends a mail to Anna"})
    json_ = Queue("mail", connection=redis_client, serializer="rq.serializers.JSONSerializer").enqueue(MAIL)
    redis_client.rpush("rq:queue:mail", "vanished")
    names = live.look(redis_client).in_line["mail"].next
    assert json_.id
    assert names == [MAIL, "(undeserializable)", MAIL, "(undeserializable)"]


def test_the_state_of_an_empty_server(redis_client: redis.Redis) -> None:
    state = queue_state.read(redis_client)
    assert (state.queues, state.workers, state.suspended) == ([], [], False)
