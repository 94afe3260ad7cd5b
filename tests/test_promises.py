"""Durations that are promised, how they are declared, and the queues they are kept in."""

from __future__ import annotations

import functools
import inspect
import pickle
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest

import jobdoctor
from jobdoctor import promises
from jobdoctor.errors import ConfigError


@jobdoctor.slo(within="30s")
def send_mail(user_id: int, *, urgent: bool = False) -> str:
    """Sends it."""
    return f"{user_id} {urgent}"


@jobdoctor.slo(jobdoctor.ToBeDone.WITHIN_24_HOURS, exempt=True)
def tidy_up() -> None: ...


def test_the_function_stays_itself() -> None:
    assert send_mail(3, urgent=True) == "3 True"
    assert pickle.loads(pickle.dumps(send_mail)) is send_mail
    assert list(inspect.signature(send_mail).parameters) == ["user_id", "urgent"]
    assert (send_mail.__name__, send_mail.__doc__) == ("send_mail", "Sends it.")
    plain: Any = lambda: 1  # noqa: E731
    assert jobdoctor.slo("5m")(plain) is plain


def test_its_promise_can_be_read() -> None:
    assert promises.promise_of(send_mail) == promises.Promise(30.0)
    assert promises.promise_of(tidy_up) == promises.Promise(86_400.0, exempt=True)
    assert promises.promise_of(test_the_function_stays_itself) is None
    assert promises.Promise(30.0).within_ms == 30_000


def test_methods_and_wrappers_keep_it() -> None:
    class Mailer:
        @jobdoctor.slo("10s")
        def send(self) -> None: ...

    @functools.wraps(send_mail)
    def wrapped(*args: Any, **kwargs: Any) -> str:
        return send_mail(*args, **kwargs)

    assert promises.promise_of(Mailer().send) == promises.Promise(10.0)
    assert promises.promise_of(wrapped) == promises.Promise(30.0)


@pytest.mark.parametrize(
    ("within", "seconds"),
    [
        ("30s", 30), ("5m", 300), ("5 min", 300), ("5 minutes", 300), ("24h", 86_400), ("2 days", 172_800),
        ("1h 30m", 5_400), ("1.5h", 5_400), ("500ms", 0.5), (" 10 Seconds ", 10), (timedelta(minutes=2), 120),
        (jobdoctor.ToBeDone.WITHIN_10_SECONDS, 10),
    ],
)  # fmt: skip
def test_durations(within: Any, seconds: float) -> None:
    assert promises.seconds(within) == seconds


@pytest.mark.parametrize(
    ("within", "said"),
    [
        (0, "has no unit"), (30, "has no unit"), (0.5, "has no unit"), ("soon", "'soon' is no duration"),
        ("30", "'30' is no duration"), ("0s", "'0s' is no time at all"), ("-3s", "'-3s' is no duration"),
        ("", "'' is no duration"), (None, "None is no duration"), (True, "True is no duration"),
        (timedelta(), "is no time at all"), (timedelta(seconds=-1), "is no time at all"),
        ("2 years", "is no duration"), ("400d", "is more than a year"), ("0.1ms", "is no time at all"),
    ],
)  # fmt: skip
def test_what_is_no_duration_names_the_right_forms(within: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        jobdoctor.slo(within)
    assert said in str(caught.value)
    assert 'within="30s", "5m", "24h", a timedelta, or jobdoctor.ToBeDone.WITHIN_30_SECONDS' in str(caught.value)


def test_a_decorator_without_parentheses_and_what_cannot_carry_a_promise() -> None:
    with pytest.raises(ConfigError, match="stands without a promise"):
        jobdoctor.slo(send_mail)
    with pytest.raises(ConfigError, match="cannot carry a promise"):
        jobdoctor.slo("3s")(len)


@pytest.mark.parametrize(
    ("seconds", "name"),
    [
        (10, "within_10_seconds"), (30, "within_30_seconds"), (60, "within_1_minute"), (90, "within_90_seconds"),
        (300, "within_5_minutes"), (3_600, "within_1_hour"), (86_400, "within_24_hours"), (129_600, "within_36_hours"),
        (172_800, "within_2_days"), (0.5, "within_500_milliseconds"), (0.001, "within_1_millisecond"),
    ],
)  # fmt: skip
def test_queues_are_named_by_the_promise(seconds: float, name: str) -> None:
    assert promises.queue_name(seconds) == name
    assert promises.seconds_of_queue(name) == seconds


@pytest.mark.parametrize("text", ["30s", "90s", "5m", "24h", "2d", "36h", "500ms", "1500ms"])
def test_durations_are_spelt_as_they_are_read(text: str) -> None:
    assert promises.spelt(promises.seconds(text)) == text


def test_equal_promises_share_a_queue() -> None:
    assert promises.Promise(promises.seconds("120s")).queue == promises.Promise(promises.seconds("2m")).queue


@pytest.mark.parametrize(
    "name", ["default", "within_soon", "within_0_seconds", "within_60_seconds", "within_030_seconds", "within_900_days"]
)
def test_other_queues_promise_nothing(name: str) -> None:
    assert promises.seconds_of_queue(name) is None


def test_the_order_is_the_fastest_first() -> None:
    assert promises.in_order(["default", "within_2_days", "within_2_minutes", "within_30_seconds"]) == [
        "within_10_seconds", "within_30_seconds", "within_2_minutes", "within_5_minutes", "within_24_hours",
        "within_2_days",
    ]  # fmt: skip
    assert promises.SLOWEST_QUEUE == "within_24_hours"


def test_promising_costs_a_web_process_nothing() -> None:
    code = (
        "import sys, jobdoctor\n"
        "@jobdoctor.slo('30s')\n"
        "def job(): ...\n"
        "import jobdoctor.promises\n"
        "jobdoctor.slo('1m')\n"
        "print([name for name in ('rq', 'redis', 'msgspec', 'jobdoctor.rq') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "[]"
