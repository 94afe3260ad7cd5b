"""The command line: one file a command, loaded when it is called."""

from __future__ import annotations

from jobdoctor.cli.main import cli as cli
from jobdoctor.cli.main import main as main

__all__ = ["cli", "main"]
