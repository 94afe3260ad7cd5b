"""What a job is called: the same before its data is unpickled, as a worker sees it, and after that, as the job does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import redis
from rq.job import Job

from jobdoctor.rq.names import job_name


def send(*_: Any) -> None:
    """A job."""


class Sender:
    def __call__(self) -> None:
        """A job."""

    def send(self) -> None:
        """A job."""


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (send, "send"),
        (Sender(), "Sender.__call__"),
        (Sender().send, "Sender.send"),
        (functools.partial(send, 1), "send"),
        (functools.partial(functools.partial(send, "x" * 5_000), 1), "send"),
        (functools.partial(Sender), "Sender"),
        (functools.partial(Sender()), "Sender"),
        (functools.partial(Sender().send), "functools.partial.__call__"),
        (functools.partial("".join, []), "functools.partial.__call__"),
    ],
)
def test_names_before_and_after_unpickling(function: Callable[..., Any], name: str) -> None:
    made = Job.create(function, connection=redis.Redis())
    job: Any = Job("id", connection=redis.Redis())
    job.data = made.data
    expected = name if name.startswith("functools.") else f"{__name__}.{name}"
    assert job_name(job) == expected
    job._deserialize_data()
    assert job_name(job) == expected
