"""What each change does to traffic and workers, and what cannot be."""

from __future__ import annotations

from math import inf

import pytest

from jobdoctor.errors import ConfigError
from jobdoctor.queueing import changes as changes_module
from jobdoctor.queueing.changes import Change, Move, Rate, Reserve, Speedup, Split, Workers, apply, split_of
from jobdoctor.queueing.traffic import Pool, Traffic, steady, traffic_of
from tests.queueing.traces import row, served

ARRIVALS = [(float(n), job, service) for n in range(40) for job, service in (("app.mail", 0.1), ("app.report", 4.0))]


def shop() -> tuple[Traffic, list[Pool]]:
    rows = served(ARRIVALS, 3, worker_queues=["high", "default"])
    return traffic_of(rows)


def changed(*changes: Change) -> tuple[Traffic, list[Pool]]:
    return apply(*shop(), changes)


def sizes(pools: list[Pool]) -> dict[str, int]:
    return {",".join(pool.queues): pool.size for pool in pools}


def test_move() -> None:
    traffic, _ = changed(Move("app.mail", "high"))
    queues = {(traffic.jobs[j], traffic.queues[q]) for j, q in zip(traffic.job, traffic.queue, strict=True)}
    assert queues == {("app.mail", "high"), ("app.report", "default")}
    assert changed(Move("mail", "high"))[0].queue == traffic.queue  # the end of a name will do


def test_workers_of_one_queue_are_all_that_listen_to_it() -> None:
    assert sizes(changed(Workers(("default",), 5))[1]) == {"high,default": 5}
    assert sizes(changed(Workers(("high", "default"), 1))[1]) == {"high,default": 1}
    assert sizes(changed(Workers(("default", "high"), 2))[1]) == {"high,default": 3, "default,high": 2}
    assert sizes(changed(Reserve("high", 2))[1]) == {"high,default": 3, "high": 2}
    several = [steady(["default"], 2), steady(["high", "default"], 1)]
    traffic, _ = shop()
    assert sizes(apply(traffic, several, [Workers(("default",), 5)])[1]) == {"default": 4, "high,default": 1}
    assert sizes(apply(traffic, several, [Workers(("default",), 1)])[1]) == {"high,default": 1}
    with pytest.raises(ConfigError, match="in several ways"):
        apply(traffic, several, [Workers(("default",), 0)])


def test_a_new_queue_with_its_workers() -> None:
    traffic, pools = apply(*shop(), [Move("app.mail", "high"), Workers(("high",), 4)])
    assert sizes(pools) == {"high,default": 4}
    with pytest.raises(ConfigError, match="nobody listens to queue 'mails'"):
        changed(Move("app.mail", "mails"))
    assert traffic.queues == ["default", "high"]
    assert sizes(changed(Move("app.mail", "mails"), Reserve("mails", 1))[1]) == {"high,default": 3, "mails": 1}
    assert sizes(changed(Move("app.mail", "mails"), Workers(("mails",), 2))[1]) == {"high,default": 3, "mails": 2}


def test_speedup_shortens_the_run_and_brings_its_children_earlier() -> None:
    parent = row("a", 0, 1, 5, execution_id="p")
    traffic, pools = traffic_of([parent, row("b", 3, 5, 6, parent_execution_id="p")])
    faster, _ = apply(traffic, pools, [Speedup("a", 0.5)])
    assert faster.service == [2, 1]
    assert faster.links[0][0].delay_s == 1
    assert traffic.links[0][0].delay_s == 2  # the input is as it was


@pytest.mark.parametrize(("factor", "count"), [(2, 80), (1.5, 60), (3, 120), (0.5, 20), (0.25, 10), (1, 40)])
def test_rate(factor: float, count: int) -> None:
    traffic, _ = changed(Rate("app.mail", factor))
    names = [traffic.jobs[job] for job in traffic.job]
    assert names.count("app.mail") == count
    assert names.count("app.report") == 40
    assert traffic.arrival == sorted(traffic.arrival)
    assert traffic.span_s <= 39.001


def test_what_a_job_enqueues_comes_as_often_as_it_does() -> None:
    rows = [
        each
        for n in range(10)
        for each in (
            row("a", 10 * n, 10 * n, 10 * n + 2, execution_id=f"p{n}"),
            row("b", 10 * n + 1, 10 * n + 2, 10 * n + 3, parent_execution_id=f"p{n}"),
        )
    ]
    traffic, pools = traffic_of(rows)
    twice, _ = apply(traffic, pools, [Rate("a", 2)])
    assert [twice.jobs[job] for job in twice.job].count("b") == 20
    assert len(twice.linked) == 20
    half, _ = apply(traffic, pools, [Rate("a", 0.5)])
    assert [half.jobs[job] for job in half.job].count("b") == 5
    children, _ = apply(traffic, pools, [Rate("b", 2)])
    assert [children.jobs[job] for job in children.job].count("a") == 10
    assert sum(len(links) for links in children.links.values()) == 20


def test_split() -> None:
    assert split_of(shop()[0], "default") == (["app.mail"], ["app.report"])
    traffic, pools = changed(Split("default"))
    assert sizes(pools) == {"high,default-fast,default-slow": 3}
    queues = {(traffic.jobs[j], traffic.queues[q]) for j, q in zip(traffic.job, traffic.queue, strict=True)}
    assert queues == {("app.mail", "default-fast"), ("app.report", "default-slow")}
    reserved = changed(Reserve("default-fast", 1), Split("default"))[1]  # in whatever order they are given
    assert sizes(reserved) == {"high,default-fast,default-slow": 3, "default-fast": 1}


def test_more_jobs_than_a_replay_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "MOST_JOBS", 10)
    traffic = Traffic(["a"], ["q"])
    for at in range(6):
        traffic.arrival.append(float(at))
        for name, value in (("job", 0), ("queue", 0), ("service", 1.0), ("overhead", 0.0)):
            getattr(traffic, name).append(value)
    assert len(apply(traffic, [steady(["q"], 1)], [Rate("a", 1.5)])[0]) == 9
    with pytest.raises(ConfigError, match="that makes 12 jobs of 6"):
        apply(traffic, [steady(["q"], 1)], [Rate("a", 2.0)])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([Move("app.mial", "high")], "there is no job 'app.mial' .* did you mean app.mail"),
        ([Split("defualt")], "there is no queue 'defualt' .* did you mean default"),
        ([Workers(("nowhere",), 1)], "there is no queue 'nowhere'"),
        ([Move("app.mail", "high"), Move("app.mail", "default")], "--move app.mail is given 2 times"),
        ([Move("app.mail", "high"), Move("mail", "default")], "--move app.mail is given 2 times"),
        ([Split("default"), Move("app.mail", "default")], "contradict"),
        ([Split("default"), Workers(("default",), 1)], "contradict"),
        ([Split("high")], "it has no job only"),
        ([Speedup("app.mail", 0)], "not above 0"),
        ([Speedup("app.mail", -1)], "not above 0"),
        ([Rate("app.mail", inf)], "above 1,000"),
        ([Workers(("default",), 0)], "nobody listens to queue 'default'"),
        ([Reserve("high", 0)], "no worker"),
    ],
)
def test_what_cannot_be(changes: list[Change], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        changed(*changes)
    message = str(raised.value)
    assert raised.value.next_step
    assert __import__("re").search(said, message), message
