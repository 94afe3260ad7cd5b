"""The fixture: what a run is given, what its profile says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobdoctor.gate import doctor, meter, timing
from jobdoctor.gate.budgets import Budget
from jobdoctor.gate.embedded_server import EmbeddedServer
from jobdoctor.gate.failure import GateError
from jobdoctor.gate.meter import Meter
from jobdoctor.gate.profile import Profile
from jobdoctor.gate.session import GateSession

Session = Callable[..., pytest.RunResult]


def test_a_run_goes_through_the_serializer_and_back(session: Session) -> None:
    session(
        """
def test_it(jobdoctor):
    profile = jobdoctor.run(shop.at_once, [3, 1, 2])
    assert profile.result == [1, 2, 3]
    assert profile.job == "shop.at_once"
    assert (profile.queries, profile.calls) == (1, {"sql": 1})
    assert profile.payload_bytes == len(profile.data)
    assert profile.result_bytes == len(profile.result_data)
    assert profile.rss_bytes is not None and profile.rss_bytes >= 0
    assert 0 < profile.busy_ms <= profile.wall_ms
    assert profile.groups[-1].callsite.startswith("shop.py:")
    assert profile.findings == []
    assert profile.execution.timeout_s == 180

def test_unpicklable(jobdoctor):
    with pytest.raises(Exception, match="pickle|local"):
        jobdoctor.run(shop.add, lambda: 1, 2)
    with pytest.raises(TypeError, match="pickle") as raised:
        jobdoctor.run(shop.connect)
    assert "returned a Connection, which a worker cannot store" in raised.value.__notes__[0]

def test_copies(jobdoctor):
    rows = [{"id": 1}]
    assert jobdoctor.run(shop.decorated, rows).result is not rows
"""
    ).assert_outcomes(passed=3)


def test_a_decorated_job_has_its_own_serializer_and_timeout(session: Session) -> None:
    session(
        """
def test_it(jobdoctor):
    profile = jobdoctor.run(shop.decorated, [[1, "a"]])
    assert profile.serializer == "json"
    assert profile.data == b'["shop.decorated", null, [[[1, "a"]]], {}]'
    assert profile.result_data == b'[[1, "a"]]'
    assert profile.execution.timeout_s == 30
    assert profile.execution.queue == "low"
"""
    ).assert_outcomes(passed=1)


def test_what_the_job_raises_is_raised_and_its_profile_is_kept(session: Session) -> None:
    result = session(
        """
def test_it(jobdoctor):
    with pytest.raises(ValueError, match="no order 12"):
        jobdoctor.run(shop.fail)
    [profile] = jobdoctor.profiles
    assert isinstance(profile.error, ValueError)
    assert profile.execution.outcome == "failed"
    assert profile.execution.exception.callsite.startswith("shop.py:")

def test_raised(jobdoctor):
    jobdoctor.run(shop.fail)
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*shop.py:*: ValueError"])


def test_a_function_that_no_worker_could_import_is_refused(session: Session) -> None:
    session(
        """
def test_it(jobdoctor):
    def local():
        pass
    with pytest.raises(Exception, match="defined inside a function; define it in a module"):
        jobdoctor.run(local)
"""
    ).assert_outcomes(passed=1)


def test_a_block_is_recorded(session: Session) -> None:
    session(
        """
def test_it(jobdoctor):
    with jobdoctor.record("prices") as profile:
        with pytest.raises(Exception, match="ask after the block has ended"):
            profile.queries
        shop.one_by_one([1, 2, 3])
    assert (profile.job, profile.queries) == ("prices", 3)
    assert profile.payload_bytes is None
    with pytest.raises(ValueError):
        with jobdoctor.record() as failed:
            shop.fail()
    assert isinstance(failed.error, ValueError)
    assert failed.cpu_ms > 0

def test_blocks_within_blocks(jobdoctor):
    with pytest.raises(Exception, match="leave out the inner one"):
        with jobdoctor.record():
            with jobdoctor.record():
                pass
    with pytest.raises(ValueError, match="no order 12"):
        with jobdoctor.record():
            with jobdoctor.record():
                shop.fail()

def test_within(jobdoctor):
    with jobdoctor.record():
        with pytest.raises(Exception, match="outside of jobdoctor.record"):
            jobdoctor.run(shop.add, 1, 2)
"""
    ).assert_outcomes(passed=3)


