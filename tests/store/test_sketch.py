"""Quantiles within 1% of the exact ones, after any merge, in few bytes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobdoctor.model import Quantiles
from jobdoctor.store.sketch import ALPHA, Sketch


def exact(values: list[float], share: float) -> float:
    """The lower quantile."""
    return sorted(values)[int(share * (len(values) - 1))]


def close(found: float, true: float) -> bool:
    return abs(found - true) <= ALPHA * true * 1.0001 + 1e-6


SHAPES: dict[str, Callable[[random.Random], float]] = {
    "lognormal": lambda r: r.lognormvariate(3, 1.5),
    "uniform": lambda r: r.uniform(0, 1000),
    "two peaks": lambda r: r.gauss(10, 1) if r.random() < 0.9 else r.gauss(5_000, 50),
    "heavy tail": lambda r: r.paretovariate(1.1),
    "microseconds": lambda r: r.expovariate(1) * 0.01,
    "one value": lambda r: 42.0,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 2, 10, 5_000])
def test_quantiles_are_within_one_percent(shape: str, size: int) -> None:
    rng = random.Random(f"{shape}-{size}")
    values = [max(0.0, SHAPES[shape](rng)) for _ in range(size)]
    sketch = Sketch(values)
    for share in (0.0, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0):
        assert close(sketch.quantile(share), exact(values, share)), share
    found = sketch.quantiles()
    assert close(found.p50, exact(values, 0.5))
    assert close(found.p95, exact(values, 0.95))
    assert close(found.p99, exact(values, 0.99))
    assert found.mean == pytest.approx(sum(values) / size)
    assert found.max == max(values)
    assert found.count == size


@given(st.lists(st.lists(st.floats(0, 1e9), max_size=30), max_size=8))
def test_merging_is_the_same_as_adding_everything(parts: list[list[float]]) -> None:
    merged = Sketch()
    for part in parts:
        merged.merge(Sketch.from_bytes(Sketch(part).to_bytes()))
    everything = [value for part in parts for value in part]
    whole = Sketch(everything)
    assert merged._buckets == whole._buckets
    assert (merged.count, merged.maximum, merged.minimum) == (whole.count, whole.maximum, whole.minimum)
    for share in (0.0, 0.5, 0.99):
        assert not everything or close(merged.quantile(share), exact(everything, share))


def test_nothing_has_no_quantiles() -> None:
    assert Sketch().quantiles() == Quantiles()
    assert Sketch().quantile(0.5) == 0.0
    assert Sketch.from_bytes(Sketch().to_bytes()).quantiles() == Quantiles()


def test_zero_negative_and_absurd_values_are_counted() -> None:
    sketch = Sketch([0.0, -5.0, 1e300, 10.0])
    assert sketch.count == 4
    assert sketch.quantile(0.0) == 0.0
    assert sketch.maximum == 1e10
    assert close(Sketch.from_bytes(sketch.to_bytes()).quantile(0.67), 10.0)


def test_it_is_small() -> None:
    rng = random.Random(7)
    assert len(Sketch([12.5]).to_bytes()) < 32
    assert len(Sketch(rng.lognormvariate(3, 1) for _ in range(100_000)).to_bytes()) < 2_000


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x09" + bytes(24), Sketch([1.0]).to_bytes() + b"\x80", b"x" * 26])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Sketch.from_bytes(data)
