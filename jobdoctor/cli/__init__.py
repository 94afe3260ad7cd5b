"""The command line: one file a command, loaded when it is called."""

from __future__ import annotations

import sys

try:
    from jobdoctor.cli.main import cli as cli
    from jobdoctor.cli.main import main as main
except KeyboardInterrupt:
    # Pressed while this was still being read: no traceback, but what a shell expects of it.
    sys.exit(130)

__all__ = ["cli", "main"]
