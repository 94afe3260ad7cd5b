"""JD306: a dead work horse, once is enough; a job that somebody stopped, and one that failed, are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobdoctor.diagnosis.checklist.internals.killed import Killed
from jobdoctor.model import Death, Execution, Phase, Rusage, Sample, Span, StackFrame
from tests.builders import MS, make_execution, make_group
from tests.diagnosis.asking import alike, ask, only

GB = 1_000_000_000
APP = StackFrame("app/img.py:40", "thumbnail", True)
BELOW = StackFrame("PIL/Image.py:900", "Image.decode", False)


def dead(death: Death, **fields: Any) -> Execution:
    return make_execution(outcome="killed", death=death, **{"run_ms": 2_000, **fields})


def test_fires_on_one_execution() -> None:
    finding = only(ask(Killed, [dead(Death(signal=9, cause="oom", last_rss_bytes=2 * GB))]))
    assert finding.severity == "critical"


@pytest.mark.parametrize(
    ("death", "words", "kind"),
    [
        (Death(signal=9, cause="oom", last_rss_bytes=2 * GB), "out of memory", "memory"),
        (Death(signal=9, cause="signal", last_rss_bytes=2 * GB), "out of memory", "memory"),
        (Death(signal=9, cause="unknown", last_rss_bytes=50_000_000), "SIGKILL from outside", "memory"),
        (Death(signal=9, cause="timeout"), "over its timeout of 3 min", "timeout"),
        (Death(signal=11, cause="signal"), "segmentation fault", "isolate"),
        (Death(exit_code=3, cause="exit"), "left by itself with code 3", "config"),
        (
            Death(signal=7, cause="segfault", stack=[BELOW, APP]),
            "a bus error in native code called from app/",
            "isolate",
        ),
        (Death(cause="memory-limit", limit="RLIMIT_AS", limit_value=GB), "cut short: it ran into RLIMIT_AS", "memory"),
        (Death(signal=24, cause="cpu-limit"), "used up its limit of CPU time", "optimize"),
        (Death(cause="file-limit", limit="RLIMIT_FSIZE", limit_value=GB), "a file outgrew RLIMIT_FSIZE", "config"),
        (Death(cause="lost-worker"), "its worker was killed", "config"),
        (Death(), "vanished", "memory"),
    ],
)
def test_names_the_suspect(death: Death, words: str, kind: str) -> None:
    finding = only(ask(Killed, [dead(death)]))
    assert words in finding.title
    assert finding.recommendation.kind == kind


def test_memory_is_not_suspected_below_the_limit() -> None:
    below = dead(Death(signal=9, cause="signal", last_rss_bytes=499_999_999))
    assert "SIGKILL" in only(ask(Killed, [below])).title
    at = dead(Death(signal=9, cause="signal", last_rss_bytes=500_000_000))
    assert "out of memory" in only(ask(Killed, [at])).title


def test_what_was_inherited_at_the_fork_is_not_the_jobs_memory() -> None:
    usage = Rusage(max_rss_bytes=700_000_000, baseline_rss_bytes=600_000_000)
    assert "SIGKILL" in only(ask(Killed, [dead(Death(signal=9, cause="signal"), rusage=usage)])).title


@pytest.mark.parametrize(
    "execution",
    [
        make_execution(outcome="stopped", death=Death(signal=9, cause="stopped")),
        make_execution(outcome="killed", death=Death(signal=9, cause="stopped")),
        make_execution(outcome="failed"),
        make_execution(outcome="timeout"),
        make_execution(outcome="timeout", death=Death(cause="timeout")),
        make_execution(outcome="killed", death=Death(signal=9, cause="shutdown")),
    ],
    ids=["stopped", "stopped by kill", "failed", "timed out by itself", "RQ's exception", "worker told twice to stop"],
)
def test_silent_on_look_alikes(execution: Execution) -> None:
    assert ask(Killed, [execution]) == []


def test_the_counters_of_its_control_group_are_believed() -> None:
    counted = dead(Death(signal=9, cause="signal", last_rss_bytes=2 * GB, oom_kills=0))
    assert "SIGKILL" in only(ask(Killed, [counted])).title


def test_a_deploy_is_not_counted_among_the_deaths() -> None:
    deploy = dead(Death(signal=9, cause="shutdown"))
    finding = only(ask(Killed, [dead(Death(signal=9, cause="oom", last_rss_bytes=GB)), deploy, *alike(number=2)]))
    assert finding.title.startswith("1 of 4 executions was killed: ")


def test_the_certificate_is_the_evidence() -> None:
    death = Death(
        signal=9,
        cause="oom",
        last_rss_bytes=GB,
        limit="cgroup",
        limit_value=GB,
        suspect="the kernel's out-of-memory killer: ...",
        stack=[BELOW, APP],
        stack_source="observed",
        stack_age_ns=400 * MS,
    )
    finding = only(ask(Killed, [dead(death, samples=[Sample(1, 1, GB // 2, 0)])]))
    assert finding.callsite == "app/img.py:40"
    texts = [evidence.text for evidence in finding.evidence]
    assert texts[0] == "The suspect: the kernel's out-of-memory killer: ..."
    assert finding.evidence[0].data["certificate"]["limit"] == "cgroup"
    assert "Last known stack (400 ms before): app/img.py:40 thumbnail" in texts
    (curve,) = [evidence.data for evidence in finding.evidence if evidence.kind == "series"]
    assert curve == {"rss_bytes": [[1, GB // 2]], "limit_bytes": GB}


def test_the_whole_finding() -> None:
    killed = dead(
        Death(signal=9, cause="oom", last_rss_bytes=2 * GB, in_flight="SELECT * FROM events"),
        groups=[make_group(callsite="app/export.py:20")],
        in_flight=Span(0, 0, 500 * MS),
        samples=[Sample(1, 1, GB, 0), Sample(2, 2, 2 * GB, 0)],
    )
    finding = only(ask(Killed, [killed, *alike(number=3)]))
    assert (finding.code, finding.step) == ("JD306", "internals")
    assert finding.title == "1 of 4 executions was killed: out of memory at 2.0 GB of its own"
    assert finding.callsite == "app/export.py:20"
    # Two seconds are lost in one of four executions.
    assert finding.cost_ms == pytest.approx(500)
    texts = [evidence.text for evidence in finding.evidence]
    assert "It was in SELECT * FROM events" in texts
    assert any(evidence.data.get("rss_bytes") == [[1, GB], [2, 2 * GB]] for evidence in finding.evidence)


@pytest.mark.parametrize(("age_ms", "line"), [(29, "app/img.py:40"), (500, "")])
def test_a_stack_from_before_the_function_began_is_no_place(age_ms: float, line: str) -> None:
    seen = Death(signal=9, cause="signal", stack=[BELOW, APP], stack_age_ns=int(age_ms * MS))
    body = [Phase("body", 400 * MS, 430 * MS)]
    found = only(ask(Killed, [dead(seen, run_ms=440, phases=body)]))
    assert found.callsite == line
    assert found.title.startswith("1 of 1 execution was killed")
