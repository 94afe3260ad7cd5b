"""The certificate: from what is known to who did it, in words."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from jobdoctor.capture.cgroup import MemoryFacts
from jobdoctor.capture.death import Circumstances, call_in_words, certificate
from jobdoctor.model import Death, ExceptionInfo, Rusage, Sample, SpanGroup, StackFrame

S = 1_000_000_000
MIB = 1 << 20
APP = StackFrame("app/img.py:40", "thumbnail", True)
BELOW = StackFrame("PIL/Image.py:900", "Image.decode", False)
CALL = SpanGroup("http", "GET", "https://api.example.com/orders/{}", callsite="app/x.py:12", function="fetch")


def died(number: int = signal.SIGKILL, **fields: Any) -> Death:
    found = certificate(Circumstances(**{"wait_status": number, **fields}))
    assert found is not None
    return found


def memory(**fields: Any) -> MemoryFacts:
    return MemoryFacts(**{"machine_bytes": 16 << 30, "watched": "cgroup", **fields})


def test_the_kernels_oom_killer_in_a_cgroup() -> None:
    death = died(
        memory=memory(limit_bytes=512 * MIB, oom_kills=1, limit_hits=1),
        samples=[Sample(0, 0, 100 * MIB, 0), Sample(1, 0, 480 * MIB, 0)],
        rusage=Rusage(max_rss_bytes=511 * MIB),
        observed=[BELOW, APP],
        observed_age_ns=S // 2,
    )
    assert (death.cause, death.certain, death.limit, death.limit_value) == ("oom", True, "cgroup", 512 * MIB)
    assert (death.last_rss_bytes, death.peak_rss_bytes, death.oom_kills) == (480 * MIB, 511 * MIB, 1)
    assert death.suspect == (
        "the kernel's out-of-memory killer: the cgroup's limit of 512 MiB was reached (the job's process held "
        "511 MiB), while it was in PIL.Image.decode, called from thumbnail at app/img.py:40 (0.5 s before)"
    )


def test_the_machine_was_out_of_memory_without_a_limit_of_the_cgroup() -> None:
    death = died(memory=memory(oom_kills=1, limit_bytes=0))
    assert (death.cause, death.limit, death.limit_value) == ("oom", "machine", 16 << 30)
    assert death.suspect == "the kernel's out-of-memory killer: the machine's memory (16 GiB) was full"
    small = died(memory=memory(oom_kills=1, limit_bytes=8 << 30), rusage=Rusage(max_rss_bytes=100 * MIB))
    assert small.limit == "machine"


@pytest.mark.parametrize(
    ("peak", "facts", "cause"),
    [
        (430 * MIB, {"limit_bytes": 512 * MIB, "watched": "machine"}, "oom"),
        (400 * MIB, {"limit_bytes": 512 * MIB, "watched": "machine"}, "signal"),
        (9 << 30, {"watched": ""}, "oom"),
        (7 << 30, {"watched": ""}, "signal"),
        # The counters of its own group are believed: nobody was killed there.
        (510 * MIB, {"limit_bytes": 512 * MIB}, "signal"),
    ],
)
def test_without_counters_memory_near_the_limit_is_the_suspect(peak: int, facts: dict[str, Any], cause: str) -> None:
    death = died(memory=memory(**facts), rusage=Rusage(max_rss_bytes=peak))
    assert death.cause == cause
    if cause == "oom":
        assert not death.certain
        assert death.suspect.startswith("very likely the kernel's out-of-memory killer: ")
    else:
        assert death.suspect == "SIGKILL from an unknown sender"


def test_victims_elsewhere_on_the_machine_make_it_likely_only() -> None:
    death = died(memory=memory(watched="machine", oom_kills=1))
    assert (death.cause, death.certain, death.oom_kills) == ("oom", False, None)


def test_the_worker_killed_a_call_that_does_not_come_back() -> None:
    death = died(
        killed_by="timeout",
        timeout_s=180.0,
        lived_ns=241 * S,
        call=CALL,
        call_ns=238 * S,
        memory=memory(oom_kills=1),
    )
    assert (death.cause, death.signal) == ("timeout", 9)
    assert death.suspect == (
        "killed by its worker 61 s after its timeout of 180 s: it was in GET https://api.example.com/orders/{} at "
        "app/x.py:12 for 238.0 s, which does not come back to Python for the timeout's exception"
    )
    assert death.stack == [StackFrame("app/x.py:12", "fetch", True)]
    assert death.stack_source == "call"


def test_the_worker_killed_native_code_that_no_probe_knows() -> None:
    death = died(
        killed_by="timeout",
        timeout_s=10.0,
        lived_ns=71 * S,
        observed=[APP],
        observed_age_ns=S,
        observed_held_ns=69 * S,
    )
    assert death.suspect == (
        "killed by its worker 61 s after its timeout of 10 s: it was in thumbnail at app/img.py:40 for at least 69 s, "
        "which does not come back to Python for the timeout's exception"
    )


def test_the_job_swallowed_the_timeout() -> None:
    fields: dict[str, Any] = {"killed_by": "timeout", "timeout_s": 10.0, "lived_ns": 71 * S, "observed": [APP]}
    assert died(**fields, timeout_was_raised=True).suspect.endswith(
        "; the timeout's exception was raised, and swallowed by the job"
    )
    assert died(**fields).suspect.endswith("was swallowed, or could not be raised in the job's thread")


def test_the_timeouts_exception_while_the_horse_lived() -> None:
    found = certificate(
        Circumstances(
            outcome="timeout",
            wait_status=0,
            timeout_s=180.0,
            call=CALL,
            call_ns=178 * S,
            exception=ExceptionInfo("rq.timeouts.JobTimeoutException"),
            raised=[BELOW, APP],
            observed=[BELOW, APP],
            observed_held_ns=170 * S,
            observed_age_ns=S,
        )
    )
    assert found is not None
    assert (found.signal, found.exit_code, found.cause, found.stack_source) == (0, None, "timeout", "exception")
    assert found.stack == [BELOW, APP]
    assert found.stack_held_ns == 171 * S
    assert found.suspect == (
        "cut by its timeout of 180 s, in GET https://api.example.com/orders/{} at app/x.py:12 for 178.0 s"
    )


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGSEGV, "segmentation fault (SIGSEGV)"),
        (signal.SIGABRT, "abort (SIGABRT)"),
        (signal.SIGBUS, "bus error (SIGBUS)"),
        (signal.SIGILL, "illegal instruction (SIGILL)"),
        (signal.SIGFPE, "floating point exception (SIGFPE)"),
    ],
)
def test_a_fault_names_the_line_that_called_native_code(number: int, words: str) -> None:
    death = died(number, fault=[APP], observed=[BELOW])
    assert (death.cause, death.stack_source, death.stack_age_ns) == ("segfault", "fault", 0)
    assert death.suspect == f"{words} in native code, called from app/img.py:40 in thumbnail"
    below = died(number, fault=[BELOW, APP])
    assert below.suspect == (
        f"{words} in native code below PIL/Image.py:900 in Image.decode, called from app/img.py:40 in thumbnail"
    )
    assert died(number, observed=[APP], observed_age_ns=2 * S).suspect.endswith("(last seen there, 2 s before)")
    assert died(number).suspect == f"{words} in native code"


@pytest.mark.parametrize(
    ("fields", "cause", "words"),
    [
        ({"killed_by": "stopped"}, "stopped", "stopped by a stop command"),
        ({"outcome": "stopped"}, "stopped", "stopped by a stop command"),
        ({"killed_by": "shutdown"}, "shutdown", "killed by its worker, which was told twice to stop"),
        ({"killed_by": "lost-worker", "wait_status": None}, "lost-worker", "its worker was killed or lost, "),
        (
            {"killed_by": "lost-worker", "wait_status": None, "fault": [APP]},
            "lost-worker",
            "a fault in native code ended the worker itself, while it was in thumbnail at app/img.py:40",
        ),
        ({"wait_status": 3 << 8}, "exit", "the process left by itself with code 3, by os._exit or "),
        ({"wait_status": signal.SIGTERM}, "signal", "SIGTERM from an unknown sender"),
        ({"wait_status": 42}, "signal", "signal 42 from an unknown sender"),
        (
            {"wait_status": signal.SIGXCPU, "limits": {"RLIMIT_CPU": 10}},
            "cpu-limit",
            "the kernel: the process had used up its limit of CPU time (RLIMIT_CPU of 10 s)",
        ),
        (
            {"limits": {"RLIMIT_CPU": 10}, "rusage": Rusage(user_ns=9 * S, system_ns=S)},
            "cpu-limit",
            "the kernel: the process had used up its limit of CPU time (RLIMIT_CPU of 10 s)",
        ),
        ({"limits": {"RLIMIT_CPU": 10}, "rusage": Rusage(user_ns=9 * S)}, "signal", "SIGKILL from an unknown sender"),
    ],
)
def test_other_ends(fields: dict[str, Any], cause: str, words: str) -> None:
    death = died(**{"number": signal.SIGKILL, **fields})
    assert death.cause == cause
    assert death.suspect.startswith(words)


def test_limits_of_the_process_that_it_survived() -> None:
    def cut(type_name: str, message: str, limits: dict[str, int]) -> Death | None:
        return certificate(
            Circumstances(
                outcome="failed",
                wait_status=0,
                exception=ExceptionInfo(type_name, message),
                raised=[APP],
                limits=limits,
            )
        )

    death = cut("MemoryError", "", {"RLIMIT_AS": 512 * MIB, "RLIMIT_DATA": 1 << 30})
    assert death is not None
    assert (death.cause, death.limit, death.limit_value) == ("memory-limit", "RLIMIT_AS", 512 * MIB)
    assert death.suspect == (
        "MemoryError: the process's own limit of memory (RLIMIT_AS of 512 MiB) was reached, while it was in thumbnail "
        "at app/img.py:40"
    )
    assert cut("numpy.core._exceptions._ArrayMemoryError", "", {"RLIMIT_AS": 1}) is not None
    assert cut("MemoryError", "", {}) is None
    file = cut("OSError", "[Errno ?] File too large", {"RLIMIT_FSIZE": 4096})
    assert file is not None
    assert file.suspect.startswith("a file outgrew the process's limit (RLIMIT_FSIZE of 4 KiB)")
    assert cut("OSError", "[Errno ?] No space left on device", {"RLIMIT_FSIZE": 4096}) is None
    assert cut("ValueError", "", {"RLIMIT_AS": 1}) is None


def test_the_newest_stack_is_taken() -> None:
    """A call that began after the last look; one that was already running then."""
    fields: dict[str, Any] = {"call": CALL, "observed": [APP], "observed_age_ns": S}
    assert died(**fields, call_ns=S // 2).stack_source == "call"
    assert died(**fields, call_ns=2 * S).stack_source == "observed"
    assert died(call=None).stack == []


def test_an_end_of_its_own_has_no_certificate() -> None:
    assert certificate(Circumstances(outcome="finished", wait_status=0)) is None
    assert certificate(Circumstances(outcome="failed", wait_status=None)) is None


def test_a_call_in_words() -> None:
    call = SpanGroup("sql", "SELECT", "SELECT pg_sleep(?)", target="postgresql://db/app", callsite="app/x.py:3")
    assert call_in_words(call, 2_100_000_000) == "SELECT pg_sleep(?) on postgresql://db/app at app/x.py:3, for 2.1 s"
    assert call_in_words(SpanGroup("redis", "BLPOP", "key"), 2_500_000) == "BLPOP key, for 2.5 ms"
    assert call_in_words(SpanGroup("sleep", "sleep", "time.sleep"), 0) == "time.sleep, for 0.0 ms"