def test_an_enqueued_job_runs_in_a_worker(session: Session, valkey_url: str) -> None:
    session(
        f"URL = '{valkey_url}/3'"
        """
import signal

def test_it(jobdoctor):
    before = signal.getsignal(signal.SIGTERM)
    profile = jobdoctor.enqueue(shop.at_once, [1, 2])
    assert profile.result == [1, 2]
    assert profile.queries == 1
    assert profile.execution.worker_kind == "fork"
    assert profile.payload_bytes == profile.execution.payload.raw_bytes > 0
    assert 0 <= profile.rss_bytes < 64 << 20  # above what the fork began with
    assert signal.getsignal(signal.SIGTERM) is before

def test_failed(jobdoctor):
    with pytest.raises(AssertionError, match="shop.fail ended as failed(?s:.*)no order 12") as raised:
        jobdoctor.enqueue(shop.fail)
    assert raised.value.profile is jobdoctor.profiles[0]

def test_what_cannot_be_stored(jobdoctor):
    with pytest.raises(AssertionError, match="RQ could not store what it returned; return plain data"):
        jobdoctor.enqueue(shop.connect)

def test_enqueues_are_seen(jobdoctor):
    from redis import Redis
    from rq import Queue
    queue = Queue("jobdoctor-test-of-enqueues", connection=Redis.from_url(URL))
    with jobdoctor.record() as profile:
        queue.enqueue(shop.add, 1, 2)
    queue.delete()
    assert profile.calls["enqueue"] == 1

def test_nothing_is_left(jobdoctor):
    from redis import Redis
    left = {key for key in Redis.from_url(URL).keys() if b"jobdoctor-" in key or key.startswith(b"rq:job:")}
    assert not left
""",
        "--jobdoctor-redis",
        f"{valkey_url}/3",
    ).assert_outcomes(passed=5)


def test_the_timer_of_a_test_runner_survives_a_worker(session: Session, valkey_url: str) -> None:
    session(
        """
import signal

def test_it(jobdoctor):
    fired = []
    signal.signal(signal.SIGALRM, lambda *_: fired.append(1))
    signal.setitimer(signal.ITIMER_REAL, 3600)
    try:
        jobdoctor.enqueue(shop.add, 1, 2)
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 3000 < left < 3600
        signal.raise_signal(signal.SIGALRM)
        assert fired
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
""",
        "--jobdoctor-redis",
        f"{valkey_url}/3",
        "-o",
        "jobdoctor_worker=simple",
    ).assert_outcomes(passed=1)


def test_no_server_at_the_url(session: Session) -> None:
    result = session(
        "def test_it(jobdoctor): jobdoctor.enqueue(shop.add, 1, 2)", "--jobdoctor-redis", "redis://127.0.0.1:1/0"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no Redis or Valkey server answers: *correct --jobdoctor-redis*"])


def test_what_a_meter_says_goes_into_the_profile() -> None:
    profile, spent = Profile("app.sync"), Meter()
    spent.wall_ns, spent.cpu_ns, spent.runqueue_ns, spent.peak_rss_bytes = 9_000_000, 4_000_000, 2_000_000, 4_096
    doctor._metered(profile, spent)
    assert (profile.wall_ms, profile.busy_ms, profile.cpu_ms, profile.rss_bytes) == (9.0, 7.0, 4.0, 4_096)
    spent.runqueue_ns = 20_000_000
    doctor._metered(profile, spent)
    assert profile.busy_ms == 4.0
    spent.cpu_ns = 12_000_000  # of several threads
    doctor._metered(profile, spent)
    assert profile.busy_ms == 9.0


def test_the_peak_of_memory_is_in_bytes() -> None:
    peak = meter._high_water()
    assert peak is not None
    assert peak % 1024 == 0
    assert peak >= 16 << 20


def test_a_session_takes_its_settings_and_stops_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"jobdoctor_redis": "redis://setting", "jobdoctor_worker": "simple"}
    stopped: list[bool] = []
    monkeypatch.setattr(EmbeddedServer, "stop", lambda self: stopped.append(True))

    def session_of(option: str | None) -> GateSession:
        config: Any = SimpleNamespace(
            getoption=lambda name: option if name == "jobdoctor_redis" else None, getini=settings.get
        )
        return GateSession(config)

    assert session_of(None)._surroundings.redis_url == "redis://setting"
    assert session_of("redis://option")._surroundings.redis_url == "redis://option"
    session_of(None).close()
    assert stopped == [True]


def test_the_peak_is_of_the_run_alone(tmp_path: Path) -> None:
    before = b"x" * (96 << 20)
    del before
    with Meter() as small:
        pass
    with Meter() as large:
        kept = b"x" * (48 << 20)
        del kept
    assert small.peak_rss_bytes is not None
    assert large.peak_rss_bytes is not None
    assert small.peak_rss_bytes < 24 << 20 < large.peak_rss_bytes
    (tmp_path / "schedstat").write_text("500 70 3\n")
    assert meter._runqueue_ns(str(tmp_path / "schedstat")) == 70
    assert meter._runqueue_ns(str(tmp_path / "none")) is None


@pytest.mark.parametrize("writes", [True, False])
def test_timed_takes_the_margin_of_the_marker(monkeypatch: pytest.MonkeyPatch, writes: bool) -> None:
    given: dict[str, Any] = {}

    def examine(run: Any, known: Any, **options: Any) -> Any:
        given.update(options)
        raise GateError([])

    monkeypatch.setattr(timing, "examine", examine)
    surroundings = doctor.Surroundings(None, "fork", EmbeddedServer())
    with pytest.raises(GateError):
        doctor.Doctor(surroundings, Budget(max_slowdown=0.5), lambda job: None, writes=writes).timed(print)
    assert given == {"writes": writes, "margin": 0.5}
