"""ddtrace, by its own ``ddtrace-run``: ``python -m benchmarks.agents.datadog -m rq.cli worker ...``."""

import os
import shutil
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["DD_TRACE_AGENT_URL"] = f"http://{os.environ['BENCH_SINK']}"
    runner = shutil.which("ddtrace-run", path=str(Path(sys.executable).parent))
    if runner is None:
        raise SystemExit("ddtrace-run is not beside this interpreter")
    os.execv(sys.executable, [sys.executable, runner, sys.executable, *sys.argv[1:]])
