"""Under Yama the process that runs a job has to name its witness."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest

from jobdoctor.rq import ptracer


class Library:
    """The C library, which is told something."""

    def __init__(self) -> None:
        self.told: list[tuple[int, ...]] = []

    def prctl(self, *arguments: int) -> int:
        self.told.append(arguments)
        return 0


@pytest.mark.parametrize(
    ("scope", "user", "named"), [("1\n", 1000, True), ("0\n", 1000, False), ("1\n", 0, False), (None, 1000, False)]
)
def test_the_witness_is_named_where_it_has_to_be(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, scope: str | None, user: int, named: bool
) -> None:
    path = tmp_path / "ptrace_scope"
    if scope is not None:
        path.write_text(scope)
    library: Any = Library()
    monkeypatch.setattr(ptracer, "_SCOPE", str(path))
    monkeypatch.setattr(ptracer, "_library", None)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    ptracer.prepare()
    ptracer.allow(4711)
    assert library.told == ([(0x59616D61, 4711, 0, 0, 0)] if named else [])
