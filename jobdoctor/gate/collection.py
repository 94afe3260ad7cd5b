"""Markers are read when tests are collected, so that a wrong name or unit stops the run before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from jobdoctor.errors import ConfigError
from jobdoctor.gate import budgets


def problems(items: Sequence[pytest.Item], budget_key: pytest.StashKey[Any]) -> list[str]:
    """Puts the budget of each marked test into its stash; what is wrong with markers, each said once."""
    found: dict[str, None] = {}
    for item in items:
        given: dict[str, object] = {}
        where = item.location[0] + (f":{item.location[1] + 1}" if item.location[1] is not None else "")
        for marker in reversed(list(item.iter_markers("jobdoctor"))):  # the one nearest to the test wins, key by key
            if marker.args:
                found[f"{where}: mark.jobdoctor takes names only: write max_queries=5, for example"] = None
            given.update(marker.kwargs)
        try:
            item.stash[budget_key] = budgets.parse(given)
        except ConfigError as error:
            found[f"{where}: {error}"] = None
    return list(found)
