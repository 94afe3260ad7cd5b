"""CPU and memory over time: rates between samples, places on the execution's axis."""

from __future__ import annotations

from typing import Any

from jobdoctor.model import Execution, Rusage, Sample
from jobdoctor.report import resources
from tests.builders import EPOCH_NS, MS, make_execution


def sampled(number: int, **fields: Any) -> Execution:
    """Half a CPU in use, a quarter waited for, a byte more each time; blocked in a socket every other time."""
    samples = [
        Sample(
            EPOCH_NS + (5 + at * 10) * MS, at * 5 * MS, 1_000 + at, at * 2_500_000, "socket" if at % 2 else "running"
        )
        for at in range(number)
    ]
    return make_execution(run_ms=number * 10, samples=samples, **fields)


def test_rates_and_places() -> None:
    lines = resources.resources(sampled(5, rusage=Rusage(baseline_rss_bytes=700)))
    assert lines is not None
    assert lines.at_us == [10_000, 20_000, 30_000, 40_000]  # from the dequeue, 5 ms after EPOCH_NS
    assert lines.cores == [0.5] * 4
    assert lines.waiting == [0.25] * 4
    assert lines.rss_bytes == [1_001, 1_002, 1_003, 1_004]
    assert lines.blocked_in == ["socket", "", "socket", ""]
    assert lines.baseline_rss_bytes == 700
    assert lines.peak_rss_bytes == 1_004
    assert lines.cores_mean == 0.5
    assert lines.summary() == (
        "0.50 CPUs on average, 1.0 kB of memory at most, 700 B of it inherited. "
        "Seen blocked in: socket 50% of the time."
    )
    assert resources.data(lines)["at"] == [0, 10_000, 20_000, 30_000, 40_000]


def test_the_mean_is_over_what_was_sampled() -> None:
    samples = [Sample(EPOCH_NS + at * MS, cpu * MS, 1, 0) for at, cpu in ((905, 0), (915, 10), (945, 10))]
    lines = resources.resources(make_execution(run_ms=1_000, samples=samples))
    assert lines is not None
    assert lines.cores == [1.0, 0.0]
    assert lines.cores_mean == 0.25


def test_few_samples_draw_nothing() -> None:
    assert resources.resources(sampled(2)) is None


def test_many_samples_are_thinned_out_and_keep_the_peak() -> None:
    execution = sampled(10_000)
    execution.samples[5_003] = Sample(execution.samples[5_003].at_ns, 5_003 * 5 * MS, 9_000_000, 0)
    lines = resources.resources(execution)
    assert lines is not None
    assert len(lines.at_us) <= resources.MOST_POINTS
    assert lines.peak_rss_bytes == 9_000_000


def test_samples_at_one_instant_divide_by_nothing() -> None:
    execution = make_execution(samples=[Sample(EPOCH_NS + 5 * MS, 0, 1, 0)] * 4)
    assert resources.resources(execution) is None
