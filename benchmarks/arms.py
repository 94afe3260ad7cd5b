"""The arms of the benchmark: a plain worker, a second one as the control, jobdoctor's, and those of other agents."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parent.parent
Kind = Literal["forked", "simple"]
KINDS: tuple[Kind, ...] = ("forked", "simple")

_RQ = ("-m", "rq.cli", "worker", "--quiet")
_JOBDOCTOR = ("-m", "jobdoctor", "run", "--quiet", "--no-collect", "--profile")
_SETTINGS = "sample_app.worker_settings"
_CLASSES: dict[Kind, str] = {"forked": "rq.Worker", "simple": "rq.SimpleWorker"}


@dataclass(frozen=True)
class Arm:
    """How one worker is started. ``needs`` is the distribution that must be installed, ``note`` a footnote."""

    name: str
    command: tuple[str, ...] = _RQ
    settings: str = _SETTINGS
    own_classes: bool = False  # the settings module has worker classes
    needs: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def arguments(self, kind: Kind) -> list[str]:
        """What follows the interpreter, but for the URL and the queue."""
        name = _CLASSES[kind]
        if self.own_classes:
            name = f"{self.settings}.{name.removeprefix('rq.')}"
        return [*self.command, "-c", self.settings, "--worker-class", name]


def _agent(name: str, needs: str, module: str, note: str, *, own_classes: bool = True) -> Arm:
    return Arm(name, settings=f"benchmarks.agents.{module}", needs=needs, note=note, own_classes=own_classes)


PLAIN = Arm("plain", note="RQ without anything")
CONTROL = Arm("control", note="the same again: what is measured for it is the machine's noise")
JOBDOCTOR = Arm("jobdoctor", (*_JOBDOCTOR, "never"), note="capture only, no profiles")
AUTO = Arm("jobdoctor, profiles", (*_JOBDOCTOR, "auto"), note="its default: profiles under their budget")
AGENTS = (
    _agent(
        "sentry", "sentry-sdk", "sentry", "RqIntegration, traces_sample_rate=1; sends to the sink", own_classes=False
    ),
    _agent(
        "opentelemetry",
        "opentelemetry-sdk",
        "opentelemetry",
        "SDK with the instrumentations for SQLAlchemy, redis and requests, a span for each job; a BatchSpanProcessor "
        "with an exporter that throws away",
    ),
    _agent(
        "scout",
        "scout-apm",
        "scout",
        "its worker classes and its SQLAlchemy integration; the sink stands for its core agent, which is not started",
    ),
    Arm(
        "ddtrace",
        ("-m", "benchmarks.agents.datadog", *_RQ),
        needs="ddtrace",
        environment={
            "DD_SERVICE": "benchmarks",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            "DD_CRASHTRACKING_ENABLED": "false",
        },
        note="ddtrace-run; the sink stands for its agent; telemetry, remote configuration and crash tracking are off",
    ),
    _agent(
        "elastic",
        "elastic-apm",
        "elastic",
        "instrument(), a transaction for each job in a worker class; sends to the sink",
    ),
    _agent(
        "pyinstrument",
        "pyinstrument",
        "pyinstrument_always",
        "a profiler around every job (1 ms), started and stopped; the profile is not rendered",
    ),
)
ARMS = {arm.name: arm for arm in (PLAIN, CONTROL, JOBDOCTOR, AUTO, *AGENTS)}


def versions(python: str, arms: Sequence[Arm]) -> dict[str, str]:
    """The installed version of what each arm needs, by the arm's name; empty where it is not installed."""
    script = (
        "import json, sys\nfrom importlib.metadata import PackageNotFoundError, version\n"
        "def of(name):\n    try:\n        return version(name)\n    except PackageNotFoundError:\n        return ''\n"
        "print(json.dumps({name: of(name) for name in sys.argv[1:]}))"
    )
    needed = sorted({arm.needs for arm in arms if arm.needs})
    answer = subprocess.run([python, "-c", script, *needed], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(answer.stdout)
    return {arm.name: found[arm.needs] for arm in arms if arm.needs}


def recorder(python: str) -> str:
    """Which recorder jobdoctor's workers have with this interpreter."""
    script = "from jobdoctor.capture import recorder; print('C' if recorder.ACCELERATED else 'Python')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run([python, "-c", script], check=True, capture_output=True, text=True, env=environment)
    return answer.stdout.strip()
