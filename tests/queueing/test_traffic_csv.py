"""Traffic from CSV, and files that are none."""

from __future__ import annotations

import pytest

from jobdoctor.errors import ConfigError
from jobdoctor.queueing import traffic_csv


def test_columns_by_name_in_any_order() -> None:
    text = "job,status,arrival_s,service_s,queue\r\nmail,ok,0.5,2,fast\r\n\r\nreport,ok,0.5,30,\r\n"
    traffic = traffic_csv.read(text.splitlines(keepends=True), "jobs.csv")
    assert traffic.arrival == [0.5, 0.5]
    assert traffic.service == [2, 30]
    assert [traffic.jobs[job] for job in traffic.job] == ["mail", "report"]
    assert [traffic.queues[queue] for queue in traffic.queue] == ["fast", "default"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators(separator: str) -> None:
    text = "\ufeffarrival_s,job,service_s\n0.5,a,1\n".replace(",", separator)
    assert traffic_csv.read(text.splitlines(keepends=True), "jobs.csv").service == [1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "jobs.csv has no column arrival_s"),
        ("arrival_s,group,service_s\n0,a,1\n", "has no column job; columns: arrival_s, group, service_s"),
        ("arrival_s,job,service_s\n", "has no jobs"),
        ("arrival_s,job,service_s\n0,a,-1\n", "line 2: service_s is -1"),
        ("arrival_s,job,service_s\n-3,a,1\n", "line 2: arrival_s is -3"),
        ("arrival_s,job,service_s\n0,a,1\nx,a,1\n", "line 3: arrival_s 'x' is no number"),
        ("arrival_s,job,service_s\n0,a,nan\n", "service_s is nan"),
        ("arrival_s,job,service_s\n5,a,1\n4,a,1\n", "line 3: arrival_s 4 after 5"),
        ("arrival_s;job;service_s\n0,5;a;1\n", "line 2: arrival_s '0,5' is no number"),
        ("arrival_s,job,service_s\n5,,1\n", "names no job"),
        ("arrival_s,job,service_s\n5,a\n", "line 2 has 2 of 3 columns"),
    ],
)
def test_what_is_no_traffic(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        traffic_csv.read(text.splitlines(keepends=True), "jobs.csv")
    assert said in str(raised.value)
    assert raised.value.next_step
