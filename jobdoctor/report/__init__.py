"""Reports: a diagnosis as data (``context``), and its renderings as HTML, JSON and text."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``jobdoctor report --format json``."""
    loaded: dict[str, Any] = json.loads(files(__name__).joinpath("schema.json").read_text(encoding="utf-8"))
    return loaded
